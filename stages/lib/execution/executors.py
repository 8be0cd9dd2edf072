"""Completes runs: looks each up in the run store and trains what is missing.

On a CPU, as many worker processes as there are cores train stacks of runs with one thread each; on
an accelerator one process trains one stack after another. How many there were, and what trained
beside what, changes no outcome on a CPU.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from stages.lib.core import machine, processes
from stages.lib.core.errors import UserError
from stages.lib.execution import checkpoints, packing
from stages.lib.execution.inputs import train_stack
from stages.lib.execution.runs import Run
from stages.lib.execution.store import RunStore

KILLED = (
    "a training process was killed, perhaps for want of memory; what was finished is kept: "
    "run again"
)


def train_or_load(
    runs: list[Run], title: str, folder: Path | None = None
) -> tuple[list[dict[str, Any]], str]:
    """Return the outcomes of runs, in their order, training those that no store holds yet.

    Args:
        runs: at least one; all for the same device.
        title: what the progress bar says.
        folder: of the run store; None for the repository's own.

    Returns:
        The outcomes, and the device that they were trained on.

    Raises:
        UserError: the device isn't there, the store cannot be written, memory does not suffice, or
            a file is not what it was written as.
    """
    wanted = {run.config.train.device for run in runs}
    if len(wanted) != 1:
        raise UserError(f"train.device: got {sorted(wanted)}; accepted: one device for a figure")
    checkpoints.interval()  # bad input is logged before any compute
    with _executor()() as workers:
        # Only workers use an accelerator: what this process took of its memory they would lack.
        device, free, accelerator = workers.call(_ask, wanted.pop())
        _check_precision(runs, device)
        store = RunStore(device, folder, accelerator)
        identities = {run: run.identity() for run in dict.fromkeys(runs)}
        names = {run: store.path(identity) for run, identity in identities.items()}
        # Runs that share an identity (alpha = 0 under every noise model) are trained once.
        first = {path: run for run, path in reversed(names.items())}
        found = {path: store.get(identities[run]) for path, run in first.items()}
        missing = [run for path, run in first.items() if found[path] is None]
        if missing:
            store.prepare()
        started = {run: checkpoints.step(store.checkpoint(identities[run])) for run in missing}
        queue = packing.form(missing, device, started, free=free)
        if device == "cpu":  # else the sets lie on the accelerator
            machine.require_memory(packing.host_memory(queue), title)
        with tqdm(
            total=sum(run.steps_total for run in missing),
            initial=sum(started.values()),
            unit="step",
            desc=title,
            mininterval=0.5,
        ) as bar:
            bar.write(f"{title}: {len(runs)} runs, {len(missing)} to train on {device}")
            workers.train(queue, store, Bar(bar))
    outcomes = {path: found[path] or _stored(store, identities[run]) for path, run in first.items()}
    return [outcomes[names[run]] for run in runs], device


def _check_precision(runs: list[Run], device: str) -> None:
    for precision in {run.config.train.precision for run in runs}:
        if precision == "tf32" and device != "cuda":
            raise UserError(f"train.precision: got 'tf32'; accepted on {device}: float32, bfloat16")


def _stored(store: RunStore, identity: dict[str, Any]) -> dict[str, Any]:
    outcome = store.get(identity)
    if outcome is None:
        raise UserError(f"{store.path(identity)}: gone since it was written; run again")
    return outcome


def _ask(name: str) -> tuple[str, int, str]:
    """Return the device of a name; of a CUDA device how many bytes are free, and what it is."""
    from stages.lib.training.devices import resolve_device

    device = resolve_device(name)
    free = machine.free_gpu_memory() if device == "cuda" else 0
    return device, free, machine.accelerator(device)


def _train_and_store(
    stack: list[Run], store: RunStore, show: Callable[[str, int, float | None], None]
) -> str:
    """Train a stack and store each outcome at its end.

    Returns:
        What was said of memory, where it did not suffice; else an empty text.
    """
    try:
        _train_whole(stack, store, show)
    except (MemoryError, RuntimeError) as error:
        if not machine.is_out_of_memory(error):
            raise
        notes = " ".join(getattr(error, "__notes__", ()))
        return " ".join(f"{error} {notes}".split()) or type(error).__name__
    return ""


def _halves(stack: list[Run], store: RunStore, lacking: str) -> list[list[Run]]:
    """Return the halves of a stack that did not fit, without what was stored already.

    Raises:
        UserError: it is a single run.
    """
    if len(stack) == 1:
        raise UserError(
            f"{stack[0].name}: does not fit in the memory of {store.environment['device']} "
            f"({lacking}); ask for a smaller model.width, train.batch_size or data.originals"
        )
    halves = stack[: len(stack) // 2], stack[len(stack) // 2 :]
    left = [[run for run in half if store.get(run.identity()) is None] for half in halves]
    return [half for half in left if half]


def _train_whole(
    stack: list[Run], store: RunStore, show: Callable[[str, int, float | None], None]
) -> None:
    """Train a stack from its checkpoints, telling of steps since it last did."""
    device = store.environment["device"]
    kept = {run: store.checkpoint(run.identity()) for run in stack}
    states = [state for run in stack if (state := checkpoints.read(kept[run])) is not None]
    # Another process may have written or deleted some since the stack was formed.
    together = len(states) == len(stack) and len({state["step"] for state in states}) == 1
    logged = dict.fromkeys(stack, states[0]["step"] if together else 0)

    def report(run: Run, steps: int, accuracy: float | None) -> None:
        show(run.name, steps - logged[run], accuracy)
        logged[run] = steps

    train_stack(
        stack,
        device,
        packing.stacking(stack[0], device),
        states=states if together else None,
        checkpoint_seconds=checkpoints.interval(),
        on_checkpoint=lambda run, state: checkpoints.write(kept[run], state),
        on_evaluation=report,
        on_done=lambda run, outcome: store.put(run.identity(), outcome),
    )


class Bar:
    """A progress bar in steps that names a run and its validation accuracy."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def show(self, name: str, steps: int, accuracy: float | None) -> None:
        """Tell of steps done by a run, and of its validation accuracy."""
        said = "" if accuracy is None else f" val={accuracy:.3f}"
        self.bar.set_postfix_str(name + said, refresh=False)
        self.bar.update(steps)


