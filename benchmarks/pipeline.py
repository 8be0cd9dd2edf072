"""Time and memory of the whole pipeline, in a fresh clone of HEAD without its committed results.

Prints JSON: seconds and peak memory of a cold ``dvc repro``, seconds of one that has nothing to do
(three of them), seconds and stages of ``dvc exp run -S noise.alpha=50``, bytes per training
example on disk. Needs git with a user name and e-mail. ``python -m benchmarks.pipeline``
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.reports import emit, summary
from stages.lib.labels import dilution

SAMPLE_SECONDS = 0.2


def memory_of_tree(process: psutil.Process) -> int:
    """Return the bytes of a process and all its children, pages that they share counted once."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended between the listing and the reading
    return total


def run(command: list[str], folder: Path) -> dict[str, Any]:
    """Run a command; return its seconds, the peak memory of its processes, and its stages."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    environment.pop("DVC_ROOT", None)
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, memory_of_tree(psutil.Process(process.pid)))
            time.sleep(SAMPLE_SECONDS)
        seconds = time.perf_counter() - started
        log.seek(0)
        output = log.read().decode()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{output[-4000:]}")
    return {
        "command": " ".join(command),
        "seconds": round(seconds, 2),
        "peak_mib": round(peak / 2**20),
        "stages": re.findall(r"Running stage '([^']+)'", output),
    }


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "--quiet", ".", str(clone)], check=True)
        forget_results(clone)
        cold = run(["dvc", "repro"], clone)
        idle = [run(["dvc", "repro"], clone) for _ in range(3)]
        changed = run(["dvc", "exp", "run", "-S", "noise.alpha=50"], clone)
        report = {
            "cold": cold,
            "no_op": {
                "command": idle[0]["command"],
                "seconds": summary([each["seconds"] for each in idle]),
                "stages": idle[0]["stages"],
            },
            "exp_run": changed,
            "bytes_per_example": bytes_per_example(clone / "data/labels"),
        }
    emit(report)


def forget_results(clone: Path) -> None:
    """Remove the committed results, which DVC would find up to date, and commit that."""
    subprocess.run(["git", "rm", "-r", "-q", "dvc.lock", "metrics", "plots"], cwd=clone, check=True)
    subprocess.run(["git", "commit", "-q", "-m", "No results"], cwd=clone, check=True)


def bytes_per_example(folder: Path) -> float:
    """Return the largest number of bytes per training example over all diluted sets in a folder."""
    largest = 0.0
    for description in folder.rglob("noise.json"):
        diluted = dilution.load(description.parent)
        size = diluted.labels.nbytes + diluted.images.nbytes
        largest = max(largest, size / len(diluted.labels))
    return largest


if __name__ == "__main__":
    main()
