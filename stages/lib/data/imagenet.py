"""ImageNet (ILSVRC2012) of the user's own: which images there are, of which classes; the data set.

Accepted at one path, for each split a folder or the original archive, read where it is:

- ``train/WNID/*.JPEG``, or ``ILSVRC2012_img_train.tar``, a tar of one tar for each class;
- ``val/WNID/*.JPEG``, or ``val/ILSVRC2012_val_*.JPEG``, or ``ILSVRC2012_img_val.tar``. The latter
  two say nothing of classes: the devkit does, ``ILSVRC2012_devkit_t12.tar.gz`` or its folder.

The validation images are for testing, as everywhere: the test set's labels were never published.
Classes are the WordNet ids ("WNID"), sorted, which is torchvision's order.
"""

import fcntl
import hashlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from stages.lib.core import files
from stages.lib.core.errors import UserError
from stages.lib.data import datasets
from stages.lib.data.archives import first_names
from stages.lib.data.datasets import SPLITS, DataError, Dataset, interleave
from stages.lib.data.decoding import decode_to
from stages.lib.data.imagenet_files import FOLDERS, Labelled, list_images, shown
from stages.lib.data.registry import IMAGENET_CLASSES, IMAGENET_COUNTS
from stages.lib.noise.sampling import label_dtype

NAME = "imagenet"
UNREADABLE = "unreadable.json"  # which images are left out, by split, and why


def _stamp(listed: Mapping[str, list[Labelled]], size: int) -> str:
    """Return a name for what is to be decoded; it changes with any image and with Pillow."""
    digest = hashlib.sha256(f"{PIL.__version__} {size}\n".encode())
    for split, images in listed.items():
        for wnid, (name, _, start, length, changed) in images:
            line = f"{split} {wnid} {name} {start} {length} {changed}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder for this process, whatever ends it; a `UserError` if another one holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process decodes these images; wait") from None
        yield


def fetch(path: Path, size: int, folder: Path, downloads: Path) -> None:
    """Decode ImageNet into a folder, as `datasets.save` writes it, and tell what it lacks.

    The shorter side of each image is scaled to ``size`` and the middle cropped, see
    `pixels.decode`. Images that cannot be read are left out and listed in `UNREADABLE`.
    What is decoded is kept below ``downloads`` until all is: DVC deletes a stage's outputs first.

    Args:
        path: What this module's docstring describes.
        size: Pixels of a side.
        folder: Where the data set goes.
        downloads: The folder that outlives a stage.

    Raises:
        DataError: the images are not as they must be.
        UserError: the disk is full, or another process does the same.
        OSError: a file cannot be read.
    """
    listed = list_images(path)
    names = tuple(dict.fromkeys(wnid for wnid, _ in listed["train"]))
    counts = {split: len(images) for split, images in listed.items()}
    whole = (counts, len(names)) == (IMAGENET_COUNTS, IMAGENET_CLASSES)
    kept = downloads / f"{NAME}-{_stamp(listed, size)}"
    ready = {f"{split}_images": kept / f"{split}_images.npy" for split in SPLITS}
    arrays, unreadable = {}, {}
    with _alone(kept):
        for split, (key, file) in zip(SPLITS, ready.items(), strict=True):
            decoded = _decode(file, listed[split], names, size, f"{NAME} {FOLDERS[split]}")
            arrays[key] = np.load(file, mmap_mode="r", allow_pickle=False)
            arrays[f"{split}_labels"], unreadable[split] = decoded
        source = (
            f"ImageNet (ILSVRC2012){'' if whole else ', not the whole of it'}: "
            f"{counts['train']:,} training images (of {IMAGENET_COUNTS['train']:,}) and "
            f"{counts['test']:,} validation images (of {IMAGENET_COUNTS['test']:,}), the latter "
            f"for testing, of {len(names):,} classes (of {IMAGENET_CLASSES:,}); those that cannot "
            f"be read are left out ({UNREADABLE}). The shorter side scaled to {size} pixels, then "
            f"cropped to the middle {size}x{size}."
        )
        files.write_json(folder / UNREADABLE, unreadable)
        dataset = Dataset(NAME, **arrays, class_names=names, source=source)
        datasets.save(dataset, folder, ready)
        shutil.rmtree(kept)
    if not whole:
        print(f"warning: {source}", file=sys.stderr)
    if left_out := [name for images in unreadable.values() for name in images]:
        message = f"{len(left_out)} images cannot be read and are left out: {first_names(left_out)}"
        print(f"warning: {NAME}: {message}; see {folder / UNREADABLE}", file=sys.stderr)


def _decode(
    file: Path, images: list[Labelled], names: tuple[str, ...], size: int, title: str
) -> tuple[NDArray[Any], dict[str, str]]:
    """Decode a split, its classes interleaved; return its labels, and why images are not there."""
    number = {wnid: label for label, wnid in enumerate(names)}
    labels = np.array([number[wnid] for wnid, _ in images], dtype=label_dtype(len(names)))
    rows = np.argsort(interleave(labels))  # of each image: the inverse of whose each row is
    order, failed = decode_to(file, [image for _, image in images], rows, size, title)
    unreadable = {shown(images[index]): why for index, why in failed.items()}
    if not len(order):
        raise DataError(
            f"{title}: none of {len(images)} images can be read "
            f"({first_names(set(unreadable.values()))}); fetch them again"
        )
    return labels[order], unreadable
