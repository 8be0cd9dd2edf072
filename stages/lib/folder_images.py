"""A folder or archive of images, ``train/CLASS/*`` and ``test/CLASS/*``, as a data set.

Archives are read where they are, in order and never extracted: once for the names, so that what is
wrong with them is told at once and the result is allocated once, and once for the images. (Going to
an image by its name would decompress everything before it again.)
"""

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from stages.lib import hosts, processes
from stages.lib.datasets import SPLITS, DataError, Dataset, interleave
from stages.lib.noise import label_dtype
from stages.lib.params import is_plain, one_line

SUFFIXES = (".jpg", ".jpeg", ".png")
GREY_MODES = ("1", "L", "LA", "I", "I;16")
LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini")  # left behind by file managers
MOST_BYTES = 1 << 28  # of one file; an image is smaller, a bomb is not
MOST_NAME_BYTES = 1 << 20  # of a member's name and properties in a tar archive
BATCH_IMAGES, BATCH_BYTES = 64, 1 << 23  # handed to a thread at once
MOST_THREADS = 16
MOST_CLASSES = 1 << 16  # that labels of two bytes tell apart
SHOWN = 5  # names in a message
TAR_BLOCK = 512
DECOMPRESSORS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}

#: Kinds of tar headers that hold the name of the next one, as long as they like.
LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
#: What is raised at broken archives, apart from some OSErrors.
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
)
#: What Pillow raises at broken images.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
ORIENTATION = 0x0112  # EXIF's number of how to turn an image, and what that asks for
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

File = tuple[str, Callable[[], bytes]]  # a path with slashes, and what reads the content
Row = tuple[str, int]  # a split and a row of its array


@dataclass(frozen=True)
class Plan:
    """Where each image goes.

    Attributes:
        rows: Split and row, by the image's path as the folder or archive has it.
        labels: The labels of each split's rows.
        class_names: Sorted.
        ignored: How many hidden files were passed over.
    """

    rows: dict[str, Row]
    labels: dict[str, NDArray[Any]]
    class_names: tuple[str, ...]
    ignored: int


@dataclass(frozen=True)
class Decoded:
    """What became of a batch: were all its images grey, how many are there, what failed."""

    all_grey: bool
    count: int
    failures: list[str]


def _refuse(path: Path, name: str, what: str) -> NoReturn:
    raise DataError(f"{path}: {name!r} {what}; must hold plain files below it only; remove it")


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MOST_BYTES:
        _refuse(path, name, f"has {size:,} bytes, more than the {MOST_BYTES:,} allowed")


def _check_place(path: Path, name: str) -> None:
    """Require that an archive's member lies below the archive."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        _refuse(path, name, "lies outside the archive")


class Header(tarfile.TarInfo):
    """A tar archive's header that cannot fill the memory with the name of the next."""

    @classmethod
    def frombuf(cls, *arguments: Any, **options: Any) -> "Header":
        """Return a header read from its bytes.

        Raises:
            tarfile.ReadError: it asks for more than `MOST_NAME_BYTES`.
        """
        header = super().frombuf(*arguments, **options)
        if header.type in LONG_HEADERS and header.size > MOST_NAME_BYTES:
            raise tarfile.ReadError(f"a name of {header.size:,} bytes")
        return header


@contextmanager
def whole_archive(path: Path) -> Iterator[None]:
    """Tell what goes wrong while an archive is read.

    Raises:
        DataError: it is damaged or no archive.
    """
    try:
        yield
    except (*DAMAGE, OSError) as error:
        # Decompressors raise OSError without a number, and zipfile goes to places before the start.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise DataError(
            f"{path}: is no whole .zip or .tar(.gz, .xz, .bz2) ({one_line(str(error))}); make or "
            "fetch it again"
        ) from error


def _raise(error: OSError) -> NoReturn:
    raise error


def _files_of_folder(path: Path) -> Iterator[File]:
    # os.walk would pass over a folder that it may not read.
    for root, folders, names in os.walk(path, onerror=_raise):
        folders.sort()
        for name in sorted(folders + names):
            file = Path(root, name)
            inner = file.relative_to(path).as_posix()
            status = file.lstat()
            if stat.S_ISDIR(status.st_mode):
                continue
            if not stat.S_ISREG(status.st_mode):
                _refuse(path, inner, "is a link or a special file")
            _check_size(path, inner, status.st_size)
            yield inner, file.read_bytes


def _files_of_zip(path: Path) -> Iterator[File]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename:
                _refuse(path, "", "is a member without a name")
            _check_place(path, member.filename)
            if member.is_dir():
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                _refuse(path, member.filename, "is a link or a special file")
            if member.flag_bits & 1:
                _refuse(path, member.filename, "is encrypted")
            _check_size(path, member.filename, member.file_size)
            yield member.filename, partial(archive.read, member)


