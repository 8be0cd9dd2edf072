"""What holds whatever is given: params and grids, noise models, diluted sets.

Hypothesis draws the examples. It draws the same ones every time (derandomize), so that a test that
passes keeps passing, and no timing decides a test.
"""

import io
import math
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from conftest import BASE, replaced
from dvc.utils.serialize import parse_yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ruamel.yaml import YAML

from stages.lib.components.augmentation import AUGMENTATIONS
from stages.lib.config.params import (
    DEVICES,
    PRECISIONS,
    STACKINGS,
    Config,
    ConfusionParams,
    DataParams,
    NoiseParams,
)
from stages.lib.config.reading import parse_config, parse_section, read_params
from stages.lib.config.yaml_files import ParamsError, read_yaml
from stages.lib.core import files
from stages.lib.core.errors import UserError
from stages.lib.data.datasets import Dataset
from stages.lib.labels import dilution
from stages.lib.models.architectures import ARCHITECTURES, INITS, smallest_side
from stages.lib.noise import sampling, transitions
from stages.lib.studies import grids

FILE = Path("params.yaml")
CONFIG_SECTIONS = ("data", "noise", "model", "train")


def repeatable(examples: int) -> settings:
    """Return the settings of every property, which draws so many examples."""
    return settings(derandomize=True, deadline=None, database=None, max_examples=examples)


def one_line(error: UserError, start: str) -> str:
    """Return an error's message, which is a single short line that a terminal shows."""
    message = str(error)
    assert message.startswith(start)
    assert message.isprintable()
    assert len(message) < 1000
    return message


# --- params: any value at any place

NASTY = [
    "", " ", "~", "..", "../x", "/etc/passwd", "a/b", "C:\\x", "x\0y", "\x1b[2J", "a\nb", "\u2028",
    "$(true)", "${scale}", "`true`", "; true", "uniform ", "Uniform", "1", "1e-8", "nan", "null",
    "\ud800", "\u202e", "x" * 5000, True, False, None, 0, -1, 1, 2**31 - 1, 2**31, 2**63, -(2**64),
    10**400, 0.0, -0.0, 0.5, 1.0, 1e-320, 5e-324, 1e-31, 1e6, 1e300, math.nan, math.inf, -math.inf,
    b"\xff", date(2020, 1, 2), [], {}, [[]], {"a": {}}, [math.nan, math.nan], [0, False], [1, 1.0],
]  # fmt: skip
leaves = (
    st.sampled_from(NASTY)
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary(max_size=5)
    | st.dates()
)
keys = st.text() | st.integers() | st.floats() | st.none()
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)
odd = st.text("ab/. \0\n\x1b\x85\u2028\ud800\u3000", min_size=1, max_size=3)
few = st.lists(st.sampled_from([0, 1, 1.0, 0.5, 2]), min_size=1, max_size=3)
printable = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=20
)
rates = st.floats(1e-30, 1e6)


