"""Many image files decoded into one array on the disk: in parallel, in little memory, resumable.

The array is written in place, chunk by chunk, into a ``.npy`` file that no reader knows of yet.
Beside it lies its progress: which chunks are on the disk, and which images cannot be read.
"""

import errno
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stages.lib.core import files, machine, processes
from stages.lib.core.errors import DamagedError
from stages.lib.core.text import one_line
from stages.lib.data.archives import MOST_BYTES
from stages.lib.data.pixels import UNREADABLE, bombs_refused, decode, why_unreadable

CHUNK = 128  # images; a thread decodes them one by one
RECORD_SECONDS = 10.0  # of decoding that a kill may cost


class Encoded(NamedTuple):
    """An image file, or the part of an archive that is one."""

    name: str  # of the file, without folders
    file: str  # the path of the file, or of the archive
    start: int  # where in it the image starts
    size: int  # bytes
    changed: int  # when the file was, in nanoseconds


@dataclass
class Progress:
    """What is done of an array: chunks that are on the disk, images (by index) without pixels."""

    file: Path
    chunks: set[int]
    unreadable: dict[int, str]

    def record(self, stream: IO[bytes]) -> None:
        """Write down what is done, after it is on the disk indeed."""
        os.fsync(stream.fileno())
        unreadable = {str(index): why for index, why in self.unreadable.items()}
        files.write_json(self.file, {"chunks": sorted(self.chunks), "unreadable": unreadable})


def decode_to(
    file: Path, images: Sequence[Encoded], rows: NDArray[np.int64], size: int, title: str
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Decode images into the rows of an ``(n, size, size, 3) uint8`` array, a ``.npy`` file.

    Each is made square as `pixels.decode` says. Images that cannot be read are left out, and
    the last rows fill the gaps. Stopped at any moment, another call of the same arguments goes on.

    Args:
        file: Where the array goes; ``file`` with the suffix ``.json`` keeps the progress.
        images: In the order in which they are best read.
        rows: ``(n,)`` the row of each, a permutation.
        size: Pixels of a side.
        title: What the progress bar is called.

    Returns:
        For each row that is left the index of its image, and why the others cannot be read.

    Raises:
        UserError: the disk is full.
        OSError: an image's file is gone or cannot be read; its content is another matter.
    """
    row_bytes = 3 * size * size
    full = len(_header(len(images), size)) + row_bytes * len(images)
    try:
        progress = _resume(file, full, row_bytes)
        with file.open("r+b") as stream:
            _decode_rest(stream, images, rows, size, progress, title)
            gaps = sorted(int(rows[index]) for index in progress.unreadable)
            left = len(images) - len(gaps)
            # Which of the last rows goes to which gap, so that the first ones are without any.
            last = sorted(set(range(left, len(images))).difference(gaps))
            fillers = dict(zip((gap for gap in gaps if gap < left), last, strict=True))
            if os.fstat(stream.fileno()).st_size == full:  # else it was cut already
                for gap, row in fillers.items():
                    start = len(_header(0, 1)) + row * row_bytes
                    _write_row(stream, gap, os.pread(stream.fileno(), row_bytes, start))
                os.fsync(stream.fileno())
            _finish(stream, left, size)
    except OSError as error:
        if error.errno in files.FULL:
            raise files.explain_os_error(error, file, full) from error
        raise
    order = np.argsort(rows)  # the inverse: of each row its image
    order[list(fillers)] = order[list(fillers.values())]
    return order[:left], progress.unreadable


def _header(count: int, size: int) -> bytes:
    """Return the header of the ``.npy`` file, of the same length for every count."""
    return files.array_header(np.dtype(np.uint8), (count, size, size, 3))


def _resume(file: Path, full: int, row_bytes: int) -> Progress:
    """Return what an earlier call has done; if nothing that can be used, make the file anew."""
    progress = Progress(file.with_suffix(".json"), set(), {})
    try:
        known = files.read_json(progress.file)
        unreadable = {int(index): why for index, why in known["unreadable"].items()}
        if file.stat().st_size in (full, full - row_bytes * len(unreadable)):
            return Progress(progress.file, set(known["chunks"]), unreadable)
    except (DamagedError, FileNotFoundError):
        pass  # it starts from nothing
    progress.file.unlink(missing_ok=True)
    file.unlink(missing_ok=True)
    if full > shutil.disk_usage(file.parent).free:  # told now, not after hours
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with file.open("wb") as stream:
        stream.truncate(full)
        progress.record(stream)
    return progress


def _decode_rest(
    stream: IO[bytes],
    images: Sequence[Encoded],
    rows: NDArray[np.int64],
    size: int,
    progress: Progress,
    title: str,
) -> None:
    """Decode the chunks that are not done yet, recording progress now and then and at the end."""
    starts = range(0, len(images), CHUNK)
    chunks = [range(start, min(start + CHUNK, len(images))) for start in starts]
    todo = [k for k in range(len(chunks)) if k not in progress.chunks]
    calls = (partial(_decode_chunk, stream, images, rows, size, chunks[k]) for k in todo)
    done = sum(len(chunks[k]) for k in progress.chunks)
    recorded = time.monotonic()
    with (
        bombs_refused(),
        tqdm(total=len(images), initial=done, desc=title, unit="images", disable=None) as bar,
        closing(processes.in_threads(calls, machine.cores())) as results,
    ):
        try:
            for k, failures in zip(todo, results, strict=True):
                progress.unreadable |= failures
                progress.chunks.add(k)
                bar.update(len(chunks[k]))
                if time.monotonic() - recorded >= RECORD_SECONDS:
                    progress.record(stream)
                    recorded = time.monotonic()
        finally:
            progress.record(stream)


def _decode_chunk(
    stream: IO[bytes], images: Sequence[Encoded], rows: NDArray[np.int64], size: int, chunk: range
) -> dict[int, str]:
    """Decode some images into their rows; return why others cannot be read, by their index."""
    failures = {}
    for index in chunk:
        image = images[index]
        if image.size > MOST_BYTES:
            failures[index] = f"has {image.size:,} bytes, more than the {MOST_BYTES:,} allowed"
            continue
        # Not within the try: a file that is gone, or a disk that fails, says nothing of the image.
        with Path(image.file).open("rb") as file:
            file.seek(image.start)
            content = file.read(image.size)
        try:
            pixels, _ = decode(content, size)
        except UNREADABLE as error:
            failures[index] = one_line(why_unreadable(error))
        else:
            _write_row(stream, int(rows[index]), pixels.tobytes())
    return failures


def _finish(stream: IO[bytes], count: int, size: int) -> None:
    """Make an array file of the first rows."""
    header = _header(count, size)
    stream.truncate(len(header) + 3 * size * size * count)
    os.pwrite(stream.fileno(), header, 0)
    os.fsync(stream.fileno())


def _write_row(stream: IO[bytes], row: int, content: bytes) -> None:
    """Write a row; threads may do so at the same time, for the file's position does not move."""
    place = len(_header(0, 1)) + row * len(content)
    while content:
        written = os.pwrite(stream.fileno(), content, place)
        content, place = content[written:], place + written
