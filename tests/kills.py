"""Kills a running pipeline at random moments, in every way, and counts what is left.

A round runs one pipeline from nothing to its end, however often it is killed on the way. Its
results must be those of a pipeline that nobody killed.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from repository import TIMEOUT_SECONDS, Repository
from watching import runs, words

from tools.lock import mend

GRACE_SECONDS = 20  # until every process has noticed that another is gone
DATA = ("data/checked.yaml", "data/scans", "data/datasets", "data/confusion", "data/labels")
RESULTS = (*DATA, "metrics/experiment.json", "metrics/figures", "plots/figures")
DVC = (sys.executable, "-m", "dvc")
MADE = (*DATA, "metrics", "plots/figures", ".runs", ".dvc/cache", ".dvc/tmp", "dvc.lock")


@dataclass
class Counts:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)  # by way of killing
    rounds: int = 0  # whole pipelines that came to their end
    cut_locks: int = 0  # kills while DVC wrote dvc.lock, a table of locks, or git's index
    orphans: list[str] = field(default_factory=list)  # there `GRACE_SECONDS` after a kill
    lost_points: list[str] = field(default_factory=list)  # trainings that a kill lost or changed
    differing: list[str] = field(default_factory=list)  # results, to the byte
    seconds: float = 0.0


def results(repository: Repository) -> dict[str, bytes]:
    """Return the content of every file that must be the same after every run.

    Not of scratch files, which a SIGKILL leaves: git ignores them, and later runs sweep them.
    """
    found = repository.snapshot(*RESULTS).items()
    return {name: content for name, (_, content) in found if not Path(name).name.startswith(".")}


def _environment(repository: Repository) -> dict[str, str]:
    return repository.environment() | {"CHECKPOINT_SECONDS": "1"}


def _stage(process: psutil.Process) -> psutil.Process:
    """Return the stage that DVC runs; DVC itself where it runs none."""
    for child in process.children(recursive=True):
        command = words(child)
        if command[1:2] == ["-m"] and command[2].startswith("stages."):
            return child
    return process


def _worker(process: psutil.Process) -> psutil.Process:
    """Return a process that trains, a child of the stage's child; the stage where none does."""
    stage = _stage(process)
    below = set(stage.children(recursive=True)) - set(stage.children())
    return min(below, key=lambda child: child.pid, default=stage)


#: what becomes of ``dvc repro``, given its process
WAYS: dict[str, Callable[[psutil.Process], None]] = {
    "SIGKILL to all": lambda process: os.killpg(process.pid, signal.SIGKILL),
    "SIGKILL to DVC": lambda process: process.kill(),
    "SIGTERM to DVC": lambda process: process.terminate(),
    "SIGTERM to all": lambda process: os.killpg(process.pid, signal.SIGTERM),
    "Ctrl-C": lambda process: os.killpg(process.pid, signal.SIGINT),
    "SIGKILL to the stage": lambda process: _stage(process).kill(),
    "SIGKILL to a worker": lambda process: _worker(process).kill(),
}
#: whom of a queue's processes: what its command line has
IN_QUEUE = {"stage": "stages.train", "DVC": "exec-run", "worker": "queue-worker", "all": ""}


