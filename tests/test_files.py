"""Files: written whole or not at all, the same bytes for the same content; paths and streams."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.lib import files, hosts, paths
from stages.lib.streams import PURPOSES, stream

# --- writing


def test_a_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file.txt"
    with files.replacing(target) as scratch:
        scratch.write_text("content", encoding="utf-8")
        assert not target.exists()
        assert scratch.parent == target.parent  # so that the rename is atomic
    assert target.read_text(encoding="utf-8") == "content"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]
    assert target.stat().st_mode & 0o777 == 0o644


def test_a_failure_leaves_the_old_file_and_no_scrap(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old", encoding="utf-8")

    def write_half() -> None:
        with files.replacing(target) as scratch:
            scratch.write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_hard_link_of_the_old_file_is_not_written_through(tmp_path: Path) -> None:
    """DVC's cache may be one: an output is replaced, never written in place."""
    target, cache = tmp_path / "file.json", tmp_path / "cache"
    files.write_json(target, 1)
    cache.hardlink_to(target)
    files.write_json(target, 2)
    assert files.read_json(cache) == 1


# --- JSON


def test_json_is_canonical(tmp_path: Path) -> None:
    one, other = (
        {"b": 1, "a": {"d": [1.5, None], "c": "α"}},
        {"a": {"c": "α", "d": [1.5, None]}, "b": 1},
    )
    assert files.to_json(one) == files.to_json(other)
    assert files.to_json({"b": "α", "a": 1}, indent=None) == '{"a": 1, "b": "α"}\n'
    files.write_json(tmp_path / "x" / "y.json", one)
    text = (tmp_path / "x" / "y.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert json.loads(text) == files.read_json(tmp_path / "x" / "y.json") == one


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_nan(value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", {"a": [value]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [0.1, 1e-8, 1 / 3, 5e-324, 1e308, 2**53 + 1])
def test_numbers_survive_json(value: float, tmp_path: Path) -> None:
    files.write_json(tmp_path / "x.json", value)
    assert files.read_json(tmp_path / "x.json") == value


# --- arrays


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3), (0, 4, 4, 1)])
def test_arrays_survive_the_disk(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.arange(math.prod(shape), dtype=dtype).reshape(shape)
    files.write_array(tmp_path / "a.npy", array)
    got = files.read_array(tmp_path / "a.npy")
    np.testing.assert_array_equal(got, array)
    assert (got.dtype, got.shape) == (array.dtype, array.shape)


def test_pickled_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    array = np.array([{"a": 1}], dtype=object)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        files.write_array(tmp_path / "a.npy", array)
    assert not list(tmp_path.iterdir())
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        files.read_array(tmp_path / "a.npy")


def test_an_arrays_digest_tells_content_dtype_and_shape() -> None:
    array = np.arange(6, dtype=np.uint8)
    others = [
        array[::-1], array.astype(np.int8), array.astype(np.uint16), array.reshape(2, 3),
        array.reshape(3, 2), array[:5], np.append(array, np.uint8(0)),
    ]  # fmt: skip
    digests = {files.sha256_of_array(a) for a in [array, *others]}
    assert len(digests) == 1 + len(others)


def test_an_arrays_digest_does_not_depend_on_its_memory() -> None:
    array = np.arange(12, dtype=np.uint16).reshape(3, 4)
    for same in (array.copy(order="F"), np.repeat(array, 2, axis=0)[::2], array.T.copy().T):
        assert files.sha256_of_array(same) == files.sha256_of_array(array)


def test_a_digest_is_that_of_the_chunks_together() -> None:
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2: "abc"
    assert files.sha256_of_bytes(b"a", b"", b"bc") == files.sha256_of_bytes(b"abc") == known


# --- paths and hosts


@pytest.mark.parametrize("name", ["quick", "fig1_uniform_mnist", "1", "a_"])
def test_names(name: str) -> None:
    assert paths.NAME.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["", "_a", "A", "a-b", "a.b", "a/b", "..", "a b", "a\n", "ä", "$a"]
)
def test_what_is_no_name(name: str) -> None:
    assert not paths.NAME.fullmatch(name)


def test_points_lie_in_the_repository_that_dvc_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert paths.point_store() == Path(".points")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert paths.point_store() == tmp_path / ".points"


def test_a_host_is_described_in_json() -> None:
    hardware, versions = hosts.hardware("cpu"), hosts.versions()
    files.to_json([hardware, versions])
    assert hardware["device"] == "cpu"
    assert hardware["processor"]
    assert hosts.cores() >= 1
    assert versions["numpy"] == np.__version__
    assert set(versions) == {"python", *hosts.PACKAGES}


# --- streams of randomness


def first_numbers(*arguments: Any) -> tuple[int, ...]:
    return tuple(stream(*arguments).generate_state(4).tolist())


def test_streams_differ_by_seed_purpose_and_point() -> None:
    drawn = [
        first_numbers(seed, purpose, point)
        for seed in (0, 1, 2, 2**31 - 1)
        for purpose in PURPOSES
        for point in ("", "a", "b")
    ]
    assert len(set(drawn)) == len(drawn)
    assert first_numbers(5, "labels", "x") == first_numbers(5, "labels", "x")


def test_the_numbers_of_purposes_are_part_of_every_result() -> None:
    """Append, never renumber: the split and labels of a seed would be others."""
    assert PURPOSES[:7] == ("split", "order", "labels", "validation", "images", "init", "shuffle")
    digest = int(files.sha256_of_bytes(b"x")[:32], base=16)
    expected = np.random.SeedSequence((3, 2, digest)).generate_state(4)
    assert first_numbers(3, "labels", "x") == tuple(expected.tolist())


def test_an_unknown_purpose_is_an_error() -> None:
    with pytest.raises(ValueError, match="tuple"):
        stream(0, "lables")
