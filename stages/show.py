"""Prints a short table of the results that are there: ``python -m stages.show``."""

import sys
from typing import Any

from stages.lib import files, paths
from stages.lib.command import stage
from stages.lib.params import read_params


@stage
def main() -> None:
    """Print the experiment, and each figure's series at the right end of its axis."""
    params = read_params()
    if paths.EXPERIMENT_METRICS.exists():
        report = files.read_json(paths.EXPERIMENT_METRICS)
        print(
            f"experiment: test accuracy {report['test_accuracy']:.3f} ± "
            f"{report['test_accuracy_sd']:.3f} ({len(report['values'])} seeds) with "
            f"{report['label_accuracy']:.1%} of {report['examples']:,} labels true"
        )
    for key in params.figures:
        file = paths.figure_metrics(params.scale, key)
        if file.exists():
            print("\n".join(table(files.read_json(file))))


def table(figure: dict[str, Any]) -> list[str]:
    """Return a figure's lines: its title, each series' last value, and what the paper states."""
    lines = ["", figure["title"]]
    if figure["kind"] == "curves":
        last: dict[str, dict[str, Any]] = {}
        for point in sorted(figure["points"], key=lambda point: point[figure["x"]]):
            last[point["series"]] = point
        lines += [
            f"  {series:32} {figure['x']} = {point[figure['x']]:<6g} {_value(point, figure['y'])}"
            for series, point in last.items()
        ]
    return [*lines, f"  paper: {figure['paper']}"]


def _value(point: dict[str, Any], y: str) -> str:
    if point[y] is None:
        return str(point["status"])
    form = ".3f" if y == "test_accuracy" else ",.0f"
    if point["sd"] is None:
        return f"{point[y]:{form}}"
    return f"{point[y]:{form}} ± {point['sd']:{form}} ({len(point['values'])} seeds)"


if __name__ == "__main__":
    sys.exit(main())