def _open_tar(path: Path) -> Any:
    """Return a stream of a tar archive's bytes, decompressed."""
    with path.open("rb") as stream:
        head = stream.read(8)
    for magic, decompressor in DECOMPRESSORS.items():
        if head.startswith(magic):
            return decompressor(path)
    return path.open("rb")


def _files_of_tar(path: Path) -> Iterator[File]:
    with (
        _open_tar(path) as stream,
        tarfile.open(fileobj=stream, mode="r|", tarinfo=Header) as archive,
    ):
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
            _check_place(path, member.name)
            if member.isdir():
                continue
            if not member.isreg():
                _refuse(path, member.name, "is a link or a special file")
            _check_size(path, member.name, member.size)
            yield member.name, partial(_read_member, archive, member)
        _check_end(archive, stream)


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member)
    assert content is not None  # noqa: S101, it is a regular file
    return content.read()


def _check_end(archive: tarfile.TarFile, stream: IO[bytes]) -> None:
    """Require the end mark and whole compression; tarfile takes a cut archive for a short one.

    Raises:
        tarfile.ReadError: the second of the two blocks of zeros is missing.
        EOFError: the compressed data end too soon.
    """
    assert archive.fileobj is not None  # noqa: S101, it is open
    if archive.fileobj.read(TAR_BLOCK) != bytes(TAR_BLOCK):
        raise tarfile.ReadError("no end mark")
    while stream.read(1 << 20):
        pass


def files_of(path: Path) -> Iterator[File]:
    """Yield every file of a folder or archive; a content must be read before the next is asked for.

    Raises:
        DataError: there is nothing, it is of another kind or damaged, or a file is refused.
    """
    if path.is_dir():
        yield from _files_of_folder(path)
        return
    if not path.is_file():
        raise DataError(
            f"folder: {str(path)!r} is not there; must be a folder, .zip or .tar(.gz, "
            ".xz, .bz2) with train/CLASS/* and test/CLASS/*; mend the path"
        )
    with whole_archive(path):
        yield from (_files_of_zip if zipfile.is_zipfile(path) else _files_of_tar)(path)


def first_names(names: Iterable[str]) -> str:
    """Return the first few of the names, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(map(one_line, listed[:SHOWN])) + more


def is_litter(name: str) -> bool:
    """Tell whether a path is of a hidden file, or of one that file managers leave behind."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part in LITTER for part in parts)


def _locate(names: list[str], path: Path) -> dict[str, tuple[str, str, str]]:
    """Return ``(split, class, file)`` of each name, without the one top folder there may be.

    Raises:
        DataError: a file is no image or not at ``train/CLASS/*`` or ``test/CLASS/*``.
    """
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
    return {name: (part[0], part[1], part[2]) for name, part in parts.items()}


def _class_names(places: Iterable[tuple[str, str, str]], path: Path) -> tuple[str, ...]:
    """Return the classes, sorted.

    Raises:
        DataError: training and test images have not the same classes, or too few or many, or one
            has control characters in its name.
    """
    found: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split, class_name, _ in places:
        found[split].add(class_name)
    missing = [
        f"{split} has no {first_names(names)}"
        for split, names in zip(
            reversed(SPLITS),
            (found["train"] - found["test"], found["test"] - found["train"]),
            strict=True,
        )
        if names
    ]
    if missing:
        raise DataError(
            f"{path}: {'; '.join(missing)}; train and test must have images of the "
            "same classes; add or remove them"
        )
    if not 2 <= len(found["train"]) <= MOST_CLASSES:
        raise DataError(
            f"{path}: got images of {len(found['train'])} classes; there must be 2 to "
            f"{MOST_CLASSES:,}, at train/CLASS/* and test/CLASS/*; add or remove images"
        )
    if unfit := [name for name in found["train"] if not is_plain(name)]:
        raise DataError(
            f"{path}: got control characters in the classes {first_names(unfit)}; must be names "
            "that can be written; rename them"
        )
    return tuple(sorted(found["train"]))


