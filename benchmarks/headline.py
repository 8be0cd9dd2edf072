"""Core-seconds, steps and labels until 0.90 at alpha = 100: label by label, and labels by image.

Four arms on the same network, images, label sets, starts, shifts, batch size, averages and
schedule, those of ``massive_noise``: each of `TARGETS` under the paper's AdaDelta and under the
recipe's optimizer, each at the best of as many learning rates, tried for equally many steps on a
seed of its own. Then for every seed an arm trains for a 64th of its budget, and while that does not
reach the target for twice as long, at last for the whole; the schedule is stretched over each
attempt. An attempt ends at the first of its ten evaluations that finds the target; what the attempt
before has spent is a bound from below.

Core-seconds are the CPU time of a process of one thread, from reading images and labels to that
evaluation, with counting labels by image, building the network, and evaluations. An arm that never
gets there is told by what its longest attempt has spent: it would take *at least* that. Beside them
the script that one would write (`benchmarks.plain`, on the same labels): how long its step takes
is measured, how many it needs is not. It would need at least as many as the paper's arm by label,
which has shifts and averages beside.

Needs MNIST: the network, or ``DATA_MIRROR``. Prints JSON.
``python -m benchmarks.headline [--budget SECONDS] [--width 0.25] [--size 14] [--target 0.9]``
"""

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import plain, reports
from stages.lib.config.checks import check_config
from stages.lib.config.params import Config, DataParams, ModelParams, NoiseParams, TrainParams
from stages.lib.config.recipes import RECIPES
from stages.lib.core import machine, processes
from stages.lib.data import datasets, sources
from stages.lib.data.registry import FACTS
from stages.lib.execution import inputs, runs
from stages.lib.execution.packing import stacking
from stages.lib.execution.runs import Run
from stages.lib.labels import dilution

RECIPE = RECIPES["massive_noise"]
SHORTER = (64, 32, 16, 8, 4, 2, 1)  # attempts, as parts of the budget
TRIAL_SEED = 1000  # of the trials of rates, never reported
#: Of every optimizer as many.
RATES = {
    "adadelta": (0.05, 0.1, 0.5, 1.0, 2.0),
    "adamw": (0.00003, 0.0001, 0.0003, 0.001, 0.003),
    "sgd": (0.003, 0.01, 0.03, 0.1, 0.3),
}
PLAIN_STEPS = 100  # that are timed


