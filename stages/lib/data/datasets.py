"""Data sets: what they hold and how they are stored; which there are says `registry`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.core import files
from stages.lib.core.errors import UserError
from stages.lib.data.images import check_images
from stages.lib.data.registry import NAMED, DatasetRequest
from stages.lib.noise.sampling import label_dtype

SPLITS = ("train", "test")
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
DESCRIPTION = "dataset.json"


class DataError(UserError):
    """Data that are not there or not as they must be; the message is one line for the user."""


def noise_folder(name: str) -> str:
    """Return the folder of a data set that noisy labels are put on, always at its native size."""
    return f"{name}-as-noise"


def needed(name: str, path: str | None, size: int | None, images: str) -> dict[str, DatasetRequest]:
    """Return what a config needs, by folder: its own data set, and that of its noisy images.

    The arguments are ``data.name``, ``data.path``, ``data.size`` and ``noise.images``.
    """
    wanted = {name: DatasetRequest(name, path, size)}
    if images in NAMED:
        wanted[noise_folder(images)] = DatasetRequest(images, None, None)
    return wanted


@dataclass(frozen=True)
class Dataset:
    """Images with their true labels.

    Attributes:
        name: A key of `registry.DATASETS`.
        train_images: ``(n, height, width, channels) uint8``, one channel (grey) or three (RGB).
        train_labels: ``(n,)`` in ``[0, num_classes)``, uint8, or uint16 above 256 classes.
        test_images: As ``train_images``, of the same height, width and channels.
        test_labels: As ``train_labels``.
        class_names: One name for each label.
        source: Where the images come from, a sentence for humans.
    """

    name: str
    train_images: NDArray[np.uint8]
    train_labels: NDArray[Any]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[Any]
    class_names: tuple[str, ...]
    source: str

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(height, width, channels)`` of an image."""
        _, height, width, channels = self.train_images.shape
        return (height, width, channels)

    def check(self) -> None:
        """Require what the attributes promise.

        Raises:
            ValueError: a shape, dtype, number of labels or label is not as it must be.
        """
        if len(set(self.class_names)) < self.num_classes:
            raise ValueError(
                f"{self.name}: class names {self.class_names}; each must be there once; rename one"
            )
        for split in SPLITS:
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            check_images(images, f"{self.name}: {split}_images")
            name, dtype = f"{self.name}: {split}_labels", label_dtype(self.num_classes)
            if labels.dtype != dtype or labels.shape != (len(images),):
                raise ValueError(
                    f"{name}: got {labels.dtype} of shape {labels.shape}; must be {dtype} of shape "
                    f"({len(images)},), one for each image; convert or cut it"
                )
            if labels.max() >= self.num_classes:
                raise ValueError(
                    f"{name}: got label {labels.max()}; must be below {self.num_classes}, the "
                    "number of class names; add names or mend the labels"
                )
        if self.test_images.shape[1:] != self.image_shape:
            raise ValueError(
                f"{self.name}: got training images of {self.image_shape} and test images of "
                f"{self.test_images.shape[1:]}; these must be equal; resize either"
            )


def interleave(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return the permutation that spreads every class evenly, so that prefixes are balanced.

    Image k of the n of its class goes to the place (k + 1/2) / n; ties go by label. With equal
    classes that is one image of each class in turn, each class in its own order.
    """
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    sorted_labels = labels[order].astype(np.int64)
    ranks = np.arange(len(labels)) - starts[sorted_labels]
    places = (2 * ranks + 1) / (2 * counts[sorted_labels])
    return order[np.lexsort((sorted_labels, places))]


def save(dataset: Dataset, folder: Path, ready: Mapping[str, Path] | None = None) -> None:
    """Write a data set: ``{train,test}_{images,labels}.npy`` and ``dataset.json``.

    ``dataset.json``, written last, so that a folder that has it is whole, has beside what a
    `Dataset` says of itself ``size`` and ``class_counts`` (images, and those of each class) by
    split, and in ``arrays`` dtype, shape and sha256 (`files.sha256_of_array`) of each file.

    Args:
        dataset: what to write.
        folder: where to.
        ready: of arrays that `files.write_array` need not write, by their name: whole files of
            theirs on the same disk, which get a second place (`files.link_or_copy`).

    Raises:
        ValueError: the data set fails its own `Dataset.check`.
        OSError: the folder cannot be written.
    """
    dataset.check()
    (folder / DESCRIPTION).unlink(missing_ok=True)
    ready, arrays = ready or {}, {}
    for name in ARRAYS:
        array, file = getattr(dataset, name), folder / f"{name}.npy"
        if name in ready:
            sha256 = files.sha256_of_stored(ready[name])
            files.link_or_copy(ready[name], file)
        else:
            sha256 = files.sha256_of_array(array)
            files.write_array(file, array)
        arrays[name] = {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": sha256}
    labels = {split: getattr(dataset, f"{split}_labels") for split in SPLITS}
    content = {
        "name": dataset.name,
        "source": dataset.source,
        "class_names": list(dataset.class_names),
        "num_classes": dataset.num_classes,
        **dict(zip(("height", "width", "channels"), dataset.image_shape, strict=True)),
        "size": {split: len(each) for split, each in labels.items()},
        "class_counts": {
            split: np.bincount(each, minlength=dataset.num_classes).tolist()
            for split, each in labels.items()
        },
        "arrays": arrays,
    }
    files.write_json(folder / DESCRIPTION, content)


def load(folder: Path, *, labels_only: bool = False) -> Dataset:
    """Return the data set that `save` wrote, checked against its hashes.

    Args:
        folder: where it lies.
        labels_only: whether nobody will look at the images: those that are too many to be read
            into memory are then not checked, which takes minutes.

    Raises:
        DamagedError: a file is missing or is not the one that was written; the message names it
            and the stage that makes it again.
    """
    content = files.read_json(folder / DESCRIPTION)
    arrays = {
        name: files.read_array(
            folder / f"{name}.npy", content["arrays"][name]["sha256"], trust_mapped=labels_only
        )
        for name in ARRAYS
    }
    names = tuple(content["class_names"])
    return Dataset(**arrays, name=content["name"], class_names=names, source=content["source"])
