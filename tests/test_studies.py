"""Studies and their grids: what they show, what expands to which points, what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.lib.config.yaml_files import ParamsError
from stages.lib.core.errors import UserError
from stages.lib.studies import grids, registry
from stages.lib.studies.grids import Grid, needed_datasets, read_grid
from stages.lib.studies.registry import read_study

ROOT = Path(__file__).parents[1]
SCALES = sorted(file.stem for file in (ROOT / "scales").glob("*.yaml"))
PAPERS = [key for key in registry.known() if key.startswith("fig")]
EXPECTED = "expected_noisy_cross_entropy"
KEY, THRESHOLDS = "fig1_uniform_mnist", "fig9_critical_size"


@pytest.fixture
def grid(workspace: Path, content: Callable[..., dict[str, Any]]) -> Callable[..., Grid]:
    """Return a function that writes a scale with one study, and reads its grid."""

    def read(blocks: Any, changes: Any = None, key: str = KEY, **more: Any) -> Grid:
        whole = content(changes)
        entry = {name: whole[name] for name in grids.SECTIONS}
        scale = {"defaults": {}, "confusion": whole["confusion"]}
        scale[key] = {**entry, "grids": blocks, **more}
        (workspace / "scales").mkdir(exist_ok=True)
        (workspace / "scales" / "tiny.yaml").write_text(yaml.safe_dump(scale), encoding="utf-8")
        return read_grid("tiny", key)

    return read


@pytest.fixture
def grid_of(make_config: Any) -> Callable[..., Grid]:
    """Return a function that makes a grid of configs with some values changed."""

    def make(*changes: dict[str, Any], key: str = KEY) -> Grid:
        return Grid("tiny", key, read_study(key), tuple(make_config(change) for change in changes))

    return make


def values(grid: Grid, name: str) -> list[Any]:
    return [registry.flat(point)[name] for point in grid.points]


# --- studies


def test_the_papers_studies_say_what_the_paper_does_in_its_order() -> None:
    studies = [read_study(key) for key in PAPERS]
    assert [study.number for study in studies] == [*range(1, 13)]
    assert all(key.startswith(f"fig{s.number}_") for key, s in zip(PAPERS, studies, strict=True))
    assert all(study.claim and study.dataset in registry.TITLES.values() for study in studies)


OWN = {
    "topic": "accuracy against epochs", "series": "{model.name}, {train.seeds}",
    "series_title": "network", "x": "train.epochs", "x_title": "epochs", "x_scale": "log",
}  # fmt: skip


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., registry.Study]:
    """Return a function that writes a study of one's own, with changes, and reads it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()

    def read(changes: dict[Any, Any] | None = None) -> registry.Study:
        content = {key: v for key, v in (OWN | (changes or {})).items() if v is not None}
        Path("studies/own.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return read_study("own")

    return read


def test_a_study_of_ones_own_is_six_lines(own: Any, make_config: Any) -> None:
    study = own()
    config = make_config({"train.epochs": 2.5, "train.seeds": [3, 5]})
    assert registry.known() == ["own"]
    assert study.place_of(config) == {
        "series": "perceptron, 3, 5", "alpha": 2, "delta": 0, "originals": 60, "batch_size": 16,
        "epochs": 2.5,
    }  # fmt: skip
    grid = Grid("tiny", "own", study, (config, make_config()))
    about = grids.describe(grid)
    assert about["title"] == "accuracy against epochs, scikit-learn's digits"
    assert (about["x"], about["y"], about["paper"]) == ("epochs", "test_accuracy", None)
    assert about["caption"].endswith(
        "clean labels; α = 2; perceptron at 1 of full width; 1 or 2 seeds"
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"topic": None}, "topic: got 'nothing'; accepted: a non-empty text"),
        ({"topic": "a\nb"}, r"topic: got 'a\\nb'; accepted: a non-empty text without control"),
        ({"colour": "red"}, "colour: got 'red'; accepted: only the keys topic"),
        ({5: 1}, "5: got 1; accepted: only the keys"),
        ({"kind": "pie"}, "kind: got 'pie'; accepted: one of trained, transitions, thresholds"),
        ({"kind": ["trained"]}, r"kind: got \['trained'\]; accepted: one of trained"),
        ({"x_scale": "sqrt"}, "x_scale: got 'sqrt'; accepted: one of linear, symlog, log"),
        ({"x": "train.epoch"}, "x: got 'train.epoch'; accepted: one of data.orig"),
        ({"x": "model.name"}, "x: got 'model.name'; accepted: one of"),
        ({"x": "train.zero_output"}, "x: got 'train.zero_output'; accepted: one of"),
        ({"kind": "transitions"}, "x: got 'train.epochs'; accepted: one of label"),
        ({"kind": "thresholds", "x": "data.originals"}, "x: got .*; accepted: one of data.val"),
        ({"kind": "thresholds"}, "y: got 'test_accuracy'; accepted: critical_size where kind is"),
        ({"y": "loss"}, "y: got 'loss'; accepted: test_accuracy where kind is trained"),
        ({"series": 5}, "series: got 5; accepted: a text in which {section.key}"),
        *(
            ({"series": "{" + field}, "series: got '{")
            for field in ("model}", "model.name", "}", "model.name!r}", "model.name.__class__}",
                          "model.name:g}", "noise.alpha:99999999d}")
        ),
        ({"series_where": {"noise.kin": {"uniform": "u"}}}, "series_where: got .*; accepted"),
        ({"series_where": {"noise.kind": "uniform"}}, "series_where: got .*; accepted"),
        ({"series_where": {"noise.kind": {"uniform": "{x}"}}}, "series_where: got .*; accepted"),
        ({"top5": "yes"}, "top5: got 'yes'; accepted: true or false"),
        ({"number": 0}, "number: got 0; accepted: null or a whole number from 1"),
        ({"stated": {"a": [{"x": 1, "y": 2}]}}, r"stated: got .*; accepted: series: \[{x: number"),
        ({"stated": {"a": [{"x": True, "y": 2, "text": "t"}]}}, "stated: got"),
        ({"stated": {"a": {"x": 1, "y": 2, "text": "t"}}}, "stated: got"),
    ],
)  # fmt: skip
def test_a_wrong_study_is_told_in_one_line(changes: Any, told: str, own: Any) -> None:
    with pytest.raises(ParamsError, match=f"^studies/own.yaml: {told}") as caught:
        own(changes)
    assert str(caught.value).isprintable()


