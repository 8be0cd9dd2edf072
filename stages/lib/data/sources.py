"""Obtaining data sets: from packages, torchvision's addresses, images of the user's own."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from stages.lib.core import paths
from stages.lib.data import datasets
from stages.lib.data.datasets import Dataset
from stages.lib.data.images import resize
from stages.lib.data.registry import DATASETS, DatasetRequest


def load_source(name: str, *, path: str | None, size: int | None, downloads: Path) -> Dataset:
    """Obtain a data set from where it comes from.

    The order of its training images is fixed and mixes the classes: that of its files for
    torchvision's, and for the others an even interleaving (`interleave`), so that every prefix
    is about balanced.

    Args:
        name: A key of `registry.DATASETS` that has a loader.
        path: The images, if they are the user's own; else None.
        size: Pixels of a side; None keeps the native size, which images of the user's have not.
        downloads: The folder that keeps downloaded files.

    Raises:
        DataError: the data are not there or not as they must be.
        ValueError: the arguments contradict each other.
        OSError: a file cannot be read or written.
    """
    if name not in DATASETS:
        raise ValueError(f"data set {name!r} is unknown; choose one of {', '.join(DATASETS)}")
    entry = DATASETS[name]
    if entry.load is None:
        raise ValueError(f"{name}: got a data set too large for the memory; fetch it instead")
    if entry.facts is not None and path is not None:
        raise ValueError(f"{name}: got path {path!r}; only images of your own have one; remove it")
    dataset = entry.load(DatasetRequest(name, path, size), downloads)
    dataset.check()
    height, width, _ = dataset.image_shape
    if size is None or (height, width) == (size, size):
        return dataset
    return replace(
        dataset,
        train_images=resize(dataset.train_images, size),
        test_images=resize(dataset.test_images, size),
        source=f"{dataset.source} Resized from {height}x{width} to {size}x{size}.",
    )


def fetch(wanted: Mapping[str, DatasetRequest], folder: Path) -> None:
    """Obtain data sets and save each in its own folder.

    Args:
        wanted: what to obtain, by the name of its folder (`datasets.needed`).
        folder: where these folders go.

    Raises:
        DataError: as `load_source`.
    """
    downloads = paths.downloads()
    for place, (name, path, size) in wanted.items():
        if path is not None:
            # A relative path is the repository's also in the temporary workspace of an experiment.
            path = str(paths.repository() / path)
        if fetch_alone := DATASETS[name].fetch:
            fetch_alone(DatasetRequest(name, path, size), folder / place, downloads)
        else:
            dataset = load_source(name, path=path, size=size, downloads=downloads)
            datasets.save(dataset, folder / place)
