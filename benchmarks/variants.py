"""Single points of the laptop scale's figures with something changed: what a finding hangs on.

Each group of `VARIANTS` asks one question of one figure: is it the length, the initialisation, the
learning rate? Needs the figures' images: ``dvc repro confuse_figures`` at laptop scale first.
Finished trainings are kept in the run store. Prints JSON.
``python -m benchmarks.variants [--only GROUP ...]``
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import reports
from stages.lib.config.params import Config
from stages.lib.core import paths
from stages.lib.execution import executors, runs
from stages.lib.execution.runs import Run
from stages.lib.labels import dilution
from stages.lib.studies import grids, summaries

SCALE = "laptop"
Changes = Mapping[str, Any]

SIX: Changes = {"train.seeds": tuple(range(6))}
TEN: Changes = {"train.seeds": tuple(range(10))}
LOWEST: Changes = {"train.learning_rates": (0.1,)}
LOW: Changes = {"train.learning_rates": (0.1, 0.5)}
LAST: Changes = {"train.average": 0.0}
NOISY: Changes = {"noise.alpha": 100.0}
CONVNET: Changes = {"model.name": "conv4", **NOISY}
TORCH: Changes = {"train.init": "torch", "train.zero_output": False}
#: with noise each clean label is seen as often as without: 14.2 times, which takes 11 times as long
AS_OFTEN: Changes = {"noise.alpha": 10.0, "train.min_samples": 11 * 640_000}
#: the second most likely class has nine tenths of the correct one's margin
NEARLY: Changes = {"noise.delta": 0.9, "train.epochs": 5.0, "train.early_stopping": True}
#: as in the figure's grid
INFINITE: Changes = {
    "train.loss": "expected_noisy_cross_entropy",
    "train.batch_size": 128,
    "train.min_samples": 320_000,
}
RATES: tuple[Changes, ...] = tuple({"train.learning_rates": (rate,)} for rate in (0.1, 0.5, 2.0))

#: by question: the figure, and what is changed in its first point
VARIANTS: dict[str, tuple[str, tuple[Changes, ...]]] = {
    "figure 1, initialisation": (
        "fig1_uniform_mnist",
        tuple({**NOISY, **LOW, **start, **end} for start in ({}, TORCH) for end in ({}, LAST)),
    ),
    "figure 1, length": (
        "fig1_uniform_mnist",
        (
            {**CONVNET, "train.epochs": 0.0},  # at least `min_samples`
            {**CONVNET, **LOW},
        ),
    ),
    "figure 1, five passes": (
        "fig1_uniform_mnist",
        tuple(
            {"model.name": name, **NOISY, "train.epochs": 5.0, **LOWEST}
            for name in ("conv4", "mlp2", "perceptron")
        ),
    ),
    "figure 2, the ResNet's rate": (
        "fig2_uniform_cifar10",
        tuple({"model.name": "resnet20", "noise.alpha": alpha, **LOWEST} for alpha in (0.0, 10.0)),
    ),
    "figure 2, clean labels as often": (
        "fig2_uniform_cifar10",
        tuple({"model.name": name, **AS_OFTEN} for name in ("conv4", "resnet20")),
    ),
    "figure 5, length": (
        "fig5_structured",
        (
            {**NEARLY, "train.learning_rates": (1.0,)},
            {**NEARLY, "train.learning_rates": (0.1,)},
            {**NEARLY, "data.originals": 55000},
        ),
    ),
    "figure 6, as drawn": (
        "fig6_sources",
        (
            {},
            {"noise.alpha": 10.0, "noise.images": "white"},
            {"noise.alpha": 10.0},
        ),
    ),
    "figure 6, clean labels as often": (
        "fig6_sources",
        ({"noise.images": "white", **AS_OFTEN},),
    ),
    "figure 7, ten seeds": (
        "fig7_unique_images",
        tuple(
            {"noise.alpha": 5.0, "noise.images": images, "train.early_stopping": early, **TEN}
            for early in (False, True)
            for images in ("same", "unique")
        ),
    ),
    "figure 8, early stopping": (
        "fig8_training_size",
        tuple(
            {"data.originals": n, "train.early_stopping": early}
            for n in (1000, 2500, 55000)
            for early in (False, True)
        ),
    ),
    "figure 8, five passes": (
        "fig8_training_size",
        (
            {"data.originals": 7500, "noise.alpha": 20.0, **SIX},
            {"data.originals": 7500, "noise.alpha": 20.0, "train.epochs": 5.0, **SIX},
            {"data.originals": 20000, "noise.alpha": 20.0, "train.epochs": 5.0},
            {"data.originals": 55000, "noise.alpha": 20.0, "train.epochs": 5.0},
        ),
    ),
    "figure 11, infinite batch": (
        "fig11_batch_size",
        tuple(
            {**INFINITE, "noise.alpha": alpha, **changes}
            for changes in ({"train.min_samples": 4 * 320_000}, {"train.epsilon": 1e-10})
            for alpha in (0.0, 20.0)
        ),
    ),
    "figure 12, length": (
        "fig12_learning_rate",
        tuple({"train.min_samples": 2_560_000, **rate} for rate in RATES),
    ),
    "figure 12, clean labels as often": (
        "fig12_learning_rate",
        tuple({**AS_OFTEN, **rate} for rate in RATES),
    ),
}


def changed(config: Config, changes: Changes) -> Config:
    """Return a configuration with some values changed.

    Args:
        config: what is changed.
        changes: values by ``section.key``, as in ``grids``.
    """
    for name, value in changes.items():
        section, _, key = name.partition(".")
        config = replace(config, **{section: replace(getattr(config, section), **{key: value})})
    return config


def to_second_class(confusion: Sequence[Sequence[int]], transition: Sequence[Any]) -> float:
    """Return the share of errors that go to the class that noise favours most after the true one.

    Args:
        confusion: counts of predictions, the true class in the rows.
        transition: probabilities of noisy labels, the true class in the rows.
    """
    wrong, favoured = np.array(confusion), np.array(transition)
    np.fill_diagonal(wrong, 0)
    np.fill_diagonal(favoured, 0)
    to_it = wrong[np.arange(len(wrong)), favoured.argmax(axis=1)]
    return float(to_it.sum() / max(wrong.sum(), 1))


def measured(questions: Iterable[str]) -> dict[str, Any]:
    """Return what each variant reaches, by question; all are trained side by side."""
    data = paths.datasets(SCALE)
    asked = [(question, each) for question in questions for each in VARIANTS[question][1]]
    todo: list[tuple[Config, list[Run]]] = []
    with TemporaryDirectory() as folder:
        for k, (question, changes) in enumerate(asked):
            key = VARIANTS[question][0]
            config = changed(grids.read_grid(SCALE, key).points[0], changes)
            labels, train = Path(folder) / str(k), config.train
            dilution.materialise(
                config.data, config.noise, train.seeds, data_folder=data, out=labels,
                confusion_file=paths.figure_confusion(SCALE) / f"{key}.json",
            )  # fmt: skip
            todo.append((config, runs.expand(f"{question} {changes}", config, data, labels)))
        everything = [run for _, point in todo for run in point]
        outcomes, _ = executors.train_or_load(everything, "variants")
        transition = {run: dilution.read_facts(run.labels)["transition"] for run in everything}
    report: dict[str, Any] = {}
    for (question, changes), (config, point) in zip(asked, todo, strict=True):
        mine, outcomes = outcomes[: len(point)], outcomes[len(point) :]
        found = summaries.summarise(config.train, mine)
        pairs = zip(point, mine, strict=True)
        chosen = [each for each in pairs if each[0].learning_rate == found["learning_rate"]]
        group = report.setdefault(question, {"figure": VARIANTS[question][0], "points": []})
        group["points"].append(
            {
                "changes": dict(changes),
                "examples_seen": mine[0]["curve"][-1]["examples_seen"],
                "val_curves": [
                    [
                        (evaluation["examples_seen"], evaluation["val_accuracy"])
                        for evaluation in each["curve"]
                    ]
                    for _, each in chosen
                ],
                # of the run's last tenth, with early stopping of its second half
                "train_losses": [each["curve"][-1]["train_loss"] for _, each in chosen],
                "errors_to_second_class": [
                    to_second_class(each["test_confusion"], transition[run])
                    for run, each in chosen
                    if config.noise.delta > 0
                ],
                **{name: found[name] for name in ("test_accuracy", "sd", "learning_rate")},
                **{name: found[name] for name in ("values", "rates")},
            }
        )
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    given = parser.parse_args()
    with redirect_stdout(sys.stderr):  # what stages say is not part of the JSON
        report = measured(given.only)
    reports.emit({"scale": SCALE, "variants": report})


if __name__ == "__main__":
    main()
