"""A folder or archive of images, ``train/CLASS/*`` and ``test/CLASS/*``, as a data set.

Archives are read where they are, in order and never extracted: once for the names, so that what is
wrong with them is told at once and the result is allocated once, and once for the images. (Going to
an image by its name would decompress everything before it again.)
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stages.lib.core import machine, processes
from stages.lib.core.text import is_plain
from stages.lib.data.archives import files_of, first_names, whole_archive
from stages.lib.data.datasets import SPLITS, DataError, Dataset, interleave
from stages.lib.data.pixels import UNREADABLE, bombs_refused, decode, why_unreadable
from stages.lib.noise.sampling import label_dtype

SUFFIXES = (".jpg", ".jpeg", ".png")
LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini")  # left behind by file managers
BATCH_IMAGES, BATCH_BYTES = 64, 1 << 23  # handed to a thread at once
MOST_THREADS = 16
MOST_CLASSES = 1 << 16  # that labels of two bytes tell apart
Batch = list[tuple[str, bytes, NDArray[np.uint8]]]  # names, contents, and where the pixels go


@dataclass(frozen=True)
class Plan:
    """Where each image goes."""

    rows: dict[str, tuple[str, int]]  # split and row, by the path as the folder or archive has it
    labels: dict[str, NDArray[Any]]  # of each split's rows
    class_names: tuple[str, ...]  # sorted
    ignored: int  # hidden files that were passed over


def is_litter(name: str) -> bool:
    """Tell whether a path is of a hidden file, or of one that file managers leave behind."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part in LITTER for part in parts)


