"""How fast labels are drawn, against a per-example loop and against cleanlab in the same run.

Prints JSON: labels per second for uniform and structured noise (median of the repeats, and their
range), memory beyond the labels while they are drawn, those of a plain Python loop, those of
cleanlab's ``generate_noisy_labels`` (pinned in ``benchmarks/requirements.txt``, which ``make
bench`` installs; null without it), and the ratios. At last the largest draw that the paper calls
for: alpha = 100 on ImageNet, 128 million labels of 1,000 classes.

``python -m benchmarks.labels [--labels N]``
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.reports import emit, summary
from stages.lib.noise import sampling, transitions

LOOP_LABELS = 20_000  # the loop takes about 20 microseconds a label
CLEANLAB_LABELS = 1_000_000
IMAGENET_LABELS, IMAGENET_CLASSES = 128_000_000, 1000  # alpha = 100 on 1.28 million images


def rates(draw: Callable[[], object], count: int, repeats: int) -> list[float]:
    """Return labels per second of every repeat, after one that warms up."""
    draw()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        draw()
        found.append(count / (time.perf_counter() - started))
    return found


def quotients(ours: list[float], theirs: list[float]) -> list[float]:
    """Return the ratios of measurements, repeat by repeat."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def loop(
    true_labels: sampling.Labels, transition: transitions.Matrix, rng: np.random.Generator
) -> None:
    """Draw as one would write it down: a choice for every example."""
    for label in true_labels:
        rng.choice(len(transition), p=transition[label])


def cleanlab(
    true_labels: sampling.Labels, transition: transitions.Matrix
) -> Callable[[], object] | None:
    """Return a draw by cleanlab, whose matrices have the true class in the columns."""
    try:
        from cleanlab.benchmarking.noise_generation import generate_noisy_labels
    except ImportError:
        return None
    return lambda: generate_noisy_labels(true_labels, transition.T)


def memory_beyond(draw: Callable[[], np.ndarray]) -> int:
    """Return the largest number of bytes held beside the result of a draw."""
    tracemalloc.start()
    drawn = draw()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - drawn.nbytes


def imagenet() -> dict[str, Any]:
    """Return the seconds of the largest draw."""
    rng = np.random.default_rng(0)
    true_labels = rng.integers(0, IMAGENET_CLASSES, size=IMAGENET_LABELS, dtype=np.uint16)
    transition = transitions.uniform_transition(IMAGENET_CLASSES)
    drawn = rates(
        lambda: sampling.draw_labels(true_labels, transition, rng=rng), IMAGENET_LABELS, 3
    )
    return {"labels": IMAGENET_LABELS, "seconds": summary([IMAGENET_LABELS / r for r in drawn])}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=50_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    count, repeats = arguments.labels, arguments.repeats
    rng = np.random.default_rng(0)
    true_labels = rng.integers(0, 10, size=count, dtype=np.uint8)
    order = transitions.false_class_order(np.zeros((10, 10), dtype=np.int64), "random", rng=rng)
    kinds = {
        "uniform": transitions.uniform_transition(10),
        "structured": transitions.structured_transition(order, alpha=20, delta=1.0),
    }
    report = {}
    for name, transition in kinds.items():

        def draw(transition: transitions.Matrix = transition) -> sampling.Labels:
            return sampling.draw_labels(true_labels, transition, rng=rng)

        def draw_by_loop(transition: transitions.Matrix = transition) -> None:
            loop(true_labels[:LOOP_LABELS], transition, rng)

        ours = rates(draw, count, repeats)
        theirs = rates(draw_by_loop, LOOP_LABELS, repeats)
        library = cleanlab(true_labels[:CLEANLAB_LABELS], transition)
        libraries = rates(library, CLEANLAB_LABELS, repeats) if library else []
        report[name] = {
            "labels_per_second": summary(ours),
            "bytes_beyond_the_labels": memory_beyond(draw),
            "loop_labels_per_second": summary(theirs),
            "ratio_to_loop": summary(quotients(ours, theirs)),
            "cleanlab_labels_per_second": summary(libraries) if libraries else None,
            "ratio_to_cleanlab": summary(quotients(ours, libraries)) if libraries else None,
        }
    report_all = {
        "labels": count,
        "repeats": repeats,
        "threads": 1,
        **report,
        "imagenet": imagenet(),
    }
    emit(report_all)


if __name__ == "__main__":
    main()
