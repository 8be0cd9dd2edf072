"""README's table of results against the results that are committed beside it."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.lib import studies

ROOT = Path(__file__).parents[1]
SCALES = ("quick", "laptop")
VERDICTS = ("confirmed", "not confirmed", "not run")
MEAN = re.compile(r"(\d\.\d+) ± (\d\.\d+)")
THRESHOLD = re.compile(r"([\d,]+) at α = (\d+)(?: \((?:seeds )?([\d,]+) to ([\d,]+)\))?")


def rows() -> dict[str, list[str]]:
    """Return the other cells of the table of figures, by key."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = [re.split(r" *\| *", line.strip("| ")) for line in text.splitlines()]
    return {cells[0].strip("`"): cells[1:] for cells in found if cells[0].startswith("`fig")}


def committed(scale: str, key: str) -> dict[str, Any] | None:
    """Return a figure's results as git's index has them; a user's own may lie in the tree."""
    command = ["git", "show", f":metrics/figures/{scale}/{key}.json"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return json.loads(answer.stdout) if answer.returncode == 0 else None


def unfounded(cell: str, figure: dict[str, Any]) -> Iterator[str]:
    """Yield what a cell says that a figure's results do not."""
    points = figure["points"]
    if figure["figure"] == "fig9_critical_size":
        known = {
            (
                round(p["critical_size"]),
                p["alpha"],
                *(None if x is None else round(x) for x in ends),
            )
            for p in points
            if p["critical_size"] is not None
            for ends in ((p["lo"], p["hi"]), (None, None))
        }
        for match in THRESHOLD.finditer(cell):
            size, alpha, lo, hi = (text and int(text.replace(",", "")) for text in match.groups())
            if (size, alpha, lo, hi) not in known:
                yield match[0]
        return
    if figure["kind"] == "curves":
        accuracies = {
            (f"{p['test_accuracy']:.3f}", f"{p['sd']:.3f}") for p in points if p["sd"] is not None
        }
        yield from (m[0] for m in MEAN.finditer(cell) if m.groups() not in accuracies)


def test_every_figure_has_a_row_with_a_verdict() -> None:
    assert list(rows()) == list(studies.FIGURES)
    for key, (_, _, *cells, verdict) in rows().items():
        assert len(cells) == len(SCALES), key
        assert verdict.startswith(VERDICTS), key


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("key", studies.FIGURES)
def test_values_are_those_of_the_committed_results(key: str, scale: str) -> None:
    cell, figure = rows()[key][2 + SCALES.index(scale)], committed(scale, key)
    if figure is None:
        assert cell == "not run"
    else:
        assert figure["kind"] != "curves" or MEAN.search(cell) or THRESHOLD.search(cell)
        assert not list(unfounded(cell, figure))


def test_a_value_that_nobody_measured_is_found() -> None:
    point = {"test_accuracy": 0.9, "sd": 0.01}
    figure = {"figure": "fig1_uniform_mnist", "kind": "curves", "points": [point]}
    assert list(unfounded("0.900 ± 0.010, 0.901 ± 0.010", figure)) == ["0.901 ± 0.010"]
    reached = {"critical_size": 1234.4, "alpha": 10.0, "lo": 1200.0, "hi": 1300.0}
    nine = {"figure": "fig9_critical_size", "points": [reached, {"critical_size": None}]}
    assert not list(unfounded("1,234 at α = 10 (seeds 1,200 to 1,300)", nine))
    for wrong in ("1,235 at α = 10", "1,234 at α = 20", "1,234 at α = 10 (1,200 to 1,301)"):
        assert list(unfounded(wrong, nine)) == [wrong]
