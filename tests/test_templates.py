"""The Vega-Lite templates and the HTML page that DVC fills in."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from stages.lib.plots import axes, marks

PLOTS = Path(__file__).parents[1] / ".dvc" / "plots"
CURVES = ["curves", "curves_log", "curves_symlog"]
TEMPLATES = [*CURVES, "heatmap", "learning"]
ANCHORS = {"DATA", "TITLE", "X", "Y", "X_LABEL", "Y_LABEL"}


def read(name: str) -> dict[str, Any]:
    template: dict[str, Any] = json.loads((PLOTS / f"{name}.json").read_text(encoding="utf-8"))
    return template


def page() -> str:
    return (PLOTS / "offline.html").read_text(encoding="utf-8")


def pick(value: Any, key: str) -> list[Any]:
    """Return what stands under ``key`` anywhere inside ``value``."""
    if isinstance(value, list):
        return [found for item in value for found in pick(item, key)]
    if not isinstance(value, dict):
        return []
    here = [value[key]] if key in value else []
    return here + [found for item in value.values() for found in pick(item, key)]


def test_every_template_is_tested() -> None:
    assert sorted(path.stem for path in PLOTS.glob("*.json")) == TEMPLATES


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_has_the_anchors_that_are_always_filled_and_tells_revisions(name: str) -> None:
    assert set(re.findall(r"<DVC_METRIC_(\w+)>", json.dumps(read(name)))) == ANCHORS
    assert "rev" in pick(read(name), "field")


def test_curves_differ_in_the_scale_of_x_only() -> None:
    specs = [read(name) for name in CURVES]
    xs = [spec["encoding"].pop("x") for spec in specs]
    assert [x["scale"].pop("type") for x in xs] == ["linear", "log", "symlog"]
    assert xs[2]["axis"].pop("values") == axes.SYMLOG_TICKS  # as in pictures
    for x in xs:
        x["scale"].pop("zero", None)
        x["axis"].pop("tickCount", None)
    assert xs[0] == xs[1] == xs[2]
    assert specs[0] == specs[1] == specs[2]


@pytest.mark.parametrize("name", [*CURVES, "learning"])
def test_series_look_as_in_pictures(name: str) -> None:
    template = read(name)
    (rule,) = [step for step in pick(template, "transform")[0] if step.get("as") == "colour"]
    networks = str(marks.NETWORKS)
    assert rule["calculate"] == (
        f"{marks.PALETTE}[indexof({networks}, datum.series) < 0"
        f" ? (datum.rank - 1) % {len(marks.PALETTE)} : indexof({networks}, datum.series)]"
    )
    # Vega-Lite takes the colours of a shared scale from its first layer, which may lack a series.
    scales = [color["scale"] for color in pick(template, "color") if color and "field" in color]
    assert scales == [None]
    assert len(pick(template, "stroke")) == 2  # the unseen layer of the legend, and the config
    # Whoever hovers over a mean is told of how many seeds it is.
    told = [pick(tooltip, "field") for tooltip in pick(template, "tooltip")]
    means = [fields for fields in told if "deviation" in fields]
    assert means
    assert all("counted" in fields for fields in means)
    # What diverged has one shape.
    crosses = re.findall(r"M-1,-1L1,1M-1,1L1,-1", json.dumps(template))
    assert len(crosses) == (1 if name == "learning" else 4)
    assert "some_diverged" in pick(template["params"], "name")


@pytest.mark.parametrize("name", [*CURVES, "heatmap"])
def test_caption_stands_under_the_title(name: str) -> None:
    template = read(name)
    assert template["title"]["subtitle"]["expr"].startswith("split(caption + ")
    assert template["data"]["name"] == "points"
    assert "pluck(data('points'), 'caption')" in pick(template["params"], "expr")
    below = "datum.status === 'below the grid'" in pick(template, "calculate")
    assert below == (name != "heatmap")  # told apart from what is above the grid


@pytest.mark.parametrize(("name", "field"), [("learning", "Y"), ("heatmap", "Y"), ("heatmap", "X")])
def test_templates_of_merged_lists_skip_rows_of_other_lists(name: str, field: str) -> None:
    # DVC joins all lists of one JSON file row by row: the longest list has rows without the others.
    filters = [rule for rule in pick(read(name), "filter") if isinstance(rule, str)]
    assert any(f"isValid(datum['<DVC_METRIC_{field}>'])" in rule for rule in filters)


def test_page_loads_nothing_and_holds_the_bundles_that_it_names() -> None:
    html = re.sub(r"(<script\b[^>]*>).*?</script>", r"\1", page(), flags=re.DOTALL)
    assert not re.findall(r"\b(?:src|href)\s*=", html)
    assert "default-src 'none'" in html
    anchors = [page().count(f"{{{name}}}") for name in ("plot_divs", "refresh_tag", "scripts")]
    assert anchors == [1, 1, 0]
    assert (PLOTS / "offline.html").stat().st_size < 1 << 20
    bundle = r'<script data-bundle="([^"@]+)@([^"]+)">(.*?)</script>'
    bundles = re.findall(bundle, page(), re.DOTALL)
    assert [name for name, _, _ in bundles] == ["vega", "vega-lite", "vega-embed"]
    for name, version, text in bundles:
        digest = hashlib.sha256(text.encode()).hexdigest()
        assert re.search(rf"^  {name} +{re.escape(version)}  {digest}$", page(), re.MULTILINE)


# --- what a browser draws

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def in_a_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test as slow, and leave it out where there is no browser."""
    return pytest.mark.slow(pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")(test))


SVG = "{http://www.w3.org/2000/svg}"
BOTTOM = 350  # where a mark of what has no value stands: ten pixels above the lower edge
BLUE, ORANGE, GREEN, RED = marks.PALETTE[:4]


@pytest.fixture
def render(tmp_path: Path) -> Callable[..., ElementTree.Element]:
    """Return what draws rows by a template in the offline page, as DVC would fill both."""

    def draw(name: str, rows: list[dict[str, Any]], x: str, y: str) -> ElementTree.Element:
        spec = (PLOTS / f"{name}.json").read_text(encoding="utf-8")
        filled = {"TITLE": "T", "X": x, "Y": y, "X_LABEL": x, "Y_LABEL": y}
        for anchor, value in filled.items():
            spec = spec.replace(f"<DVC_METRIC_{anchor}>", value)
        data = json.dumps([{"rev": "workspace"} | row for row in rows])
        spec = spec.replace('"<DVC_METRIC_DATA>"', data)
        plot = f'<div id="plot"></div><script>vegaEmbed("#plot", {spec})</script>'
        file = tmp_path / "page.html"
        file.write_text(page().replace("{plot_divs}", plot).replace("{refresh_tag}", ""))
        done = subprocess.run(
            [
                *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *(f"--user-data-dir={tmp_path}", "--host-resolver-rules=MAP * ~NOTFOUND"),
                *("--virtual-time-budget=8000", "--dump-dom", file.as_uri()),
            ],
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=True,
        )
        drawn = re.search(r'<svg[^>]*class="marks".*?</svg>', done.stdout, re.DOTALL)
        assert drawn, done.stdout[-2000:]
        return ElementTree.fromstring(drawn.group().replace("&nbsp;", " "))  # noqa: S314

    return draw


def shapes(svg: ElementTree.Element) -> list[dict[str, str]]:
    """Return the attributes of everything drawn but text."""
    drawn = [path.attrib for path in svg.iter(f"{SVG}path")]
    return [{"d": "", "stroke": "", "fill": "", "aria-label": ""} | path for path in drawn]


def crosses(svg: ElementTree.Element) -> list[tuple[str, float, float, str]]:
    """Return colour, place and label of each cross; the white edges below some are left out."""
    found = []
    for path in shapes(svg):
        outline = re.sub(r"[\d.]+", "#", path["d"])
        if outline == "M-#,-#L#,#M-#,#L#,-#" and path["stroke"] != "white":
            x, y = re.findall(r"[\d.]+", path["transform"])
            found.append((path["stroke"], float(x), float(y), path["aria-label"]))
    return found


def paths(svg: ElementTree.Element, kind: str, colour: str) -> list[str]:
    """Return the shapes of all lines or areas in a colour."""
    attribute = {"line": "stroke", "area": "fill"}[kind]
    drawn = [path for path in shapes(svg) if path.get("aria-roledescription") == f"{kind} mark"]
    return [path["d"] for path in drawn if path[attribute] == colour]


def texts(svg: ElementTree.Element) -> str:
    return " ".join("".join(text.itertext()) for text in svg.iter(f"{SVG}text"))


def row(series: str, x: float, y: float | None, **more: Any) -> dict[str, Any]:
    return {
        "series": series, "alpha": x, "test_accuracy": y, "sd": 0.01, "diverged": 0,
        "lo": None if y is None else y - 0.01, "hi": None if y is None else y + 0.01,
        "values": [y, y], "seeds_text": "2 seeds", "series_title": "network", "caption": "digits",
    } | more  # fmt: skip


def labels(svg: ElementTree.Element) -> list[str]:
    """Return what a reader is told who hovers over something."""
    return [path["aria-label"] for path in shapes(svg)]


SOME = {"diverged": 1, "sd": None, "lo": None, "hi": None, "values": [0.7, None]}
EVERY = {"diverged": 2, "sd": None, "lo": None, "hi": None, "values": [None, None]}


@in_a_browser
@pytest.mark.parametrize("name", ["curves", "curves_symlog"])
def test_some_and_all_diverged_are_told_apart(render: Any, name: str) -> None:
    svg = render(name, [row("a", 0, 0.9), row("a", 5, 0.8)], "alpha", "test_accuracy")
    assert crosses(svg) == []
    assert "×" not in texts(svg)
    assert any("seeds: 2 seeds" in label for label in labels(svg))
    assert "the band is ± one standard deviation" in texts(svg)
    some = "1 of 2 seeds; 1 diverged at lr 1"
    every = "0 of 2 seeds; all diverged at lr 0.5, 1"
    rows = [
        row("a", 0, 0.9), row("a", 2, 0.7, **SOME, seeds_text=some), row("a", 5, 0.6),
        row("b", 0, 0.9), row("b", 2, 0.8), row("b", 5, None, **EVERY, seeds_text=every),
        row("b", 10, 0.5), row("b", 20, 0.5),
    ]  # fmt: skip
    svg = render(name, rows, "alpha", "test_accuracy")
    on_the_point, at_the_bottom = crosses(svg)
    assert on_the_point[0] == BLUE
    assert on_the_point[2] < BOTTOM - 20
    assert some in on_the_point[3]
    assert "standard deviation: none" in on_the_point[3]
    assert (at_the_bottom[0], at_the_bottom[2]) == (ORANGE, BOTTOM)
    assert f"test_accuracy: diverged; seeds: {every}" in at_the_bottom[3]
    # The line is whole where a value is of fewer seeds, and broken where there is none.
    assert [shape.count("M") for shape in paths(svg, "line", BLUE)] == [1]
    assert [shape.count("M") for shape in paths(svg, "line", ORANGE)] == [2]
    # Bands reach from 0 to 2 and from 10 to 20; the points of series a have none beside them.
    (band,) = paths(svg, "area", ORANGE)
    assert band.count("M") == 2
    assert "× diverged: on a point, some seeds did and are left out" in texts(svg)
    assert "△" not in texts(svg)


@in_a_browser
def test_a_figure_of_nothing_but_diverged_points(render: Any) -> None:
    rows = [row(name, x, None, **EVERY) for name in ("0.5", "1") for x in (0, 5)]
    svg = render("curves", rows, "alpha", "test_accuracy")
    marks = sorted(crosses(svg), key=lambda mark: mark[1])
    assert [mark[0] for mark in marks] == [BLUE, ORANGE, BLUE, ORANGE]
    assert {mark[2] for mark in marks} == {BOTTOM}
    assert len({mark[1] for mark in marks}) == 4  # side by side
    assert "workspace" in texts(svg)
    assert "standard deviation" not in texts(svg)


@in_a_browser
def test_thresholds_that_diverged(render: Any) -> None:
    more = {"status": "reached"}
    rows = [
        row("0.80", 2, 500, **more), row("0.80", 5, 900, **SOME | more),
        row("0.80", 10, None, **EVERY, status="diverged"),
        row("0.90", 2, 1500, **more), row("0.90", 5, None, **SOME, status="not reached"),
        row("0.90", 10, None, **EVERY | {"diverged": 0}, status="not reached"),
    ]  # fmt: skip
    svg = render("curves", rows, "alpha", "test_accuracy")
    assert [(colour, y) for colour, _, y, _ in crosses(svg) if y in (BOTTOM, 24)] == [
        (BLUE, BOTTOM), (ORANGE, 24),
    ]  # fmt: skip
    assert len(crosses(svg)) == 3  # the third on a point
    assert "△ not reached" in texts(svg)
    assert sum("not reached with what was tried" in label for label in labels(svg)) == 3


@in_a_browser
def test_an_older_revision_is_drawn_beside(render: Any) -> None:
    new = [row("a", 0, 0.9), row("a", 5, None, **EVERY, seeds_text="0 of 2 seeds")]
    old = [row("a", x, 0.8) | {"rev": "main"} for x in (0, 5)]
    for line in old:
        for key in EVERY.keys() - {"values"} | {"seeds_text"}:
            del line[key]
    svg = render("curves", new + old, "alpha", "test_accuracy")
    assert [mark[0] for mark in crosses(svg)] == [BLUE]
    assert sum("seeds: 2 seeds" in label for label in labels(svg)) == 3
    assert "workspace" in texts(svg)
    assert "main" in texts(svg)


@in_a_browser
def test_a_diverged_run_ends_in_a_cross_and_is_in_no_mean(render: Any) -> None:
    def curve(rate: float, seed: int, *values: float | None) -> list[dict[str, Any]]:
        return [
            {
                "series": f"lr {rate:g}{' (diverged)' * (None in values)}", "learning_rate": rate,
                "seed": seed, "examples_seen": 100 * (i + 1), "val_accuracy": value,
                "diverged": value is None,
            }
            for i, value in enumerate(values)
        ]  # fmt: skip

    rows = [
        *curve(0.5, 0, 0.2, 0.4, 0.6), *curve(1, 0, 0.3, None, None),
        *curve(0.5, 1, 0.4, 0.6, 0.8), *curve(1, 1, 0.3, 0.5, 0.7),
        *curve(0.5, 2, None, None, None),
    ]  # fmt: skip
    svg = render("learning", rows, "examples_seen", "val_accuracy")
    marks = {colour: (x, label) for colour, x, y, label in crosses(svg) if y == BOTTOM}
    assert marks.keys() == {GREEN, RED}
    assert (marks[GREEN][0], marks[RED][0]) == (0, 310)  # the first evaluation, and the second of 3
    assert "seed: 2" in marks[GREEN][1]
    names = ("lr 0.5", "lr 1", "lr 0.5 (diverged)", "lr 1 (diverged)")
    assert all(name in texts(svg) for name in names)
    told = [label for label in labels(svg) if "standard deviation" in label]
    assert not any("(diverged)" in label for label in told)
    means = [label for label in told if "_seen: 300" in label]
    assert any("val_accuracy: 0.7" in m and "seeds: 2 of 3; 1 diverged" in m for m in means)
    assert any("deviation: none" in m and "seeds: 1 of 2; 1 diverged" in m for m in means)
    assert len(means) == 2
    assert "× diverged" in texts(svg)


@in_a_browser
def test_a_confusion_of_nothing_says_why(render: Any) -> None:
    cells = [
        {"true_class": i, "predicted": j, "count": 0, "fraction": 0.0}
        for i in range(2)
        for j in range(2)
    ]
    svg = render("heatmap", cells, "predicted", "true_class")
    assert "workspace: every seed diverged" in texts(svg)
    one = render("heatmap", [cell | {"fraction": 0.5} for cell in cells], "predicted", "true_class")
    assert "diverged" not in texts(one)
