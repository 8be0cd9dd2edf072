"""Reading and writing files: always whole, always the same bytes for the same content."""

import hashlib
import json
import os
import tempfile
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside ``path`` that takes its place when the block ends well.

    A reader, or a run after a crash, sees the old file or the new one, never a part.

    Raises:
        OSError: the folder cannot be made or written; ``path`` is then untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        scratch.chmod(0o644)  # mkstemp makes it private
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Return canonical JSON: sorted keys, no NaN, a newline at the end.

    Raises:
        ValueError: ``value`` holds NaN or an infinity, which JSON cannot say.
    """
    text = json.dumps(value, indent=indent, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return text + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as canonical JSON, atomically, making parent folders."""
    text = to_json(value)
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as ``.npy``, atomically, making parent folders."""
    with replacing(path) as scratch, scratch.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def read_array(path: Path) -> NDArray[Any]:
    """Return the array of a ``.npy`` file.

    Raises:
        ValueError: it is no such file, is damaged, or holds pickled objects.
    """
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (SyntaxError, tokenize.TokenError) as error:  # what numpy lets through of a bad header
        raise ValueError(f"{path}: no header of a .npy file") from error
    return array


def sha256_of_bytes(*chunks: bytes | memoryview) -> str:
    """Return the hex digest of the chunks, one after another."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def sha256_of_array(array: NDArray[Any]) -> str:
    """Return the hex digest of an array's dtype, shape and content."""
    head = f"{array.dtype.str} {array.shape}".encode()
    return sha256_of_bytes(head, np.ascontiguousarray(array).data)
