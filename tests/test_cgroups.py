"""Limits of control groups: of both versions, nested, and where there are none."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from stages.lib.core import cgroups, machine

GIB = 1 << 30


@pytest.mark.parametrize(
    ("membership", "contents", "cores", "free"),
    [
        ("0::/a/b\n", {}, 64, 100),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/b/memory.max": "max"}, 64, 100),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000"}, 2, 100),
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000", "a/cpu.max": "900000 100000"}, 2, 100),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000"}, 1, 100),
        ("0::/on/the/host\n", {"cpu.max": "300000 100000"}, 3, 100),
        ("0::/a\n", {"a/memory.max": 8 * GIB, "a/memory.current": 3 * GIB}, 64, 5),
        ("0::/a\n", {"a/memory.max": 2 * GIB, "a/memory.current": 3 * GIB}, 64, 0),
        (
            "4:memory:/j\n3:cpu,cpuacct:/j\n",
            {
                "cpu/j/cpu.cfs_quota_us": 400000, "cpu/j/cpu.cfs_period_us": 100000,
                "memory/j/memory.limit_in_bytes": 6 * GIB,
                "memory/j/memory.usage_in_bytes": 2 * GIB,
            }, 4, 4,
        ),
        ("3:cpu:/j\n", {"cpu/j/cpu.cfs_quota_us": -1, "cpu/j/cpu.cfs_period_us": 10**5}, 64, 100),
        (None, {}, 64, 100),
    ],
)  # fmt: skip
def test_the_smallest_limit_holds(
    membership: str | None, contents: Mapping[str, object], cores: int, free: int,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The host's, where there are no groups."""
    monkeypatch.setattr(cgroups, "MOUNTED", tmp_path / "mounted")
    monkeypatch.setattr(cgroups, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(machine, "_free_on_host", lambda: [100 * GIB])
    if membership is not None:
        (tmp_path / "membership").write_text(membership)
    for name, content in contents.items():
        file = tmp_path / "mounted" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
    assert machine.cores() == cores
    assert machine.available_memory() == free * GIB
