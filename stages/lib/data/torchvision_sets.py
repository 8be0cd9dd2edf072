"""Data sets of torchvision: downloaded by us, extracted and read by its own classes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
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
    """Return one of torchvision's data sets, called ``name`` here; else as in `resources`.

    Raises:
        DataError: no source has an archive.
        OSError: a file cannot be written.
    """
    needed = resources(class_name, mirrors)
    layout = ", ".join(resource.path for resource in needed)
    archives = [obtain(resource, downloads, dataset=name, layout=layout) for resource in needed]
    # torchvision has no checksums of MNIST's extracted files, so that it would read what a kill has
    # cut: they are extracted anew each time.
    cls = getattr(torchvision.datasets, class_name)
    with files.scratch_folder() as folder:
        for resource, archive in zip(needed, archives, strict=True):
            place = (folder / resource.path).parent
            place.mkdir(parents=True, exist_ok=True)
            extract_archive(archive, place)
        # Whoever does not let it download keeps it from the network.
        splits = [cls(folder, train=split, download=False) for split in (True, False)]
    train, test = ((_bytes(split.data), _bytes(split.targets)) for split in splits)
    classes = tuple(label.split(" - ")[0] for label in splits[0].classes)  # "0 - zero"
    kind = "files" if len(needed) > 1 else "archive"
    source = f"{class_name}, the {kind} that torchvision names, md5-checked."
    return Dataset(name, *train, *test, classes, source)


def _bytes(data: Any) -> NDArray[np.uint8]:
    """Return a tensor, array or list of torchvision's as an array, images with channels."""
    array = np.ascontiguousarray(data, dtype=np.uint8)
    return array[..., None] if array.ndim == 3 else array
