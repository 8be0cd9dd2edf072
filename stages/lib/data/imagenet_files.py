"""The files of ILSVRC2012: trees in two layouts, and the original archives."""

import io
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from tqdm import tqdm

from stages.lib.data.archives import (
    TAR_BLOCK,
    Header,
    files_of,
    first_names,
    headers,
    whole_archive,
)
from stages.lib.data.datasets import SPLITS, DataError
from stages.lib.data.decoding import Encoded
from stages.lib.data.folder import is_litter

FOLDERS = {"train": "train", "test": "val"}
ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "test": "ILSVRC2012_img_val.tar"}
DEVKITS = ("ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12.tar.gz")
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
WNID = re.compile(r"n[0-9]{8}")
VAL_IMAGE = re.compile(r"ILSVRC2012_val_([0-9]{8})\.JPEG")
Labelled = tuple[str, Encoded]  # a WNID, and an image of that class


def _stored(folder: Path) -> Iterator[Encoded]:
    """Yield the images of a folder; links are followed, for the folder is the user's own."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_litter(entry.name):
                continue
            if not entry.is_file():
                raise DataError(f"{folder}: {entry.name!r} is no file but must be one; remove it")
            status = entry.stat()
            yield Encoded(entry.name, entry.path, 0, status.st_size, status.st_mtime_ns)


def _sorted_by_class(root: Path) -> Iterator[Labelled]:
    """Yield the images at ``root/WNID/*``, where nothing else may lie."""
    for folder in sorted(each for each in root.iterdir() if not is_litter(each.name)):
        if not (WNID.fullmatch(folder.name) and folder.is_dir()):
            raise DataError(
                f"{root}: {folder.name!r} is no folder of a class; must hold folders called by "
                "WordNet ids, n and eight digits, only; remove it (data.name: folder takes any)"
            )
        yield from ((folder.name, image) for image in _stored(folder))


def _members(stream: IO[bytes], path: Path, start: int, end: int) -> Iterator[Encoded]:
    """Yield the files of a tar archive that lies in an open file from ``start`` to ``end``.

    Only headers are read. The stream may be moved between two of them.
    """
    changed, stop = path.stat().st_mtime_ns, start
    stream.seek(start)
    with tarfile.open(fileobj=stream, mode="r:", tarinfo=Header) as archive:
        for member in headers(archive):
            stop = member.offset_data + -(-member.size // TAR_BLOCK) * TAR_BLOCK
            if stop > end:
                raise tarfile.ReadError(f"{member.name} is cut")
            name = PurePosixPath(member.name).name
            if member.isdir() or is_litter(name):
                continue
            if not member.isreg():
                raise DataError(f"{path}: {member.name!r} is no file; fetch the archive again")
            yield Encoded(name, str(path), member.offset_data, member.size, changed)
    stream.seek(stop)
    if stop == end or stream.read(TAR_BLOCK) != bytes(TAR_BLOCK):
        raise tarfile.ReadError("no end mark")


def _archive_members(path: Path) -> Iterator[Encoded]:
    with whole_archive(path), path.open("rb") as stream:
        yield from _members(stream, path, 0, path.stat().st_size)


def _tar_of_tars(path: Path) -> Iterator[Labelled]:
    """Yield the images of the training archive, whose members are archives ``WNID.tar``."""
    with whole_archive(path), path.open("rb") as stream:
        for inner in _members(stream, path, 0, path.stat().st_size):
            wnid = inner.name.removesuffix(".tar")
            if not WNID.fullmatch(wnid):
                message = (
                    f"{path}: has {inner.name!r}; must hold archives called n and eight digits"
                )
                raise DataError(f"{message} only; fetch it again")
            for image in _members(stream, path, inner.start, inner.start + inner.size):
                yield wnid, image


def _ground_truth(path: Path) -> list[str]:
    """Return the WNID of validation image 1, 2, ..., from the devkit."""
    from scipy.io import loadmat  # which takes long to import
    from scipy.io.matlab import MatReadError

    devkit = next((path / name for name in DEVKITS if (path / name).exists()), None)
    if devkit is None:
        raise DataError(
            f"{path}: val/ has no folders of classes, and no {' or '.join(DEVKITS)}, which says "
            "the classes, is there; put it there, or sort the images into val/WNID/"
        )
    wanted = ("meta.mat", TRUTH)
    files = ((PurePosixPath(name).name, read) for name, read in files_of(devkit))
    found = {name: read() for name, read in files if name in wanted}
    if missing := [name for name in wanted if name not in found]:
        raise DataError(f"{devkit}: has no {' and no '.join(missing)}; fetch it again")
    damage = (
        MatReadError, ValueError, TypeError, LookupError, NotImplementedError, OSError, EOFError,
        struct.error, zlib.error,
    )  # fmt: skip
    try:
        synsets = np.atleast_1d(loadmat(io.BytesIO(found["meta.mat"]), squeeze_me=True)["synsets"])
        wnids = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    except damage as error:
        raise DataError(f"{devkit}: meta.mat cannot be read ({error}); fetch it again") from error
    try:
        return [wnids[int(line)] for line in found[TRUTH].split()]
    except (ValueError, KeyError) as error:
        message = f"{devkit}: {TRUTH} has a line that is no number of a class ({error})"
        raise DataError(f"{message}; fetch it again") from error


def _with_truth(images: Iterable[Encoded], path: Path) -> Iterator[Labelled]:
    """Yield images called ``ILSVRC2012_val_NUMBER.JPEG`` with their classes."""
    truth = _ground_truth(path)
    for image in images:
        match = VAL_IMAGE.fullmatch(image.name)
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(truth):
            raise DataError(
                f"{path}: got the validation image {image.name!r}; must be ILSVRC2012_val_NUMBER."
                f"JPEG, a number of eight digits from 1 to {len(truth)}; remove it"
            )
        yield truth[number - 1], image


def _split_images(path: Path, split: str) -> Iterator[Labelled]:
    """Yield the images of a split, in any order."""
    folder, archive = path / FOLDERS[split], path / ARCHIVES[split]
    if folder.is_dir():
        classes = (each for each in folder.iterdir() if each.is_dir() and not is_litter(each.name))
        if split == "train" or any(classes):
            return _sorted_by_class(folder)
        return _with_truth(_stored(folder), path)
    if archive.is_file():
        if split == "train":
            return _tar_of_tars(archive)
        return _with_truth(_archive_members(archive), path)
    raise DataError(
        f"{path}: has neither {folder.name}/ nor {archive.name}; data.path must name a folder with "
        "ImageNet's train/ and val/, or with its archives; mend the path"
    )


def list_images(path: Path) -> dict[str, list[Labelled]]:
    """Return the images of each split, sorted by class and name, wherever they lie.

    Raises:
        DataError: they are not those of a data set.
    """
    listed = {}
    for split in SPLITS:
        found = _split_images(path, split)
        bar = tqdm(found, desc=f"listing {FOLDERS[split]}", unit="images", disable=None)
        listed[split] = sorted(bar, key=_place)
        if twice := [shown(a) for a, b in pairwise(listed[split]) if _place(a) == _place(b)]:
            message = f"{path}: {FOLDERS[split]} holds {first_names(twice)} more than once"
            raise DataError(f"{message}; fetch the archive again")
    train, test = ({wnid for wnid, _ in listed[split]} for split in SPLITS)
    if train != test or len(train) < 2:
        lone = f" (not in both: {first_names(train ^ test)})" if train != test else ""
        raise DataError(
            f"{path}: train has images of {len(train)} classes, val of {len(test)}{lone}; must be "
            "of the same, two or more; add or remove images"
        )
    return listed


def _place(labelled: Labelled) -> tuple[str, str]:
    """Return class and name, by which images are sorted and told apart."""
    wnid, image = labelled
    return wnid, image.name


def shown(labelled: Labelled) -> str:
    """Return class and name for a message or a file: names of files may be no text."""
    return "/".join(_place(labelled)).encode(errors="backslashreplace").decode()
