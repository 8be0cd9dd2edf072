"""From the outcomes of a point's runs to what is reported of it: selection, mean, spread.

The learning rate is chosen on the mean over seeds of one column, and the test accuracy at that rate
is reported. The headline chooses on clean validation images; beside it stand the choice on noisy
validation labels, and the paper's, the best on the test set itself, which is optimistic.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages.lib import files, hosts
from stages.lib.params import Config, TrainParams

if TYPE_CHECKING:
    from stages.lib.runs import Run

#: suffix of the reported keys -> the column that the rate is chosen on
SELECTIONS = {
    "": "val_accuracy",
    "_noisy_selection": "noisy_val_accuracy",
    "_paper_selection": "test_accuracy",
}
BAND = "mean ± one standard deviation over seeds (n - 1 in the denominator)"

Outcome = dict[str, Any]


def spread(values: list[float]) -> float:
    """Return the sample standard deviation; 0 where a single value has none."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def summarise_rate(rate: float, outcomes: list[Outcome]) -> dict[str, Any]:
    """Return what is reported of one learning rate: each column's mean, and the test values."""
    values = [outcome["test_accuracy"] for outcome in outcomes]
    return {
        "learning_rate": rate,
        **{column: _mean([o[column] for o in outcomes]) for column in SELECTIONS.values()},
        "test_accuracy_sd": spread(values),
        "values": values,
        "diverged": sum(outcome["diverged"] for outcome in outcomes),
    }


def choose(rates: list[dict[str, Any]], column: str) -> dict[str, Any]:
    """Return the rate with the best mean in a column; of equals the one listed first.

    Rates at which a seed diverged are taken only where every rate has diverged. Without validation
    images there is a single rate (`params.check_config`), and it is returned.
    """
    finite = [rate for rate in rates if not rate["diverged"]] or rates
    best = max(-1.0 if rate[column] is None else rate[column] for rate in finite)
    return next(rate for rate in finite if rate[column] in (best, None))


def summarise(train: TrainParams, outcomes: list[Outcome]) -> dict[str, Any]:
    """Return what is reported of a point.

    Args:
        train: the point's section, with its learning rates and seeds.
        outcomes: of `runs.expand`'s runs, in its order: rates within seeds.

    Returns:
        ``test_accuracy`` (mean over seeds at the chosen rate), ``sd``, ``lo``, ``hi``, ``values``
        per seed, ``val_accuracy``, ``learning_rate``, the same for the other two selections,
        ``rates``, and ``wall_seconds`` summed over all runs.
    """
    width = len(train.learning_rates)
    rates = [
        summarise_rate(rate, outcomes[i::width]) for i, rate in enumerate(train.learning_rates)
    ]
    report: dict[str, Any] = {}
    for suffix, column in SELECTIONS.items():
        chosen = choose(rates, column)
        report["test_accuracy" + suffix] = chosen["test_accuracy"]
        report["learning_rate" + suffix] = chosen["learning_rate"]
    headline = choose(rates, SELECTIONS[""])
    mean, sd = headline["test_accuracy"], headline["test_accuracy_sd"]
    return {
        **report,
        "sd": sd,
        "lo": max(0.0, mean - sd),
        "hi": min(1.0, mean + sd),
        "values": headline["values"],
        "seeds": list(train.seeds),
        "val_accuracy": headline["val_accuracy"],
        "diverged": headline["diverged"],
        "rates": rates,
        "wall_seconds": float(sum(outcome["wall_seconds"] for outcome in outcomes)),
    }


def critical_size(
    sizes: list[int], accuracies: list[float], target: float
) -> tuple[float | None, str]:
    """Return the number of originals at which accuracy reaches a target (figure 9).

    Accuracy is made monotone in size by isotonic regression and interpolated linearly over log n.

    Args:
        sizes: numbers of originals, ascending.
        accuracies: accuracy at each.
        target: accuracy to be reached.

    Returns:
        The size and ``reached``; or None with ``not reached`` (the largest size stays below the
        target) or ``below the grid`` (the smallest is already there): never an extrapolation.
    """
    from sklearn.isotonic import IsotonicRegression

    log_n = np.log(np.asarray(sizes, dtype=np.float64))
    monotone = IsotonicRegression().fit_transform(log_n, np.asarray(accuracies, dtype=np.float64))
    if monotone[-1] < target:
        return None, "not reached"
    if monotone[0] >= target:
        return None, "below the grid"
    i = int(np.searchsorted(monotone, target))  # monotone[i - 1] < target <= monotone[i]
    part = (target - monotone[i - 1]) / (monotone[i] - monotone[i - 1])
    return float(np.exp(log_n[i - 1] + part * (log_n[i] - log_n[i - 1]))), "reached"


def table(counts: NDArray[np.integer]) -> list[dict[str, Any]]:
    """Return ``(m, m)`` counts as rows for a heatmap; ``fraction`` is of the true class."""
    totals = np.maximum(counts.sum(axis=1), 1)
    return [
        {
            "true_class": i,
            "predicted": j,
            "count": int(counts[i, j]),
            "fraction": float(counts[i, j] / totals[i]),
        }
        for i in range(len(counts))
        for j in range(len(counts))
    ]


def describe_set(todo: "list[Run]") -> dict[str, Any]:
    """Return size and realised label accuracy (mean over seeds) of a point's diluted sets."""
    facts = [files.read_json(f / "noise.json") for f in dict.fromkeys(r.labels for r in todo)]
    clean_only = todo[0].config.train.loss == "noisy_loss"  # which trains on the originals alone
    accuracies = [1.0 if clean_only else f["label_accuracy"] for f in facts]
    return {
        "label_accuracy": float(np.mean(accuracies)),
        "examples": facts[0]["originals" if clean_only else "examples"],
        "examples_seen": todo[0].steps * todo[0].config.train.batch_size,
    }


def report_experiment(
    config: Config, todo: "list[Run]", outcomes: list[Outcome], device: str
) -> dict[str, Any]:
    """Return the content of ``metrics/experiment.json``: scalars, and lists for the plots.

    Args:
        config: the experiment.
        todo: its runs, from `runs.expand`.
        outcomes: their outcomes, in the same order.
        device: where they were trained.
    """
    summary = summarise(config.train, outcomes)
    seen = sum(run.steps for run in todo) * config.train.batch_size
    chosen = [
        outcome["test_confusion"]
        for run, outcome in zip(todo, outcomes, strict=True)
        if run.learning_rate == summary["learning_rate"]
    ]
    curves = [
        {
            **row,
            "series": f"lr {run.learning_rate:g}",
            "learning_rate": run.learning_rate,
            "seed": run.seed,
        }
        for run, outcome in zip(todo, outcomes, strict=True)
        for row in outcome["curve"]
    ]
    lists = {"values", "seeds", "rates", "lo", "hi", "sd"}
    return {
        **{key: value for key, value in summary.items() if key not in lists},
        **describe_set(todo),
        "test_accuracy_sd": summary["sd"],
        "values": summary["values"],
        "examples_per_second": seen / summary["wall_seconds"],
        "device": device,
        "curves": curves,
        "confusion": table(np.sum(chosen, axis=0)),
        "config": [files.to_json(asdict(config), indent=None)],
        "host": [files.to_json([hosts.hardware(device), hosts.versions()], indent=None)],
    }
