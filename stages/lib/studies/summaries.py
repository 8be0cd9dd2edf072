"""From the outcomes of a point's runs to what is reported of it: selection, mean, spread.

The learning rate is chosen on the mean over seeds of one column, and the test accuracy at that rate
is reported: the headline by clean validation images; beside it by noisy validation labels, and the
paper's way, by the test set itself, which is optimistic. A run that diverged is counted and named,
and no mean is of it. What is reported repeats to the byte.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.config.params import TrainParams
from stages.lib.core import machine

#: suffix of the reported keys -> the column that the rate is chosen on
SELECTIONS = {
    "": "val_accuracy",
    "_noisy_selection": "noisy_val_accuracy",
    "_paper_selection": "test_accuracy",
}

#: What a point has from its chosen rate as it is.
SHOWN = ("values", "val_accuracy", "diverged", "top5_accuracy", "top5_accuracy_sd", "top5_values")
BAND = "mean ± one standard deviation over seeds (n - 1 in the denominator)"
Outcome = dict[str, Any]


def spread(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation; None of fewer than two values, which have none."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _mean(values: Sequence[Any]) -> float | None:
    return float(np.mean(values)) if values and None not in values else None


def summarise_rate(rate: float, outcomes: list[Outcome]) -> dict[str, Any]:
    """Return what is reported of one learning rate: each column's mean, and the test values.

    Mean and spread are over the seeds that did not diverge, None where all did; ``values`` has None
    for each that did, and ``diverged`` counts them. Of five classes or fewer there is no top-5.
    ``stopped_at`` is there with early stopping alone: the examples that each seed had seen; so is
    ``method``, what each seed's found, with one.
    """
    finite = [outcome for outcome in outcomes if not outcome["diverged"]]
    report = {
        "learning_rate": rate,
        **{column: _mean([o[column] for o in finite]) for column in SELECTIONS.values()},
        "test_accuracy_sd": spread([outcome["test_accuracy"] for outcome in finite]),
        "values": [None if o["diverged"] else o["test_accuracy"] for o in outcomes],
        "diverged": len(outcomes) - len(finite),
    }
    if outcomes[0]["test_top5_accuracy"] is not None:
        values = [outcome["test_top5_accuracy"] for outcome in finite]
        report |= {"top5_accuracy": _mean(values), "top5_accuracy_sd": spread(values)}
        every = [None if o["diverged"] else o["test_top5_accuracy"] for o in outcomes]
        report["top5_values"] = every
    if "stopped_at" in outcomes[0]:
        report["stopped_at"] = [outcome["stopped_at"] for outcome in outcomes]
    if "method" in outcomes[0]:
        report["method"] = [outcome["method"] for outcome in outcomes]
    return report


def choose(rates: list[dict[str, Any]], column: str) -> dict[str, Any] | None:
    """Return the rate with the best mean in a column; of equals the one listed first.

    Only rates at which the fewest seeds diverged are compared: a mean over fewer seeds is no match
    for one over more. None where every seed diverged at every rate. Without validation images there
    is a single rate (`checks.check_config`), and it is returned.
    """
    fewest = min(rate["diverged"] for rate in rates)
    if fewest == len(rates[0]["values"]):
        return None
    steady = [rate for rate in rates if rate["diverged"] == fewest]
    return max(steady, key=lambda rate: -1.0 if rate[column] is None else rate[column])


def summarise(train: TrainParams, outcomes: list[Outcome]) -> dict[str, Any]:
    """Return what is reported of a point.

    Args:
        train: the point's section, with its learning rates and seeds.
        outcomes: of `runs.expand`'s runs, in its order: rates within seeds.

    Returns:
        ``test_accuracy`` (mean over the seeds that did not diverge at the ``learning_rate``),
        ``sd``, ``lo``, ``hi``, ``values`` per seed, ``val_accuracy``, ``diverged`` (how many seeds
        did) and, of more than five classes, top-5's, all at that rate; the other selections' test
        accuracy and rate; ``diverged_runs`` at whatever rate, ``seeds_text`` (of how many seeds all
        this is), ``operations`` (see `operations`) and ``rates``. Where every seed diverged at
        every rate, no rate and no mean.
    """
    width = len(train.learning_rates)
    rates = [
        summarise_rate(rate, outcomes[i::width]) for i, rate in enumerate(train.learning_rates)
    ]
    nothing = {**rates[0], "learning_rate": None}  # all rates are alike: without any value
    chosen = {suffix: choose(rates, column) or nothing for suffix, column in SELECTIONS.items()}
    headline, tried = chosen[""], product(train.seeds, train.learning_rates)
    return {
        **{f"test_accuracy{suffix}": rate["test_accuracy"] for suffix, rate in chosen.items()},
        **{f"learning_rate{suffix}": rate["learning_rate"] for suffix, rate in chosen.items()},
        **{key: value for key, value in headline.items() if key in SHOWN},
        **band(headline["test_accuracy"], headline["test_accuracy_sd"]),
        "seeds": list(train.seeds),
        "diverged_runs": [
            {"learning_rate": rate, "seed": seed}
            for (seed, rate), outcome in zip(tried, outcomes, strict=True)
            if outcome["diverged"]
        ],
        "seeds_text": _seeds_text(rates, headline),
        "operations": operations(outcomes, len(train.seeds)),
        "rates": rates,
    }


def operations(outcomes: Sequence[Outcome], seeds: int) -> int:
    """Return the floating-point operations of a seed's trainings at all rates, a mean over seeds.

    Those at rates that were not chosen and those that diverged count: the choice took them all. Of
    a method in several phases all are counted, each step as one of the network that is reported.
    """
    total = 0
    for outcome in outcomes:
        steps = outcome.get("method", {}).get("steps_total", outcome["steps"])
        total += outcome["operations"] * steps // outcome["steps"]
    return round(total / seeds)


def band(mean: float | None, sd: float | None) -> dict[str, float | None]:
    """Return a spread, and of an accuracy the band of `BAND`, within [0, 1]."""
    if mean is None or sd is None:
        return {"sd": None, "lo": None, "hi": None}
    return {"sd": sd, "lo": max(0.0, mean - sd), "hi": min(1.0, mean + sd)}


def as_top5(summary: dict[str, Any]) -> dict[str, Any]:
    """Return a `summarise` whose test accuracies and spread are top-5's, without the rates."""
    mean, sd = summary["top5_accuracy"], summary["top5_accuracy_sd"]
    of_rate = {rate["learning_rate"]: rate["top5_accuracy"] for rate in summary["rates"]}
    chosen = {f"test_accuracy{s}": of_rate.get(summary[f"learning_rate{s}"]) for s in SELECTIONS}
    kept = {key: value for key, value in summary.items() if key != "rates"}
    return {**kept, **chosen, "values": summary["top5_values"], **band(mean, sd)}


