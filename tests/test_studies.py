"""Figures and grids: what expands to which points, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.lib.config.params import Config
from stages.lib.config.yaml_files import ParamsError
from stages.lib.core.errors import UserError
from stages.lib.studies import grids
from stages.lib.studies.grids import Grid, needed_datasets, read_grid
from stages.lib.studies.registry import FIGURES

ROOT = Path(__file__).parents[1]
SCALES = sorted(file.stem for file in (ROOT / "scales").glob("*.yaml"))
EXPECTED = "expected_noisy_cross_entropy"
KEY, THRESHOLDS = "fig1_uniform_mnist", "fig9_critical_size"


@pytest.fixture
def grid(workspace: Path, content: Callable[..., dict[str, Any]]) -> Callable[..., Grid]:
    """Return a function that writes a scale with one figure, and reads its grid."""

    def read(
        blocks: Any, changes: dict[str, Any] | None = None, key: str = KEY, **more: Any
    ) -> Grid:
        whole = content(changes)
        entry = {name: whole[name] for name in grids.SECTIONS}
        scale = {"confusion": whole["confusion"], key: {**entry, "grids": blocks, **more}}
        (workspace / "scales").mkdir(exist_ok=True)
        (workspace / "scales" / "tiny.yaml").write_text(yaml.safe_dump(scale), encoding="utf-8")
        return read_grid("tiny", key)

    return read


def values(grid: Grid, section: str, key: str) -> list[Any]:
    return [getattr(getattr(point, section), key) for point in grid.points]


# --- grids


def test_a_block_expands_to_all_combinations_in_order(grid: Any) -> None:
    got = grid([{"model.name": ["perceptron", "mlp1"], "noise.alpha": [0, 1, 2]}])
    assert values(got, "model", "name") == ["perceptron"] * 3 + ["mlp1"] * 3
    assert values(got, "noise", "alpha") == [0, 1, 2] * 2
    assert values(got, "data", "originals") == [60] * 6
    assert got.targets == ()


def test_blocks_follow_each_other_and_points_that_repeat_are_one(grid: Any) -> None:
    got = grid([{"noise.alpha": [0, 1]}, {"noise.alpha": [1.0, 5], "train.batch_size": [16]}])
    assert values(got, "noise", "alpha") == [0, 1, 5]


def test_a_block_does_not_change_the_next_ones(grid: Any) -> None:
    got = grid([{"train.batch_size": [8]}, {"noise.alpha": [7]}])
    assert values(got, "train", "batch_size") == [8, 16]
    assert values(got, "noise", "alpha") == [2, 7]


def test_lists_are_values_too(grid: Any) -> None:
    got = grid([{"train.learning_rates": [[0.1], [0.5, 1.0]]}], key="fig12_learning_rate")
    assert values(got, "train", "learning_rates") == [(0.1,), (0.5, 1.0)]


@pytest.mark.parametrize(
    ("block", "differ"),
    [
        ({"model.width": [0.5, 1.0]}, "model.width"),
        ({"noise.alpha": [5], "train.rho": [0.9, 0.95], "train.seeds": [[3], [4]]}, None),
    ],
)
def test_two_points_at_one_place_of_a_curve_are_told(
    block: dict[str, Any], differ: str | None, grid: Any
) -> None:
    words = rf"{KEY}\.grids: got two points of series '\w+' at alpha = \d, which differ in "
    with pytest.raises(ParamsError, match=words + (differ or r"train\.\w+")):
        grid([block])


@pytest.mark.parametrize(
    ("grids", "words"),
    [
        (None, "grids: got None; accepted: a list of one or more blocks"),
        ([], r"grids: got \[\]; accepted: a list of one or more blocks"),
        ({"noise.alpha": [1]}, "accepted: a list of one or more blocks"),
        (["noise.alpha"], "accepted: blocks of SECTION.KEY"),
        ([{"noise.alpha": 1}], "accepted: blocks of SECTION.KEY"),
        ([{"noise.alpha": []}], "accepted: blocks of SECTION.KEY"),
        ([{"alpha": [1]}], r"grids.alpha: got \[1\]; accepted: SECTION.KEY of data, noise, model"),
        ([{"noise.": [1]}], "SECTION.KEY of data"),
        ([{"confusion.subset": [1]}], "SECTION.KEY of data"),
        ([{5: [1]}], r"grids\.5: got \[1\]; accepted: SECTION.KEY of data"),
        ([{None: [1], "noise.alpha": [1]}], r"grids\.None: got \[1\]; accepted: SECTION.KEY"),
        ([{"noise.\x1b[2J": [1]}], r"noise\.\\x1b\[2J: got 1; accepted: only the keys"),
        ([{"../x\n": [1]}], r"grids\.\.\./x: got \[1\]; accepted: SECTION.KEY"),
        ([{"noise.alpha.x": [1]}], r"noise\.alpha\.x: got 1; accepted: only the keys"),
        ([{"train.seeds": [[0] * 500]}], r"seeds: got \[0, .*\.\.\.; accepted: a list without"),
        (
            [{"noise.alpha": [*range(101)], "data.originals": [*range(100)]}],
            "grids: got 10100; accepted: blocks of at most 10000 points",
        ),
        (
            [{f"train.x{i}": [1, 2] for i in range(1000)}],
            "grids: got 107150.*; accepted: blocks of at most 10000 points",
        ),
        ([{"noise.aplha": [1]}], f"{KEY}.noise.aplha: got 1; accepted: only the keys kind"),
        ([{"noise.alpha": [1, -1]}], f"{KEY}.noise.alpha: got -1; accepted: a number"),
        ([{"data.originals": [60, 9999]}], f"{KEY}.data.originals: got 9999; accepted: at most"),
        ([{"train.batch_size": [1000]}], f"{KEY}.train.batch_size: got 1000; accepted: at most"),
    ],
)
def test_a_wrong_grid_is_told_in_one_line(grids: Any, words: str, grid: Any) -> None:
    with pytest.raises(ParamsError, match=words) as caught:
        grid(grids)
    assert str(caught.value).startswith("scales/tiny.yaml: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_wrong_section_of_a_figure_is_told(grid: Any) -> None:
    with pytest.raises(ParamsError, match=f"{KEY}.noise: got None; accepted: a mapping"):
        grid([{"noise.alpha": [1]}], {"noise": None})
    with pytest.raises(ParamsError, match=rf"{KEY}\.grid: got 1; accepted: only the keys"):
        grid([{"noise.alpha": [1]}], grid=1)


def test_a_figure_that_the_scale_has_not_is_told(grid: Any) -> None:
    grid([{"noise.alpha": [1]}])
    with pytest.raises(ParamsError, match="fig5_structured: got None; accepted: a mapping"):
        read_grid("tiny", "fig5_structured")


@pytest.mark.parametrize("key", ["fig99", "", "../x"])
def test_an_unknown_figure_lists_the_known_ones(key: str) -> None:
    with pytest.raises(UserError, match="accepted: fig1_uniform_mnist, fig2"):
        read_grid("tiny", key)


@pytest.mark.parametrize("scale", ["nosuch", "../quick", "/quick", "quick\n", "", "q" * 300])
def test_an_unknown_scale_is_told(scale: str, workspace: Path) -> None:
    with pytest.raises(ParamsError, match=r"no such file|accepted: a file|too long"):
        read_grid(scale, KEY)


# --- targets of figure 9


def test_targets_are_those_of_figure_9(grid: Any) -> None:
    assert grid([{"noise.alpha": [1]}], key=THRESHOLDS, targets=[0.5, 0.9]).targets == (0.5, 0.9)


@pytest.mark.parametrize("targets", [None, [], 0.5, [1.0], [0.0], [1], ["0.5"], [0.5, 2.0], [True],
                                     [0.5, 0.5], [float("nan")]])  # fmt: skip
def test_targets_are_accuracies(targets: Any, grid: Any) -> None:
    with pytest.raises(ParamsError, match=r"targets: got .*; accepted: a list of one"):
        grid([{"noise.alpha": [1]}], key=THRESHOLDS, targets=targets)


def test_only_figure_9_has_targets(grid: Any) -> None:
    with pytest.raises(ParamsError, match="targets: got 'nothing'"):
        grid([{"noise.alpha": [1]}], key=THRESHOLDS)
    with pytest.raises(ParamsError, match=r"targets: got .* accepted: only the keys"):
        grid([{"noise.alpha": [1]}], targets=[0.5])


# --- what a grid needs


@pytest.fixture
def grid_of(make_config: Any) -> Callable[..., Grid]:
    return lambda *changes: Grid(tuple(make_config(change) for change in changes))


def test_data_sets_of_originals_and_of_noise_are_needed(grid_of: Any) -> None:
    got = grid_of({}, {"noise.images": "mnist5k"}, {"noise.images": "white"}, {"data.size": None})
    assert needed_datasets(got.points) == {
        "digits": ("digits", None, None),
        "mnist5k-as-noise": ("mnist5k", None, None),
    }


def test_a_data_set_cannot_be_needed_in_two_sizes(grid_of: Any) -> None:
    with pytest.raises(UserError, match="digits: wanted with path and size"):
        needed_datasets(grid_of({"data.size": 8}, {"data.size": 10}).points)


def test_images_of_noise_do_not_depend_on_the_other_figures(grid_of: Any) -> None:
    """Shrunk for another figure first, they would be other images."""
    alone = grid_of({"noise.images": "mnist5k"})
    beside = grid_of({"data.name": "mnist5k", "data.size": 14}, {"noise.images": "mnist5k"})
    assert (
        needed_datasets(alone.points)["mnist5k-as-noise"]
        == needed_datasets(beside.points)["mnist5k-as-noise"]
    )


def test_structured_noise_needs_confusion(grid_of: Any) -> None:
    assert not grids.needs_confusion(grid_of({}))
    assert grids.needs_confusion(grid_of({}, {"noise.kind": "structured"}))


# --- what a figure says


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["mnist"], "Figure 1: uniform label noise, MNIST"),
        (["mnist5k"], "Figure 1: uniform label noise, 5,000 MNIST images (paper: MNIST)"),
        (
            ["mnist", "digits"],
            "Figure 1: uniform label noise, MNIST and scikit-learn's digits (paper: MNIST)",
        ),
    ],
)
def test_a_title_tells_substituted_data(names: list[str], title: str, grid_of: Any) -> None:
    got = grids.describe(KEY, "tiny", grid_of(*({"data.name": name} for name in names)))
    assert got["title"] == title
    assert (got["figure"], got["scale"], got["kind"]) == (KEY, "tiny", "curves")


@pytest.mark.parametrize(
    "words", ["images of 14x14; ", "α = 10; ", "n = 60 clean labels; ", "perceptron", "2 seeds"]
)
def test_a_subtitle_tells_what_all_points_share(words: str, grid_of: Any) -> None:
    shared = {
        "noise.kind": "structured", "noise.alpha": 10, "data.size": 14, "train.seeds": [0, 1],
    }  # fmt: skip
    grid = grid_of(*({**shared, "noise.delta": delta} for delta in (0.0, 0.5)))
    assert words in grids.describe("fig5_structured", "tiny", grid)["subtitle"]


LABELS = [
    ("fig1_uniform_mnist", {}, "perceptron"),
    ("fig4_noise_models", {}, "uniform"),
    (
        "fig4_noise_models",
        {
            "noise.kind": "structured",
            "noise.alpha": 10,
            "noise.delta": 0.5,
            "noise.order": "random",
        },
        "random, δ = 0.5",
    ),
    ("fig5_structured", {"noise.order": "reverse"}, "reverse"),
    ("fig6_sources", {}, "scikit-learn's digits, mislabeled"),
    ("fig6_sources", {"noise.images": "white"}, "white noise"),
    ("fig6_sources", {"noise.images": "cifar100"}, "CIFAR-100"),
    ("fig7_unique_images", {"noise.images": "unique"}, "unique images"),
    ("fig7_unique_images", {}, "repeated images"),
    ("fig8_training_size", {"noise.alpha": 0.5}, "α = 0.5"),
    ("fig11_batch_size", {}, "batch 16"),
    ("fig11_batch_size", {"train.loss": "expected_noisy_cross_entropy"}, "H_α (infinite batch)"),
    ("fig12_learning_rate", {"train.learning_rates": [0.05]}, "0.05"),
]


@pytest.mark.parametrize(("key", "changes", "label"), LABELS)
def test_series_are_named_by_what_is_varied(
    key: str, changes: dict[str, Any], label: str, make_config: Any
) -> None:
    assert FIGURES[key].series(make_config(changes)) == label


@pytest.mark.parametrize("key", FIGURES)
def test_figures_are_numbered_as_in_the_paper(key: str) -> None:
    figure = FIGURES[key]
    assert key.startswith(f"fig{figure.number}_")
    assert figure.kind in ("trained", "transitions", "thresholds")
    assert figure.x_scale in ("linear", "symlog")


# --- what is shipped


def shipped(scale: str, key: str) -> tuple[Config, ...]:
    return read_grid(scale, key).points


QUICK = [key for key in FIGURES if not key.endswith("_imagenet")]


@pytest.mark.parametrize("key", QUICK)
def test_every_figure_has_a_quick_grid(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert len(shipped("quick", key)) > 1


@pytest.mark.parametrize("key", QUICK)
def test_a_quick_figure_has_one_point_at_each_place_of_a_series(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    figure = FIGURES[key]
    places = [
        (figure.series(p), p.noise.alpha, p.noise.delta, p.data.originals)
        for p in shipped("quick", key)
    ]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("scale", SCALES)
def test_the_figures_of_a_scale_agree_on_their_data_sets(
    scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    _, content = grids.read_scale(scale)
    points = [point for key in FIGURES if key in content for point in shipped(scale, key)]
    assert needed_datasets(points)


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_holds_figures_and_confusion_only(
    scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    _, content = grids.read_scale(scale)
    assert set(content) - set(FIGURES) <= {"confusion"}


@pytest.mark.parametrize("scale", SCALES)
def test_a_stated_value_stands_beside_a_series_that_is_drawn(
    scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    _, content = grids.read_scale(scale)
    for key in FIGURES:
        if key in content and FIGURES[key].kind == "trained":
            drawn = {FIGURES[key].series(point) for point in shipped(scale, key)}
            if FIGURES[key].top5:
                drawn = {f"{series}, top-{k}" for series in drawn for k in (1, 5)}
            assert set(FIGURES[key].stated) <= drawn


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("fig55_typo", "fig55_typo"),
        ("../x", "../x"),
        ('"\\e[2J"', "\\x1b[2J"),
        ("5", "5"),
        ("[a]", None),
    ],
)
def test_an_unknown_figure_in_a_scale_is_told(key: str, shown: str | None, workspace: Path) -> None:
    (workspace / "scales").mkdir(exist_ok=True)
    (workspace / "scales" / "odd.yaml").write_text(f"{key}: {{}}\n", encoding="utf-8")
    words = f"{shown}: got {{}}; accepted: only the keys confusion" if shown else "a key is no"
    with pytest.raises(ParamsError, match=re.escape(words)):
        grids.read_grid("odd", "fig1_uniform_mnist")


# --- the paper's own grids, restated

MNIST_NETWORKS = {"perceptron", "mlp1", "mlp2", "conv2", "conv4"}
RATES = {(0.01, 0.05, 0.1, 0.5)}  # section 3.4
HELD_OUT = 5_000  # ours: the paper's 60,000 and 50,000 originals less these
IMAGENET_ORIGINALS = 1_250_000  # of 1,281,167, less 25,000 held out, and some to spare
#: figure -> what its points vary: a set of all values, or (first, last) of a range.
PAPER: dict[str, dict[str, Any]] = {
    "fig1_uniform_mnist": {
        "data.name": {"mnist"}, "noise.kind": {"uniform"}, "noise.images": {"same"},
        "model.name": MNIST_NETWORKS, "noise.alpha": (0, 100), "train.learning_rates": RATES,
        "data.originals": {60_000 - HELD_OUT}, "train.batch_size": {128},
    },
    "fig2_uniform_cifar10": {
        "data.name": {"cifar10"}, "noise.kind": {"uniform"}, "noise.images": {"same"},
        "model.name": {"conv4", "conv6", "resnet20"}, "noise.alpha": (0, 10),
        "train.learning_rates": RATES, "data.originals": {50_000 - HELD_OUT},
    },
    "fig3_uniform_imagenet": {
        "data.name": {"imagenet"}, "noise.kind": {"uniform"}, "noise.alpha": (0, 5),
        "model.name": {"resnet18", "resnet34", "resnet50", "resnet101"},
        "data.originals": {IMAGENET_ORIGINALS}, "train.learning_rates": RATES,
        "train.augmentation": {"resized_crop"}, "train.batch_size": {128},
    },
    "fig4_noise_models": {
        "data.name": {"mnist"}, "noise.kind": {"uniform", "structured"},
        "noise.order": {"confusing", "reverse", "random"},
    },
    "fig5_structured": {
        "data.name": {"mnist"}, "noise.kind": {"structured"}, "noise.alpha": {20},
        "noise.order": {"confusing", "reverse", "random"}, "noise.delta": (0.0, 1.0),
        "model.name": {"conv4"}, "train.learning_rates": RATES,
    },
    "fig6_sources": {
        "data.name": {"cifar10"}, "noise.images": {"same", "cifar100", "white"},
        "noise.alpha": (0, 10), "model.name": {"conv6"}, "train.learning_rates": RATES,
    },
    "fig7_unique_images": {
        "data.name": {"mnist"}, "data.originals": {2500}, "noise.images": {"same", "unique"},
        "noise.alpha": (0, 20), "train.learning_rates": RATES,
    },
    "fig8_training_size": {
        "data.name": {"mnist"}, "noise.alpha": {10, 20, 50, 100},
        "data.originals": (100, 60_000 - HELD_OUT), "train.learning_rates": RATES,
    },
    "fig9_critical_size": {
        "data.name": {"mnist"}, "noise.alpha": {10, 20, 50, 100},
        "data.originals": (100, 60_000 - HELD_OUT), "train.learning_rates": RATES,
    },
    "fig10_training_size_imagenet": {
        "data.name": {"imagenet"}, "model.name": {"resnet18"}, "noise.alpha": (0, 5),
        "data.originals": (25_000, IMAGENET_ORIGINALS), "train.learning_rates": RATES,
    },
    "fig11_batch_size": {
        "data.name": {"mnist"}, "model.name": {"conv2"}, "noise.alpha": (0, 100),
        "train.batch_size": {32, 64, 128, 256}, "train.loss": {"cross_entropy", EXPECTED},
    },
    "fig12_learning_rate": {
        "data.name": {"cifar10"}, "model.name": {"conv4"}, "noise.alpha": (0, 10),
        "train.learning_rates": {(rate,) for rate in (0.01, 0.05, 0.1, 0.5, 1.0)},
    },
}  # fmt: skip
LEAST_VALUES = 4  # of a range


def varied(grid: Grid, name: str) -> set[Any]:
    section, _, key = name.partition(".")
    return set(values(grid, section, key))


@pytest.mark.parametrize("key", FIGURES)
def test_the_grids_of_scale_paper_are_the_papers(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    grid = read_grid("paper", key)
    for name, wanted in PAPER[key].items():
        found = varied(grid, name)
        if isinstance(wanted, set):
            assert found == wanted, name
        else:
            assert (min(found), max(found), len(found) >= LEAST_VALUES) == (*wanted, True), name
    if key != "fig4_noise_models":  # which draws its labels once
        assert {len(seeds) >= 3 for seeds in varied(grid, "train.seeds")} == {True}
        assert varied(grid, "train.rho") == {0.95}
        assert varied(grid, "model.width") == {1.0}


def test_figures_8_and_9_share_their_points_and_9_has_the_papers_targets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert read_grid("paper", "fig8_training_size").points == read_grid("paper", THRESHOLDS).points
    targets = read_grid("paper", THRESHOLDS).targets
    assert (min(targets), max(targets), 0.9 in targets) == (0.8, 0.98, True)


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("fig11_batch_size", "train.batch_size", 128),
        ("fig11_batch_size", "train.loss", "expected_noisy_cross_entropy"),
        ("fig8_training_size", "noise.alpha", 100),
        ("fig6_sources", "noise.images", "cifar100"),
        ("fig5_structured", "noise.order", "random"),
        ("fig1_uniform_mnist", "model.name", "perceptron"),
    ],
)
def test_each_curve_of_the_paper_has_the_whole_range(
    key: str, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grid of several blocks might give a curve to some of the abscissas only."""
    monkeypatch.chdir(ROOT)
    grid, x = read_grid("paper", key), "noise.alpha"
    if key in ("fig8_training_size", "fig5_structured"):
        x = {"fig8_training_size": "data.originals", "fig5_structured": "noise.delta"}[key]
    section, _, rest = name.partition(".")
    curve = [point for point in grid.points if getattr(getattr(point, section), rest) == value]
    assert varied(Grid(tuple(curve)), x) == varied(grid, x)
