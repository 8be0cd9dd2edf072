"""Parameters: what is accepted, and the one line that tells what is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dvc.utils.serialize import parse_yaml

from stages.lib.config import checks, params, reading
from stages.lib.config.reading import read_params
from stages.lib.config.yaml_files import ParamsError, read_yaml
from stages.lib.core import paths
from stages.lib.core.fields import OneOf, types_of
from stages.lib.noise.transitions import structured_transition
from stages.lib.studies import grids, registry

ROOT = Path(__file__).parents[1]
Content = Callable[..., dict[str, Any]]
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def write(workspace: Path, content: Content) -> Callable[..., Path]:
    """Return a writer of ``params.yaml``, beside the one scale that it names."""
    (workspace / "scales").mkdir()
    (workspace / "scales" / "tiny.yaml").write_text(
        "confusion: {}\nfig1_uniform_mnist: {}\na: {}\n", encoding="utf-8"
    )

    def write(changes: dict[str, Any] | None = None, text: str | None = None) -> Path:
        written = yaml.safe_dump(content(changes)) if text is None else text
        paths.PARAMS.write_text(written, encoding="utf-8")
        return paths.PARAMS

    return write


def error_of(file: Path) -> str:
    """Return the message of the error that reading a file raises: a single line."""
    with pytest.raises(ParamsError) as caught:
        read_params(file)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("params.yaml: ")
    return message


# --- single values

NOT_NUMBERS = [None, True, "0.5", [1], NAN, INF]
NOT_FRACTIONS = [*NOT_NUMBERS, -0.1, 1.1]
NOT_WIDTHS = [*NOT_NUMBERS, 0, -0.1, 65]
NOT_FLOAT32 = [*NOT_NUMBERS, 0, -0.1, 1e-50, 1e39]  # which torch would take for 0 or infinite
NOT_COUNTS = [True, "1", 1.0, 2**31, -1]
NOT_SIZES = [*NOT_COUNTS, 0]
NOT_BOOLEAN = [None, 1, "true"]
NOT_NAMES = [None, 1, "Conv4", ["uniform"]]
NOT_LISTS = [None, 0.5, []]

BAD: dict[str, list[Any]] = {
    **dict.fromkeys(
        ("data.name", "noise.kind", "noise.order", "model.name", "train.loss", "train.init",
         "train.targets", "train.transition", "train.optimizer", "train.schedule",
         "train.averaging", "train.recipe", "train.method", "train.cleaning",
         "confusion.model"), NOT_NAMES),
    **dict.fromkeys(
        ("noise.delta", "train.rho", "train.momentum", "train.beta1", "train.beta2", "train.warmup",
         "train.weight_decay", "train.average", "train.ema_decay", "train.smoothing"),
        NOT_FRACTIONS),
    "train.q": [*NOT_FRACTIONS, 0],
    **dict.fromkeys(("model.width", "confusion.width"), NOT_WIDTHS),
    **dict.fromkeys(("train.epsilon", "confusion.learning_rate"), NOT_FLOAT32),
    **dict.fromkeys(("data.validation", "train.min_samples"), NOT_COUNTS),
    **dict.fromkeys(
        ("data.originals", "train.batch_size", "confusion.subset", "confusion.held_out",
         "confusion.batch_size", "confusion.min_samples"), NOT_SIZES),
    **dict.fromkeys(
        ("model.batch_norm", "train.zero_output", "train.early_stopping", "train.memorisation",
         "train.recompute_batch_norm"), NOT_BOOLEAN),
    "data.path": ["", True, ["a"], "a\0b", "a\nb", "\x1b[2J", "\ud800", "a\u2028b"],
    "data.size": [3, 1025, 8.0, "8", True, [8]],
    "noise.alpha": [*NOT_NUMBERS, -1e-9, 1e7],
    "noise.images": [*NOT_NAMES, "folder", "original"],
    "train.learning_rates": [*NOT_LISTS, [1, 1.0], [0], [NAN], ["0.5"], [True], [0.5, 1e-50]],
    "train.epochs": [*NOT_NUMBERS, -1, 1e7],
    "train.augmentation": [*NOT_NAMES, "flip"],
    "train.seeds": [*NOT_LISTS, [0, 0], [-1], [0.0], [True], [2**31]],
    "train.folds": [*NOT_COUNTS, 0, 1, 101],
    "train.device": [*NOT_NAMES, "gpu"],
    "train.precision": [*NOT_NAMES, "float16"],
    "train.stacking": [*NOT_NAMES, "vmap", False],
    "confusion.repeats": [*NOT_COUNTS, 0, 1001],
}  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value"), [(place, value) for place, values in BAD.items() for value in values]
)
def test_a_bad_value_is_told_in_one_line(
    place: str, value: Any, write: Callable[..., Path]
) -> None:
    message = error_of(write({place: value}))
    assert message.startswith(f"params.yaml: {place}: got {value!r}; accepted: ")
    assert not message.endswith("accepted: ")


def test_every_key_of_every_section_has_bad_values_above() -> None:
    kinds = params.SECTIONS.items()
    assert set(BAD) == {f"{name}.{key}" for name, kind in kinds for key in types_of(kind)}


@pytest.mark.parametrize("place", BAD)
def test_a_missing_key_has_its_default(place: str, content: Content) -> None:
    """Where it was: the other sections' checks may not fit it."""
    section, key = place.split(".")
    whole, kind = content()[section], params.SECTIONS[section]
    whole.pop(key, None)
    read = reading.parse_section(kind, whole, Path("params.yaml"), section)
    assert getattr(read, key) == getattr(kind(), key)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("train.passes", 1, "train.passes: got 1; accepted: epochs, its new name"),
        ("train.min_examples", 1, "train.min_examples: got 1; accepted: min_samples, its new"),
        ("confusion.min_examples", 1, "got 1; accepted: min_samples, its new name"),
        ("noise.passes", 1, "noise.passes: got 1; accepted: only the keys "),
        ("train.loss", "noisy_loss", "accepted: expected_noisy_cross_entropy, its new name"),
    ],
)
def test_an_old_name_is_told_its_new_one(
    place: str, value: Any, words: str, write: Callable[..., Path]
) -> None:
    assert words in error_of(write({place: value}))


