"""Processes: how workers are started, and how a stage ends when it is told to or left alone."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any

# It comes with DVC: a stage that is started by hand does without.
if TYPE_CHECKING:
    import psutil

WATCH_SECONDS = 0.5  # between two looks whether DVC is there
GRACE_SECONDS = 10  # for the main thread to clean up


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
    # MKL rounds a product by where its matrices lie in memory, and with it by a stack's company.
    # Whatever the user's shell says: it would change results under the same name.
    os.environ["MKL_CBWR"] = "AUTO"


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
    if "DVC_STAGE" in os.environ:
        parent, above = os.getppid(), _parent_of_shell(os.getppid())
        threading.Thread(target=_end_without, args=(parent, above), daemon=True).start()


def _parent_of_shell(process: int) -> "psutil.Process | None":
    """Return who started a shell, where it is one that waits for its command."""
    import psutil

    with suppress(psutil.Error):
        shell = psutil.Process(process)
        if shell.name().endswith("sh") and "-c" in shell.cmdline():
            return shell.parent()
    return None


def _end_without(parent: int, above: "psutil.Process | None") -> None:
    orphan = parent == 1 and not _starts_stages(parent)
    while not orphan:
        time.sleep(WATCH_SECONDS)
        orphan = os.getppid() != parent or (above is not None and _is_gone(above))
    os.kill(os.getpid(), signal.SIGTERM)  # the main thread cleans up
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def _starts_stages(process: int) -> bool:
    """Tell whether a process is DVC or some other Python, not the system's first process."""
    import psutil

    with suppress(psutil.Error):
        return any(word in psutil.Process(process).name() for word in ("python", "dvc"))
    return False


def _is_gone(process: "psutil.Process") -> bool:
    import psutil

    with suppress(psutil.Error):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True
