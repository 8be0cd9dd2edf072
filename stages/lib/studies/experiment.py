"""What is reported of the experiment, and of the label sets that any runs were trained on."""

from dataclasses import asdict
from typing import Any

import numpy as np

from stages.lib.components.losses import LOSSES
from stages.lib.config.params import Config
from stages.lib.core import files
from stages.lib.execution.runs import Run
from stages.lib.labels import dilution
from stages.lib.studies import summaries


def describe_set(todo: list[Run]) -> dict[str, Any]:
    """Return size and realised label accuracy (mean over seeds) of a point's diluted sets."""
    facts = [dilution.read_facts(folder) for folder in dict.fromkeys(r.labels for r in todo)]
    train = todo[0].config.train
    clean_only = LOSSES[train.loss].originals_only
    config = todo[0].config
    seen = todo[0].steps_total * train.batch_size  # in all phases of a method
    labels_each = 1 if clean_only else config.examples / config.samples
    return {
        "label_accuracy": float(np.mean([1 if clean_only else f["label_accuracy"] for f in facts])),
        "examples": facts[0]["originals" if clean_only else "examples"],
        "examples_seen": seen,
        "labels_seen": round(seen * labels_each),
    }


def report(config: Config, todo: list[Run], outcomes: list[summaries.Outcome]) -> dict[str, Any]:
    """Return the content of ``metrics/experiment.json``: scalars, and lists for the plots.

    DVC joins all lists of dictionaries in a file row by row, and fails on an empty list: what is no
    plot's stands in lists of one text. There is no confusion of more classes than it is counted of.

    Args:
        config: the experiment.
        todo: its runs, from `runs.expand`.
        outcomes: their outcomes, in the same order.
    """
    summary = summaries.summarise(config.train, outcomes)
    pairs = list(zip(todo, outcomes, strict=True))
    confusion = {}
    if outcomes[0]["test_confusion"] is not None:
        counts = np.zeros_like(outcomes[0]["test_confusion"])
        for run, outcome in pairs:
            if run.learning_rate == summary["learning_rate"] and not outcome["diverged"]:
                counts += outcome["test_confusion"]
        confusion = {"confusion": summaries.table(counts)}
    lists = {"top5_values", "seeds", "rates", "lo", "hi", "sd"}
    return {
        **{key: value for key, value in summary.items() if key not in lists},
        **describe_set(todo),
        "test_accuracy_sd": summary["sd"],
        "seeds_text": [summary["seeds_text"]],
        "diverged_runs": [files.to_json(summary["diverged_runs"], indent=None)],
        "curves": [row for run, outcome in pairs for row in _curve(run, outcome)],
        **confusion,
        "config": [files.to_json(asdict(config), indent=None)],
    }


def _curve(run: Run, outcome: summaries.Outcome) -> list[dict[str, Any]]:
    """Return a run's learning curve; a run that diverged is a series of its own.

    From the evaluation on at which its loss was not finite, at the latest the last, each row says
    so and has no accuracy: what a network of NaNs answers is none.
    """
    curve, first = outcome["curve"], len(outcome["curve"])
    if outcome["diverged"]:
        lost = (i for i, row in enumerate(curve) if row["train_loss"] is None)
        first = next(lost, len(curve) - 1)
    shared = {
        "series": f"lr {run.learning_rate:g}" + " (diverged)" * outcome["diverged"],
        "learning_rate": run.learning_rate,
        "seed": run.seed,
    }
    kept = ("examples_seen", "train_loss")
    shown = [
        row if i < first else {key: row[key] if key in kept else None for key in row}
        for i, row in enumerate(curve)
    ]
    return [{**row, **shared, "diverged": i >= first} for i, row in enumerate(shown)]


def times(todo: list[Run], outcomes: list[summaries.Outcome], device: str) -> dict[str, Any]:
    """Return the content of ``metrics/times/experiment.json``: what no two runs share.

    Args:
        todo: the experiment's runs.
        outcomes: their outcomes, in the same order.
        device: where they were trained.
    """
    seen = sum(run.steps_total * run.config.train.batch_size for run in todo)
    wall_seconds = summaries.seconds(outcomes)
    return {
        "wall_seconds": wall_seconds,
        "examples_per_second": seen / wall_seconds,
        **summaries.host(device),
    }