class Executor(Protocol):
    """Where stacks are trained: a context, which ends what it started."""

    def __enter__(self) -> "Executor":
        """Start."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End, at once where an error is on its way."""

    def call(self, function: Callable[[str], Any], argument: str) -> Any:
        """Return what a function returns where stacks are trained."""

    def train(self, queue: list[list[Run]], store: RunStore, bar: Bar) -> None:
        """Train stacks, in their order as far as slots are free, and store each run at its end."""


class Processes:
    """Processes of one thread each that import torch once and train runs until closed."""

    def __enter__(self) -> "Processes":
        self._start(1)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop(at_once=kind is not None)

    def _start(self, count: int) -> None:
        context = processes.context("stages.lib.training.loop")
        self.events = context.SimpleQueue()
        ended, self.open = context.Pipe(duplex=False)
        self.pool = ProcessPoolExecutor(
            count,
            mp_context=context,
            initializer=_start_worker,
            initargs=(self.events, ended),
        )

    def _stop(self, *, at_once: bool) -> None:
        if at_once:
            self.open.close()  # which ends them in the middle of their work
        try:
            self.pool.shutdown(wait=True, cancel_futures=True)
        finally:
            self.open.close()

    def _replace(self, count: int) -> None:
        self._stop(at_once=False)
        self._start(count)

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        try:
            return self.pool.submit(function, *arguments)
        except (BrokenProcessPool, EOFError):  # the latter where no process could be started
            raise UserError(KILLED) from None

    def call(self, function: Callable[[str], Any], argument: str) -> Any:
        """Return what a function returns in a process."""
        return _result(self._submit(function, argument))

    def train(self, queue: list[list[Run]], store: RunStore, bar: Bar) -> None:
        """Train stacks, as many at a time as there are cores, or one on an accelerator.

        One that does not fit in memory is halved; on a CPU its halves may train at the same time.
        After that an accelerator's process is replaced: where memory lacked while a CUDA graph was
        captured, its allocator stays as it was left.
        """
        waiting, training = deque(queue), dict[Future[Any], list[Run]]()
        accelerated, ahead = store.environment["device"] != "cpu", 1
        if not accelerated:
            ahead = 2 * machine.cores()  # so that none of them waits for this process
            self._replace(machine.cores())
        while waiting or training:
            while waiting and len(training) < ahead:
                stack = waiting.popleft()
                training[self._submit(_train_in_worker, stack, store)] = stack
            done, _ = wait(training, timeout=0.5, return_when=FIRST_COMPLETED)
            while not self.events.empty():
                bar.show(*self.events.get())
            for future in done:
                stack = training.pop(future)
                if lacking := _result(future):
                    waiting.extendleft(reversed(_halves(stack, store, lacking)))
                    if accelerated:
                        self._replace(1)


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool:
        raise UserError(KILLED) from None


#: By the value of ``$EXECUTOR``: no parameter, for where a run is trained decides nothing of it.
EXECUTORS: dict[str, Callable[[], Executor]] = {"processes": Processes}


def _executor() -> Callable[[], Executor]:
    name = os.environ.get("EXECUTOR") or next(iter(EXECUTORS))
    if name not in EXECUTORS:
        raise UserError(f"EXECUTOR: got {name!r}; accepted: {', '.join(EXECUTORS)}")
    return EXECUTORS[name]


_events: Any = None  # set once in each worker process, never in the parent


def _start_worker(events: Any, ended: Any) -> None:
    global _events  # a pool's initializer has no other way to hand something over
    _events = events
    threading.Thread(target=_end_with_parent, args=(ended,), daemon=True).start()


def _end_with_parent(ended: Any) -> None:
    """End this process when the stage is gone or stops early: no orphan goes on computing."""
    with suppress(EOFError):
        ended.recv()  # nothing is ever sent: it returns when the other end closes
    os._exit(1)


def _train_in_worker(stack: list[Run], store: RunStore) -> str:
    return _train_and_store(stack, store, lambda *event: _events.put(event))
