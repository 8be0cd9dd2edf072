"""Runs steps one after another, each in a process of its own, and keeps what they tell on the disk.

A step that raises, crashes or exceeds its time ends alone, with what it had said by then; the next
one finds a device that nobody has left in a bad state.
"""

import math
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages.lib.core import files, machine, paths, processes
from stages.lib.core.errors import UserError

LAST_SECONDS = 5.0  # kept for writing
MOST_UNWRITTEN = 1.0  # seconds
SMALLEST = 4  # attempts at a step that lacks memory
MOST_IMPORTING = 120.0  # seconds from the start of a process to the next line, at most
IMPORTED = time.time()
PRELOADED = "benchmarks.gpu.steps"  # by the process that steps are forked from


@dataclass(frozen=True)
class Setup:
    """What every step is told.

    Attributes:
        device: ``cuda`` or ``cpu``.
        out: where the command writes.
        bundle: what was brought along, see `benchmarks.gpu.bundle`.
        work: a folder for data that is gone at the end.
        seconds: that the step may take.
        smaller: how often it lacked memory: stacks are to be halved so many times.
        off: variables that are ``off`` in its environment.
    """

    device: str
    out: Path
    bundle: Path
    work: Path
    seconds: float = math.inf
    smaller: int = 0
    off: tuple[str, ...] = ()

    @property
    def store(self) -> Path:
        """The folder of finished trainings: the repository's, for a rehearsal one that goes."""
        return paths.run_store() if self.device == "cuda" else self.work / "store"


#: Called with a key, what is known of it, and a line to print.
Know = Callable[[str, Any, str], None]


@dataclass(frozen=True)
class Step:
    """A part of a command.

    Attributes:
        name: what it is called in the report.
        function: a function of a module, given a `Setup` and a `Know`.
        seconds: that it may take at most.
        share: of the seconds that are left to the command, at most.
        cuda_only: whether it needs a CUDA device.
        needed: whether nothing after it makes sense where it fails.
        guards: a variable that is ``off`` in the steps after it where it was begun and not done.
    """

    name: str
    function: Callable[[Setup, Know], None]
    seconds: float
    share: float = 1.0
    cuda_only: bool = False
    needed: bool = False
    guards: str = ""


