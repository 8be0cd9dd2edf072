"""Faults on purpose: kills at any moment, disks that fill at any write, bytes that rot.

``make test`` runs a sample; ``make test-faults`` runs everything, for about 40 minutes on two
cores, and prints what it counted.
"""

import errno
import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import kills
import pytest
from here import FIGURES, NAMES, STAGES
from repository import ROOT, Repository, clone, tiny_params, tiny_scale

from stages.lib.core import files, paths
from stages.lib.core.errors import DamagedError
from stages.lib.data import datasets, downloads
from stages.lib.execution import checkpoints, store
from stages.lib.labels import dilution

TIMES = "metrics/times"
Before, Run = Callable[[int], Path], Callable[[int], int]  # the fixtures of here.py
Captured = pytest.CaptureFixture[str]

needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the git repository")


# --- kills


def tell(counts: Any) -> None:
    """Print what was counted, where ``make test-faults`` shows it."""
    print("\n" + json.dumps(counts if isinstance(counts, dict) else vars(counts), indent=2))


def check(counts: kills.Counts, made: int) -> None:
    tell(counts)
    assert counts.kills.total() == made  # one more was made if the last pipeline hung
    assert counts.rounds >= 1
    assert (counts.orphans, counts.lost_points, counts.differing) == ([], [], [])


@pytest.fixture
def tiny(tmp_path: Path) -> Repository:
    """Return a repository whose pipeline is tiny."""
    repository = clone(tmp_path)
    repository.write_yaml("scales/tiny.yaml", tiny_scale())
    repository.write_yaml("params.yaml", tiny_params(FIGURES[:1]))
    repository.commit("Tiny")
    return repository


@needs_git
def test_kills_of_a_tiny_pipeline(tiny: Repository) -> None:
    tiny.succeed("repro")
    expected = kills.results(tiny)
    assert len(expected) > 30
    check(kills.run_rounds(tiny, expected, 2, rng=random.Random(0), longest=9), 2)


@needs_git
@pytest.mark.faults
def test_kills_of_the_quick_pipeline(tmp_path: Path, capsys: Captured) -> None:
    """The whole of scale ``quick``, as ``make repro`` trains it from nothing."""
    repository = clone(tmp_path)
    repository.succeed("repro")
    expected, rng = kills.results(repository), random.Random(1)
    with capsys.disabled():
        check(kills.run_rounds(repository, expected, 100, rng=rng, longest=20, say=print), 100)


# Convolutions train one after another: some of the runs are stored, others under way.
LONG = {"model.name": "conv2", "model.width": 0.1, "train.min_samples": 64_000}
VALUES = [part for key, value in LONG.items() for part in ("-S", f"{key}={value}")]


@needs_git
@pytest.mark.slow
def test_kills_in_a_queue(tiny: Repository) -> None:
    """Of the stage, of DVC above it, of the queue's worker above that, and of all of them."""
    tiny.succeed("exp", "run", "--name", "whole", *VALUES)
    result = "metrics/experiment.json"
    expected = tiny.of_experiment("whole", result)
    for whom in kills.IN_QUEUE:
        shutil.rmtree(tiny.runs)
        tiny.succeed("exp", "run", "--queue", "--name", f"killed-{whom}", *VALUES)
        kept, orphans = kills.kill_in_queue(tiny, whom)
        assert orphans == []
        assert len(kept) >= 1
        tiny.succeed("exp", "run", "--temp", "--name", f"after-{whom}", *VALUES)
        assert tiny.of_experiment(f"after-{whom}", result) == expected
        assert kept.items() <= tiny.snapshot(".runs").items()


# --- writes that fail


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file that must be the same after every run."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(TIMES):
            content = path.read_bytes()
            if path.parent.name == ".runs" and not path.name.startswith("."):
                stored = json.loads(content)
                del stored["outcome"]["wall_seconds"], stored["seal"]
                content = json.dumps(stored).encode()
            found[name] = content
    return found


class Crash(BaseException):
    """The machine stops: nothing is cleaned up."""


SAID = {"full": (errno.ENOSPC, "no space left"), "refused": (errno.EACCES, "cannot be written")}
KINDS = (*SAID, "crash", "half")


