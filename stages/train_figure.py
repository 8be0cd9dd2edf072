"""Computes the points of a figure, or prints what that would take."""

from stages.command import KEY, SCALE, argument, stage
from stages.lib.core import files, paths
from stages.lib.studies import computing, estimates, grids

PLAN = argument("--plan", action="store_true", help="print what it would take, and train nothing")


@stage(PLAN, SCALE, KEY)
def main(plan: bool, scale: str, key: str) -> None:
    """Train a figure's runs and write its points, and apart from them the times.

    Reads scales/SCALE.yaml, data/datasets/SCALE/ and data/labels/SCALE/KEY/; writes
    metrics/figures/SCALE/KEY.json and metrics/times/SCALE/KEY.json. Trainings that .runs/ has are
    not repeated.
    """
    if plan:
        print("\n".join(estimates.show(key, scale, estimates.make(key, scale))))
        return
    grid, labels = grids.read_grid(scale, key), paths.figure_labels(scale, key)
    report, times = computing.compute(grid, paths.datasets(scale), labels)
    files.write_json(paths.figure_metrics(scale, key), report)
    files.write_json(paths.figure_times(scale, key), times)


if __name__ == "__main__":
    raise SystemExit(main())
