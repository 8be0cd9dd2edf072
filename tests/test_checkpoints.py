"""Checkpoints on disk: whole or refused, never half, never a pickle that runs."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.lib.core import files
from stages.lib.core.errors import DamagedError, UserError
from stages.lib.execution import checkpoints

STATE: dict[str, Any] = {
    "step": 12,
    "tensors": [torch.arange(6.0).view(2, 3), torch.tensor(0.5)],
    "record": {"curve": [{"val_accuracy": None, "examples_seen": 5}], "finite": True},
}


def test_a_state_survives_the_disk(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.pt"
    assert checkpoints.read(file) is None
    assert checkpoints.step(file) == 0
    checkpoints.write(file, STATE)
    found = checkpoints.read(file)
    assert found is not None
    assert (found["step"], found["record"]) == (STATE["step"], STATE["record"])
    for mine, theirs in zip(found["tensors"], STATE["tensors"], strict=True):
        assert torch.equal(mine, theirs)
    assert checkpoints.step(file) == 12
    assert [path.name for path in file.parent.iterdir()] == ["a.pt"]


def test_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    checkpoints.write(file, STATE)
    whole = file.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(DamagedError, match=r"a\.pt: is not what was written; delete it"):
            checkpoints.read(file)
        with pytest.raises(DamagedError, match=r"a\.pt: is not what was written; delete it"):
            checkpoints.step(file)
    assert len(whole) > 1000


def test_another_runs_checkpoint_and_what_is_none_are_refused(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "a.pt", STATE)
    (tmp_path / "a.pt").rename(tmp_path / "b.pt")
    with pytest.raises(DamagedError, match=r"b\.pt: is not what was written"):
        checkpoints.read(tmp_path / "b.pt")
    for content in (b"", b"ab\n12\n"):
        (tmp_path / "b.pt").write_bytes(content)
        with pytest.raises(DamagedError, match="is not what was written"):
            checkpoints.read(tmp_path / "b.pt")


class Planted:
    """What a pickle calls when it is loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("planted"),)


def test_a_pickle_that_runs_something_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one whose digest is right."""
    monkeypatch.chdir(tmp_path)
    stream = io.BytesIO()
    torch.save({"step": 1, "planted": Planted()}, stream)
    body = b"1\n" + stream.getvalue()
    Path("a.pt").write_bytes(files.sha256_of_bytes(b"a", body).encode() + b"\n" + body)
    with pytest.raises(DamagedError, match=r"a\.pt: holds more than tensors and plain values"):
        checkpoints.read(Path("a.pt"))
    assert not Path("planted").exists()


def test_the_interval_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(checkpoints.VARIABLE, raising=False)
    assert checkpoints.interval() == 120
    for text, seconds in (("0.5", 0.5), ("inf", float("inf"))):
        monkeypatch.setenv(checkpoints.VARIABLE, text)
        assert checkpoints.interval() == seconds
    for text in ("", "0", "-1", "nan", "two"):
        monkeypatch.setenv(checkpoints.VARIABLE, text)
        with pytest.raises(UserError, match=f"CHECKPOINT_SECONDS: got '{text}'; accepted: seconds"):
            checkpoints.interval()
