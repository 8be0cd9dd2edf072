"""Files: written whole or not at all, the same bytes for the same content; paths and streams."""

import errno
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stages.lib.core import files, machine, paths
from stages.lib.core.errors import DamagedError, UserError
from stages.lib.core.randomness import PURPOSES, stream

ROOT = Path(__file__).parents[1]

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


def test_a_hard_link_of_the_old_file_is_not_written_through(tmp_path: Path) -> None:
    """DVC's cache may be one: an output is replaced, never written in place."""
    target, cache = tmp_path / "file.json", tmp_path / "cache"
    files.write_json(target, {"a": 1})
    cache.hardlink_to(target)
    files.write_json(target, {"a": 2})
    assert files.read_json(cache) == {"a": 1}


FULL = r"a\.npy: no space left for 3,000 bytes, [\d,]+ are free;"
REFUSED = r"/test_\w+: cannot be written \("


@pytest.mark.parametrize(
    ("number", "line"),
    [(number, FULL) for number in (errno.ENOSPC, errno.EDQUOT)]
    + [(number, REFUSED) for number in (errno.EACCES, errno.EPERM, errno.EROFS)],
)
def test_a_write_that_the_system_refuses_is_told(
    number: int, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.npy"
    target.write_text("old", encoding="utf-8")

    def refuse(*_: Any) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "array_header", refuse)
    with pytest.raises(UserError, match=line):
        files.write_array(target, np.zeros(3000, np.uint8))
    assert target.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_a_write_that_really_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    """The system itself stops the write, at a limit that a process sets for itself."""
    target = tmp_path / "a.npy"
    files.write_array(target, np.zeros(10, np.uint8))
    program = (
        "import resource, sys; from pathlib import Path; import numpy as np\n"
        "from stages.lib.core import files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try: files.write_array(Path(sys.argv[1]), np.zeros(100_000, np.uint8))\n"
        "except files.UserError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(target)],
        cwd=ROOT, capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert re.match(rf"{target}: no space left for 100,000 bytes, ", done.stdout), done
    assert len(np.load(target)) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_the_content_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut may leave a whole name of an empty file."""
    target, flushed = tmp_path / "a.json", []
    fsync = os.fsync

    def note(handle: int) -> None:
        flushed.append((os.fstat(handle).st_size, target.exists()))
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", note)
    files.write_json(target, {"a": 1})
    assert flushed == [(target.stat().st_size, False)]


def test_a_scratch_folder_stays_while_its_owner_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    with files.scratch_folder() as folder:
        (folder / "result").touch()
        os.utime(folder, (0, 0))
        files._sweep.cache_clear()
        files._sweep(folder.parent)
        assert (folder / "result").exists()
    assert not folder.exists()


def test_scratch_files_of_the_dead_are_swept(tmp_path: Path) -> None:
    for name in (".old.json.x1.json", ".new.json.x2.json", "old.json"):
        (tmp_path / name).touch()
    (tmp_path / ".folder").mkdir()
    for name in (".old.json.x1.json", "old.json", ".folder"):
        os.utime(tmp_path / name, (0, 0))
    files.write_json(tmp_path / "b.json", {})
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".new.json.x2.json", "old.json", ".folder", "b.json"}


# --- JSON


def test_json_is_canonical(tmp_path: Path) -> None:
    value, file = {"b": 1, "a": {"d": [1.5, None], "c": "α"}}, tmp_path / "x" / "y.json"
    assert files.to_json({"b": "α", "a": 1}, indent=None) == '{"a": 1, "b": "α"}\n'
    files.write_json(file, value)
    assert files.read_json(file) == value
    bare = json.loads(file.read_text(encoding="utf-8"))
    assert bare.pop("seal") == [files.sha256_of_bytes(files.to_json(value).encode())]
    assert bare == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_nan(value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", {"a": [value]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["json", "uint8", "int64"])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param((1, 128, 255), id="some"),
        pytest.param(range(1, 256), id="all", marks=pytest.mark.faults),
    ],
)
@pytest.mark.filterwarnings("ignore")  # numpy's, of strange headers
def test_any_changed_byte_is_noticed(kind: str, changes: Sequence[int], tmp_path: Path) -> None:
    """Those between values and in an array's padding too, where a parser sees no difference."""
    if kind == "json":
        file, read = tmp_path / "x.json", files.read_json
        files.write_json(file, {"a": [1e-8, None], "b": "α"})
    else:
        file, array = tmp_path / "x.npy", np.arange(6, dtype=kind).reshape(2, 3)
        files.write_array(file, array)
        read = partial(files.read_array, sha256=files.sha256_of_array(array))
    whole = file.read_bytes()
    for place in range(len(whole)):
        for change in changes:
            changed = bytearray(whole)
            changed[place] ^= change
            file.write_bytes(changed)
            with pytest.raises(DamagedError, match=r"x\.\w+: "):
                read(file)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"a": 1}', '{"seal": []}', "NaN", "\udcff", "[" * 100_000],
    ids=lambda text: text[:10],
)
def test_what_was_not_written_here_is_not_read(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DamagedError, match=r"x\.json: is not what was written; "):
        files.read_json(file)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=r"a\.npy: is missing; delete it and run again"):
        files.read_array(tmp_path / "a.npy", "")
    with pytest.raises(DamagedError, match=r"metrics/experiment\.json: is missing; .* -f train "):
        files.read_json(tmp_path / "metrics/experiment.json")


