"""The typed parameters of an experiment and of scales."""
