"""Which training is best under massive noise at equal operations: chooses ``massive_noise``.

MNIST, every candidate with the same networks, images, labels, starts, orders and samples seen
(an image with all its labels is one, for it costs as much as with one label). `LEAD` is what
first looks suggested; each candidate changes one thing of it, with learning rates of its own where
they hang on it. Of each group is taken what helps clearly, by more than twice the standard error of
its paired differences over networks, noise levels and seeds: the best, or one that is not clearly
worse in fewer steps. These are trained together as well, and of the lead, each of them and all of
them what has the best mean is chosen. Judged by clean validation images alone: test images are for
seeds and data sets that chose nothing.

Needs MNIST: the network, or ``DATA_MIRROR``. Finished trainings are kept in the run store, so that
more seeds are added to those that are there. Prints JSON.
``python -m benchmarks.recipe [--seeds 0 1 2 3 4] [--samples N]``
"""

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import reports
from benchmarks.variants import changed
from stages.lib.config import recipes
from stages.lib.config.checks import check_config
from stages.lib.config.params import Config, DataParams, ModelParams, NoiseParams, TrainParams
from stages.lib.data import datasets, sources
from stages.lib.execution import executors, runs
from stages.lib.labels import dilution

ALPHAS = (0.0, 20.0, 100.0)
NETWORKS = ("conv4", "mlp2")
SAMPLES = 8 * 55_000
CLEARLY = 2.0  # standard errors
Changes = Mapping[str, Any]
Cell = tuple[str, float, int]  # network, alpha, seed
Tried = tuple[Changes, Sequence[float]]  # a candidate, and its accuracy in every cell

#: A prototype's, before any trial here.
LEAD: Changes = {
    "targets": "aggregated",
    "loss": "cross_entropy",
    "learning_rates": (0.001,),
    "batch_size": 128,
    "optimizer": "adamw",
    "schedule": "linear",
    "warmup": 0.0,
    "weight_decay": 0.1,
    "augmentation": "shift",
    "averaging": "ema",
    "ema_decay": 0.999,
    "average": 1.0,
}


def _rates(*rates: float, **changes: Any) -> list[Changes]:
    return [{**changes, "learning_rates": (rate,)} for rate in rates]


#: What is changed of the lead; of a group one candidate at most is taken over.
CANDIDATES: dict[str, list[Changes]] = {
    "targets": _rates(0.0003, 0.001, targets="labels"),
    "optimizer and rate": [
        *_rates(0.0005, 0.002),
        *_rates(0.5, 1.0, 2.0, optimizer="adadelta", weight_decay=0.0),
        *_rates(0.1, 0.3, optimizer="sgd", weight_decay=0.0),
    ],
    # One group, for both still the noise of the last steps.
    "schedule and averaging": [
        {"schedule": "constant"},
        {"schedule": "cosine"},
        {"warmup": 0.1},
        {"average": 0.0},
        {"ema_decay": 0.99},
        {"averaging": "tail", "average": 0.5},
    ],
    "weight decay": [{"weight_decay": 0.0}, {"weight_decay": 1.0}],
    "shift": [{"augmentation": "none"}],
    "batch size": [{"batch_size": 32}, {"batch_size": 64}, {"batch_size": 256}],
    "loss": [
        {"loss": "label_smoothing", "smoothing": 0.1},
        {"loss": "generalised_cross_entropy", "q": 0.7},
        {"loss": "forward_correction", "transition": "estimated"},
    ],
}


def named(changes: Changes) -> str:
    """Return what a candidate is called."""
    values = {key: value[0] if key == "learning_rates" else value for key, value in changes.items()}
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "lead"


def config_of(changes: Changes, cell: Cell, given: argparse.Namespace) -> Config:
    """Return the checked config of a candidate in one cell."""
    network, alpha, seed = cell
    train = TrainParams(**{**LEAD, "seeds": (seed,), "device": "cpu", "precision": given.precision})
    base = Config(
        DataParams(given.data, None, given.size, given.originals, given.validation),
        NoiseParams("uniform", alpha),
        ModelParams(network, given.width),
        train,
    )
    length = {"epochs": 0.0, "min_samples": given.samples}
    config = changed(base, {f"train.{key}": value for key, value in {**length, **changes}.items()})
    check_config(config, "benchmarks.recipe")
    return config