def make_plan(names: Iterable[str], path: Path) -> Plan:
    """Decide where each image goes: sorted by class and name, then the classes interleaved.

    The order in which a folder or archive lists its files does not matter.

    Raises:
        DataError: the files are not those of a data set; see `_locate` and `_class_names`.
    """
    listed = list(names)
    images = [name for name in listed if not is_litter(name)]
    places = _locate(images, path)
    if len(places) < len(images):
        twice = [name for name, times in Counter(images).items() if times > 1]
        raise DataError(
            f"{path}: holds {first_names(twice)} more than once; each file must be there "
            "once; make the archive again"
        )
    class_names = _class_names(places.values(), path)
    number = {class_name: label for label, class_name in enumerate(class_names)}
    rows: dict[str, Row] = {}
    labels = {}
    for split in SPLITS:
        ordered = sorted((name for name in places if places[name][0] == split), key=places.get)  # type: ignore[arg-type]
        by_class = np.array([number[places[name][1]] for name in ordered])
        order = interleave(by_class)
        labels[split] = by_class[order].astype(label_dtype(len(class_names)))
        rows |= {ordered[old]: (split, new) for new, old in enumerate(order.tolist())}
    return Plan(rows, labels, class_names, len(listed) - len(images))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB; transparency is dropped, as torchvision drops it."""
    if image.mode.startswith("I"):  # 16 bits; Pillow would clip them to 8
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def decode(content: bytes, size: int) -> tuple[NDArray[np.uint8], bool]:
    """Return an image as ``(size, size, 3) uint8``, and whether it was grey.

    It is turned upright as its EXIF says, its shorter side is scaled to ``size`` (bilinear,
    antialiased) and what stands out of the square is cut off on both sides.

    Raises:
        UNREADABLE: one of these errors, when Pillow cannot read it or it has too many pixels.
    """
    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
        grey = image.mode in GREY_MODES
        # A large JPEG is decoded at a half, quarter or eighth that is still twice what is needed.
        image.draft(None, (2 * size, 2 * size))
        # ImageOps.exif_transpose fails at any odd value of other EXIF properties, to keep them.
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
        upright = image if turn is None else image.transpose(turn)
        rgb = _to_rgb(upright)
    square = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(square), grey


def why_unreadable(error: BaseException) -> str:
    """Return what one of the errors `UNREADABLE` says of an image."""
    return "no JPEG or PNG" if isinstance(error, Image.UnidentifiedImageError) else str(error)


@contextmanager
def bombs_refused() -> Iterator[None]:
    """Have Pillow refuse images of far too many pixels, and be silent about odd ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # at damaged EXIF data beside whole pixels
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _decode_batch(batch: list[tuple[str, bytes, NDArray[np.uint8]]], size: int) -> Decoded:
    """Decode images into their places."""
    all_grey, failures = True, []
    for name, content, place in batch:
        try:
            place[:], grey = decode(content, size)
            all_grey &= grey
        except UNREADABLE as error:
            failures.append(f"{name} ({why_unreadable(error)})")
    return Decoded(all_grey, len(batch), failures)


def _batches(
    path: Path, plan: Plan, images: dict[str, NDArray[np.uint8]]
) -> Iterator[list[tuple[str, bytes, NDArray[np.uint8]]]]:
    """Yield the contents of the images with their places, some at a time."""
    batch: list[tuple[str, bytes, NDArray[np.uint8]]] = []
    waiting_bytes = 0
    for name, read in files_of(path):
        if name not in plan.rows:
            continue  # hidden
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
    """Return each split's images, with one channel if every image is grey and three otherwise.

    Raises:
        DataError: images cannot be decoded, or the files changed since the plan was made.
    """
    images = {
        split: np.empty((len(labels), size, size, 3), dtype=np.uint8)
        for split, labels in plan.labels.items()
    }
    calls = (partial(_decode_batch, batch, size) for batch in _batches(path, plan, images))
    threads = min(MOST_THREADS, hosts.cores())  # each holds some batches
    all_grey, count, failures = True, 0, []
    with (
        bombs_refused(),
        tqdm(total=len(plan.rows), desc=path.name, unit="images", disable=None) as bar,
        closing(processes.in_threads(calls, threads)) as results,
    ):
        for decoded in results:
            all_grey &= decoded.all_grey
            count += decoded.count
            failures += decoded.failures
            bar.update(decoded.count)
    if failures:
        raise DataError(
            f"{path}: {len(failures)} of {count} images cannot be read "
            f"({first_names(failures)}); all must be whole JPEG or PNG; replace or remove "
            "these"
        )
    if count != len(plan.rows):
        raise DataError(
            f"{path}: held {len(plan.rows)} images at first and {count} later; must "
            "not change while it is read; fetch again"
        )
    if all_grey:
        return {split: pixels[..., :1].copy() for split, pixels in images.items()}
    return images


def load_folder(path: Path, size: int) -> Dataset:
    """Return the images of a folder, .zip or .tar(.gz, .xz, .bz2) as a data set.

    They lie at ``train/CLASS/*`` and ``test/CLASS/*``, possibly in one top folder. Each is made
    square as `decode` says. Hidden files are passed over and counted in the data set's source.

    Args:
        path: The folder or archive.
        size: Pixels of a side, at least 1.

    Raises:
        DataError: an image or the whole is not as it must be.
        ValueError: ``size`` is below 1.
        OSError: a file cannot be read.
    """
    if size < 1:
        raise ValueError(f"folder: got size {size}; must be at least 1 pixel; ask for a larger one")
    plan = make_plan((name for name, _ in files_of(path)), path)
    images = _read_images(path, plan, size)
    ignored = f" {plan.ignored} hidden files were ignored." if plan.ignored else ""
    return Dataset(
        name="folder",
        train_images=images["train"],
        train_labels=plan.labels["train"],
        test_images=images["test"],
        test_labels=plan.labels["test"],
        class_names=plan.class_names,
        source=f"Images of {path.resolve().name}, the shorter side scaled to {size} pixels, then "
        f"cropped to the middle {size}x{size}.{ignored}",
    )