@pytest.mark.parametrize("section", params.SECTIONS)
def test_a_section_that_is_no_mapping_and_an_unknown_key_are_told(
    section: str, write: Callable[..., Path]
) -> None:
    for value in (None, [], "text"):
        told = error_of(write({section: value}))
        assert f"{section}: got {value!r}; accepted: a mapping" in told
    told = error_of(write({f"{section}.aplha": 5}))
    assert f"{section}.aplha: got 5; accepted: only the keys " in told


def test_a_missing_and_an_unknown_section_are_told(
    write: Callable[..., Path], content: Content
) -> None:
    for section in ("scale", "figures"):
        whole = content()
        del whole[section]
        assert f"{section}: got 'nothing'" in error_of(write(text=yaml.safe_dump(whole)))
    assert "nosie: got {}; accepted: only the keys data" in error_of(write({"nosie": {}}))


NAMED = [
    (f"{section}.{key}", mark.names)
    for section, kind in params.SECTIONS.items()
    for key, annotated in types_of(kind).items()
    for mark in getattr(annotated, "__metadata__", ())
    if isinstance(mark, OneOf)
]


@pytest.mark.parametrize(("place", "names"), NAMED)
def test_an_unknown_name_lists_the_known_ones(
    place: str, names: tuple[str, ...], write: Callable[..., Path]
) -> None:
    assert error_of(write({place: "nosuch"})).endswith("accepted: one of " + ", ".join(names))


def test_numbers_are_converted_and_lists_become_tuples(write: Callable[..., Path]) -> None:
    read = read_params(write({"noise.alpha": 3, "train.learning_rates": [1, 0.5]}))
    assert (type(read.noise.alpha), read.noise.alpha) == (float, 3.0)
    assert read.train.learning_rates == (1.0, 0.5)
    assert read.train.seeds == (0,)
    assert read.data.path is None
    assert read.figures == ("fig1_uniform_mnist",)
    hash(read)