LABELS: list[tuple[str, dict[str, Any], str]] = [
    ("fig1_uniform_mnist", {}, "perceptron"),
    ("fig4_noise_models", {}, "uniform"),
    (
        "fig4_noise_models",
        {"noise.kind": "structured", "noise.delta": 0.1, "noise.order": "random"},
        "random, δ = 0.1",
    ),
    ("fig5_structured", {"noise.order": "reverse"}, "reverse"),
    ("fig6_sources", {}, "scikit-learn's digits, mislabeled"),
    ("fig6_sources", {"noise.images": "white"}, "white noise"),
    ("fig6_sources", {"noise.images": "cifar100"}, "CIFAR-100"),
    ("fig7_unique_images", {"noise.images": "unique"}, "unique images"),
    ("fig7_unique_images", {}, "repeated images"),
    ("fig8_training_size", {"noise.alpha": 0.5}, "α = 0.5"),
    ("fig11_batch_size", {}, "batch 16"),
    ("fig11_batch_size", {"train.loss": EXPECTED}, "H_α (infinite batch)"),
    ("fig12_learning_rate", {"train.learning_rates": [0.05, 1.0]}, "0.05, 1"),
]


@pytest.mark.parametrize(("key", "changes", "label"), LABELS)
def test_series_are_named_by_what_is_varied(
    key: str, changes: dict[str, Any], label: str, make_config: Any
) -> None:
    assert read_study(key).series_of(make_config(changes)) == label


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["mnist"], "MNIST"),
        (["mnist5k"], "5,000 MNIST images (paper: MNIST)"),
        (["mnist", "digits"], "MNIST and scikit-learn's digits (paper: MNIST)"),
    ],
)
def test_a_title_tells_substituted_data(names: list[str], title: str, grid_of: Any) -> None:
    got = grids.describe(grid_of(*({"data.name": name} for name in names)))
    assert got["title"] == f"Figure 1: uniform label noise, {title}"
    assert (got["figure"], got["scale"], got["kind"]) == (KEY, "tiny", "curves")


def test_a_subtitle_tells_what_all_points_share(grid_of: Any) -> None:
    shared = {"noise.kind": "structured", "noise.alpha": 10, "data.size": 14, "train.seeds": [0, 1]}
    grid = grid_of(*({**shared, "noise.delta": d} for d in (0.0, 0.5)), key="fig5_structured")
    assert grids.describe(grid)["subtitle"] == (
        "images of 14x14; n = 60 clean labels; α = 10; perceptron at 1 of full width; 2 seeds"
    )


# --- grids