def kill_in_queue(repository: Repository, whom: str) -> tuple[dict[str, Any], list[str]]:
    """Start the queue and kill some of its processes in the middle of its first trainings.

    Returns:
        The trainings that were stored before, and the processes that are left without DVC.
    """
    subprocess.run(
        [*DVC, "queue", "start"], cwd=repository.root, env=_environment(repository), check=True,
        stdout=subprocess.DEVNULL,  # which the worker keeps open until its end
    )  # fmt: skip
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not any(repository.runs.glob("[!.]*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    family = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(repository.root):
                family.append(process)
    kept = repository.snapshot(".runs")
    for process in family:
        with suppress(psutil.Error):
            if IN_QUEUE[whom] in " ".join(words(process)):
                process.kill()
    if whom == "worker":  # DVC and its stage go on without it, to their end
        psutil.wait_procs(family, timeout=TIMEOUT_SECONDS)
    _, left = psutil.wait_procs(family, timeout=GRACE_SECONDS)
    orphans = [process for process in left if runs(process)]
    stored = {n: c for n, c in kept.items() if n.endswith(".json") and "/." not in n}
    return stored, [" ".join(words(process)) for process in orphans]


def run_rounds(
    repository: Repository, expected: dict[str, bytes], kills: int, *, rng: random.Random,
    longest: float, say: Callable[[str], None] = lambda _: None,
) -> Counts:  # fmt: skip
    """Run whole pipelines until so many kills are made, and the last of them to its end.

    It is killed no more then: where no stage ends within ``longest`` seconds, on a busy machine, it
    never would. What is ``expected`` are the `results` of a pipeline that nobody killed.
    """
    counts, started = Counts(), time.monotonic()

    def moment() -> float:
        """Return the seconds until the next kill; after the last, more than a pipeline takes."""
        return rng.uniform(0.0, longest) if counts.kills.total() < kills else TIMEOUT_SECONDS

    while counts.kills.total() < kills:
        for path in (repository.root / name for name in MADE):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        while not _run_once(repository, counts, rng, moment, say):
            pass
        counts.rounds += 1
        found = results(repository)
        names = sorted(expected | found)
        counts.differing += [name for name in names if expected.get(name) != found.get(name)]
    counts.seconds = time.monotonic() - started
    return counts


def _run_once(
    repository: Repository, counts: Counts, rng: random.Random, moment: Callable[[], float],
    say: Callable[[str], None],
) -> bool:  # fmt: skip
    """Start ``dvc repro``, or ``dvc exp run``, and end it at some moment; tell whether it ended."""
    before = repository.snapshot(".runs")
    log = repository.around / "killed.log"
    with log.open("w") as stream:
        started = subprocess.Popen(
            [*DVC, *rng.choice([("repro",), ("repro",), ("exp", "run")])], cwd=repository.root,
            env=_environment(repository), stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    process, family, killed = psutil.Process(started.pid), set[psutil.Process](), False
    while (status := _ended(started, moment())) is None:
        way, killed = rng.choice(sorted(WAYS)), True
        with suppress(psutil.Error, ProcessLookupError):  # it ended just now
            family |= set(process.children(recursive=True))
            WAYS[way](process)
            counts.kills[way] += 1
        say(f"{counts.kills.total():4} {way}, {len(before)} points at its start")
        # A worker may have had nothing left to do: then the others go on.
        if (status := _ended(started, GRACE_SECONDS)) is not None:
            break
    if status == 0:
        return True
    _, left = psutil.wait_procs(list(family), timeout=GRACE_SECONDS)
    for other in left:
        if runs(other):
            counts.orphans.append(" ".join(words(other)))
            with suppress(psutil.NoSuchProcess):  # it ended just now
                other.kill()
    said = log.read_text(encoding="utf-8")
    staged = "uncommitted changes exist in the index" in said or "the index is locked" in said
    if staged:  # as docs/REPRODUCIBILITY.md says
        (repository.root / ".git/index.lock").unlink(missing_ok=True)
        repository.git("reset", "--quiet")
    # DVC writes its files in place; `make repro` mends them, and so would a user who is told.
    if mend(repository.root) or staged:
        counts.cut_locks += 1
        return False
    assert killed, said
    # Python itself answers with a traceback where a Ctrl-C comes while it imports, and in a worker
    # that was being started when the stage ended.
    ours = [part for part in said.split("Traceback")[1:] if f"{repository.root}/stages/" in part]
    assert all("\nKeyboardInterrupt" in part for part in ours), said
    after = repository.snapshot(".runs")
    lost = (name for name, content in before.items() if after.get(name) != content)
    counts.lost_points += [name for name in lost if name.endswith(".json")]
    return False


def _ended(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Return a process' exit status, None if it is still there after so many seconds."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(seconds)
    return None
