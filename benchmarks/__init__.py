"""Measurements; each is one command that prints JSON: ``python -m benchmarks.NAME``."""