def number_of_seeds(known: int, seeds: int) -> str:
    """Return ``3 seeds``, or ``2 of 3 seeds`` where there is a value of two alone."""
    noun = "seed" if seeds == 1 else "seeds"
    return f"{seeds} {noun}" if known == seeds else f"{known} of {seeds} {noun}"


def _seeds_text(rates: list[dict[str, Any]], headline: dict[str, Any]) -> str:
    """Return ``2 of 3 seeds; 1 diverged at lr 1``: of how many seeds a point's mean is, and why."""
    seeds, chosen = len(headline["values"]), headline["learning_rate"]
    text = number_of_seeds(seeds - headline["diverged"], seeds)
    if chosen is None:
        return f"{text}; all diverged at lr {listed(rate['learning_rate'] for rate in rates)}"
    for rate in sorted(rates, key=lambda rate: rate["learning_rate"] != chosen):
        if rate["diverged"]:
            aside = ", not chosen" * (rate["learning_rate"] != chosen)
            text += f"; {rate['diverged']} diverged at lr {rate['learning_rate']:g}{aside}"
    return text


def listed(rates: Iterable[float]) -> str:
    """Return learning rates as ``0.1, 0.5``: each once, ascending."""
    return ", ".join(f"{rate:g}" for rate in sorted(set(rates)))


def seconds(outcomes: Sequence[Outcome]) -> float:
    """Return how long trainings took, one after another."""
    return float(sum(outcome["wall_seconds"] for outcome in outcomes))


def host(device: str) -> dict[str, Any]:
    """Return what trainings ran on, each in a list: DVC's tables of metrics pass over lists."""
    return {"hardware": [machine.hardware(device)], "versions": [machine.versions()]}


def table(counts: NDArray[np.integer]) -> list[dict[str, Any]]:
    """Return ``(m, m)`` counts as rows for a heatmap; ``fraction`` is of the true class."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return [
        {"true_class": i, "predicted": j, "count": int(count), "fraction": float(shares[i, j])}
        for (i, j), count in np.ndenumerate(counts)
    ]