# --- how sections fit each other

STRUCTURED = {"noise.kind": "structured", "noise.alpha": 5}
FOLDER = {"data.name": "folder", "data.path": "a.zip", "data.size": 8}
LARGE = {**FOLDER, "data.size": 64}
LOSS = {"train.loss": "expected_noisy_cross_entropy"}
CORRECTED = {"train.loss": "forward_correction"}
ONE = {"train.batch_size": 1}
NORM = {"model.batch_norm": True}
UNSEEN = {"data.validation": 0}
STOP = {"train.early_stopping": True}
ANEW = {"train.recompute_batch_norm": True}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.originals": 1419}, "data.originals: got 1419; accepted: at most 1418: 20 of 1438"),
        ({"data.validation": 1438}, "data.originals: got 60; accepted: at most 0"),
        ({"data.validation": 9999}, "data.originals: got 60; accepted: at most 0"),
        ({"train.batch_size": 181}, "train.batch_size: got 181; accepted: at most the training se"),
        ({**ONE, "model.name": "resnet18_small"}, "got 1; accepted: 2 or more for resnet18_small"),
        ({**ONE, **NORM, "model.name": "conv2"}, "got 1; accepted: 2 or more for conv2: batch no"),
        ({"train.batch_size": 61, **LOSS}, "got 61; accepted: at most the training set, 60 exam"),
        ({"noise.images": "unique", "noise.alpha": 30}, "got 30.0; accepted: at most 22.6333: 1"),
        ({"noise.delta": 0.5}, "noise.delta: got 0.5; accepted: 0 where kind is uniform"),
        ({**STRUCTURED, "noise.delta": 0.51}, "noise.delta: got 0.51; accepted: at most 0.5 at"),
        ({**STRUCTURED, "noise.alpha": 0, "noise.delta": 0.1}, "0.1; accepted: at most 0 at alph"),
        ({**STRUCTURED, "noise.images": "white"}, "noise.images: got 'white'; accepted: same or"),
        ({**STRUCTURED, "noise.images": "mnist"}, "noise.images: got 'mnist'; accepted: same or"),
        ({**STRUCTURED, **LOSS}, "got 'expected_noisy_cross_entropy'; accepted: cross"),
        ({**LOSS, "noise.images": "white"}, "train.loss: got 'expected_noisy_cross_entropy'"),
        ({**LOSS, "train.targets": "aggregated"}, "train.targets: got 'aggregated'; accepted: lab"),
        ({**CORRECTED, "noise.images": "white"}, "train.loss: got 'forward_correction'; accepted"),
        ({**CORRECTED, **UNSEEN}, "data.validation: got 0; accepted: at least 1, on which the tra"),
        ({**CORRECTED, "train.method": "self_training"}, "none with train.loss forward_correction"),
        ({**UNSEEN, "train.learning_rates": [0.1, 0.5]}, "validation: got 0; accepted: at least 1"),
        ({**UNSEEN, **STOP}, "got 0; accepted: at least 1 with train.early_stopping"),
        ({"train.average": 0.6, **STOP}, "got 0.6; accepted: at most 0.5 with train.early_stoppi"),
        (
            ANEW,
            "train.recompute_batch_norm: got True; accepted: false for perceptron, which is wit",
        ),
        ({**ANEW, "model.name": "conv2"}, "got True; accepted: false for conv2, which is without"),
        ({"train.min_samples": 0}, "train.epochs: got 0.0; accepted: above 0"),
        ({"data.path": "images"}, "data.path: got 'images'; accepted: null where name is digits"),
        ({"data.name": "folder"}, "data.path: got None; accepted: a folder"),
        ({"data.name": "folder", "data.path": "a.zip"}, "data.size: got None; accepted: pixels"),
        ({"confusion.subset": 1409}, "confusion.subset: got 1409; accepted: at most 1408 beside"),
        (
            {"confusion.batch_size": 1, "confusion.model": "resnet20"},
            "confusion.batch_size: got 1; accepted: 2 or more for resnet20",
        ),
        ({"confusion.batch_size": 41}, "confusion.batch_size: got 41; accepted: at most the sub"),
        ({**FOLDER, "data.originals": 10**9, "noise.alpha": 1.2}, "1 with 1000000000 images: a se"),
        ({**FOLDER, "data.validation": 2**30, **LOSS}, "got 2.0; accepted: at most 0 with 107374"),
        ({"model.name": "resnet50"}, "resnet32, resnet56, resnet18_small for images of 8x8"),
        ({"data.size": 4, "model.name": "conv2"}, "perceptron, mlp1, mlp2 for images of 4x4"),
        ({**LARGE, "data.size": 63, "confusion.model": "resnet18"}, "confusion.model: got 'resnet"),
        ({**LARGE, "model.name": "resnet18", "model.width": 0.5}, "got 0.5; accepted: 1 for resne"),
        ({**LARGE, "confusion.model": "resnet34", "confusion.width": 2}, "2.0; accepted: 1 for re"),
        (NORM, "model.batch_norm: got True; accepted: false for perceptron: a choice"),
        ({"model.name": "resnet20", **NORM}, "batch_norm: got True; accepted: false for resnet20"),
        ({"figures": ["fig3_uniform_imagenet"]}, "figures: got 'fig3_uniform_imagenet'; accepted"),
    ],
)
def test_what_does_not_fit_is_told(
    changes: dict[str, Any], words: str, write: Callable[..., Path]
) -> None:
    assert words in error_of(write(changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"data.originals": 1418}, {"train.batch_size": 180}, {"train.batch_size": 60, **LOSS},
        {"noise.images": "unique", "noise.alpha": 1358 / 60}, {**STRUCTURED, "noise.delta": 0.5},
        {**STRUCTURED, "noise.alpha": 0}, {"noise.images": "white"}, UNSEEN,
        {"train.min_samples": 0, "train.epochs": 0.5}, {**FOLDER, "data.originals": 10**6},
        {**FOLDER, "data.originals": 2**30, "noise.alpha": 1 - 2**-30}, {"confusion.subset": 1408},
        {"train.rho": 0, "train.average": 1}, {"model.name": "conv2", **NORM},
        {**LARGE, "model.name": "resnet101"}, {"model.name": "conv2", **NORM, **ANEW},
        {"model.name": "resnet20", **ANEW},
    ],
)  # fmt: skip
def test_what_just_fits_is_accepted(changes: dict[str, Any], write: Callable[..., Path]) -> None:
    read_params(write(changes))


