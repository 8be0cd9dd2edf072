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
from typing import IO, Any, NoReturn

from stages.lib.core.text import one_line
from stages.lib.data.datasets import DataError

MOST_BYTES = 1 << 28  # of one file; an image is smaller, a bomb is not

MOST_NAME_BYTES = 1 << 20  # of a member's name and properties in a tar archive

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

File = tuple[str, Callable[[], bytes]]  # a path with slashes, and what reads the content


def _refuse(path: Path, name: str, what: str) -> NoReturn:
    raise DataError(f"{path}: {name!r} {what}; must hold plain files below it only; remove it")


def _check_size(path: Path, name: str, size: int) -> None:
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
