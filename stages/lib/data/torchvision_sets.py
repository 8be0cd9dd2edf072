"""Data sets of torchvision: downloaded by us, extracted and read by its own classes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.datasets
from numpy.typing import NDArray
from torchvision.datasets.utils import extract_archive

from stages.lib.core import files
from stages.lib.data.datasets import Dataset
from stages.lib.data.downloads import Resource, obtain


def _over_https(urls: Iterable[str]) -> list[str]:
    """Return the URLs of https, then those of http as if they were; servers mostly have both."""
    old = "http://"
    ordered = sorted(urls, key=lambda url: url.startswith(old))
    return [url.replace(old, "https://", 1) if url.startswith(old) else url for url in ordered]


def resources(class_name: str, mirrors: Iterable[str] = ()) -> list[Resource]:
    """Return the archives of a data set, with the checksums that torchvision names, over https.

    Args:
        class_name: The data set's class in `torchvision.datasets`.
        mirrors: Where MNIST-like files lie, if not where torchvision says.
    """
    cls = getattr(torchvision.datasets, class_name)
    if not hasattr(cls, "resources"):  # CIFAR's are one archive
        return [Resource(cls.filename, cls.tgz_md5, tuple(_over_https([cls.url])))]
    places = tuple(mirrors) or _over_https(cls.mirrors)
    return [
        Resource(f"{class_name}/raw/{file}", md5, tuple(place + file for place in places))
        for file, md5 in cls.resources
    ]


def load(name: str, class_name: str, mirrors: Iterable[str], downloads: Path) -> Dataset:
    """Return one of torchvision's data sets.

    Args:
        name: What we call it.
        class_name: Its class in `torchvision.datasets`.
        mirrors: As in `resources`.
        downloads: The folder that keeps the archives.

    Raises:
        DataError: no source has an archive.
        OSError: a file cannot be written.
    """
    needed = resources(class_name, mirrors)
    layout = ", ".join(resource.path for resource in needed)
    archives = [obtain(resource, downloads, dataset=name, layout=layout) for resource in needed]
    # torchvision has no checksums of MNIST's extracted files, so that it would read what a kill has
    # cut: they are extracted anew each time.
    with files.scratch_folder() as folder:
        for resource, archive in zip(needed, archives, strict=True):
            place = (folder / resource.path).parent
            place.mkdir(parents=True, exist_ok=True)
            extract_archive(archive, place)
        cls = getattr(torchvision.datasets, class_name)
        # Whoever does not let it download keeps it from the network.
        train, test = (cls(folder, train=split, download=False) for split in (True, False))
    return Dataset(
        name=name,
        train_images=_images(train.data),
        train_labels=_bytes(train.targets),
        test_images=_images(test.data),
        test_labels=_bytes(test.targets),
        class_names=tuple(label.split(" - ")[0] for label in train.classes),  # "0 - zero"
        source=f"{class_name}, the {'files' if len(needed) > 1 else 'archive'} that torchvision "
        "names, md5-checked.",
    )


def _bytes(data: Any) -> NDArray[np.uint8]:
    """Return a tensor, array or list of torchvision's as an array."""
    array = data.numpy() if isinstance(data, torch.Tensor) else data
    return np.ascontiguousarray(array, dtype=np.uint8)


def _images(data: Any) -> NDArray[np.uint8]:
    array = _bytes(data)
    return array[..., None] if array.ndim == 3 else array  # an axis of channels
