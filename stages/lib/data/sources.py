"""Where data sets come from: packages, torchvision's addresses, images of the user's own."""

from collections.abc import Mapping
from pathlib import Path

from stages.lib.core import paths
from stages.lib.data import datasets, imagenet
from stages.lib.data.datasets import Dataset, check_name
from stages.lib.data.embedded import EMBEDDED
from stages.lib.data.folder import load_folder
from stages.lib.data.images import resize
from stages.lib.data.torchvision_sets import DOWNLOADED


def load_source(name: str, *, path: str | None, size: int | None, downloads: Path) -> Dataset:
    """Obtain a data set from where it comes from.

    The order of its training images is fixed and mixes the classes: that of its files for
    torchvision's, and for the others an even interleaving (`interleave`), so that every prefix
    is about balanced.

    Args:
        name: A key of `datasets.KNOWN`, but ``imagenet``, which `fetch` decodes on the disk.
        path: The images, if ``name`` is ``folder``; else None.
        size: Pixels of a side; None keeps the native size, which a folder has not.
        downloads: The folder that keeps downloaded files.

    Raises:
        DataError: the data are not there or not as they must be.
        ValueError: the arguments contradict each other.
        OSError: a file cannot be read or written.
    """
    check_name(name)
    if name == "folder":
        dataset = load_folder(*_own_images(name, path, size))
    elif path is not None or name not in datasets.FACTS:
        raise ValueError(
            f"{name}: got path {path!r}; only folder has one; leave the path empty or choose folder"
        )
    else:
        embedded = EMBEDDED.get(name)
        dataset = embedded() if embedded else DOWNLOADED[name](name, downloads)
    dataset.check()
    return dataset if size is None else _resized(dataset, size)


def _own_images(name: str, path: str | None, size: int | None) -> tuple[Path, int]:
    """Return where images of the user's own lie, and the pixels of a side.

    Raises:
        ValueError: either is missing.
    """
    if path is None or size is None:
        raise ValueError(
            f"{name}: got path {path!r} and size {size!r}; both are needed; set "
            "them to the images' place and to the pixels of a side"
        )
    return Path(path), size


def _resized(dataset: Dataset, size: int) -> Dataset:
    """Return the data set with images of ``size`` x ``size``."""
    if dataset.image_shape[:2] == (size, size):
        return dataset
    height, width, _ = dataset.image_shape
    return Dataset(
        name=dataset.name,
        train_images=resize(dataset.train_images, size),
        train_labels=dataset.train_labels,
        test_images=resize(dataset.test_images, size),
        test_labels=dataset.test_labels,
        class_names=dataset.class_names,
        source=f"{dataset.source} Resized from {height}x{width} to {size}x{size}.",
    )


def fetch(wanted: Mapping[str, datasets.DatasetRequest], folder: Path) -> None:
    """Obtain data sets and save each in its own folder.

    Args:
        wanted: what to obtain, by the name of its folder (`datasets.needed`).
        folder: where these folders go.

    Raises:
        DataError: as `load_source`.
    """
    for name, each in wanted.items():
        # A relative path is the repository's also in the temporary workspace of an experiment.
        path = None if each.path is None else str(paths.repository() / each.path)
        if each.name == imagenet.NAME:
            own, size = _own_images(each.name, path, each.size)
            imagenet.fetch(own, size, folder / name, paths.downloads())
            continue
        dataset = load_source(each.name, path=path, size=each.size, downloads=paths.downloads())
        datasets.save(dataset, folder / name)
