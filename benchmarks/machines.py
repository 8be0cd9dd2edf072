"""What seeds do not fix: the same runs with other kernels and versions of PyTorch.

Trains a figure's runs in processes of their own: as they are, once more (the control), with the
kernels that PyTorch, oneDNN and MKL choose on other CPUs, and with another Python's PyTorch if one
is named. Reports how many runs are equal to the bit, and how far the test accuracies lie from each
other, beside what other seeds do.

Needs the figure's images and label sets: ``dvc repro`` first. Prints JSON.
``python -m benchmarks.machines [--figure fig1_uniform_mnist] [--limit 24] [--python PATH]``
"""

import argparse
import json
import os
import subprocess
import sys
from statistics import mean
from typing import Any

from benchmarks import reports
from stages.lib.config.reading import read_params
from stages.lib.core import paths, processes
from stages.lib.execution.inputs import train_stack
from stages.lib.execution.runs import Run
from stages.lib.studies import computing, grids

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}
OLD = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
WAYS: dict[str, dict[str, str]] = {
    "once more": {},
    "kernels of CPUs with AVX2": AVX2,
    "kernels of CPUs with SSE": OLD,
}


def sample(key: str, limit: int) -> list[Run]:
    """Return about so many runs of a figure: all of some points, evenly spread over it."""
    scale = read_params().scale
    folders = paths.datasets(scale), paths.figure_labels(scale, key)
    expanded = computing.expand(grids.read_grid(scale, key), *folders)
    points = max(1, limit // len(expanded[0]))
    return [run for point in expanded[:: -(-len(expanded) // points)] for run in point]


def train(key: str, limit: int) -> list[dict[str, Any]]:
    """Train the sample, one after another, and return what is compared of the outcomes."""
    outcomes = []
    for run in sample(key, limit):
        (outcome,) = train_stack([run], "cpu", "loop")
        del outcome["wall_seconds"]
        outcomes.append({"name": run.name, **outcome})
        print(run.name, file=sys.stderr)
    return outcomes


def train_elsewhere(
    arguments: argparse.Namespace, python: str, variables: dict[str, str]
) -> list[dict[str, Any]]:
    """Return what `train` gives in a process with other variables, or another Python."""
    command = [python, "-m", "benchmarks.machines", "--train", "--figure", arguments.figure]
    done = subprocess.run(
        [*command, "--limit", str(arguments.limit)],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        check=True,
    )
    outcomes: list[dict[str, Any]] = json.loads(done.stdout)
    return outcomes


def compare(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many runs are equal to the bit, and how far their test accuracies lie apart."""
    apart = [
        abs(one["test_accuracy"] - other["test_accuracy"])
        for one, other in zip(first, second, strict=True)
    ]
    equal = sum(one == other for one, other in zip(first, second, strict=True))
    mean_change = mean(o["test_accuracy"] for o in second) - mean(o["test_accuracy"] for o in first)
    return {
        "runs": len(apart),
        "equal_to_the_bit": equal,
        "accuracy_apart": {"mean": mean(apart), "largest": max(apart)},
        "mean_accuracy_change": mean_change,
    }


def seeds_apart(runs: list[Run], outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how far the test accuracies of two seeds of the same point and rate lie apart."""
    found: dict[Any, list[float]] = {}
    for run, outcome in zip(runs, outcomes, strict=True):
        found.setdefault((run.config, run.learning_rate), []).append(outcome["test_accuracy"])
    apart = [max(values) - min(values) for values in found.values() if len(values) > 1]
    return {"pairs": len(apart), "mean": mean(apart), "largest": max(apart)} if apart else {}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", default="fig1_uniform_mnist")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--python", help="another interpreter, whose PyTorch is compared")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        json.dump(train(arguments.figure, arguments.limit), sys.stdout)
        return
    processes.prepare()
    first = train_elsewhere(arguments, sys.executable, {})
    ways = {name: (sys.executable, variables) for name, variables in WAYS.items()}
    if arguments.python:
        ask = "from importlib.metadata import version; print(version('torch'))"
        other = subprocess.check_output([arguments.python, "-c", ask], encoding="utf-8").strip()
        ways[f"PyTorch {other}"] = (arguments.python, {})
    report = {
        name: compare(first, train_elsewhere(arguments, python, variables))
        for name, (python, variables) in ways.items()
    }
    runs = sample(arguments.figure, arguments.limit)
    reports.emit({"figure": arguments.figure, **report, "other seeds": seeds_apart(runs, first)})


if __name__ == "__main__":
    main()
