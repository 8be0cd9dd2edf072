"""Reading and writing files: always whole, always checked, the same bytes for the same content.

What a stage reads back carries its own digest: JSON in the key `SEAL`, arrays in the JSON beside
them. A file that is not byte for byte what was written is a `DamagedError`, never a number.
"""

import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.core import paths
from stages.lib.core.errors import DamagedError, UserError

#: The key of a JSON object that holds the digest of the others, in a list: DVC's tables of metrics
#: pass over lists.
SEAL = "seal"
MAPPED_BYTES = 1 << 30  # an array whose file is as large as this is mapped, not read
STALE_SECONDS = 3600  # a scratch file as old as this belongs to nobody
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def replacing(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Yield a scratch path beside ``path`` that takes its place when the block ends well.

    A reader, or a run after a crash, sees the old file or the new one, never a part: the scratch
    file is on the disk before it is renamed. The message says how many bytes were ``needed``.

    Raises:
        UserError: the disk is full, or the folder cannot be written; ``path`` is then untouched.
        OSError: any other failure of the system.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        # The name is there before the file: whatever interrupts the next lines finds it.
        scratch = path.parent / f".{path.name}.{secrets.token_hex(6)}{path.suffix}"
        try:
            scratch.touch(mode=0o644, exist_ok=False)
            yield scratch
            _flush(scratch)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise explain_os_error(error, path, needed) from error


def _flush(path: Path) -> None:
    """Wait until a file's content is on the disk: else a power cut may leave its name alone."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def explain_os_error(error: OSError, path: Path, needed: int | None) -> Exception:
    """Return an error of writing ``path`` that says how many bytes were needed, if known."""
    if error.errno in FULL:
        free = ""
        with suppress(OSError):
            free = f", {shutil.disk_usage(path.parent).free:,} are free"
        size = "" if needed is None else f" for {needed:,} bytes{free}"
        return UserError(f"{path}: no space left{size}; make room and run again")
    if error.errno in REFUSED:
        return UserError(
            f"{path.parent}: cannot be written ({error.strerror}); give yourself the right to "
            "write there, or work in another folder, and run again"
        )
    return error


@cache
def _sweep(folder: Path) -> None:
    """Delete scratch files that killed processes left in a folder long ago; once per process."""
    oldest = time.time() - STALE_SECONDS
    for path in folder.glob(".*.*"):
        with suppress(OSError):  # another process sweeps as well, or its owner lives
            if path.stat().st_mtime < oldest and path.is_dir():
                with _owned(path):
                    shutil.rmtree(path)
            elif path.stat().st_mtime < oldest:
                path.unlink()


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Own a folder until the block or the process ends; `BlockingIOError` if another does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder in the repository that is gone when the block ends."""
    paths.run_store().mkdir(parents=True, exist_ok=True)
    # Its time may stand still for longer than a stale one's: who sweeps asks for its owner.
    with (
        tempfile.TemporaryDirectory(dir=paths.run_store(), prefix=".scratch.") as folder,
        _owned(Path(folder)),
    ):
        yield Path(folder)


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Return canonical JSON: sorted keys, no NaN, a newline at the end.

    Raises:
        ValueError: ``value`` holds NaN or an infinity, which JSON cannot say.
    """
    text = json.dumps(value, indent=indent, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return text + "\n"


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object as canonical JSON with its seal, atomically, making parent folders.

    Raises:
        ValueError: ``value`` holds NaN or an infinity.
        UserError: as `replacing`.
    """
    content = to_json({**value, SEAL: [_seal(value)]}).encode()
    with replacing(path, len(content)) as scratch:
        scratch.write_bytes(content)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that `write_json` wrote, without its seal.

    Raises:
        DamagedError: it is missing, or is not byte for byte what was written.
    """
    try:
        text = path.read_bytes().decode()
        content: dict[str, Any] = json.loads(text)
        seal = content.pop(SEAL)
        whole = seal == [_seal(content)] and text == to_json({**content, SEAL: seal})
    except FileNotFoundError:
        raise damaged(path, "is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise damaged(path, "is not what was written")
    return content


def _seal(value: dict[str, Any]) -> str:
    return sha256_of_bytes(to_json(value).encode())


def damaged(path: Path, what: str) -> DamagedError:
    """Return the error for a file: ``what`` is wrong with it, and how to have it made again."""
    return DamagedError(f"{path}: {what}; {paths.remedy(path)}")


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as ``.npy``, atomically, making parent folders.

    Raises:
        ValueError: it holds objects, which only a pickle could.
        UserError: as `replacing`.
    """
    if array.dtype.hasobject:
        raise ValueError(f"got an array of {array.dtype}; must be of plain numbers; convert it")
    whole = np.ascontiguousarray(array)
    with replacing(path, whole.nbytes) as scratch, scratch.open("wb") as stream:
        # Not np.save, whose error doesn't say that the disk is full.
        stream.write(array_header(whole.dtype, whole.shape))
        stream.write(whole.data)


def link_or_copy(source: Path, path: Path) -> None:
    """Give a file a second place, atomically: by another name for it, else by a copy.

    Raises:
        UserError: as `replacing`.
    """
    with replacing(path, source.stat().st_size) as scratch:
        scratch.unlink()
        try:
            scratch.hardlink_to(source)
        except OSError:  # on another file system, or on one without such names
            shutil.copyfile(source, scratch)


def read_array(path: Path, sha256: str, *, trust_mapped: bool = False) -> NDArray[Any]:
    """Return the array that `write_array` wrote; one of `MAPPED_BYTES` is mapped into memory.

    A mapped array cannot be written to: a private copy of its pages would be charged against the
    machine's memory, which may be smaller. To compute its digest, see `sha256_of_array`, takes
    minutes, which ``trust_mapped`` saves.

    Raises:
        DamagedError: it is missing, or is not byte for byte what was written.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size >= MAPPED_BYTES:
                array: NDArray[Any] = np.asarray(np.lib.format.open_memmap(path, mode="r"))
                found = sha256 if trust_mapped else sha256_of_stored(path)
            else:
                array = np.lib.format.read_array(stream, allow_pickle=False)
                found = sha256_of_array(array)
            stream.seek(0)
            header = stream.read(size - array.nbytes)
    except FileNotFoundError:
        raise damaged(path, "is missing") from None
    # What numpy lets through of a bad header, and of one that asks for memory that there isn't.
    except (ValueError, TypeError, EOFError, MemoryError, SyntaxError, TokenError) as error:
        raise damaged(path, f"is no whole array ({error})") from error
    if header != array_header(array.dtype, array.shape):
        raise damaged(path, "has not the header that was written")
    if found != sha256:
        raise damaged(path, f"has sha256 {found} where {sha256} was written")
    return array


def array_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return what a ``.npy`` file has before the content: 128 bytes, if the shape is not long."""
    stream = io.BytesIO()
    content = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, content)
    return stream.getvalue()


def sha256_of_bytes(*chunks: bytes | memoryview) -> str:
    """Return the hex digest of the chunks, one after another."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def sha256_of_array(array: NDArray[Any]) -> str:
    """Return the hex digest of an array's dtype, shape and content."""
    return sha256_of_bytes(_head(array), np.ascontiguousarray(array).data)


def sha256_of_stored(path: Path) -> str:
    """Return `sha256_of_array` of the array of a ``.npy`` file, read a little at a time."""
    array = np.lib.format.open_memmap(path, mode="r")
    with path.open("rb") as stream:
        stream.seek(array.offset)
        return hashlib.file_digest(stream, lambda: hashlib.sha256(_head(array))).hexdigest()


def _head(array: NDArray[Any]) -> bytes:
    return f"{array.dtype.str} {array.shape}".encode()
