"""The Vega-Lite templates and the HTML page that DVC fills in."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from stages.lib import pictures

PLOTS = Path(__file__).parents[1] / ".dvc" / "plots"
TEMPLATES = ["curves", "curves_symlog", "heatmap", "learning"]
ANCHORS = ["DATA", "TITLE", "X", "Y", "X_LABEL", "Y_LABEL"]


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


def quantitative_x(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the encodings of x that have a field: the others are places in pixels."""
    return [x for x in pick(spec, "x") if "field" in x]


def without_x_scale(value: Any) -> Any:
    """Return ``value`` with what only the x axis has taken out: its scale's type and its ticks."""
    if isinstance(value, list):
        return [without_x_scale(item) for item in value]
    if not isinstance(value, dict):
        return value
    copy = {key: without_x_scale(item) for key, item in value.items()}
    if "field" in copy.get("x", {}):
        copy["x"]["scale"].pop("type")
        copy["x"]["axis"].pop("values", None)
        copy["x"]["axis"].pop("tickCount", None)
    return copy


def test_every_template_is_tested() -> None:
    assert sorted(path.stem for path in PLOTS.glob("*.json")) == TEMPLATES


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_template_has_anchor(name: str, anchor: str) -> None:
    assert f"<DVC_METRIC_{anchor}>" in json.dumps(read(name))


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_knows_only_anchors_that_are_always_filled(name: str) -> None:
    found = set(re.findall(r"<DVC_METRIC_(\w+)>", json.dumps(read(name))))
    assert found == set(ANCHORS)


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_tells_revisions_apart(name: str) -> None:
    assert "rev" in pick(read(name), "field")


def test_curves_differ_in_the_scale_of_x_only() -> None:
    linear, symlog = read("curves"), read("curves_symlog")
    types = [{x["scale"]["type"] for x in quantitative_x(spec)} for spec in (linear, symlog)]
    assert types == [{"linear"}, {"symlog"}]
    assert without_x_scale(linear) == without_x_scale(symlog)


def test_curves_and_pictures_share_ticks() -> None:
    ticks = [x["axis"]["values"] for x in quantitative_x(read("curves_symlog"))]
    assert ticks == [pictures.SYMLOG_TICKS] * len(ticks)
    assert ticks


@pytest.mark.parametrize("name", ["curves", "curves_symlog", "learning"])
def test_templates_and_pictures_share_colours(name: str) -> None:
    (rule,) = [step for step in pick(read(name), "transform")[0] if step.get("as") == "colour"]
    networks = str(pictures.NETWORKS)
    assert rule["calculate"] == (
        f"{pictures.PALETTE}[indexof({networks}, datum.series) < 0"
        f" ? (datum.rank - 1) % {len(pictures.PALETTE)} : indexof({networks}, datum.series)]"
    )


@pytest.mark.parametrize("name", ["curves", "curves_symlog", "learning"])
def test_no_scale_of_colours_is_shared_by_layers(name: str) -> None:
    # Vega-Lite takes the colours of a shared scale from its first layer, which may lack a series.
    template = read(name)
    scales = [color["scale"] for color in pick(template, "color") if color and "field" in color]
    assert scales == [None]
    assert len(pick(template, "stroke")) == 2  # the unseen layer of the legend, and the config


@pytest.mark.parametrize("name", ["curves", "curves_symlog", "heatmap"])
def test_caption_stands_under_the_title(name: str) -> None:
    template = read(name)
    assert template["title"]["subtitle"]["expr"].startswith("split(caption + ")
    assert template["data"]["name"] == "points"
    assert "pluck(data('points'), 'caption')" in pick(template["params"], "expr")


def test_curves_tell_above_and_below_the_grid_apart() -> None:
    rules = pick(read("curves"), "calculate")
    assert "datum.status === 'below the grid'" in rules


@pytest.mark.parametrize(("name", "field"), [("learning", "Y"), ("heatmap", "Y"), ("heatmap", "X")])
def test_templates_of_merged_lists_skip_rows_of_other_lists(name: str, field: str) -> None:
    # DVC joins all lists of one JSON file row by row: the longest list has rows without the others.
    filters = [rule for rule in pick(read(name), "filter") if isinstance(rule, str)]
    assert any(f"isValid(datum['<DVC_METRIC_{field}>'])" in rule for rule in filters)


@pytest.mark.parametrize("placeholder", ["plot_divs", "refresh_tag"])
def test_page_has_placeholder_once(placeholder: str) -> None:
    assert page().count("{" + placeholder + "}") == 1


def test_page_has_no_place_for_scripts_from_a_network() -> None:
    assert "{scripts}" not in page()


def test_page_loads_nothing() -> None:
    html = re.sub(r"(<script\b[^>]*>).*?</script>", r"\1", page(), flags=re.DOTALL)
    assert not re.findall(r"\b(?:src|href)\s*=", html)
    assert "default-src 'none'" in html


def test_page_holds_the_bundles_that_it_names() -> None:
    bundles = re.findall(
        r'<script data-bundle="([^"@]+)@([^"]+)">(.*?)</script>', page(), re.DOTALL
    )
    assert [name for name, _, _ in bundles] == ["vega", "vega-lite", "vega-embed"]
    for name, version, text in bundles:
        digest = hashlib.sha256(text.encode()).hexdigest()
        assert re.search(rf"^  {name} +{re.escape(version)}  {digest}$", page(), re.MULTILINE)


@pytest.mark.parametrize("words", ["dvc plots diff", "dvc exp show", "Rolnick"])
def test_page_tells_a_newcomer(words: str) -> None:
    header = page().partition("<header>")[2].partition("</header>")[0]
    assert words in header


def test_page_is_less_than_a_mebibyte() -> None:
    assert (PLOTS / "offline.html").stat().st_size < 1 << 20
