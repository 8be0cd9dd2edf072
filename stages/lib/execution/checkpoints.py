"""Checkpoints: the states of trainings under way, one file for each, checked when read.

A file is a line with the SHA-256 of its name and of all that follows, a line with the step, and
what `torch.save` writes.
"""

import io
import math
import os
import pickle
from pathlib import Path
from typing import Any

from stages.lib.core import files
from stages.lib.core.errors import UserError

VARIABLE = "CHECKPOINT_SECONDS"


def interval() -> float:
    """Return the seconds between two checkpoints: ``$CHECKPOINT_SECONDS``, else two minutes.

    Raises:
        UserError: the variable holds no number above 0.
    """
    text = os.environ.get(VARIABLE, "120")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise UserError(f"{VARIABLE}: got {text!r}; accepted: seconds above 0, or inf")
    return seconds


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a state, atomically.

    Args:
        path: the file.
        state: of `stages.lib.training.loop.train`: ``step``, tensors, plain values.

    Raises:
        UserError: it cannot be written.
    """
    import torch

    stream = io.BytesIO()
    torch.save(state, stream)
    line, body = f"{state['step']}\n".encode(), stream.getbuffer()
    head = f"{_digest(path, line, body)}\n".encode() + line
    with files.replacing(path, len(head) + len(body)) as scratch, scratch.open("wb") as file:
        file.write(head)
        file.write(body)


def step(path: Path) -> int:
    """Return the step that a checkpoint was taken after; 0 where there is none.

    Raises:
        DamagedError: the file is not what was written.
    """
    found = _read(path)
    return 0 if found is None else found[0]


def read(path: Path) -> dict[str, Any] | None:
    """Return the state that was written; None where there is none.

    Raises:
        DamagedError: the file is not what was written.
    """
    found = _read(path)
    if found is None:
        return None
    import torch

    try:
        state: dict[str, Any] = torch.load(io.BytesIO(found[1]), weights_only=True)
    except pickle.UnpicklingError:
        raise files.damaged(path, "holds more than tensors and plain values") from None
    return state


def _read(path: Path) -> tuple[int, bytes] | None:
    try:
        digest, _, rest = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if digest.decode("latin-1") != _digest(path, rest):
        raise files.damaged(path, "is not what was written")
    line, _, body = rest.partition(b"\n")
    return int(line), body


def _digest(path: Path, *content: bytes | memoryview) -> str:
    return files.sha256_of_bytes(path.stem.encode(), *content)