def test_blocks_expand_to_all_combinations_in_order_and_points_that_repeat_are_one(
    grid: Any,
) -> None:
    got = grid([{"model.name": ["perceptron", "mlp1"], "noise.alpha": [0, 1, 2]}])
    assert values(got, "model.name") == ["perceptron"] * 3 + ["mlp1"] * 3
    assert values(got, "noise.alpha") == [0, 1, 2] * 2
    assert values(got, "data.originals") == [60] * 6
    assert got.targets == ()
    got = grid([{"noise.alpha": [0, 1]}, {"noise.alpha": [1.0, 5]}, {"train.batch_size": [8]}])
    assert values(got, "noise.alpha") == [0, 1, 5, 2]
    assert values(got, "train.batch_size") == [16, 16, 16, 8]
    got = grid([{"train.learning_rates": [[0.1], [0.5, 1.0]]}], key="fig12_learning_rate")
    assert values(got, "train.learning_rates") == [(0.1,), (0.5, 1.0)]


@pytest.mark.parametrize(
    ("block", "differ", "more"),
    [
        ({"model.width": [0.5, 1.0]}, r"model\.width", {}),
        ({"noise.alpha": [2], "train.rho": [0.9, 0.95]}, r"train\.rho", {}),
        (  # a threshold is made of one curve
            {"model.name": ["perceptron", "mlp1"], "data.originals": [30, 60]}, r"model\.name",
            {"key": THRESHOLDS, "targets": [0.5]},
        ),
    ],
)  # fmt: skip
def test_two_points_at_one_place_of_a_curve_are_told(
    block: dict[str, Any], differ: str, more: dict[str, Any], grid: Any
) -> None:
    key = more.get("key", KEY)
    words = rf"{key}\.grids: got two points of series '.+' at alpha = 2, which differ in {differ};"
    with pytest.raises(ParamsError, match=words):
        grid([block], **more)


NOTED = {"train.memorisation": [True]}


def test_a_baseline_is_a_series_of_the_grid(grid: Any) -> None:
    arms = [{"train.targets": ["labels", "aggregated"], "noise.alpha": [0, 5]}]
    (arm, _, other, _) = grid(arms, key="methods_alpha").points
    assert read_study("methods_alpha").baseline_of(other) == "perceptron: labels"
    assert read_study("methods_alpha").series_of(arm) == "perceptron: labels"
    with pytest.raises(
        ParamsError, match=r"baseline: got 'perceptron: labels'; accepted: a series"
    ):
        grid([{"train.targets": ["aggregated"]}], key="methods_alpha")
    with pytest.raises(ParamsError, match=r"two points of series 'α = 2, labels', which differ in"):
        grid([{**NOTED, "model.width": [0.5, 1.0]}], key="memorisation")
    with pytest.raises(ParamsError, match=r"memorisation: got False; accepted: true where"):
        grid([{"model.width": [0.5]}], key="memorisation")