def fit(alpha: float, m: int, delta: float) -> None:
    noise = params.NoiseParams("structured", alpha, delta, "confusing", "same")
    checks.check_fit(params.DataParams("folder", "a.zip", 8, 60, 20), noise, 100, m)


@pytest.mark.parametrize(("alpha", "m", "delta"), [(0.3, 3, 0.1), (0.7, 7, 0.1)])
def test_the_largest_delta_is_accepted_in_spite_of_rounding(
    alpha: float, m: int, delta: float
) -> None:
    fit(alpha, m, delta)
    order = np.array([np.delete(np.arange(m), i) for i in range(m)])
    assert structured_transition(order, alpha, delta).min() > -1e-12


@pytest.mark.parametrize("steps", range(1, 40))
def test_no_alpha_is_too_small_for_the_rule(steps: int) -> None:
    """A tenth of the smallest floats is rounded, up to twice of what it is."""
    smallest = 5e-324
    alpha = steps * smallest
    for delta in (smallest, 2 * smallest, 3 * smallest):
        if delta * 10 <= alpha:
            fit(alpha, 10, delta)
        else:
            with pytest.raises(ParamsError, match=r"noise\.delta"):
                fit(alpha, 10, delta)


@pytest.mark.parametrize(("alpha", "m"), [(2, 3), (5, 9)])
def test_the_largest_delta_that_an_error_names_is_accepted(alpha: float, m: int) -> None:
    with pytest.raises(ParamsError) as caught:
        fit(alpha, m, 1.0)
    fit(alpha, m, float(str(caught.value).partition("at most ")[2].split()[0]))
    with pytest.raises(ParamsError, match=r"noise.kind: got 'structured'; accepted: uniform: 2 cl"):
        fit(alpha, 2, 0.1)