def _locate(names: list[str], path: Path) -> dict[str, tuple[str, ...]]:
    """Return ``(split, class, file)`` of each name, without the one top folder there may be."""
    parts = {name: PurePosixPath(name).parts for name in names}
    tops = {part[:1] for part in parts.values()}
    if len(tops) == 1 and tops.isdisjoint((split,) for split in SPLITS):
        parts = {name: part[1:] for name, part in parts.items()}
    wrong = [
        name
        for name, part in parts.items()
        if len(part) != 3 or part[0] not in SPLITS or not part[2].lower().endswith(SUFFIXES)
    ]
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} of {len(names)} files are not images at train/CLASS/* or "
            f"test/CLASS/* ({first_names(wrong)}); every file must end in {', '.join(SUFFIXES)} "
            "and lie there, all possibly in one top folder; move or remove the others"
        )
    if len(parts) < len(names):
        twice = [name for name, times in Counter(names).items() if times > 1]
        raise DataError(
            f"{path}: holds {first_names(twice)} more than once; make the archive again"
        )
    return parts


def _class_names(places: Iterable[tuple[str, ...]], path: Path) -> tuple[str, ...]:
    """Return the classes, sorted: two or more, the same in both splits, with plain names."""
    found: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split, class_name, _ in places:
        found[split].add(class_name)
    train, test = found["train"], found["test"]
    lacks = (("test", train - test), ("train", test - train))
    if missing := [f"{split} has no {first_names(names)}" for split, names in lacks if names]:
        message = (
            f"{path}: {'; '.join(missing)}; train and test must have images of the same classes"
        )
        raise DataError(f"{message}; add or remove them")
    if not 2 <= len(train) <= MOST_CLASSES:
        raise DataError(
            f"{path}: got images of {len(train)} classes; there must be 2 to "
            f"{MOST_CLASSES:,}, at train/CLASS/* and test/CLASS/*; add or remove images"
        )
    if unfit := [name for name in train if not is_plain(name)]:
        raise DataError(
            f"{path}: got control characters in the classes {first_names(unfit)}; rename"
        )
    return tuple(sorted(train))


def make_plan(names: Iterable[str], path: Path) -> Plan:
    """Decide where each image goes: sorted by class and name, then the classes interleaved.

    The order in which a folder or archive lists its files does not matter.

    Raises:
        DataError: a file is there twice, is no image or at no place of one; the classes of
            training and test images differ, are too few or many, or have names to be refused.
    """
    listed = list(names)
    images = [name for name in listed if not is_litter(name)]
    places = _locate(images, path)
    class_names = _class_names(places.values(), path)
    number = {class_name: label for label, class_name in enumerate(class_names)}
    rows: dict[str, tuple[str, int]] = {}
    labels = {}
    for split in SPLITS:
        ordered = sorted(
            (name for name in places if places[name][0] == split), key=places.__getitem__
        )
        by_class = np.array([number[places[name][1]] for name in ordered])
        order = interleave(by_class)
        labels[split] = by_class[order].astype(label_dtype(len(class_names)))
        rows |= {ordered[old]: (split, new) for new, old in enumerate(order.tolist())}
    return Plan(rows, labels, class_names, len(listed) - len(images))


def _decode_batch(batch: Batch, size: int) -> tuple[int, bool, list[str]]:
    """Decode images into their places: return how many, whether all were grey, what failed."""
    all_grey, failures = True, []
    for name, content, place in batch:
        try:
            place[:], grey = decode(content, size)
            all_grey &= grey
        except UNREADABLE as error:
            failures.append(f"{name} ({why_unreadable(error)})")
    return len(batch), all_grey, failures


def _batches(path: Path, plan: Plan, images: dict[str, NDArray[np.uint8]]) -> Iterator[Batch]:
    """Yield the images that are not hidden, some at a time."""
    batch: Batch = []
    waiting_bytes = 0
    for name, read in files_of(path):
        if name not in plan.rows:
            continue
        split, row = plan.rows[name]
        with whole_archive(path):
            content = read()
        batch.append((name, content, images[split][row]))
        waiting_bytes += len(content)
        if len(batch) >= BATCH_IMAGES or waiting_bytes >= BATCH_BYTES:
            yield batch
            batch, waiting_bytes = [], 0
    if batch:
        yield batch


def _read_images(path: Path, plan: Plan, size: int) -> dict[str, NDArray[np.uint8]]:
    """Return each split's images, with one channel if every image is grey and three otherwise."""
    images = {
        split: np.empty((len(labels), size, size, 3), dtype=np.uint8)
        for split, labels in plan.labels.items()
    }
    calls = (partial(_decode_batch, batch, size) for batch in _batches(path, plan, images))
    threads = min(MOST_THREADS, machine.cores())  # each holds some batches
    all_grey, count, failures = True, 0, []
    with (
        bombs_refused(),
        tqdm(total=len(plan.rows), desc=path.name, unit="images", disable=None) as bar,
        closing(processes.in_threads(calls, threads)) as results,
    ):
        for done, grey, failed in results:
            all_grey &= grey
            count += done
            failures += failed
            bar.update(done)
    if failures:
        raise DataError(
            f"{path}: {len(failures)} of {count} images cannot be read ({first_names(failures)}); "
            "all must be whole JPEG or PNG; replace or remove these"
        )
    if count != len(plan.rows):
        message = f"{path}: held {len(plan.rows)} images at first and {count} later"
        raise DataError(f"{message}; must not change while it is read; fetch again")
    return {split: each[..., :1].copy() for split, each in images.items()} if all_grey else images


def load_folder(path: Path, size: int) -> Dataset:
    """Return the images of a folder, .zip or .tar(.gz, .xz, .bz2) as a data set.

    They lie at ``train/CLASS/*`` and ``test/CLASS/*``, possibly in one top folder. Each is made
    square as `decode` says. Hidden files are passed over and counted in the data set's source.

    Raises:
        DataError: an image or the whole is not as it must be.
        ValueError: ``size``, the pixels of a side, is below 1.
        OSError: a file cannot be read.
    """
    if size < 1:
        raise ValueError(f"folder: got size {size}; must be at least 1 pixel; ask for a larger one")
    plan = make_plan((name for name, _ in files_of(path)), path)
    images = _read_images(path, plan, size)
    ignored = f" {plan.ignored} hidden files were ignored." if plan.ignored else ""
    source = (
        f"Images of {path.resolve().name}, the shorter side scaled to {size} pixels, then cropped "
        f"to the middle {size}x{size}.{ignored}"
    )
    train, test = ((images[split], plan.labels[split]) for split in SPLITS)
    return Dataset("folder", *train, *test, plan.class_names, source)
