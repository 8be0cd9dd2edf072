"""How fast labels are drawn, against a per-example loop in the same run.

Prints JSON: labels per second for uniform and structured noise (median of the repeats, and their
range), those of a plain Python loop, and the ratio. ``python -m benchmarks.labels [--labels N]``
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from stages.lib import files, hosts, noise

LOOP_LABELS = 20_000  # the loop takes about 20 microseconds a label


def rates(draw: Callable[[], object], count: int, repeats: int) -> list[float]:
    """Return labels per second of every repeat, after one that warms up."""
    draw()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        draw()
        found.append(count / (time.perf_counter() - started))
    return found


def loop(true_labels: noise.Labels, transition: noise.Matrix, rng: np.random.Generator) -> None:
    """Draw as one would write it down: a choice for every example."""
    for label in true_labels:
        rng.choice(len(transition), p=transition[label])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=50_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    count, repeats = arguments.labels, arguments.repeats
    rng = np.random.default_rng(0)
    true_labels = rng.integers(0, 10, size=count, dtype=np.uint8)
    order = noise.false_class_order(np.zeros((10, 10), dtype=np.int64), "random", rng=rng)
    kinds = {
        "uniform": noise.uniform_transition(10),
        "structured": noise.structured_transition(order, alpha=20, delta=1.0),
    }
    report = {}
    for name, transition in kinds.items():

        def draw(transition: noise.Matrix = transition) -> object:
            return noise.draw_labels(true_labels, transition, rng=rng)

        def draw_by_loop(transition: noise.Matrix = transition) -> None:
            loop(true_labels[:LOOP_LABELS], transition, rng)

        ours = rates(draw, count, repeats)
        theirs = rates(draw_by_loop, LOOP_LABELS, repeats)
        report[name] = {
            "labels_per_second": statistics.median(ours),
            "range": [min(ours), max(ours)],
            "loop_labels_per_second": statistics.median(theirs),
            "ratio": statistics.median(ours) / statistics.median(theirs),
        }
    report_all = {
        "labels": count,
        "repeats": repeats,
        "threads": 1,
        **report,
        "hardware": hosts.hardware("cpu"),
        "versions": hosts.versions(),
    }
    sys.stdout.write(files.to_json(report_all))


if __name__ == "__main__":
    main()