# --- scale and figures


@pytest.mark.parametrize(
    "scale", ["nosuch", "../tiny", "tiny.yaml", "Tiny", "", "tiny\n", "a" * 300, 1, None, ["tiny"]]
)
def test_a_scale_is_the_name_of_a_file(scale: Any, write: Callable[..., Path]) -> None:
    message = error_of(write({"scale": scale}))
    assert f"scale: got {repr(scale)[:200]}" in message
    assert message.endswith("; accepted: a file scales/SCALE.yaml; there are tiny")


@pytest.mark.parametrize("figures", [None, [], "fig1_uniform_mnist", {"a": 1}, ["a", "a"]])
def test_figures_are_a_list_without_repeats(figures: Any, write: Callable[..., Path]) -> None:
    assert f"figures: got {figures!r}; accepted: a list" in error_of(write({"figures": figures}))


@pytest.mark.parametrize("key", ["../x", "$(true)", "X", "", 1, None, ["a"], "a\n", "confusion"])
def test_a_figures_key_cannot_be_a_path_or_a_command(key: Any, write: Callable[..., Path]) -> None:
    assert f"figures: got {key!r}; accepted: figures" in error_of(write({"figures": ["a", key]}))


# --- YAML


def read(text: str | bytes, folder: Path) -> dict[str, Any]:
    file = folder / "x.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-8", 1e-8), ("1.0e-8", 1e-8), (".5", 0.5), ("-2e3", -2000.0), ("+.inf", INF),
        (".5e3", ".5e3"), ("y", "y"), ("null", None), ("", None), ("'1'", "1"), ("10", 10),
        ("010", 10), ("0o10", 8), ("1_000", 1000), ("1:30", "1:30"), ("0o9", "0o9"),
        ("true", True), ("yes", "yes"), ("OFF", "OFF"),
    ],
)  # fmt: skip
def test_values_are_those_of_yaml_1_2_and_of_dvc(text: str, value: Any, tmp_path: Path) -> None:
    """By YAML 1.1, 010 is eight, 1:30 ninety, yes a boolean and 1e-8 a text."""
    got = read(f"a: {text}\n", tmp_path)["a"]
    assert (type(got), got) == (type(value), value)
    theirs = parse_yaml(f"a: {text}\n", "x.yaml")["a"]
    assert (type(theirs), theirs) == (type(value), value)


@pytest.mark.parametrize("name", ["params.yaml", "scales/quick.yaml", "scales/paper.yaml"])
def test_what_is_shipped_is_read_as_dvc_reads_it(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert read_yaml(ROOT / name) == parse_yaml(text, name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "line 2: the key 'a' stands twice"),
        ("- 1\n- x:\n    - {y: {a: 1, 'a': 2}}\n", "line 3: the key 'a' stands twice"),
        ("a: [1, 2\n", "line 2: while parsing a flow sequence, expected ',' or ']'"),
        ("a: 1\n---\nb: 2\n", "line 2: expected a single document"),
        ("\ufeff%YAML 1.3\n---\na: 1\n", "a line starts with %, a directive"),
        ("a: !mine {b: 1}\n", "line 1: the tag !mine has no place here"),
        ("a: !!int ''\n", "the tag tag:yaml.org,2002:int has no place here"),
        ("a: &x 1\nb: *x\n", "line 2: *x is an alias, which DVC's -S misses; write values out"),
        ("x: &x {a: 1}\ny: {<<: *x}\n", "line 2: *x is an alias"),
        ("a: &a [1, *a]\n", "line 1: *a is an alias"),
        ("a: \0\n", "special characters are not allowed"),
        ("[1]: [2]\n", "a key is no single value"),
        ("a: 2020-13-45\n", "month must be in 1..12"),
        (f"a: {'9' * 5000}\n", "Exceeds the limit (4300 digits)"),
        ("- a\n- b\n", "got list; accepted: a mapping"),
        ("# nothing\n", "got NoneType; accepted: a mapping"),
        ("a: " + "[" * 50_000, "line 1: more than 16 levels of values within values"),
        (f"a: {'x' * 131072}\n", "got more than 131072 characters; accepted: fewer"),
        ("x" * 900 + ": 1\n" + "x" * 900 + ": 2\n", "the key 'xxx"),
    ],
    ids=lambda text: text[:40],
)
def test_broken_yaml_is_told(text: str, words: str, write: Callable[..., Path]) -> None:
    message = error_of(write(text=text))
    assert words in message
    assert len(message) < 300


