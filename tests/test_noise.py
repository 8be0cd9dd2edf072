"""Noise models: what the properties of test_properties leave out, and draws by their distribution.

Distributions are compared by Pearson's chi-square test at the level 1e-3. Seeds are fixed, so a
test that passes keeps passing; with a fresh seed a right sampler would fail one time in a thousand.
"""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from stages.lib.noise import sampling, transitions
from stages.lib.noise.sampling import LabelSampler

LEVEL = 1e-3
Matrix = NDArray[np.float64]


def p_value(counts: NDArray[np.int64], transition: Matrix) -> float:
    """Return the p-value of ``(m, m)`` counts, true class in the rows, under a transition matrix.

    A label of probability 0 must not occur. Every row's total is given: one degree of freedom each.
    """
    expected = counts.sum(axis=1, keepdims=True) * transition
    possible = expected > 1e-9 * expected.max()
    if counts[~possible].any():
        return 0.0
    rows = int((counts.sum(axis=1) > 0).sum())
    return float(stats.chisquare(counts[possible], expected[possible], ddof=rows - 1).pvalue)


def make_transition(m: int, kind: str, alpha: float, delta: float) -> Matrix:
    if kind == "uniform":
        return transitions.uniform_transition(m)
    rng = np.random.default_rng(5)
    order = transitions.false_class_order(rng.integers(0, 50, (m, m)), kind, rng=rng)
    return transitions.structured_transition(order, alpha, delta)


# --- small things


