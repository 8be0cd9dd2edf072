"""Processes and threads: how they are started, and how a stage ends when told to or left alone."""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import forkserver
from typing import Any, TypeVar

WATCH_SECONDS = 0.5  # between two looks whether DVC is there
GRACE_SECONDS = 10  # for the main thread to clean up
REAPERS = ("systemd", "init", "launchd", "tini", "dumb-init", "docker-init")

#: Variables by which libraries round, whatever the user's shell says: other kernels would change
#: results under the same name. MKL rounds a product by where its matrices lie in memory, and so by
#: what else is stacked, unless told otherwise.
ROUNDING = {
    "MKL_CBWR": "AUTO",
    "ATEN_CPU_CAPABILITY": None,
    "ONEDNN_MAX_CPU_ISA": None,
    "MKL_ENABLE_INSTRUCTIONS": None,
    "DNNL_MAX_CPU_ISA": None,
    "ONEDNN_DEFAULT_FPMATH_MODE": None,
    "DNNL_DEFAULT_FPMATH_MODE": None,
    "NVIDIA_TF32_OVERRIDE": None,
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": None,
}

Result = TypeVar("Result")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the argument is the signal's number."""


def answer_signals() -> None:
    """Make Ctrl-C and SIGTERM raise `Interrupted` in the main thread, so that it cleans up."""

    def interrupt(number: int, _: Any) -> None:
        raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, interrupt)


def prepare() -> None:
    """Set what processes started from now on need to know before they load their libraries."""
    # glibc returns a layer's output to the system and asks for zeroed pages at the next step: let
    # it keep blocks of up to 32 MiB, the largest it takes (docs/PERFORMANCE.md has the gain).
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 << 20))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2 << 30))
    for variable, value in ROUNDING.items():
        os.environ.pop(variable, None)
        if value is not None:
            os.environ[variable] = value


def context(module: str) -> Any:
    """Return how to start processes that import a module, once for all where that is possible."""
    prepare()
    # A fork of a process that has loaded Apple's frameworks may crash: spawn there.
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    method = multiprocessing.get_context("forkserver")
    method.set_forkserver_preload([module])
    # Ctrl-C reaches the whole group: only this process is to answer, by ending the others.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return method


def end_with_dvc() -> None:
    """Have this process end itself when DVC, which started it as a stage, is gone.

    DVC passes neither SIGTERM nor its own sudden death on; a stage would go on computing, and
    write where the next run writes. Does nothing for a stage that was started by hand.
    """
    if "DVC_STAGE" not in os.environ:
        return
    import psutil  # It comes with DVC: a stage that is started by hand does without.

    parent, starter = os.getppid(), None
    with suppress(psutil.Error):
        process: psutil.Process | None = psutil.Process(parent)
        if process and process.name().endswith("sh") and "-c" in process.cmdline():
            process = process.parent()
        # DVC may be gone before its stage comes to look: then a process that adopts orphans is
        # there. In a container that may be the first one, and so may DVC.
        if process is not None and (name := process.name().lower()) not in REAPERS:
            starter = process if process.pid != 1 or re.search("python|dvc", name) else None

    def is_there(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:  # it is somebody else's
            return True

    def watch() -> None:
        time.sleep(WATCH_SECONDS)
        while starter is not None and os.getppid() == parent and is_there(starter):
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)  # the main thread cleans up
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def in_threads(calls: Iterable[Callable[[], Result]], threads: int) -> Generator[Result]:
    """Yield what calls return, in their order; twice as many as threads are made ahead.

    For work that lets go of Python's lock, as Pillow does while it decodes. Threads leave nobody
    behind when the process is killed; closing the generator cancels what has not begun.
    """
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Result]] = deque()
    try:
        for call in calls:
            waiting.append(pool.submit(call))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
