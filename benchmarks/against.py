"""How fast this tree is beside another commit's: both measured in turn, in one run.

Each round runs the same measurements of both trees, the one that begins taking turns. Of each
measured speed the ratio (this tree's to the other's, above 1 is faster) has its geometric mean over
the rounds and a 90 % interval (Student's t on the logarithms). Prints JSON.

``python -m benchmarks.against COMMIT [--rounds 5] [--only training labels growth pipeline]``
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks.reports import emit

ROOT = Path(__file__).parents[1]
LEVEL = 0.90


def _training(report: dict[str, Any]) -> dict[str, float]:
    found = {name: value for name, value in report.items() if "steps_per_second" in str(value)}
    return {name: each["steps_per_second"]["ours"]["median"] for name, each in found.items()}


def _labels(report: dict[str, Any]) -> dict[str, float]:
    return {k: report[k]["labels_per_second"]["median"] for k in ("uniform", "structured")}


def _growth(report: dict[str, Any]) -> dict[str, float]:
    dilution, others = report["dilution"], (report["training"], report["points"])
    found = [dilution["by_alpha"], dilution["by_originals"], *others]
    names = ("set by alpha", "set by originals", "training", "points")
    return {n: 1 / each["seconds"][-1]["median"] for n, each in zip(names, found, strict=True)}


def _pipeline(report: dict[str, Any]) -> dict[str, float]:
    nothing = report["no_op"]["seconds"]["median"]
    return {
        "cold": 1 / report["cold"]["seconds"],
        "nothing to do": 1 / nothing,
        "exp run": 1 / report["exp_run"]["seconds"],
    }


#: Of each measurement its options, and the speeds in what it prints.
MEASURED: dict[str, tuple[list[str], Callable[[dict[str, Any]], dict[str, float]]]] = {
    "training": (["--rounds", "1"], _training),
    "labels": (["--labels", "20000000", "--repeats", "3"], _labels),
    "growth": (["--rounds", "1"], _growth),
    "pipeline": ([], _pipeline),
}


def speeds(tree: Path, only: list[str]) -> dict[str, float]:
    """Return the speeds of a tree, by measurement and name."""
    found: dict[str, float] = {}
    for name in only:
        options, read = MEASURED[name]
        command = [sys.executable, "-m", f"benchmarks.{name}", *options]
        done = subprocess.run(command, cwd=tree, stdout=subprocess.PIPE, text=True, check=True)
        found |= {f"{name}: {key}": value for key, value in read(json.loads(done.stdout)).items()}
    return found


def interval(ratios: list[float]) -> dict[str, Any]:
    """Return the geometric mean of two or more ratios and its interval at `LEVEL`."""
    logs = [math.log(ratio) for ratio in ratios]
    mean, error = statistics.mean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(logs) - 1)) * error
    return {
        "ratio": math.exp(mean),
        "interval": [math.exp(mean - half), math.exp(mean + half)],
        "rounds": ratios,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", help="the other tree")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=MEASURED, default=list(MEASURED))
    given = parser.parse_args()
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / "other"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(other)], check=True)
        subprocess.run(["git", "checkout", "--quiet", given.commit], cwd=other, check=True)
        for number in range(given.rounds):
            trees = (ROOT, other) if number % 2 else (other, ROOT)
            found = {tree: speeds(tree, given.only) for tree in trees}
            rounds.append({key: found[ROOT][key] / value for key, value in found[other].items()})
            print(f"round {number + 1} of {given.rounds}: {rounds[-1]}", file=sys.stderr)
    ratios = {key: interval([each[key] for each in rounds]) for key in rounds[0]}
    emit({"commit": given.commit, "level": LEVEL, "speeds": ratios})


if __name__ == "__main__":
    main()