@pytest.mark.parametrize(
    ("num_classes", "dtype"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16")]
)
def test_labels_take_as_few_bytes_as_they_can(num_classes: int, dtype: str) -> None:
    assert sampling.label_dtype(num_classes) == dtype


@pytest.mark.parametrize(("n", "alpha", "noisy"), [(7, 0.5, 4), (5, 0.5, 2), (3, 1 / 3, 1)])
def test_a_fractional_alpha_is_rounded_on_the_whole(n: int, alpha: float, noisy: int) -> None:
    assert sampling.count_noisy(n, alpha) == noisy  # halves go to the even number


def test_unsigned_counts_are_not_negated_into_large_ones() -> None:
    counts = np.array([[9, 0, 5], [1, 9, 2], [7, 7, 9]], dtype=np.uint8)
    got = transitions.false_class_order(counts, "confusing")
    assert got.tolist() == [[2, 1], [2, 0], [0, 1]]


def test_random_orders_are_drawn_for_each_class_and_do_not_read_the_counts() -> None:
    m = 30
    counts = np.random.default_rng(0).integers(0, 9, (m, m))
    one, same, other = (
        transitions.false_class_order(c, "random", rng=np.random.default_rng(seed))
        for c, seed in ((counts, 1), (counts * 0, 1), (counts, 2))
    )
    np.testing.assert_array_equal(one, same)
    assert len({tuple(row - (row > i)) for i, row in enumerate(one)}) == m
    assert (one != other).any()


def test_no_probability_is_below_zero_at_the_largest_structure() -> None:
    """Where rounding would take the last class's below: a loss takes logarithms of them."""
    for m, alpha in ((10, 0.7), (6, 5), (17, 3)):
        order = np.array([np.delete(np.arange(m), k) for k in range(m)])
        found = transitions.structured_transition(order, alpha, alpha / m)
        assert found.min() >= 0
        np.testing.assert_allclose(found.sum(axis=1), 1)


def test_at_alpha_100_eleven_of_101_labels_are_correct() -> None:
    diluted = transitions.diluted_distribution(transitions.uniform_transition(10), 100)
    assert diluted[3, 3] == pytest.approx(11 / 101, rel=1e-12)
    assert diluted[3, 4] == pytest.approx(10 / 101, rel=1e-12)  # 10.1 of 101 would be chance


def order_of(shape: tuple[int, ...], order: str) -> Any:
    return transitions.false_class_order(np.zeros(shape, np.int64), order)


def structure(shape: tuple[int, int], alpha: float, delta: float) -> Any:
    return transitions.structured_transition(np.ones(shape, np.int64), alpha, delta)


def sampler(*rows: list[float]) -> LabelSampler:
    return LabelSampler(np.array(rows), rng=np.random.default_rng())


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (sampling.label_dtype, (1,), "got 1 classes"),
        (sampling.label_dtype, (65537,), "got 65537 classes"),
        (order_of, ((3, 4), "confusing"), r"shape \(3, 4\)"),
        (order_of, ((9,), "reverse"), r"shape \(9,\)"),
        (order_of, ((3, 3), "worst"), "accepted: confusing, reverse, random"),
        (order_of, ((3, 3), "random"), "^order random: got no rng"),
        (structure, ((2, 1), 20, 0.5), "m >= 3"),
        (structure, ((4, 4), 20, 0.5), "m >= 3"),
        (structure, ((10, 9), 20, -0.1), "got -0.1; accepted: 0 to 1 at alpha 20"),
        (structure, ((10, 9), 5, 0.51), "got 0.51; accepted: 0 to 0.5 at alpha 5"),
        (structure, ((10, 9), 20, np.nan), "got nan; accepted: 0 to 1 at"),
        (sampler, ([0.5, 0.5],), "shape"),
        (sampler, ([1.5, 0.0], [0.5, 0.5]), "outside"),
        (sampler, ([0.6, 0.6, -0.2], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]), "outside"),
        (sampler, ([np.nan, 1.0], [0.5, 0.5]), "outside"),
        (sampler, ([0.500008, 0.5], [0.5, 0.5]), "row 0 sums to 1.00001"),
        (sampler, ([0.9, 0.3], [0.1, 0.7]), "row 1 sums to 0.8"),  # columns sum to 1
    ],
)
def test_what_is_wrong_is_told_with_what_is_accepted(
    function: Callable[..., Any], arguments: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        function(*arguments)


# --- draws


@pytest.mark.parametrize(
    ("drawn", "claimed"),
    [
        ((2, "uniform", 1.0, 0.0), None),
        ((10, "confusing", 20.0, 0.5), (10, "confusing", 20.0, 0.4)),
        ((10, "reverse", 4.0, 0.4), (10, "confusing", 4.0, 0.4)),
        ((10, "uniform", 20.0, 0.0), (10, "random", 20.0, 0.2)),
        ((3, "random", 0.5, 0.5 / 3), (3, "random", 0.5, 0.15)),
        ((300, "confusing", 300.0, 1.0), (300, "reverse", 300.0, 1.0)),
    ],
)
def test_labels_follow_the_matrix_and_no_other(drawn: Any, claimed: Any) -> None:
    m, transition = drawn[0], make_transition(*drawn)
    true_labels = np.repeat(np.arange(m), max(3000, 300_000 // m)).astype(sampling.label_dtype(m))
    for passed in (true_labels, transition):
        passed.flags.writeable = False  # it is not changed
    labels = sampling.draw_labels(true_labels, transition, rng=np.random.default_rng(5))
    counts = sampling.count_labels(true_labels, labels, m)
    assert p_value(counts, transition) > LEVEL
    assert claimed is None or p_value(counts, make_transition(*claimed)) < 1e-6


def test_uniform_labels_are_drawn_as_ever() -> None:
    """By the generator alone, without a table, and in chunks: another length would draw others."""
    labels = sampling.draw_labels(
        np.zeros(1000, np.uint8), transitions.uniform_transition(10), rng=np.random.default_rng(0)
    )
    direct = np.random.default_rng(0).integers(0, 10, 1000, dtype=np.uint8)
    np.testing.assert_array_equal(labels, direct)
    assert sampling.CHUNK == 2**18


def test_matrices_share_the_leading_bits() -> None:
    """What they leave open is drawn by another generator, however many labels that is."""
    samplers = [
        sampling.LabelSampler(matrix, rng=np.random.default_rng(0))
        for matrix in (np.array([[0.7, 0.3]] * 2), np.eye(2))
    ]
    for draw in samplers:
        draw(np.zeros(2**18, np.uint8))
    one, other = (draw.rng.bit_generator.state for draw in samplers)
    assert one == other
    states = [draw.rest.bit_generator.state for draw in samplers]
    assert states[0] != states[1]  # the first left some open


TINY = 2.0**-17  # half of a table's cell


@pytest.mark.parametrize(
    "row",
    [
        np.array([0.5, 0.0, TINY, 0.5 - 3 * TINY, TINY / 3, 5 * TINY / 3]),
        make_transition(300, "confusing", 300.0, 0.99)[0],
    ],
    ids=["tiny", "300 classes"],
)
def test_the_tables_resolution_does_not_show_in_twenty_million_labels(row: Matrix) -> None:
    transition, m, n = np.tile(row, (len(row), 1)), len(row), 20_500_000
    true_labels = np.zeros(n, dtype=sampling.label_dtype(m))
    labels = sampling.draw_labels(true_labels, transition, rng=np.random.default_rng(6))
    counts = sampling.count_labels(true_labels, labels, m)
    assert p_value(counts, transition) > LEVEL
    # Of the table alone, with every cell for the label at its lower edge, it would show.
    table = LabelSampler(transition, rng=np.random.default_rng(7))
    probability = np.bincount(table.label[0], minlength=m) / table.label.shape[1]
    counts[0] = table.rng.multinomial(n, probability)
    assert p_value(counts, transition) < 1e-6
    assert table.label.nbytes + table.undecided.nbytes <= 24 * 2**20


def test_twenty_million_labels_take_little_memory_beside_themselves() -> None:
    n, transition = 20_000_000, make_transition(10, "confusing", 20, 0.5)
    true_labels = np.zeros(n, dtype=np.uint8)
    tracemalloc.start()
    try:
        sampling.draw_labels(true_labels, transition, rng=np.random.default_rng(0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n < peak < n + 32 * 2**20  # a chunk of 2**18 labels takes about 40 bytes each


@pytest.mark.parametrize("kind", ["uniform", "confusing"])
def test_a_true_label_that_is_no_class_is_refused(kind: str) -> None:
    draw = LabelSampler(make_transition(10, kind, 20, 0.5), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="got 10; accepted: 0 to 9"):
        draw(np.array([0, 10], dtype=np.uint8))


@pytest.mark.parametrize("chunk", [7, sampling.CHUNK])
def test_counts_are_those_of_a_slow_loop(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CHUNK", chunk)
    rng = np.random.default_rng(8)
    true, given = rng.integers(0, 5, (2, 1000)).astype(np.uint8)
    expected = np.zeros((5, 5), dtype=np.int64)
    for i, j in zip(true, given, strict=True):
        expected[i, j] += 1
    np.testing.assert_array_equal(sampling.count_labels(true, given, 5), expected)