@dataclass(frozen=True)
class Arm:
    """What an arm has of its own."""

    targets: str
    optimizer: str
    weight_decay: float

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates that are tried."""
        return RATES[self.optimizer]


TARGETS = ("labels", "aggregated")
OPTIMIZERS = {"paper": ("adadelta", 0.0), "recipe": (RECIPE["optimizer"], RECIPE["weight_decay"])}
ARMS = {
    f"{targets}-{name}": Arm(targets, *of) for targets in TARGETS for name, of in OPTIMIZERS.items()
}


class _Reached(Exception):  # noqa: N818 -- no error: it ends a training whose target is reached
    pass


def attempt(run: Run, target: float) -> dict[str, Any]:
    """Train a run until an evaluation finds the target, else to its end.

    Returns:
        ``reached``, and of the last evaluation ``steps``, ``core_seconds`` until then, and
        ``val_accuracy``.
    """
    found: dict[str, Any] = {}
    started = time.process_time()

    def look(_: Run, steps: int, accuracy: float | None) -> None:
        spent, reached = time.process_time() - started, accuracy is not None and accuracy >= target
        found.update(steps=steps, core_seconds=spent, val_accuracy=accuracy, reached=reached)
        if reached:
            raise _Reached

    with suppress(_Reached):
        inputs.train_stack([run], "cpu", stacking(run, "cpu"), on_evaluation=look)
    return found


def attempts(many: Sequence[Run], target: float) -> list[dict[str, Any]]:
    """Return what attempts gave, the shortest first, up to the one that reached the target."""
    found: list[dict[str, Any]] = []
    for run in many:
        found.append(attempt(run, target))
        if found[-1]["reached"]:
            break
    return found


class Race:
    """Runs of all arms, and the processes that train them.

    Args:
        given: the command's options.
        folder: for images and label sets.
    """

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.data, self.labels = given, folder / "data", folder / "labels"
        sources.fetch(datasets.needed(given.data, None, given.size, "same"), self.data)
        first = self.config(ARMS[given.arms[0]], 1.0, 0, given.trial)
        seeds = (*given.seeds, TRIAL_SEED)
        dilution.materialise(first.data, first.noise, seeds, data_folder=self.data, out=self.labels)

    def config(self, arm: Arm, rate: float, seed: int, steps: int) -> Config:
        """Return the checked config of an arm."""
        given = self.given
        own = {"targets": arm.targets, "optimizer": arm.optimizer, "learning_rates": (rate,)}
        length = {"epochs": 0.0, "min_samples": steps * RECIPE["batch_size"]}
        decay = {"weight_decay": arm.weight_decay, "seeds": (seed,), "precision": given.precision}
        config = Config(
            DataParams(given.data, None, given.size, given.originals, given.validation),
            NoiseParams("uniform", given.alpha),
            ModelParams(given.model, given.width),
            TrainParams(**{**RECIPE, **own, **length, **decay, "device": "cpu"}),
        )
        check_config(config, "benchmarks.headline")
        return config

    def run(self, arm: Arm, rate: float, seed: int, steps: int) -> Run:
        """Return a run of an arm."""
        config = self.config(arm, rate, seed, steps)
        return runs.expand("headline", config, self.data, self.labels)[0]

    def measured(self, pool: ProcessPoolExecutor) -> dict[str, dict[str, Any]]:
        """Return what every arm took."""
        given, arms = self.given, {name: ARMS[name] for name in self.given.arms}
        asked = [(name, rate) for name, arm in arms.items() for rate in arm.rates]
        trials = [self.run(arms[name], rate, TRIAL_SEED, given.trial) for name, rate in asked]
        report: dict[str, dict[str, Any]] = {name: {"trials": []} for name in arms}
        tried = pool.map(attempt, trials, [math.inf] * len(trials))
        for (name, rate), found in zip(asked, tried, strict=True):
            report[name]["trials"].append({"learning_rate": rate, **found})
            _say(f"{name}, rate {rate:g}: {found['val_accuracy']:.3f}")
        jobs = []
        for name, seed in [(name, seed) for seed in given.seeds for name in arms]:
            best = max(report[name]["trials"], key=lambda trial: trial["val_accuracy"])
            report[name]["learning_rate"] = best["learning_rate"]
            edges = (arms[name].rates[0], arms[name].rates[-1])
            report[name]["best_rate_at_an_edge"] = best["learning_rate"] in edges
            most = given.budget * best["steps"] / best["core_seconds"]
            many = [
                self.run(arms[name], best["learning_rate"], seed, steps) for steps in lengths(most)
            ]
            jobs.append((name, seed, pool.submit(attempts, many, given.target)))
        labels_each = {"labels": 1.0, "aggregated": 1.0 + given.alpha}
        for name, seed, job in jobs:
            *before, last = job.result()
            seen = last["steps"] * RECIPE["batch_size"] * labels_each[arms[name].targets]
            report[name].setdefault("runs", []).append(
                {"seed": seed, **last, "labels_seen": round(seen), "shorter_attempts": before}
            )
            _say(f"{name}, seed {seed}: {last}")
        return report

    def plain(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return how long the script's step takes, and so many as its arm has done or needed."""
        given, seed = self.given, self.given.seeds[0]
        diluted = dilution.load(self.labels / f"seed-{seed}")
        images = datasets.load(self.data / given.data).train_images[diluted.images]
        pixels, labels = torch.from_numpy(images), torch.from_numpy(diluted.labels)
        inputs.configure_torch("cpu")
        seconds = {}
        for kind in plain.SOURCES:
            script = plain.Script(
                given.model, pixels, labels, RECIPE["batch_size"], "cpu", kind, given.width
            )
            # The start of a pass, which shuffles all labels, is no part of a step.
            spent = [_cpu_seconds(script, steps) for steps in (1, 1 + PLAIN_STEPS)]
            seconds[kind] = (spent[1] - spent[0]) / PLAIN_STEPS
        told: dict[str, Any] = {"core_seconds_per_step": seconds}
        if arm := report.get("labels-paper"):
            steps = min(each["steps"] for each in arm["runs"])
            told["extrapolated"] = {
                "steps": steps,
                "core_seconds": steps * min(seconds.values()),
                "at_least": True,
            }
        return told


