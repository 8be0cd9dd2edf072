"""The limits that a container or batch system sets by Linux's control groups, versions 2 and 1.

A group's limit holds for all groups below it: every group from the process's own upwards counts.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
UNLIMITED = 1 << 60  # about what version 1 says where there is no limit


def cpu_quotas() -> list[float]:
    """Return the numbers of cores whose time the groups of this process may use."""
    found = []
    for folder in _groups("cpu"):
        for names in (("max",), ("cfs_quota_us", "cfs_period_us")):
            with suppress(OSError, ValueError):  # a group without this limit has no such file
                texts = [(folder / f"cpu.{name}").read_text() for name in names]
                quota, period = " ".join(texts).split()
                found.append(float(quota) / float(period))
    return [quota for quota in found if quota > 0]


def free_memory() -> list[int]:
    """Return the bytes that each group of this process leaves of its limit."""
    found = []
    for folder in _groups("memory"):
        for limit, used in (("max", "current"), ("limit_in_bytes", "usage_in_bytes")):
            with suppress(OSError, ValueError):
                bound = int((folder / f"memory.{limit}").read_text())
                if bound < UNLIMITED:
                    found.append(max(0, bound - int((folder / f"memory.{used}").read_text())))
    return found


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, the innermost first."""
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = MOUNTED / controller if names else MOUNTED
        inner = root / path.strip("/")
        # Within a container the path may be the host's, and the group is mounted as the root.
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(root):
                yield folder