def test_what_is_deep_but_not_too_much_and_marked_is_read(tmp_path: Path) -> None:
    assert read("a: " + "[" * 14 + "1" + "]" * 14 + "\n", tmp_path)
    assert read(b"\xef\xbb\xbfa: 1\r\n", tmp_path) == {"a": 1}


@pytest.mark.parametrize("written", [b"a: \xff\n", "a: 1\n".encode("utf-16")])
def test_bytes_that_are_no_text_are_told(written: bytes, write: Callable[..., Path]) -> None:
    file = write()
    file.write_bytes(written)
    assert "not valid YAML: no UTF-8" in error_of(file)


def test_a_missing_file_and_a_folder_are_told(workspace: Path) -> None:
    assert error_of(workspace.relative_to(workspace) / "params.yaml").endswith("no such file")
    paths.PARAMS.mkdir()
    assert error_of(paths.PARAMS).endswith("cannot be read: Is a directory")


# --- how values and keys are shown


@pytest.mark.parametrize("place", ["noise.alpha", "train.seeds", "figures"])
def test_a_number_that_python_does_not_print_is_told(
    place: str, write: Callable[..., Path], content: Content
) -> None:
    text = yaml.safe_dump(content({place: ["HUGE"]})).replace("HUGE", f"0x{'f' * 5000}")
    assert f"{place}: got a number of thousands of digits; " in error_of(write(text=text))


@pytest.mark.parametrize("value", ["x" * 10**5, [["abc"] * 10**4], {1: "b" * 10**5}, 10**400])
@pytest.mark.parametrize("place", ["data.name", "noise.alpha", "train.seeds", "scale"])
def test_a_long_value_is_shown_shortened(
    place: str, value: Any, write: Callable[..., Path]
) -> None:
    message = error_of(write({place: value}))
    assert f"{place}: got {repr(value)[:150]}" in message
    assert "...; accepted: " in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("a\nb", "a b"), ("\x1b[31m", "\\x1b[31m"), ("\u202ea", "\\u202ea"), ("α", "α"), ("", "''"),
        (" ", "' '"), ("../../etc/passwd", "../../etc/passwd"), ("a" * 900, "a" * 200 + "..."),
        (5, "5"), (None, "None"), (NAN, "nan"), ((10**5000,), "a number of thousands of digits"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_shown_in_one_short_line(key: Any, shown: str, content: Content) -> None:
    """Control characters would move a terminal's cursor, or turn the direction of its text."""
    whole = content()
    whole["noise"][key] = 1
    with pytest.raises(ParamsError) as caught:
        reading.parse_config(whole, Path("x.yaml"))
    assert str(caught.value).startswith(f"x.yaml: noise.{shown}: got 1; accepted: only the keys")


# --- what is shipped


def test_the_shipped_params_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for key in read_params().figures:
        registry.read_study(key)
    written = read_yaml(paths.PARAMS)  # all, so that -S finds each
    assert {name: set(written[name]) for name in params.SECTIONS} == {
        name: set(types_of(kind)) for name, kind in params.SECTIONS.items()
    }


SHIPPED = [
    (file.stem, key)
    for file in sorted((ROOT / "scales").glob("*.yaml"))
    for key in read_yaml(file)
    if key in registry.known()
]


@pytest.mark.parametrize(("scale", "key"), SHIPPED)
def test_every_shipped_grid_is_accepted(
    scale: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    grid = grids.read_grid(scale, key)
    assert grid.points
    assert grids.describe(grid)["title"]
    grids.read_confusion(scale)
