"""Computes the points of a figure: ``python -m stages.train_figure SCALE KEY``.

``python -m stages.train_figure --plan KEY`` prints what that would take, and computes nothing.
"""

import sys

from stages.command import figure_arguments, plan_arguments, stage
from stages.lib.core import files, paths
from stages.lib.studies import computing, estimates, grids


@stage
def main() -> None:
    """Train what no store holds yet, write the figure's points, and apart from them the times."""
    if planned := plan_arguments():
        scale, key = planned
        print("\n".join(estimates.show(key, scale, estimates.make(key, scale))))
        return
    scale, key = figure_arguments()
    grid, labels = grids.read_grid(scale, key), paths.figure_labels(scale, key)
    report, times = computing.compute(grid, paths.datasets(scale), labels)
    files.write_json(paths.figure_metrics(scale, key), report)
    files.write_json(paths.figure_times(scale, key), times)


if __name__ == "__main__":
    sys.exit(main())
