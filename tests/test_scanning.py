"""What is noticed at a path of the user's, and what is not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.lib.data.datasets import DataError
from stages.lib.data.scanning import scan


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("train/a/1.png", "train/b/2.png", "top.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"content")
    return tmp_path


@pytest.mark.parametrize(
    ("change", "noticed", "by_names"),
    [
        (lambda path: (path / "train/a/1.png").rename(path / "train/a/3.png"), True, True),
        (lambda path: (path / "train/a/1.png").rename(path / "train/b/1.png"), True, True),
        (lambda path: (path / "train/a/1.png").write_bytes(b"longer content"), True, False),
        (lambda path: os.utime(path / "train/a/1.png", ns=(0, 1)), True, False),
        (lambda path: (path / "top.tar").write_bytes(b"longer content"), True, True),
        (lambda path: (path / "train/b").rename(path / "train/c"), True, True),
        (lambda path: (path / "train/a/.DS_Store").touch(), False, False),
        (lambda path: (path / "train/a/up").symlink_to(path), False, False),  # without an end
    ],
)
def test_what_is_noticed(
    images: Path, change: Callable[[Path], object], noticed: bool, by_names: bool
) -> None:
    before = [scan(images), scan(images, names_only=True)]
    assert before[0]["files"] == 3
    assert before == [scan(images), scan(images, names_only=True)]
    change(images)
    after = [scan(images), scan(images, names_only=True)]
    assert [a != b for a, b in zip(before, after, strict=True)] == [noticed, by_names]


def test_an_archive_is_one_file_and_what_is_not_there_is_told(images: Path) -> None:
    before = scan(images / "top.tar")
    assert before["bytes"] == 7
    os.utime(images / "top.tar", ns=(0, 1))
    assert scan(images / "top.tar")["digest"] != before["digest"]
    with pytest.raises(DataError, match=r"^data.path: got '.*gone'; accepted: "):
        scan(images / "gone")