def many(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(items, min_size=1, max_size=3, unique=True)


FOLDER = {"data.name": "folder", "data.path": "a.zip", "data.size": 8}
#: Values that are accepted, whichever are taken.
GOOD = {
    "data.path": printable,
    "data.size": st.integers(8, 1024),
    "data.originals": st.integers(20, 1000),
    "data.validation": st.integers(20, 400),
    "noise.alpha": st.floats(0.6, 20) | st.integers(1, 20),
    "noise.kind": st.sampled_from(["uniform", "structured"]),
    "noise.order": st.sampled_from(transitions.ORDERS),
    "noise.images": st.sampled_from(["same", "unique"]),
    "model.name": st.sampled_from([name for name in ARCHITECTURES if smallest_side(name) <= 8]),
    "model.width": st.floats(0, 64, exclude_min=True),
    "train.learning_rates": many(rates),
    "train.batch_size": st.integers(2, 30),  # batch norm has no variance of one image
    "train.rho": st.floats(0, 1),
    "train.epsilon": rates,
    "train.init": st.sampled_from(INITS),
    "train.zero_output": st.booleans(),
    "train.epochs": st.floats(0, 1e6),
    "train.min_samples": st.integers(1, 2**31 - 1),
    "train.weight_decay": st.floats(0, 1),
    "train.augmentation": st.sampled_from(["none", *AUGMENTATIONS]),
    "train.average": st.floats(0, 0.5),  # more of it is refused with early stopping
    "train.early_stopping": st.booleans(),
    "train.memorisation": st.booleans(),
    "train.seeds": many(st.integers(0, 2**31 - 1)),
    "train.device": st.sampled_from(DEVICES),
    "train.precision": st.sampled_from(PRECISIONS),
    "train.stacking": st.sampled_from(STACKINGS),
}


def is_as_documented(section: Any, given: dict[str, Any]) -> bool:
    """Tell whether a section has the values that were given, in the types of its fields."""
    for name, hint in get_type_hints(type(section)).items():
        value = getattr(section, name)
        wanted = given.get(name, getattr(type(section)(), name))
        item = get_args(hint)[0] if get_origin(hint) is tuple else hint
        items = value if get_origin(hint) is tuple else (value,)
        if isinstance(wanted, list):
            wanted = tuple(wanted)
        # bool is an int to isinstance
        if value != wanted or not all(type(x) in (get_args(item) or (item,)) for x in items):
            return False
    return True


def outcome(content: dict[str, Any]) -> Config | str:
    """Return the config as documented, or the error's message."""
    try:
        config = parse_config(content, FILE)
    except ParamsError as error:
        return one_line(error, "params.yaml: ")
    for name in CONFIG_SECTIONS:
        assert is_as_documented(getattr(config, name), content[name])
    alpha, data = config.noise.alpha, config.data
    assert max(data.originals, data.validation) * (1 + alpha) < 2**31
    assert config.noise.delta <= alpha * (1 + 1e-11)
    hash(config)
    return config


KEYS = [f"{section}.{key}" for section in CONFIG_SECTIONS for key in BASE[section]]


@pytest.mark.parametrize("place", KEYS)
@repeatable(25)
@given(data=st.data())
def test_any_value_at_any_key_is_as_documented_or_told(place: str, data: st.DataObject) -> None:
    value = data.draw(GOOD.get(place, st.nothing()) | odd | few | anything)
    found = outcome(replaced(BASE, {**FOLDER, place: value}))
    if isinstance(found, str):  # of it, or of what does not fit beside it
        assert found.split(": ")[1] in KEYS


@pytest.mark.parametrize("key", BASE["confusion"])
@repeatable(25)
@given(value=anything | st.integers(1, 1000) | st.sampled_from([*ARCHITECTURES]))
def test_any_value_of_confusion_is_as_documented_or_told(key: str, value: Any) -> None:
    content = replaced(BASE, {f"confusion.{key}": value})["confusion"]
    try:
        parsed = parse_section(ConfusionParams, content, FILE, "confusion")
    except ParamsError as error:
        one_line(error, f"params.yaml: confusion.{key}: got ")
    else:
        assert is_as_documented(parsed, content)


# --- params: files

valid = st.fixed_dictionaries({}, optional=GOOD).map(
    lambda changes: replaced(BASE, {**FOLDER, **changes})
)


def dumped(content: Any) -> str:
    """Return content as the YAML 1.2 that DVC would write."""
    stream, writer = io.StringIO(), YAML(typ="safe", pure=True)
    writer.default_flow_style = False  # its other style does not quote all that it must
    writer.dump(content, stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Change to a folder with one scale, as if it were the root of the repository."""
    path = tmp_path_factory.mktemp("root")
    (path / "studies").symlink_to(Path(__file__).parents[1] / "studies")
    (path / "scales").mkdir()
    (path / "scales" / "tiny.yaml").write_text("fig1_uniform_mnist: {}\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        yield path


@repeatable(40)
@given(content=valid)
def test_good_params_come_back_from_a_file_unchanged(content: dict[str, Any], folder: Path) -> None:
    FILE.write_text(dumped(content), encoding="utf-8")
    assert read_yaml(FILE) == content
    config, read = outcome(content), read_params(FILE)
    assert Config(read.data, read.noise, read.model, read.train) == config


PIECES = [
    "a", "b: ", "- ", "[", "]", "{", "}", ",", ": ", "\n", "  ", "&x ", "*x", "<<: ", "*x\n", "!!",
    "!", "!!int ", "!!python/object:os.x ", "!!omap ", "!!set ", "!!binary ", "%YAML 1.1\n",
    "%YAML 1.3\n", "%TAG ! x\n", "---\n", "...\n", "'", '"', "|\n", ">-\n", "# c\n", "\t", "\0",
    "\x1b", "\ufeff", "0x", "0o7", "0b", "1_0", "._", "-_", "1e", "=", "? ", "~", "null", "1:30",
    "2020-13-45", "0001-01-01 00:00:00+23:59", "\u2028", "\\ud800", ".inf", "on", "\r", "9" * 4301,
]  # fmt: skip
pieces = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def told_or_read(content: bytes) -> None:
    FILE.write_bytes(content)
    try:
        read_params(FILE)
    except ParamsError as error:
        one_line(error, "params.yaml: ")


@repeatable(200)
@given(text=pieces | st.text() | st.binary())
@example(text="a: &a [*a]\n")
@example(text="a: &a\n  <<: *a\n")
@example(text="%YAML 1.3\n---\na: 1\n")
@example(text="a: !!bool maybe\n")
@example(text="? [[a]]\n: 1\n")
def test_any_text_is_told(text: str | bytes, folder: Path) -> None:
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    told_or_read(content)


@repeatable(100)
@given(value=st.text("0123456789._:-+ exobtrufalsny~ENT", max_size=8))
@example(value="08")
@example(value="1:30")
@example(value="1e5")
def test_any_value_is_read_as_dvc_reads_it(value: str, folder: Path) -> None:
    text = f"- a: {value}\n"
    FILE.write_text(f"x:\n{text}", encoding="utf-8")
    try:
        content = read_yaml(FILE)["x"]
    except ParamsError as error:
        one_line(error, "params.yaml: not valid YAML: ")
        return
    assert repr(content) == repr(parse_yaml(text, "x.yaml"))


@repeatable(50)
@given(start=st.floats(0, 1), length=st.integers(0, 20), text=pieces)
def test_any_slip_in_the_file_is_told_or_harmless(
    start: float, length: int, text: str, folder: Path
) -> None:
    written = dumped(BASE)
    place = int(start * len(written))
    told_or_read((written[:place] + text + written[place + length :]).encode())


# --- grids

plain = st.recursive(
    st.none() | st.integers(-(10**20), 10**20) | st.floats() | printable,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(printable, inner, max_size=3),
    max_leaves=5,
)
WRONG = ["noise", "noise.", "noise.aplha", "confusion.subset", "grids", "data.name.x", "../x"]
slips = st.dictionaries(
    st.sampled_from([*GOOD, *WRONG]) | printable | st.integers(),
    st.lists(plain, min_size=1, max_size=2) | plain,
    max_size=1,
)


@st.composite
def blocks(draw: Any) -> dict[str, Any]:
    """Draw a block of good values, and perhaps a slip."""
    places = draw(st.lists(st.sampled_from(list(GOOD)), max_size=4, unique=True))
    block = {place: draw(st.lists(GOOD[place], min_size=1, max_size=2)) for place in places}
    return block | draw(st.just({}) | slips)


ENTRY = {name: replaced(BASE, FOLDER)[name] for name in CONFIG_SECTIONS}


def read_grid(key: str, entry: Any) -> grids.Grid | None:
    """Return the grid of a scale's file with one entry, or None where it is told to be wrong."""
    file = Path("scales/drawn.yaml")
    file.write_text(dumped({"defaults": {}, key: entry}), encoding="utf-8")
    try:
        return grids.read_grid("drawn", key)
    except ParamsError as error:
        one_line(error, f"{file}: {key}.")
        return None


@repeatable(80)
@given(grids=st.lists(blocks(), min_size=1, max_size=2) | plain)
def test_any_grid_gives_points_or_is_told(grids: Any, folder: Path) -> None:
    grid = read_grid("fig1_uniform_mnist", {**ENTRY, "grids": grids})
    if grid is not None:
        most = sum(math.prod(map(len, block.values())) for block in grids)
        assert 1 <= len(grid.points) <= most
        assert len(set(grid.points)) == len(grid.points)
        for point in grid.points:
            assert any(_is_of(point, block) for block in grids)


def _is_of(point: Config, block: dict[str, list[Any]]) -> bool:
    def value_of(place: str) -> Any:
        section, key = place.split(".")
        found = getattr(getattr(point, section), key)
        return list(found) if isinstance(found, tuple) else found

    return all(value_of(place) in values for place, values in block.items())


@repeatable(40)
@given(targets=st.lists(st.floats(0, 1), min_size=1, max_size=3) | plain)
def test_any_targets_are_accuracies_or_told(targets: Any, folder: Path) -> None:
    entry = {**ENTRY, "grids": [{"noise.alpha": [1]}], "targets": targets}
    grid = read_grid("fig9_critical_size", entry)
    if grid is not None:
        assert list(grid.targets) == targets
        assert all(0 < target < 1 for target in grid.targets)


# --- noise models

classes = st.integers(3, 40)
alphas = st.floats(1e-3, 1e6)
shares = st.floats(0, 1)
seeds = st.integers(0, 2**31 - 1)
orders = st.sampled_from(transitions.ORDERS)


def draw_order(m: int, order: str, seed: int, most: int = 5) -> NDArray[np.int64]:
    """Return an order by counts below ``most``, many of which are equal."""
    rng = np.random.default_rng(seed)
    return transitions.false_class_order(rng.integers(0, most, (m, m)), order, rng=rng)


@repeatable(50)
@given(m=st.integers(2, 40), order=orders, seed=seeds, most=st.integers(1, 100))
def test_an_order_holds_every_false_class_once(m: int, order: str, seed: int, most: int) -> None:
    counts = np.random.default_rng(seed).integers(0, most, (m, m))
    found = transitions.false_class_order(counts, order, rng=np.random.default_rng(0))
    sign = {"confusing": -1, "reverse": 1, "random": 0}[order]
    for i in range(m):
        assert sorted(found[i]) == [j for j in range(m) if j != i]
        if sign:
            ranked = [(sign * counts[i, j], j) for j in found[i]]
            assert ranked == sorted(ranked)


@repeatable(80)
@given(m=classes, alpha=alphas, share=shares, order=orders, seed=seeds)
@example(m=7, alpha=2.0, share=0.0, order="confusing", seed=0)
def test_structured_noise_is_what_the_paper_says(
    m: int, alpha: float, share: float, order: str, seed: int
) -> None:
    """Rows are distributions; delta is how far the second class goes from chance to the first."""
    delta = share * min(1.0, alpha / m)
    ranks = draw_order(m, order, seed)
    transition = transitions.structured_transition(ranks, alpha, delta)
    r = 1 - 2 * np.arange(m - 1) / (m - 2)
    false = np.take_along_axis(transition, ranks, axis=1)
    np.testing.assert_allclose(false, np.tile(1 / m + delta / alpha * r, (m, 1)), atol=1e-12)
    assert (np.diag(transition) == 1 / m).all()
    assert transition.sum(axis=1) == pytest.approx(np.ones(m), abs=1e-9)
    assert transition.min() >= -1e-12
    if delta == 0:
        np.testing.assert_array_equal(transition, transitions.uniform_transition(m))
    diluted = transitions.diluted_distribution(transition, alpha)
    assert diluted.sum(axis=1) == pytest.approx(np.ones(m), abs=1e-9)
    true = np.diag(diluted)
    false = (diluted - 2 * np.eye(m)).max(axis=1)
    assert true == pytest.approx((1 + alpha / m) / (1 + alpha), rel=1e-9)
    assert true - false == pytest.approx((1 - delta) / (1 + alpha), abs=1e-9)
    if delta < 1 - 1e-6 and alpha < 1e3:
        assert (diluted.argmax(axis=1) == np.arange(m)).all()


@repeatable(50)
@given(m=classes, alpha=st.floats(1e-3, 100), beyond=st.floats(1e-9, 1))
def test_the_largest_delta_is_where_a_probability_would_be_negative(
    m: int, alpha: float, beyond: float
) -> None:
    largest, ranks = transitions.largest_delta(alpha, m), draw_order(m, "confusing", 0)
    least = transitions.structured_transition(ranks, alpha, largest).min()
    with pytest.raises(ValueError, match="delta: got"):
        transitions.structured_transition(ranks, alpha, largest * (1 + beyond))
    if alpha < m:
        assert least == pytest.approx(0, abs=1e-12)
        assert 1 / m - largest * (1 + beyond) / alpha < 0  # the last false class's
    else:
        assert largest == 1
        assert least >= -1e-12


class Given:
    """Stands for a generator: gives the numbers that a test chose."""

    def __init__(self, leading: NDArray[np.int64], further: float) -> None:
        self.leading, self.further = leading, further

    def integers(self, low: int, high: int, size: int, dtype: Any) -> NDArray[Any]:
        assert low == 0
        return (self.leading[:size] % high).astype(dtype)

    def random(self, size: int) -> NDArray[np.float64]:
        return np.full(size, self.further)

    def spawn(self, _: int) -> "list[Given]":
        return [self]


CENTRE = 0.5 + 2**-17  # of a cell of the sampler's table, and thus a number that may be drawn


@st.composite
def matrices(draw: Any) -> NDArray[np.float64]:
    """Draw a row-stochastic matrix, some of whose entries are 0, tiny or equal."""
    m = draw(st.integers(2, 12))
    weight = st.sampled_from([0.0, 1e-9, 1.0, 1.0, 2.0]) | st.floats(0, 1)
    rows = draw(st.lists(st.lists(weight, min_size=m, max_size=m), min_size=m, max_size=m))
    matrix = np.array(rows)
    matrix[matrix.sum(axis=1) < 1e-6] = 1.0
    return matrix / matrix.sum(axis=1, keepdims=True)


@repeatable(60)
@given(transition=matrices(), seed=seeds, cut=st.integers(0, 2**20 - 1))
@example(transition=np.eye(3), seed=0, cut=2**19)
@example(transition=np.array([[CENTRE, 1 - CENTRE], [0.5, 0.5]]), seed=0, cut=2**19)
def test_labels_are_those_of_the_inverse_distribution(
    transition: NDArray[np.float64], seed: int, cut: int
) -> None:
    """Against a slow loop: the first label whose cumulative probability exceeds the number."""
    m, further = len(transition), cut / 2**20
    cells = 1 << min(16, 23 - (m - 1).bit_length())
    rng = np.random.default_rng(seed)
    edges = np.floor(transition.cumsum(axis=1).ravel() * cells).astype(np.int64)
    near = np.concatenate([edges - 1, edges, edges + 1]).clip(0, cells - 1)
    leading = np.concatenate([near, rng.integers(0, cells, 50)])
    true = rng.integers(0, m, len(leading)).astype(np.uint8)
    assume(not np.all(transition == 1 / m))  # drawn in another way
    sampler = sampling.LabelSampler(transition, rng=Given(leading, further))  # type: ignore[arg-type]
    labels = sampler(true)
    for i, label in enumerate(labels):
        u = (leading[i] + further) / cells
        cumulative = transition[true[i]].cumsum()
        below = [j for j in range(m) if u < cumulative[j]]
        assert label == (below[0] if below else m - 1)


@repeatable(25)
@example(m=257, seed=0, count=9)
@given(m=st.integers(2, 30), seed=seeds, count=st.integers(0, 200))
def test_drawn_labels_are_classes(m: int, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, m, count).astype(sampling.label_dtype(m))
    for transition in (transitions.uniform_transition(m), np.eye(m)[::-1].copy()):
        labels = sampling.draw_labels(true, transition, rng=rng)
        assert labels.dtype == (np.uint8 if m <= 256 else np.uint16)
        assert labels.shape == true.shape
        assert labels.max(initial=0) < m
    np.testing.assert_array_equal(labels, m - 1 - true)  # by the last, each becomes its opposite


# --- diluted sets


def make_dataset(m: int, labels: NDArray[np.int64]) -> Dataset:
    """Return a data set of these training labels; nothing is ever seen of its images."""
    images = np.zeros((len(labels), 8, 8, 1), np.uint8)
    kept = labels.astype(sampling.label_dtype(m))
    names = tuple(f"class {k}" for k in range(m))
    return Dataset("digits", images, kept, images[:1], kept[:1], names, "Made for a test.")


@st.composite
def dilutions(draw: Any) -> tuple[Dataset, DataParams, NoiseParams, dict[str, Any]]:
    """Draw a data set, configs that fit it, and what else `dilution.dilute` takes."""
    m, total = draw(st.integers(2, 5)), draw(st.integers(2, 60))
    rng = np.random.default_rng(draw(seeds))
    dataset = make_dataset(m, rng.integers(0, m, total))
    originals = draw(st.integers(1, total))
    validation = draw(st.integers(0, total - originals))
    kind = draw(st.sampled_from(["uniform", "structured"] if m > 2 else ["uniform"]))
    choices = ["same", "unique"] if kind == "structured" else ["same", "unique", "white", "mnist5k"]
    images = draw(st.sampled_from(choices))
    free = total - originals - validation
    alpha = draw(st.floats(0, free / originals if images == "unique" else 8))
    assume(images != "unique" or round(alpha * originals) <= free)
    delta = draw(shares) * min(1.0, alpha / m) if kind == "structured" else 0.0
    more = {
        "confusion": rng.integers(0, 4, (m, m)),
        "other_images": {"white": originals, "mnist5k": draw(st.integers(1, 9))}.get(images, 0),
    }
    data = DataParams("digits", None, None, originals, validation)
    return dataset, data, NoiseParams(kind, alpha, delta, draw(orders), images), more


@repeatable(100)
@given(drawn=dilutions(), seed=seeds)
def test_a_diluted_set_is_what_it_says(drawn: Any, seed: int) -> None:
    dataset, data, params, more = drawn
    found = dilution.dilute(dataset, data, params, seed=seed, **more)
    n, total, m = data.originals, len(dataset.train_labels), dataset.num_classes
    size = n + round(params.alpha * n)
    assert (len(found.labels), found.originals, found.facts["examples"]) == (size, n, size)
    assert found.labels.max() < m
    assert len(set(found.images[:n])) == n
    assert found.images[:n].max() < total
    assert found.images.max() < total + more["other_images"]
    np.testing.assert_array_equal(found.labels[:n], dataset.train_labels[found.images[:n]])
    assert len(found.images) == (n if params.images == "same" else size)
    if params.images == "unique":
        assert len(set(found.images)) == size
    if params.images in ("white", "mnist5k"):  # in the bank behind the others, in turn
        uses = np.bincount(found.images[n:] - total, minlength=more["other_images"])
        assert uses.max() - uses.min() <= 1

    counts, unknown = np.zeros((m, m), int), np.zeros(m, int)
    for i, label in enumerate(found.labels):
        image = found.images[i % len(found.images)]
        if image < total:
            counts[dataset.train_labels[image], label] += 1
        else:
            unknown[label] += 1
    assert str(found.facts["counts"]) == str(counts.tolist())  # whole numbers
    assert found.facts["counts_of_unknown_images"] == unknown.tolist()
    assert found.facts["label_accuracy"] == np.trace(counts) / size
    for name in dilution.ARRAYS:
        assert found.facts["sha256"][name] == files.sha256_of_array(getattr(found, name))

    held_out = found.validation_images
    assert len(set(held_out)) == data.validation
    assert not set(held_out) & set(found.images)
    assert len(found.validation_labels) == len(held_out) + round(params.alpha * len(held_out))
    np.testing.assert_array_equal(
        found.validation_labels[: len(held_out)], dataset.train_labels[held_out]
    )
    again = dilution.dilute(dataset, data, params, seed=seed, **more)
    assert again.facts == found.facts  # with all digests


@repeatable(40)
@given(drawn=dilutions(), seed=seeds, fewer=st.floats(0, 1))
def test_smaller_sets_are_nested_in_larger_ones(drawn: Any, seed: int, fewer: float) -> None:
    """Whatever the noise: clean examples and validation images are the same."""
    dataset, data, params, more = drawn
    few = max(1, int(fewer * data.originals))
    smaller = DataParams(data.name, None, None, few, data.validation)
    clean = NoiseParams("uniform", 0.0, 0.0, "confusing", "same")
    large = dilution.dilute(dataset, data, params, seed=seed, **more)
    small = dilution.dilute(dataset, smaller, clean, seed=seed)
    np.testing.assert_array_equal(small.images, large.images[:few])
    np.testing.assert_array_equal(small.labels, large.labels[:few])
    np.testing.assert_array_equal(small.validation_images, large.validation_images)