def _cpu_seconds(script: plain.Script, steps: int) -> float:
    started = time.process_time()
    script.train(steps)
    return time.process_time() - started


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def lengths(most: float) -> list[int]:
    """Return the steps of each attempt, the shortest first, of which there are ten at least."""
    return sorted({max(10, math.floor(most / part)) for part in SHORTER})


def compare(report: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return how many times the core-seconds of the recipe the best label-by-label arm took.

    Where an arm did not reach the target in every seed, what it spent is a bound from below; the
    best of several is bounded by the smallest of what they spent. None where the recipe itself did
    not get there, or nothing is there to compare. ``from_below`` counts of the other arm its
    longest attempt that did not reach the target.
    """
    spent = {name: mean(run["core_seconds"] for run in arm["runs"]) for name, arm in report.items()}
    there = {name: all(run["reached"] for run in arm["runs"]) for name, arm in report.items()}
    others = {name: spent[name] for name in report if ARMS[name].targets == "labels"}
    if not others or not there.get("aggregated-recipe"):
        return None
    best = min(others, key=lambda name: others[name])
    runs_of_best = report[best]["runs"]
    missed = [
        [*run["shorter_attempts"], *([] if run["reached"] else [run])] for run in runs_of_best
    ]
    bound = mean(before[-1]["core_seconds"] if before else 0.0 for before in missed)
    return {
        "best_by_label": best,
        "times_its_core_seconds": others[best] / spent["aggregated-recipe"],
        "from_below": bound / spent["aggregated-recipe"],
        "at_least": not there[best],
    }


def options() -> argparse.ArgumentParser:
    """Return a parser of what is trained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--budget", type=float, default=900, help="core-seconds of an arm's seed")
    parser.add_argument("--trial", type=int, default=15_000, help="steps of each rate's trial")
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--alpha", type=float, default=100.0)
    parser.add_argument("--model", choices=("perceptron", "mlp2", "conv4"), default="conv4")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--size", type=int, default=14, help="pixels of a side")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--originals", type=int, default=55_000)
    parser.add_argument("--validation", type=int, default=5_000)
    return parser


def main() -> None:
    """Measure and print."""
    parser = options()
    given = parser.parse_args()
    if given.validation < 1 or TRIAL_SEED in given.seeds:
        parser.error(f"needs validation images, and other seeds than {TRIAL_SEED}, the trials'")
    if given.data not in FACTS or FACTS[given.data].channels != 1:
        parser.error(f"--data: got {given.data!r}; accepted: grey images, as the script takes them")
    context = processes.context("stages.lib.training.loop")
    # What stages say is not part of the JSON.
    with redirect_stdout(sys.stderr), TemporaryDirectory() as folder:
        race = Race(given, Path(folder))
        with ProcessPoolExecutor(machine.cores(), mp_context=context) as pool:
            report = race.measured(pool)
        script = race.plain(report)
    shared = {key: value for key, value in RECIPE.items() if key not in ("targets", "optimizer")}
    told = {**vars(given), "processes": machine.cores(), "shared": shared}
    reports.emit({**told, "arms": report, "plain": script, "compared": compare(report)})


if __name__ == "__main__":
    main()
