"""What a training is composed of, a registry each: optimizers, schedules, losses and so on.

A module holds the registry and the parameters that its entries take; `TrainParams` has them all.
None imports torch before it computes, for most stages only read parameters.
"""
