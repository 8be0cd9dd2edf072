"""Documents against what they are of: results, figures, files, and recipes that must work."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import tables
from stages.lib.studies import registry

VERDICTS = ("confirmed", "not confirmed", "not run", "ours")
MOST_ROWS = 6  # of a figure's table, to be read on a telephone
TEXTS = yaml.safe_load((tables.ROOT / tables.FIGURES).read_text(encoding="utf-8"))


def committed(scale: str, key: str) -> dict[str, Any] | None:
    """Return a figure's results as git's index has them; a user's own may lie in the tree."""
    command = ["git", "show", f":metrics/figures/{scale}/{key}.json"]
    answer = subprocess.run(command, cwd=tables.ROOT, capture_output=True, text=True, check=False)
    return json.loads(answer.stdout) if answer.returncode == 0 else None


def test_every_figure_has_a_section_with_a_verdict() -> None:
    assert list(TEXTS) == registry.known()
    for key, row in TEXTS.items():
        assert row["verdict"].startswith(VERDICTS), key
        assert len(row.get("rows", [])) <= MOST_ROWS, key
        for k, scale in enumerate(tables.SCALES, start=2):
            figure = committed(scale, key)
            if figure and figure["kind"] == "curves":
                assert any(tables.POINT.search(cells[k]) for cells in row["rows"]), key


def test_the_tables_are_of_the_committed_results() -> None:
    """Where they are not: python -m benchmarks.tables."""
    wanted = [(scale, key) for scale in tables.SCALES for key in TEXTS]
    figures = {each: found for each in wanted if (found := committed(*each))}
    text = (tables.ROOT / "docs/RESULTS.md").read_text(encoding="utf-8")
    assert tables.filled("docs/RESULTS.md", text, {"figures": figures}) == text


def test_means_that_are_typed_are_recorded_ones() -> None:
    """In verdicts and the findings' prose: of whichever figure, where ± is typed with them."""
    figures = [committed(scale, key) for scale in tables.SCALES for key in TEXTS]
    variants = json.loads((tables.RESULTS / "variants.json").read_text("utf-8"))["variants"]
    groups = [*filter(None, figures), *variants.values()]
    points = [point for group in groups for point in group.get("points", [])]
    recorded = {tables.mean(point) for point in points if "test_accuracy" in point}
    findings = (tables.ROOT / "docs/FINDINGS.md").read_text(encoding="utf-8")
    prose = " ".join(line for line in findings.splitlines() if not line.startswith("|"))
    verdicts = [row.get("why", "") for row in TEXTS.values()]
    typed = set(re.findall(r"0\.\d+ ± 0\.\d+", " ".join([prose, *verdicts])))
    assert len(typed) > 20
    assert typed <= recorded, typed - recorded


DOCUMENTS = [tables.ROOT / name for name in ("README.md", "CHANGELOG.md", "data/README.md")]
DOCUMENTS += sorted((tables.ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    places = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    gone = [place for place in places if not (document.parent / place).exists()]
    assert gone == []
    if document == tables.ROOT / "README.md":
        assert len(text.splitlines()) <= 150


def test_every_package_is_explained() -> None:
    text = (tables.ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    packages = {path.parent.name for path in (tables.ROOT / "stages/lib").glob("*/__init__.py")}
    assert packages <= set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))


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
