"""The files of a folder or archive, one after another, whatever a stranger packed into it."""

import bz2
import errno
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from stages.lib.core.text import one_line
from stages.lib.data.datasets import DataError

MOST_BYTES = 1 << 28  # of one file; an image is smaller, a bomb is not
MOST_NAME_BYTES = 1 << 20  # of a member's name and properties in a tar archive
SHOWN = 5  # names in a message
TAR_BLOCK = 512

DECOMPRESSORS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile, b"BZh": bz2.BZ2File, b"\xfd7zXZ": lzma.LZMAFile,
}  # fmt: skip

#: Kinds of tar headers that hold the name of the next one, as long as they like.
LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip

#: What is raised at broken archives, apart from some OSErrors.
DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError,
    NotImplementedError, UnicodeDecodeError,
)  # fmt: skip

File = tuple[str, Callable[[], bytes]]  # a path with slashes, and what reads the content


def _refuse(path: Path, name: str, what: str) -> NoReturn:
    raise DataError(f"{path}: {name!r} {what}; must hold plain files below it only; remove it")


def _check(path: Path, name: str, regular: bool, size: int) -> None:
    """Require a plain file of a bearable size."""
    if not regular:
        _refuse(path, name, "is a link or a special file")
    if size > MOST_BYTES:
        _refuse(path, name, f"has {size:,} bytes, more than the {MOST_BYTES:,} allowed")


def _check_place(path: Path, name: str) -> None:
    """Require that an archive's member lies below the archive.

    Of tar archives too, whose members `tarfile.data_filter` would check: it asks the file system
    about each (29 us, not 2: CIFAR-10's 60,000 would take twice as long to list), accepts absolute
    names and links that stay inside, and is not in Python 3.11.0 to 3.11.3.
    """
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


def headers(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of a tar archive, one in memory at a time."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
        yield member


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
        message = f"{path}: is no whole .zip or .tar(.gz, .xz, .bz2) ({one_line(str(error))})"
        raise DataError(f"{message}; make or fetch it again") from error


def refuse_folder(error: OSError) -> NoReturn:
    """Raise what `os.walk` meets, which would pass over a folder that it may not read."""
    raise error


def _files_of_folder(path: Path) -> Iterator[File]:
    for root, folders, names in os.walk(path, onerror=refuse_folder):
        folders.sort()
        for name in sorted(folders + names):
            file = Path(root, name)
            status = file.lstat()
            if not stat.S_ISDIR(status.st_mode):
                inner = file.relative_to(path).as_posix()
                _check(path, inner, stat.S_ISREG(status.st_mode), status.st_size)
                yield inner, file.read_bytes


def _files_of_zip(path: Path) -> Iterator[File]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename
            if not name:
                _refuse(path, name, "is a member without a name")
            _check_place(path, name)
            if member.is_dir():
                continue
            if member.flag_bits & 1:
                _refuse(path, name, "is encrypted")
            kind = stat.S_IFMT(member.external_attr >> 16)
            _check(path, name, kind in (0, stat.S_IFREG), member.file_size)
            yield name, partial(archive.read, member)


def _files_of_tar(path: Path) -> Iterator[File]:
    with path.open("rb") as start:
        head = start.read(8)
    openers = (opener for magic, opener in DECOMPRESSORS.items() if head.startswith(magic))
    opener: Callable[[Path], Any] = next(openers, partial(Path.open, mode="rb"))
    with (
        opener(path) as stream,
        tarfile.open(fileobj=stream, mode="r|", tarinfo=Header) as archive,
    ):
        for member in headers(archive):
            _check_place(path, member.name)
            if not member.isdir():
                _check(path, member.name, member.isreg(), member.size)
                yield member.name, partial(_read_member, archive, member)
        # tarfile takes a cut archive for a short one: the second of two blocks of zeros must be
        # there, and the compressed data must end as they should.
        if archive.fileobj.read(TAR_BLOCK) != bytes(TAR_BLOCK):
            raise tarfile.ReadError("no end mark")
        while stream.read(1 << 20):
            pass


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    return archive.extractfile(member).read()  # type: ignore[union-attr]  # it is regular


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
