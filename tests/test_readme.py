"""README's table of results against the results that are committed beside it."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from benchmarks import tables
from stages.lib import studies

VERDICTS = ("confirmed", "not confirmed", "not run")
TEXTS = yaml.safe_load((tables.ROOT / tables.FIGURES).read_text(encoding="utf-8"))


def committed(scale: str, key: str) -> dict[str, Any] | None:
    """Return a figure's results as git's index has them; a user's own may lie in the tree."""
    command = ["git", "show", f":metrics/figures/{scale}/{key}.json"]
    answer = subprocess.run(command, cwd=tables.ROOT, capture_output=True, text=True, check=False)
    return json.loads(answer.stdout) if answer.returncode == 0 else None


def test_every_figure_has_a_row_with_a_verdict() -> None:
    assert list(TEXTS) == list(studies.FIGURES)
    for key, row in TEXTS.items():
        assert row["verdict"].startswith(VERDICTS), key
        for scale in tables.SCALES:
            figure = committed(scale, key)
            assert (scale in row) == (figure is not None), key
            if figure and figure["kind"] == "curves":
                assert tables.POINT.search(row[scale]), key


def test_the_table_is_of_the_committed_results() -> None:
    wanted = [(scale, key) for scale in tables.SCALES for key in TEXTS]
    figures = {each: found for each in wanted if (found := committed(*each))}
    text = (tables.ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.filled("README.md", text, {"figures": figures}) == text


def means(node: Any) -> Iterator[tuple[float, float]]:
    """Yield every mean test accuracy with its standard deviation, at any depth of some results."""
    if isinstance(node, dict):
        if node.get("sd") is not None and "test_accuracy" in node:
            yield node["test_accuracy"], node["sd"]
        if node.get("test_accuracy_sd") is not None:
            yield node["test_accuracy"], node["test_accuracy_sd"]
    if isinstance(node, dict | list):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from means(inner)


def test_means_that_are_typed_are_recorded_ones() -> None:
    """In verdicts and in the findings' prose; tables are written from the results."""
    results: list[Any] = [committed(scale, key) for scale in tables.SCALES for key in TEXTS]
    results += [json.loads(file.read_text("utf-8")) for file in tables.RESULTS.glob("*.json")]
    recorded = list(means(results))
    findings = (tables.ROOT / "docs/FINDINGS.md").read_text(encoding="utf-8")
    prose = " ".join(line for line in findings.splitlines() if not line.startswith("|"))
    verdicts = [row["verdict"] for row in TEXTS.values()]
    typed = re.findall(r"(0\.\d+) ± (0\.\d+)", " ".join([prose, *verdicts]))
    assert len(typed) > 20
    for mean, sd in typed:
        places = len(mean) - 2
        assert any((f"{m:.{places}f}", f"{s:.{places}f}") == (mean, sd) for m, s in recorded), (
            mean,
            sd,
        )


POINTS = [
    {"series": "a", "alpha": 10.0, "test_accuracy": 0.9, "sd": 0.01},
    {"series": "b, c", "alpha": 0.5, "test_accuracy": 0.8, "sd": None},
]
SIZES = [
    {"series": "0.9", "alpha": 10.0, "critical_size": 1234.4, "lo": 1200.4, "hi": 1299.6},
    {"series": "0.9", "alpha": 20.0, "critical_size": None, "status": "not reached"},
    {"series": "0.9", "alpha": 5.0, "critical_size": 600.0, "lo": None, "hi": None},
]


@pytest.mark.parametrize(
    ("text", "points", "expected"),
    [
        ("of a {a @ 10}, of b {b, c @ 0.5}", POINTS, "of a 0.900 ± 0.010, of b 0.800 (one seed)"),
        ("{0.9 @ 10}; {0.9 @ 20}", SIZES, "1,234 (seeds 1,200 to 1,300); not reached"),
        ("{0.9 @ 5}", SIZES, "600"),
        ("nothing", [], "nothing"),
    ],
)
def test_a_text_states_the_values_of_its_points(
    text: str, points: list[dict[str, Any]], expected: str
) -> None:
    assert tables.stated(text, {"x": "alpha", "points": points}) == expected


@pytest.mark.parametrize("text", ["{a @ 11}", "{c @ 10}"])
def test_a_point_that_is_not_the_figures_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="got 0 points; must be one of the figure's"):
        tables.stated(text, {"x": "alpha", "points": POINTS})
