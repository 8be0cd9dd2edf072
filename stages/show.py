"""Prints a short table of the results that are there."""

from typing import Any

from stages.command import stage
from stages.lib.config.reading import read_params
from stages.lib.core import files, paths


@stage()
def main() -> None:
    """Print the experiment's accuracy, and each figure's series at the right end of its axis.

    Reads params.yaml, metrics/experiment.json and metrics/figures/; writes nothing.
    """
    params = read_params()
    if paths.EXPERIMENT_METRICS.exists():
        print(experiment(files.read_json(paths.EXPERIMENT_METRICS)))
    for key in params.figures:
        file = paths.figure_metrics(params.scale, key)
        if file.exists():
            print("\n".join(table(files.read_json(file))))


def experiment(report: dict[str, Any]) -> str:
    """Return the experiment's line: its test accuracy, of how many seeds, with which labels."""
    accuracy = _value(report["test_accuracy"], report["test_accuracy_sd"], ".3f", "diverged")
    return (
        f"experiment: test accuracy {accuracy} ({report['seeds_text'][0]}) with "
        f"{report['label_accuracy']:.1%} of {report['examples']:,} labels true"
    )


def table(figure: dict[str, Any]) -> list[str]:
    """Return a figure's lines: its title, each series' last value, and what the paper states."""
    lines = ["", figure["title"]]
    if figure["kind"] == "curves":
        last: dict[str, dict[str, Any]] = {}
        for point in sorted(figure["points"], key=lambda point: point[figure["x"]]):
            last[point["series"]] = point
        lines += [
            f"  {series:32} {figure['x']} = {point[figure['x']]:<6g} {_point(point, figure['y'])}"
            for series, point in last.items()
        ]
        if lost := sum(bool(point["diverged"]) for point in figure["points"]):
            points = len(figure["points"])
            lines.append(f"  seeds diverged at {lost} of {points} points, × in plots")
    return [*lines, f"  paper: {figure['paper']}"] if figure["paper"] else lines


def _point(point: dict[str, Any], y: str) -> str:
    form = ".3f" if "accuracy" in y else ",.0f"
    value = _value(point[y], point["sd"], form, point.get("status", "diverged"))
    return f"{value} ({point['seeds_text']})"


def _value(mean: float | None, sd: float | None, form: str, absent: str) -> str:
    """Return a mean with its spread, as far as there are any, else why there are none."""
    if mean is None:
        return absent
    return f"{mean:{form}}" if sd is None else f"{mean:{form}} ± {sd:{form}}"


if __name__ == "__main__":
    raise SystemExit(main())