# --- arrays


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3), (0, 4, 4, 1)])
def test_arrays_survive_the_disk(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.arange(math.prod(shape), dtype=dtype).reshape(shape)
    files.write_array(tmp_path / "a.npy", array)
    got = files.read_array(tmp_path / "a.npy", files.sha256_of_array(array))
    np.testing.assert_array_equal(got, array, strict=True)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        *((lambda content, end=end: content[:end], "is no whole array") for end in (-1, 50, 0)),
        (lambda content: b"PK\3\4" + content, "is no whole array"),
        (lambda content: content + b"\0", "has not the header that was written"),
        (lambda content: content[:-1] + b"\7", "has sha256 [0-9a-f]{64} where [0-9a-f]{64} was"),
    ],
    ids=["cut", "cut header", "empty", "zip", "longer", "changed"],
)
def test_damage_of_an_array_is_told(change: Any, what: str, tmp_path: Path) -> None:
    file, array = tmp_path / "a.npy", np.arange(6, dtype=np.uint8)
    files.write_array(file, array)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DamagedError, match=rf"a\.npy: {what}"):
        files.read_array(file, files.sha256_of_array(array))


def test_pickled_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    array = np.array([{"a": 1}], dtype=object)
    with pytest.raises(ValueError, match="array of object; must be of plain numbers"):
        files.write_array(tmp_path / "a.npy", array)
    assert not list(tmp_path.iterdir())
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DamagedError, match="allow_pickle=False"):
        files.read_array(tmp_path / "a.npy", "")


def test_an_arrays_digest_tells_content_dtype_and_shape_and_nothing_else() -> None:
    array = np.arange(6, dtype=np.uint8)
    others = [
        array[::-1], array.astype(np.int8), array.astype(np.uint16), array.reshape(2, 3),
        array.reshape(3, 2), array[:5], np.append(array, np.uint8(0)),
    ]  # fmt: skip
    digests = {files.sha256_of_array(a) for a in [array, *others]}
    assert len(digests) == 1 + len(others)
    array = np.arange(12, dtype=np.uint16).reshape(3, 4)
    for same in (array.copy(order="F"), np.repeat(array, 2, axis=0)[::2], array.T.copy().T):
        assert files.sha256_of_array(same) == files.sha256_of_array(array)


def test_a_digest_is_that_of_the_chunks_together() -> None:
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2: "abc"
    assert files.sha256_of_bytes(b"a", b"", b"bc") == files.sha256_of_bytes(b"abc") == known


# --- paths and hosts


def test_points_lie_in_the_repository_that_dvc_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert paths.run_store() == Path(".runs")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert paths.run_store() == tmp_path / ".runs"


@pytest.mark.parametrize("above", ["", "/home/data/labels/repo"])
def test_a_damaged_files_error_names_the_stage_that_makes_it(above: str) -> None:
    """Of every folder and file of ``dvc.yaml`` that a stage reads."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    count = 0
    for name, stage in pipeline.items():
        for out in [*stage.get("outs", []), *stage.get("metrics", [])]:
            path = out if isinstance(out, str) else next(iter(out))
            if path.startswith(("plots/", "data/checked", "data/scans")):
                continue  # nobody reads them, or does without
            path = path.replace("${scale}", "quick").replace("${data.name}", "digits")
            path = path.replace("${item.key}", "key") + ("" if ".json" in path else "/x/y.npy")
            error = files.damaged(Path(above, path), "is missing")
            maker = name + ("@key" if "matrix" in stage else "")
            start = f"{Path(above, path)}: is missing; run the stage again that makes it: "
            assert str(error).startswith(f"{start}dvc repro -f {maker} (")
            count += 1
    assert count == 10


def test_a_host_is_described_in_json() -> None:
    hardware, versions = machine.hardware("cpu"), machine.versions()
    files.to_json({"hardware": hardware, "versions": versions})
    assert hardware["device"] == "cpu"
    assert hardware["processor"]
    assert set(versions) == {"python", *machine.PACKAGES}


# --- streams of randomness


def test_streams_differ_by_seed_and_purpose() -> None:
    drawn = {
        tuple(stream(seed, purpose).generate_state(4).tolist())
        for seed in (0, 1, 2, 2**31 - 1)
        for purpose in PURPOSES
    }
    assert len(drawn) == 4 * len(PURPOSES)


def test_the_numbers_of_purposes_are_part_of_every_result() -> None:
    """Append, never renumber: the split and labels of a seed would be others."""
    assert PURPOSES[:13] == (
        "split", "order", "labels", "validation", "images", "init", "shuffle", "augmentation",
        "pixels", "folds", "fold_init", "fold_shuffle", "fold_augmentation",
    )  # fmt: skip
    assert stream(3, "labels").entropy == (3, 2)


def test_an_unknown_purpose_is_an_error() -> None:
    with pytest.raises(ValueError, match="tuple"):
        stream(0, "lables")
