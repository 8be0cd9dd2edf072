"""Independent streams of randomness: one per seed, purpose and point."""

import numpy as np

from stages.lib.core import files

#: What streams are for, by their numbers, which are part of every result: append, never renumber.
PURPOSES = (
    "split", "order", "labels", "validation", "images", "init", "shuffle", "augmentation",
)  # fmt: skip


def stream(seed: int, purpose: str, point: str = "") -> np.random.SeedSequence:
    """Return the seed sequence of a purpose, independent of every other seed, purpose and point.

    Args:
        seed: the run's seed, at least 0.
        purpose: one of `PURPOSES`.
        point: what else tells apart, as text; hashed.
    """
    digest = int(files.sha256_of_bytes(point.encode())[:32], base=16)
    return np.random.SeedSequence((seed, PURPOSES.index(purpose), digest))