@contextmanager
def fault_at(write: int, kind: str) -> Iterator[list[Path]]:
    """Make one write fail, counted from 0; yield where every write's file is noted.

    ``full``: the disk is full. ``refused``: the folder may not be written. ``crash``: the machine
    stops when the file is whole and has not its name yet. ``half``: it stops within the file.
    """
    begun: list[Path] = []
    replace, unlink, flush = Path.replace, Path.unlink, files._flush
    crashed = False

    def failing_flush(path: Path) -> None:
        begun.append(path)
        if len(begun) == write + 1 and kind in SAID:
            raise OSError(SAID[kind][0], os.strerror(SAID[kind][0]))
        flush(path)

    def failing_replace(path: Path, target: Path) -> Any:
        nonlocal crashed
        if len(begun) == write + 1 and kind in ("crash", "half"):
            crashed = True
            if kind == "half":
                os.truncate(path, path.stat().st_size // 2)
            raise Crash
        return replace(path, target)

    def idle_unlink(path: Path, missing_ok: bool = False) -> None:
        if not crashed:
            unlink(path, missing_ok=missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_flush", failing_flush)
        patch.setattr(Path, "replace", failing_replace)
        patch.setattr(Path, "unlink", idle_unlink)
        yield begun


def said(capsys: Captured) -> str:
    """Return the one line of an error."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    return line


def fail_once(number: int, write: int, kind: str, run: Run, capsys: Captured) -> None:
    """Run a stage whose write fails, and require one line that says so, or a crash."""
    capsys.readouterr()
    with fault_at(write, kind):
        if kind not in SAID:
            with pytest.raises(Crash):
                run(number)
        else:
            assert run(number) == 1, (NAMES[number], write, kind)
            assert re.match(f"error: .*{SAID[kind][1]}", said(capsys))


def faults_at_writes(
    choose: Callable[[int], list[tuple[int, str]]], before: Before, run: Run, capsys: Captured
) -> Counter[str]:
    """Fail writes of every stage, which are chosen from their number and how they fail.

    Each time the next run must come to the same end.
    """
    counts: Counter[str] = Counter()
    for number, name in enumerate(NAMES):
        folder = before(number)
        with fault_at(-1, "none") as begun:
            assert run(number) == 0, name
        whole, writes = contents(folder), len(begun)
        assert writes >= 1, name
        for write, kind in choose(writes):
            folder = before(number)
            earlier = contents(folder)
            fail_once(number, write, kind, run, capsys)
            after = contents(folder)
            assert {key: after.get(key) for key in earlier} == earlier, (name, write, kind)
            assert run(number) == 0, (name, write, kind)
            found = contents(folder).items()  # a crash leaves scratch files
            assert {k: v for k, v in found if not Path(k).name.startswith(".")} == whole
            counts[kind] += 1
    return counts


def test_faults_at_some_writes(before: Before, run: Run, capsys: Captured) -> None:
    rng = random.Random(0)
    counts = faults_at_writes(
        lambda writes: [(rng.randrange(writes), rng.choice(KINDS))], before, run, capsys
    )
    assert counts.total() == len(STAGES)


@pytest.mark.faults
def test_faults_at_every_write(before: Before, run: Run, capsys: Captured) -> None:
    counts = faults_at_writes(lambda writes: [*product(range(writes), KINDS)], before, run, capsys)
    assert counts.total() > 400
    with capsys.disabled():
        tell({"faults at writes": dict(counts), "other results": 0, "lost files": 0})


# --- rot


def readers(folder: Path) -> dict[Path, Callable[[], Any]]:
    """Return every file below a workspace that stages read, with what reads it."""
    found: dict[Path, Callable[[], Any]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        match path.relative_to(folder).parts:
            case ("plots" | "scales" | "studies" | "params.yaml", *_) | ("data", "checked.yaml"):
                continue
            case ("data", "datasets", *_):
                found[path] = partial(datasets.load, path.parent)
            case ("data", "labels", *_):
                found[path] = partial(dilution.load, path.parent)
            case _:
                by_suffix = {".pt": checkpoints.read, ".json": files.read_json}
                found[path] = partial(by_suffix[path.suffix], path)
    return found


def flip(path: Path, place: int, change: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= change
    path.write_bytes(content)


def all_made(before: Before, run: Run) -> Path:
    """Return a workspace in which everything has run, with a checkpoint and a download."""
    folder = before(len(STAGES) - 1)
    assert run(len(STAGES) - 1) == 0
    checkpoints.write(store.RunStore("cpu").checkpoint({"a": 1}), {"step": 3})
    return folder


def rot(
    folder: Path, flips: int, rng: random.Random, *, one_of_a_kind: bool
) -> tuple[Counter[str], list[str]]:
    """Change single bytes of every file that is read; return counts, and what went unseen."""
    counts: Counter[str] = Counter()
    unseen = []
    for path, read in readers(folder).items():
        kind = "/".join([*path.relative_to(folder).parts[:2], path.name])
        if one_of_a_kind and kind in counts:
            continue
        read()
        size = path.stat().st_size
        for place in rng.sample(range(size), min(flips, size)):
            change = rng.randrange(1, 256)
            flip(path, place, change)
            counts[kind] += 1
            try:
                read()
                unseen.append(f"{path}: byte {place} changed by {change}")
            except DamagedError as error:
                if path.name not in str(error):
                    unseen.append(f"{path}: {error}")
            flip(path, place, change)
        read()
    return counts, unseen


def test_some_changed_bytes_are_noticed(before: Before, run: Run) -> None:
    counts, unseen = rot(all_made(before, run), 3, random.Random(0), one_of_a_kind=True)
    assert unseen == []
    assert counts.total() > 60
    named = {kind.rpartition("/")[2].partition(".")[2] for kind in counts}
    assert named == {"json", "npy", "pt"}


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore")  # numpy's, of headers that were changed
def test_changed_bytes_of_every_file_are_noticed(
    before: Before, run: Run, capsys: Captured
) -> None:
    counts, unseen = rot(all_made(before, run), 60, random.Random(1), one_of_a_kind=False)
    by_kind = Counter[str]()
    for kind, number in counts.items():
        parts = kind.split("/")
        place = parts[0] if parts[1].endswith(".json") else "/".join(parts[:2])
        by_kind[f"{place} {kind.rpartition('.')[2]}"] += number
    with capsys.disabled():
        tell({"changed bytes": dict(by_kind), "unseen": unseen})
    assert unseen == []
    assert counts.total() > 5000


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("data/datasets/experiment/digits/test_labels.npy", "train"),
        ("data/datasets/experiment/digits/dataset.json", "dilute"),
        ("data/labels/experiment/seed-0/labels.npy", "train"),
        ("data/labels/experiment/seed-1/noise.json", "train"),
        ("data/confusion/tiny/fig5_structured.json", "dilute_figure tiny fig5_structured"),
        ("metrics/figures/tiny/fig1_uniform_mnist.json", "draw tiny fig1_uniform_mnist"),
        ("points", "train"),
    ],
)
def test_a_stage_that_reads_what_has_rotted_says_what_to_run(
    file: str, stage: str, before: Before, run: Run, capsys: Captured
) -> None:
    folder, number = before(NAMES.index(stage)), NAMES.index(stage)
    path = folder / file
    if file == "points":
        assert run(number) == 0
        stored = (folder / ".runs").glob("*.json")
        path = max(stored, key=lambda file: file.stat().st_mtime_ns)  # of this stage
    elif stage == "train":
        shutil.rmtree(folder / ".runs", ignore_errors=True)  # nothing stored spares the reading
    if stage.startswith("dilute"):
        shutil.rmtree(folder / "data/labels", ignore_errors=True)
    flip(path, path.stat().st_size // 2, 1)
    metrics = folder / paths.EXPERIMENT_METRICS
    stamp = metrics.read_bytes() if metrics.exists() else None
    capsys.readouterr()
    assert run(number) == 1
    line = said(capsys)
    assert path.name in line
    maker = paths.maker(path)
    assert (f"dvc repro -f {maker} " if maker else "delete it and run again") in line
    assert (metrics.read_bytes() if metrics.exists() else None) == stamp


def test_a_download_that_has_rotted_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"whole"
    (tmp_path / "a.gz").write_bytes(content)
    resource = downloads.Resource("a.gz", downloads._md5(content), ())
    monkeypatch.setenv(downloads.MIRROR_VARIABLE, str(tmp_path))
    for place in range(len(content)):
        file = downloads.obtain(resource, tmp_path / "kept", dataset="x", layout="a.gz")
        assert file.read_bytes() == content
        flip(file, place, 1 + place)
