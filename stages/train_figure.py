"""Computes the points of a figure: ``python -m stages.train_figure SCALE KEY``.

``python -m stages.train_figure --plan KEY`` prints what that would take, and computes nothing.
"""

import sys

from stages.lib import figures, files, paths, plans, studies
from stages.lib.command import figure_arguments, plan_arguments, stage


@stage
def main() -> None:
    """Train what no store holds yet, write the figure's points, and apart from them the times."""
    if planned := plan_arguments():
        scale, key = planned
        print("\n".join(plans.show(key, scale, plans.make(key, scale))))
        return
    scale, key = figure_arguments()
    grid = studies.read_grid(scale, key)
    labels = paths.figure_labels(scale, key)
    report, times = figures.compute(key, scale, grid, paths.datasets(scale), labels)
    files.write_json(paths.figure_metrics(scale, key), report)
    files.write_json(paths.figure_times(scale, key), times)


if __name__ == "__main__":
    sys.exit(main())