class Report:
    """A JSON file that is valid and whole at every moment."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content
        self.write()

    def write(self) -> None:
        """Write what is known, atomically.

        Raises:
            UserError: it cannot be written.
        """
        text = files.to_json(_finite(self.content)).encode()
        with files.replacing(self.path, len(text)) as scratch:
            scratch.write_bytes(text)


def run(
    steps: Sequence[Step],
    setup: Setup,
    report: Report,
    *,
    minutes: float,
    after: Callable[[], None] = lambda: None,
) -> bool:
    """Run steps until they or the minutes end; return whether all that could run came to its end.

    Args:
        steps: in their order.
        setup: what each is setup, but for its seconds.
        report: gets ``steps``: each one's ``status``, ``seconds`` and what it ``found``.
        minutes: that all may take together, from the start of this process.
        after: called after each step.

    Raises:
        UserError: a step that others need was not done.
    """
    deadline = _started() + 60 * minutes - LAST_SECONDS
    told_steps = report.content["steps"] = {
        step.name: {"status": "not run", "why": "not reached"} for step in steps
    }
    report.write()
    whole = True
    for step in steps:
        left = min(step.seconds, step.share * (deadline - time.time()))
        if step.cuda_only and setup.device != "cuda":
            told_steps[step.name] = {"status": "not run", "why": "needs a CUDA device"}
        elif left < 1:
            told_steps[step.name] = {"status": "not run", "why": "no minutes left"}
        else:
            found = told_steps[step.name] = {"status": "running", "found": {}}
            _attempt(step, replace(setup, seconds=left), found, report)
            if found["status"] not in ("done", "out of time"):
                whole = False
            if step.guards and found["status"] != "done":
                setup = replace(setup, off=(*setup.off, step.guards))
            after()
        entry = told_steps[step.name]
        print(_line(step.name, entry["status"], entry.get("why", "")), flush=True)
        report.write()
        if step.needed and entry["status"] != "done":
            for other in steps[steps.index(step) + 1 :]:
                told_steps[other.name]["why"] = f"{step.name} was not done"
            report.write()
            raise UserError(entry.get("why") or f"{step.name}: {entry['status']}")
    return whole


def _attempt(step: Step, setup: Setup, found: dict[str, Any], report: Report) -> None:
    """Run a step; where memory lacked once more, with less at a time, in a fresh process."""
    deadline = time.monotonic() + setup.seconds
    for smaller in range(SMALLEST):
        left = deadline - time.monotonic()
        if smaller and left < 1:
            return
        found["status"] = "running"
        _attend(step, replace(setup, smaller=smaller, seconds=left), found, report)
        if found["status"] != "out of memory":
            return


def _attend(step: Step, setup: Setup, found: dict[str, Any], report: Report) -> None:
    """Run a step in a process and note what it tells; end it when its time is over."""
    context = processes.context(PRELOADED)
    ours, theirs = context.Pipe(duplex=False)
    ended, open_ = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(step.function, setup, theirs, ended))
    started = written = time.monotonic()
    process.start()
    theirs.close()
    ended.close()
    try:
        while found["status"] == "running":
            if time.monotonic() - started > setup.seconds:
                found["status"] = "out of time"
            elif ours.poll(0.2):
                _note(step.name, ours, found)
                found["seconds"] = round(time.monotonic() - started, 1)
                # A step that tells much must not wait for the disk.
                if not ours.poll() or time.monotonic() - written > MOST_UNWRITTEN:
                    report.write()
                    written = time.monotonic()
    except BaseException:
        found["status"] = "interrupted"
        raise
    finally:
        found["seconds"] = round(time.monotonic() - started, 1)
        open_.close()  # which ends the process, with its own, if it is still there
        process.join(2)
        if process.exitcode is None:
            process.kill()
            process.join()
        if found["status"] == "died":
            found["why"] = f"exit code {process.exitcode}"
        with suppress(Exception):  # an unwritable folder must not hide what was raised
            report.write()


def _note(name: str, pipe: Any, found: dict[str, Any]) -> None:
    try:
        kind, message = pipe.recv()
    except EOFError:
        found["status"] = "died"
        return
    if kind == "known":
        key, value, line = message
        found["found"][key] = value
        print(_line(name, line), flush=True)
    elif kind in ("failed", "out of memory"):
        found["why"], found["traceback"] = message
        found["status"] = kind
        if found["traceback"]:
            print(found["traceback"], flush=True)
    else:
        found["status"] = "done"
        found.pop("why", None)
        found.pop("traceback", None)


def _work(function: Callable[[Setup, Know], None], setup: Setup, pipe: Any, ended: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process answers it
    os.environ.update(dict.fromkeys(setup.off, "off"))
    threading.Thread(target=_end_with_parent, args=(ended,), daemon=True).start()
    try:
        function(setup, lambda *known: pipe.send(("known", known)))
    except UserError as error:
        pipe.send(("failed", (str(error), "")))
    except BaseException as error:
        kind = "out of memory" if machine.is_out_of_memory(error) else "failed"
        pipe.send((kind, (f"{type(error).__name__}: {error}", traceback.format_exc())))
    else:
        pipe.send(("done", ()))
    finally:
        pipe.close()


def _end_with_parent(ended: Any) -> None:
    with suppress(EOFError):
        ended.recv()  # nothing is ever sent
    os._exit(1)


def _line(name: str, *words: str) -> str:
    return f"[{time.time() - _started():5.0f} s] {name}: {' '.join(' '.join(words).split())}"


def _started() -> float:
    """Return when this process started: importing its libraries is part of its minutes."""
    import psutil

    created = float(psutil.Process().create_time())
    # A machine that was put to sleep or restored may have its past wrong.
    return created if 0 <= IMPORTED - created < MOST_IMPORTING else IMPORTED


def _finite(value: Any) -> Any:
    """Return a value as JSON can say it: what is not a finite number is its name."""
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