class Trials:
    """Trains candidates in every cell, on label sets that are drawn once.

    Args:
        given: the command's options.
        folder: for images and label sets.
    """

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.data, self.labels = given, folder / "data", folder / "labels"
        self.cells: list[Cell] = [
            (network, alpha, seed)
            for network in given.networks
            for alpha in given.alphas
            for seed in given.seeds
        ]
        sources.fetch(datasets.needed(given.data, None, given.size, "same"), self.data)

    def accuracies(self, candidates: Iterable[Changes]) -> list[list[float]]:
        """Return for each candidate the validation accuracy in every cell; 0 where it diverged."""
        todo = []
        for changes in candidates:
            for cell in self.cells:
                config = config_of(changes, cell, self.given)
                out = self.labels / dilution.name_of(config.data, config.noise)
                dilution.materialise(
                    config.data, config.noise, config.train.seeds, data_folder=self.data, out=out
                )
                name = f"{named(changes)}: {cell[0]}, α = {cell[1]:g}"
                todo += runs.expand(name, config, self.data, out)
        outcomes, _ = executors.train_or_load(todo, "recipe")
        found = [0.0 if o["diverged"] else float(o["val_accuracy"]) for o in outcomes]
        width = len(self.cells)
        return [found[start : start + width] for start in range(0, len(found), width)]


def gain(values: Sequence[float], lead: Sequence[float]) -> tuple[float, float]:
    """Return the mean of paired differences and its standard error, infinite of one pair."""
    differences = [mine - its for mine, its in zip(values, lead, strict=True)]
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    return mean(differences), error


def is_clear(values: Sequence[float], others: Sequence[float]) -> bool:
    """Tell whether values are higher than others by more than noise."""
    mine, error = gain(values, others)
    return mine > CLEARLY * error


def helpful(groups: Mapping[str, Sequence[Tried]], lead: Sequence[float]) -> list[Changes]:
    """Return of each group what helps clearly: the best, or one that is as good in fewer steps.

    Args:
        groups: candidates, with what each reached in every cell.
        lead: what the lead reached there.
    """
    found = []
    for candidates in groups.values():
        better = [each for each in candidates if is_clear(each[1], lead)]
        if better:
            best = max(better, key=lambda each: mean(each[1]))[1]
            near = [each for each in better if not is_clear(best, each[1])]
            # Larger batches are fewer steps.
            size = LEAD["batch_size"]
            found.append(max(near, key=lambda e: (e[0].get("batch_size", size), mean(e[1])))[0])
    return found


def measured(trials: Trials) -> dict[str, Any]:
    """Return what every candidate reached, and which one is chosen."""
    chosen = trials.given.groups
    every: list[tuple[Changes, str]] = [({}, "lead")]
    every += [(changes, group) for group in chosen for changes in CANDIDATES[group]]
    reached = trials.accuracies(changes for changes, _ in every)
    lead = reached[0]
    rows = [(*each, values) for each, values in zip(every, reached, strict=True)]
    groups = {
        group: [(changes, values) for changes, own, values in rows if own == group]
        for group in chosen
    }
    alone = helpful(groups, lead)
    together = {key: value for changes in alone for key, value in changes.items()}
    if len(alone) > 1:
        (values,) = trials.accuracies([together])
        rows.append((together, "combined", values))
    finalists = [row for row in rows if row[0] in ({}, together, *alone)]
    best = max(finalists, key=lambda row: mean(row[2]))
    train = {**LEAD, **best[0]}
    extra = set(train) - recipes.KEYS
    return {
        "candidates": [
            {
                "name": named(changes),
                "group": group,
                "changes": dict(changes),
                "mean": mean(values),
                "gain": gain(values, lead)[0],
                "gain_standard_error": error if math.isfinite(error) else None,
                "val_accuracy": _by_cell(trials.cells, values),
            }
            for changes, group, values in rows
            for error in [gain(values, lead)[1]]
        ],
        "combined": together,
        "chosen": {"name": named(best[0]), "train": train, "beyond_a_recipe": sorted(extra)},
    }


def _by_cell(cells: Sequence[Cell], values: Sequence[float]) -> dict[str, dict[str, list[float]]]:
    """Return values by network and alpha, a list over the seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for (network, alpha, _), value in zip(cells, values, strict=True):
        found.setdefault(network, {}).setdefault(f"{alpha:g}", []).append(value)
    return found


def options() -> argparse.ArgumentParser:
    """Return a parser of what is trained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", nargs="*", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--alphas", nargs="+", type=float, default=list(ALPHAS))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--samples", type=int, default=SAMPLES, help="images seen by each training")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--size", type=int, default=14, help="pixels of a side")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--originals", type=int, default=55_000)
    parser.add_argument("--validation", type=int, default=5_000)
    parser.add_argument("--precision", default="float32")
    return parser


def main() -> None:
    """Measure, choose and print."""
    given = options().parse_args()
    # What stages say is not part of the JSON.
    with redirect_stdout(sys.stderr), TemporaryDirectory() as folder:
        trials = Trials(given, Path(folder))
        report = measured(trials)
        example = config_of({}, trials.cells[0], given)
    told = {key: value for key, value in vars(given).items() if key != "precision"}
    train = asdict(example.train)
    reports.emit({**told, "lead": train, **report})


if __name__ == "__main__":
    main()