def test_a_log_scale_begins_above_zero(own: Any, content: Any) -> None:
    own({"x": "noise.alpha"})
    entry = {name: content()[name] for name in grids.SECTIONS}
    Path("scales").mkdir()
    text = yaml.safe_dump({"defaults": {}, "own": {**entry, "grids": [{"noise.alpha": [1, 0]}]}})
    Path("scales/tiny.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match=r"noise\.alpha: got 0\.0; accepted: above 0 on"):
        read_grid("tiny", "own")


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
        ([{None: [1], "noise.alpha": [1]}], r"grids\.None: got \[1\]; accepted: SECTION.KEY"),
        ([{"noise.\x1b[2J": [1]}], r"noise\.\\x1b\[2J: got 1; accepted: only the keys"),
        ([{"noise.alpha.x": [1]}], r"noise\.alpha\.x: got 1; accepted: only the keys"),
        ([{"train.seeds": [[0] * 500]}], r"seeds: got \[0, .*\.\.\.; accepted: a list without"),
        (
            [{f"train.x{i}": [1, 2] for i in range(1000)}],
            "grids: got 107150.*; accepted: blocks of at most 10000 points",
        ),
        ([{"noise.alpha": [1, -1]}], f"{KEY}.noise.alpha: got -1; accepted: a number"),
        ([{"data.originals": [60, 9999]}], f"{KEY}.data.originals: got 9999; accepted: at most"),
    ],
)
def test_a_wrong_grid_is_told_in_one_line(grids: Any, words: str, grid: Any) -> None:
    with pytest.raises(ParamsError, match=words) as caught:
        grid(grids)
    assert str(caught.value).startswith("scales/tiny.yaml: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_wrong_entry_of_a_scale_is_told(grid: Any) -> None:
    good = [{"noise.alpha": [1]}]
    with pytest.raises(ParamsError, match=f"{KEY}.noise: got None; accepted: a mapping"):
        grid(good, {"noise": None})
    with pytest.raises(ParamsError, match=rf"{KEY}\.grid: got 1; accepted: only the keys"):
        grid(good, grid=1)
    with pytest.raises(ParamsError, match=r"targets: got .* accepted: only the keys"):
        grid(good, targets=[0.5])
    with pytest.raises(ParamsError, match="targets: got 'nothing'"):
        grid(good, key=THRESHOLDS)
    assert grid(good, key=THRESHOLDS, targets=[0.5, 0.9]).targets == (0.5, 0.9)
    with pytest.raises(ParamsError, match="fig5_structured: got None; accepted: a mapping"):
        read_grid("tiny", "fig5_structured")


@pytest.mark.parametrize("key", ["fig99", "", "../x"])
def test_an_unknown_study_lists_the_known_ones(key: str) -> None:
    with pytest.raises(UserError, match="accepted: fig1_uniform_mnist, fig2"):
        read_grid("tiny", key)


@pytest.mark.parametrize("scale", ["nosuch", "../quick", "/quick", "quick\n", "", "q" * 300])
def test_an_unknown_scale_is_told(scale: str, workspace: Path) -> None:
    with pytest.raises(ParamsError, match=r"no such file|accepted: a file|too long"):
        read_grid(scale, KEY)


@pytest.mark.parametrize(
    ("key", "shown"), [("fig55", "fig55"), ("../x", "../x"), ('"\\e[2J"', "\\x1b[2J"), ("5", "5")]
)
def test_an_unknown_study_in_a_scale_is_told(key: str, shown: str, workspace: Path) -> None:
    (workspace / "scales").mkdir()
    (workspace / "scales" / "odd.yaml").write_text(f"{key}: {{}}\n", encoding="utf-8")
    words = f"{shown}: got {{}}; accepted: only the keys defaults, confusion"
    with pytest.raises(ParamsError, match=re.escape(words)):
        read_grid("odd", KEY)


@pytest.mark.parametrize("targets", [None, [], 0.5, [1.0], [0.0], [1], ["0.5"], [0.5, 2.0], [True],
                                     [0.5, 0.5], [float("nan")]])  # fmt: skip
def test_targets_are_accuracies(targets: Any, grid: Any) -> None:
    with pytest.raises(ParamsError, match=r"targets: got .*; accepted: a list of one"):
        grid([{"noise.alpha": [1]}], key=THRESHOLDS, targets=targets)


# --- what a grid needs


def test_data_sets_of_originals_and_of_noise_are_needed(grid_of: Any) -> None:
    got = grid_of({}, {"noise.images": "mnist5k"}, {"noise.images": "white"}, {"data.size": None})
    assert needed_datasets(got.points) == {
        "digits": ("digits", None, None),
        "mnist5k-as-noise": ("mnist5k", None, None),
    }
    with pytest.raises(UserError, match="digits: wanted with path and size"):
        needed_datasets(grid_of({"data.size": 8}, {"data.size": 10}).points)
    # Images of noise do not depend on other figures: shrunk for one first, they would be others.
    beside = grid_of({"data.name": "mnist5k", "data.size": 14}, {"noise.images": "mnist5k"})
    assert needed_datasets(beside.points)["mnist5k-as-noise"] == ("mnist5k", None, None)


def test_structured_noise_needs_confusion(grid_of: Any) -> None:
    assert not grids.needs_confusion(grid_of({}))
    assert grids.needs_confusion(grid_of({}, {"noise.kind": "structured"}))


# --- what is shipped


@pytest.mark.parametrize("scale", SCALES)
def test_the_grids_of_a_scale_fit_each_other_and_what_is_stated(scale: str) -> None:
    _, content = grids.read_scale(scale)
    shipped = [read_grid(scale, key) for key in content if key not in ("confusion", "defaults")]
    assert needed_datasets([point for grid in shipped for point in grid.points])
    for grid in shipped:
        assert len(grid.points) > 1
        drawn = {grid.study.series_of(point) for point in grid.points}
        if grid.study.top5:
            drawn = {f"{series}, top-{k}" for series in drawn for k in (1, 5)}
        if grid.study.kind == "trained":
            assert set(grid.study.stated) <= drawn


# --- the paper's own grids, restated

MNIST_NETWORKS = {"perceptron", "mlp1", "mlp2", "conv2", "conv4"}
HELD_OUT = 5_000  # ours: the paper's 60,000 and 50,000 originals less these
IMAGENET_ORIGINALS = 1_250_000  # of 1,281,167, less 25,000 held out, and some to spare
TRAINED = {"train.learning_rates": {(0.01, 0.05, 0.1, 0.5)}}  # section 3.4
MNIST, CIFAR, IMAGENET = (
    {**TRAINED, "data.name": {name}} for name in ("mnist", "cifar10", "imagenet")
)
UNIFORM = {"noise.kind": {"uniform"}}
SIZES = {"noise.alpha": {10, 20, 50, 100}, "data.originals": (100, 60_000 - HELD_OUT)}
STRUCTURED = {"noise.order": {"confusing", "reverse", "random"}}
#: figure -> what its points vary: a set of all values, or (first, last) of a range.
PAPER: dict[str, dict[str, Any]] = {
    "fig1_uniform_mnist": {
        **MNIST, **UNIFORM, "noise.images": {"same"}, "noise.alpha": (0, 100),
        "model.name": MNIST_NETWORKS, "data.originals": {60_000 - HELD_OUT},
        "train.batch_size": {128},
    },
    "fig2_uniform_cifar10": {
        **CIFAR, **UNIFORM, "noise.images": {"same"}, "noise.alpha": (0, 10),
        "model.name": {"conv4", "conv6", "resnet20"}, "data.originals": {50_000 - HELD_OUT},
    },
    "fig3_uniform_imagenet": {
        **IMAGENET, **UNIFORM, "noise.alpha": (0, 5),
        "model.name": {"resnet18", "resnet34", "resnet50", "resnet101"},
        "data.originals": {IMAGENET_ORIGINALS}, "train.augmentation": {"resized_crop"},
        "train.batch_size": {128},
    },
    "fig4_noise_models": {
        **STRUCTURED, "data.name": {"mnist"}, "noise.kind": {"uniform", "structured"},
    },
    "fig5_structured": {
        **MNIST, **STRUCTURED, "noise.kind": {"structured"}, "noise.alpha": {20},
        "noise.delta": (0.0, 1.0), "model.name": {"conv4"},
    },
    "fig6_sources": {
        **CIFAR, "noise.images": {"same", "cifar100", "white"}, "noise.alpha": (0, 10),
        "model.name": {"conv6"},
    },
    "fig7_unique_images": {
        **MNIST, "data.originals": {2500}, "noise.images": {"same", "unique"},
        "noise.alpha": (0, 20),
    },
    "fig8_training_size": MNIST | SIZES,
    "fig9_critical_size": MNIST | SIZES,
    "fig10_training_size_imagenet": {
        **IMAGENET, "model.name": {"resnet18"}, "noise.alpha": (0, 5),
        "data.originals": (25_000, IMAGENET_ORIGINALS),
    },
    "fig11_batch_size": {
        **MNIST, "model.name": {"conv2"}, "noise.alpha": (0, 100),
        "train.batch_size": {32, 64, 128, 256}, "train.loss": {"cross_entropy", EXPECTED},
    },
    "fig12_learning_rate": {
        **CIFAR, "model.name": {"conv4"}, "noise.alpha": (0, 10),
        "train.learning_rates": {(rate,) for rate in (0.01, 0.05, 0.1, 0.5, 1.0)},
    },
}  # fmt: skip
LEAST_VALUES = 4  # of a range


@pytest.mark.parametrize("key", PAPERS)
def test_the_grids_of_scale_paper_are_the_papers(key: str) -> None:
    grid = read_grid("paper", key)
    for name, wanted in PAPER[key].items():
        found = set(values(grid, name))
        if isinstance(wanted, set):
            assert found == wanted, name
        else:
            assert (min(found), max(found), len(found) >= LEAST_VALUES) == (*wanted, True), name
    if key != "fig4_noise_models":  # which draws its labels once
        assert min(map(len, values(grid, "train.seeds"))) >= 3
        assert set(values(grid, "train.rho")) == {0.95}
        assert set(values(grid, "model.width")) == {1.0}
    if grid.study.kind == "trained":  # each curve has the whole range, whatever block it is of
        curves: dict[str, set[Any]] = {}
        for point, x in zip(grid.points, values(grid, grid.study.x), strict=True):
            curves.setdefault(grid.study.series_of(point), set()).add(x)
        assert all(xs == set(values(grid, grid.study.x)) for xs in curves.values())


def test_figures_8_and_9_share_their_points_and_9_has_the_papers_targets() -> None:
    grid = read_grid("paper", THRESHOLDS)
    assert grid.points == read_grid("paper", "fig8_training_size").points
    targets = grid.targets
    assert (min(targets), max(targets), 0.9 in targets) == (0.8, 0.98, True)
