"""Independent streams of randomness: one per seed and purpose."""

import numpy as np

#: What streams are for, by their numbers, which are part of every result: append, never renumber.
PURPOSES = (
    "split", "order", "labels", "validation", "images", "init", "shuffle", "augmentation", "pixels",
    "folds", "fold_init", "fold_shuffle", "fold_augmentation",
)  # fmt: skip


def stream(seed: int, purpose: str) -> np.random.SeedSequence:
    """Return the seed sequence of a run's seed, at least 0, and one of `PURPOSES`.

    Nothing else decides it: runs of one seed share splits, initial weights, orders, and as much of
    the noisy labels as their sizes allow, whatever their learning rate or noise level ("common
    random numbers"), so that differences between them are paired.
    """
    return np.random.SeedSequence((seed, PURPOSES.index(purpose)))
