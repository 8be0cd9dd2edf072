"""Looks at processes that may end at any moment, between two questions, too."""

from contextlib import suppress

import psutil  # DVC brings it


def runs(process: psutil.Process) -> bool:
    """Tell whether a process is there and has not ended: a zombie only waits to be counted."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def words(process: psutil.Process) -> list[str]:
    """Return a process's command line; nothing of one that has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []
