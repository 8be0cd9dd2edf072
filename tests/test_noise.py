"""Noise models: transition matrices against their equations, draws against them and a slow loop.

Distributions are compared by Pearson's chi-square test at the level 1e-3. Seeds are fixed, so a
test that passes keeps passing; with a fresh seed a right sampler would fail one time in a thousand.
"""

import itertools
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from stages.lib.noise import sampling, transitions
from stages.lib.noise.sampling import LabelSampler
from stages.lib.noise.transitions import ORDERS

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


def make_order(m: int, order: str, seed: int = 5) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return transitions.false_class_order(rng.integers(0, 50, (m, m)), order, rng=rng)


def make_transition(m: int, kind: str, alpha: float, delta: float) -> Matrix:
    if kind == "uniform":
        return transitions.uniform_transition(m)
    return transitions.structured_transition(make_order(m, kind), alpha, delta)


def largest(alpha: float, m: int) -> float:
    return transitions.largest_delta(alpha, m)


NOISE = [
    *((m, "uniform", 1.0, 0.0) for m in (2, 3, 7, 10, 300)),
    *(
        (m, order, alpha, part * largest(alpha, m))
        for (m, alpha), order, part in itertools.product(
            [(10, 20.0), (10, 4.0), (3, 0.5), (7, 100.0)], ORDERS, [0.0, 0.5, 1.0]
        )
    ),
    *((300, order, 300.0, 1.0) for order in ORDERS),
]


# --- small things


@pytest.mark.parametrize(
    ("num_classes", "dtype"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16")]
)
def test_labels_take_as_few_bytes_as_they_can(num_classes: int, dtype: str) -> None:
    assert sampling.label_dtype(num_classes) == dtype
    assert num_classes - 1 <= np.iinfo(dtype).max


@pytest.mark.parametrize("num_classes", [-1, 0, 1, 65537])
def test_there_are_two_classes_or_more(num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"got {num_classes} classes"):
        sampling.label_dtype(num_classes)


@pytest.mark.parametrize(
    ("originals", "alpha", "noisy"),
    [(60_000, 100, 6_000_000), (7, 0, 0), (7, 0.5, 4), (5, 0.5, 2), (10, 0.26, 3), (3, 1 / 3, 1)],
)  # halves go to the even number
def test_a_fractional_alpha_is_rounded_on_the_whole(
    originals: int, alpha: float, noisy: int
) -> None:
    assert sampling.count_noisy(originals, alpha) == noisy


# --- the order of false classes


@pytest.mark.parametrize("order", ["confusing", "reverse"])
@pytest.mark.parametrize("m", [2, 3, 10])
def test_the_order_is_that_of_a_slow_loop(m: int, order: str) -> None:
    counts = np.random.default_rng(m).integers(0, 4, (m, m))  # few values: many ties
    got = transitions.false_class_order(counts, order, rng=np.random.default_rng(0))
    sign = -1 if order == "confusing" else 1
    for i in range(m):
        pairs = sorted((sign * int(counts[i, j]), j) for j in range(m) if j != i)
        assert got[i].tolist() == [j for _, j in pairs]


def test_ties_and_errors_never_seen_go_by_class_index() -> None:
    counts = np.array([[90, 0, 0, 0], [1, 80, 2, 1], [0, 0, 70, 5], [3, 3, 3, 60]])
    rng = np.random.default_rng(0)
    confusing = transitions.false_class_order(counts, "confusing", rng=rng)
    assert confusing.tolist() == [[1, 2, 3], [2, 0, 3], [3, 0, 1], [0, 1, 2]]
    reverse = transitions.false_class_order(counts, "reverse", rng=rng)
    assert reverse.tolist() == [[1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 1, 2]]


def test_unsigned_counts_are_not_negated_into_large_ones() -> None:
    counts = np.array([[9, 0, 5], [1, 9, 2], [7, 7, 9]], dtype=np.uint8)
    got = transitions.false_class_order(counts, "confusing", rng=np.random.default_rng(0))
    assert got.tolist() == [[2, 1], [2, 0], [0, 1]]


def test_random_orders_are_drawn_for_each_class_and_do_not_read_the_counts() -> None:
    m = 30
    counts = np.random.default_rng(0).integers(0, 9, (m, m))
    one, same, other = (
        transitions.false_class_order(c, "random", rng=np.random.default_rng(seed))
        for c, seed in ((counts, 1), (counts * 0, 1), (counts, 2))
    )
    for i in range(m):
        assert sorted(one[i]) == [j for j in range(m) if j != i]
    np.testing.assert_array_equal(one, same)
    assert len({tuple(row - (row > i)) for i, row in enumerate(one)}) == m
    assert (one != other).any()


@pytest.mark.parametrize("order", ["confusing", "reverse"])
def test_only_random_orders_use_randomness(order: str) -> None:
    rng = np.random.default_rng(0)
    transitions.false_class_order(np.eye(4, dtype=np.int64), order, rng=rng)
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize(
    ("shape", "order", "words"),
    [
        ((3, 4), "confusing", r"shape \(3, 4\)"),
        ((9,), "reverse", r"shape \(9,\)"),
        ((3, 3), "worst", "accepted: confusing, reverse, random"),
    ],
)
def test_a_wrong_order_says_what_is_accepted(
    shape: tuple[int, ...], order: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        transitions.false_class_order(
            np.zeros(shape, np.int64), order, rng=np.random.default_rng(0)
        )


# --- the matrices


@pytest.mark.parametrize(("m", "kind", "alpha", "delta"), NOISE)
def test_the_matrix_is_that_of_a_slow_loop(m: int, kind: str, alpha: float, delta: float) -> None:
    order = make_order(m, "random" if kind == "uniform" else kind)
    expected = np.zeros((m, m))
    for i in range(m):
        expected[i, i] = 1 / m
        for k, j in enumerate(order[i]):
            r = 1 - 2 * k / (m - 2) if m > 2 else 0
            expected[i, j] = 1 / m + (delta / alpha) * r
    got = make_transition(m, kind, alpha, delta)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=0, atol=1e-12)
    assert got.min() > -1e-15


@pytest.mark.parametrize("m", [2, 3, 10, 300])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 20.0, 100.0])
def test_uniform_noise_has_the_papers_probabilities(m: int, alpha: float) -> None:
    diluted = transitions.diluted_distribution(transitions.uniform_transition(m), alpha)
    eps = 1 / (1 + alpha)  # the margin of the true class over any other, section 3.1
    np.testing.assert_allclose(np.diag(diluted), (1 + alpha / m) / (1 + alpha), rtol=1e-12)
    others = diluted[~np.eye(m, dtype=bool)]
    np.testing.assert_allclose(others, (alpha / m) / (1 + alpha), rtol=1e-12)
    np.testing.assert_allclose(np.diag(diluted).min() - others.max(), eps, rtol=1e-9)


def test_at_alpha_100_eleven_of_101_labels_are_correct() -> None:
    diluted = transitions.diluted_distribution(transitions.uniform_transition(10), 100)
    assert diluted[3, 3] == pytest.approx(11 / 101, rel=1e-12)
    assert diluted[3, 4] == pytest.approx(10 / 101, rel=1e-12)  # 10.1 of 101 would be chance


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("delta", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize(("m", "alpha"), [(10, 10.0), (10, 20.0), (3, 3.0), (300, 300.0)])
def test_delta_places_the_first_false_class_between_chance_and_the_correct_class(
    m: int, alpha: float, delta: float, order: str
) -> None:
    ranks = make_order(m, order)
    diluted = transitions.diluted_distribution(
        transitions.structured_transition(ranks, alpha, delta), alpha
    )
    eps, chance = 1 / (1 + alpha), (alpha / m) / (1 + alpha)
    first, last = (diluted[np.arange(m), ranks[:, k]] for k in (0, -1))
    np.testing.assert_allclose(first, chance + delta * eps, rtol=0, atol=1e-14)
    np.testing.assert_allclose(last, chance - delta * eps, rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.diag(diluted), chance + eps, rtol=0, atol=1e-14)
    if delta == 1:
        np.testing.assert_allclose(first, np.diag(diluted), rtol=0, atol=1e-14)


def test_the_false_classes_in_between_fall_linearly() -> None:
    ranks = make_order(10, "confusing")
    transition = transitions.structured_transition(ranks, 20, 0.7)
    steps = np.diff(np.take_along_axis(transition, ranks, axis=1), axis=1)
    np.testing.assert_allclose(steps, -2 * 0.7 / 20 / 8, rtol=1e-9)


def test_without_structure_every_order_is_uniform() -> None:
    for order in ORDERS:
        got = transitions.structured_transition(make_order(7, order), 0.0, 0.0)
        np.testing.assert_array_equal(got, transitions.uniform_transition(7))


@pytest.mark.parametrize(
    ("alpha", "m", "expected"),
    [(0, 10, 0), (4, 10, 0.4), (10, 10, 1), (20, 10, 1), (1, 300, 1 / 300)],
)
def test_the_largest_delta(alpha: float, m: int, expected: float) -> None:
    assert largest(alpha, m) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("alpha", "delta"), [(20, 1.01), (20, -0.1), (5, 0.51), (0, 0.1), (20, np.nan), (20, np.inf)]
)
def test_a_delta_out_of_range_says_the_largest(alpha: float, delta: float) -> None:
    with pytest.raises(ValueError, match=f"got {delta}; accepted: 0 to {largest(alpha, 10):g} at"):
        transitions.structured_transition(make_order(10, "confusing"), alpha, delta)


@pytest.mark.parametrize("shape", [(2, 1), (4, 4), (3, 1)])
def test_structure_needs_an_order_among_two_false_classes(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="m >= 3"):
        transitions.structured_transition(np.ones(shape, np.int64), 20, 0.5)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        ([[0.5, 0.5]], "shape"),
        ([0.5, 0.5], "shape"),
        ([[1.1, -0.1], [0.5, 0.5]], "outside"),
        ([[0.9, 0.1], [0.5, 0.4]], "row 1 sums to 0.9"),
        ([[np.nan, 1.0], [0.5, 0.5]], "outside"),
        ([[0.9, 0.3], [0.1, 0.7]], "row 1 sums to 0.8"),  # columns sum to 1: the wrong axis
    ],
)
def test_a_matrix_whose_rows_are_no_distributions_is_refused(matrix: object, words: str) -> None:
    for function in (
        transitions.check_transition,
        lambda t: LabelSampler(t, rng=np.random.default_rng()),
    ):
        with pytest.raises(ValueError, match=words):
            function(np.array(matrix))


# --- draws


@pytest.mark.parametrize(("m", "kind", "alpha", "delta"), NOISE)
def test_labels_are_drawn_as_a_slow_loop_draws_them(
    m: int, kind: str, alpha: float, delta: float
) -> None:
    """Compare the ranks of drawn labels: 0 the true class, 1 the first false class, and so on."""
    n = 1_000
    true_labels = np.random.default_rng(1).integers(0, m, n).astype(sampling.label_dtype(m))
    transition = make_transition(m, kind, alpha, delta)
    slow_rng = np.random.default_rng(2)
    slow = [int(slow_rng.choice(m, p=np.clip(transition[t], 0, 1))) for t in true_labels]
    fast = sampling.draw_labels(np.tile(true_labels, 100), transition, rng=np.random.default_rng(3))
    assert fast.dtype == sampling.label_dtype(m)
    false = make_order(m, "random" if kind == "uniform" else kind)
    order = np.column_stack([np.arange(m), false]).argsort(axis=1)
    ranks = [
        np.bincount(order[np.tile(true_labels, len(drawn) // n), drawn], minlength=m)
        for drawn in (np.array(slow), fast)
    ]
    bins = np.arange(0, m, max(1, m // 30))  # of 300 ranks, bins of 10, to expect enough of each
    both = np.array([np.add.reduceat(rank, bins) for rank in ranks])
    both = both[:, both.sum(axis=0) > 0]
    assert stats.chi2_contingency(both).pvalue > LEVEL


def draw_counts(m: int, transition: Matrix, each: int, seed: int) -> NDArray[np.int64]:
    true_labels = np.repeat(np.arange(m), each).astype(sampling.label_dtype(m))
    labels = sampling.draw_labels(true_labels, transition, rng=np.random.default_rng(seed))
    return sampling.count_labels(true_labels, labels, m)


@pytest.mark.parametrize(("m", "kind", "alpha", "delta"), NOISE)
def test_labels_follow_the_matrix(m: int, kind: str, alpha: float, delta: float) -> None:
    transition = make_transition(m, kind, alpha, delta)
    counts = draw_counts(m, transition, max(3000, 300_000 // m), seed=m + int(10 * delta))
    assert p_value(counts, transition) > LEVEL


@pytest.mark.parametrize(
    ("drawn", "claimed"),
    [
        ((10, "confusing", 20.0, 0.5), (10, "reverse", 20.0, 0.5)),
        ((10, "confusing", 20.0, 0.5), (10, "confusing", 20.0, 0.4)),
        ((10, "confusing", 20.0, 0.5), (10, "uniform", 20.0, 0.0)),
        ((10, "uniform", 20.0, 0.0), (10, "random", 20.0, 0.2)),
        ((7, "random", 100.0, 1.0), (7, "random", 100.0, 0.5)),
        ((3, "confusing", 0.5, 0.1), (3, "confusing", 0.5, 0.15)),
        ((300, "confusing", 300.0, 1.0), (300, "reverse", 300.0, 1.0)),
    ],
)
def test_a_wrong_matrix_fails_the_same_test(
    drawn: tuple[int, str, float, float], claimed: tuple[int, str, float, float]
) -> None:
    m = drawn[0]
    counts = draw_counts(m, make_transition(*drawn), max(3000, 300_000 // m), seed=4)
    assert p_value(counts, make_transition(*drawn)) > LEVEL
    assert p_value(counts, make_transition(*claimed)) < 1e-6


def test_the_transpose_fails_the_same_test() -> None:
    transition = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.4, 0.1, 0.5]])
    counts = draw_counts(3, transition, 30_000, seed=5)
    assert p_value(counts, transition) > LEVEL
    assert p_value(counts.T, transition) < 1e-6


TINY = 2.0**-17  # half of a table's cell
AWKWARD = {
    "three": np.array([1 / 3 + TINY, 1 / 3, 1 / 3 - TINY]),
    "tiny": np.array([0.5, 0.0, TINY, 0.5 - 3 * TINY, TINY / 3, 5 * TINY / 3]),
    "300 classes": make_transition(300, "confusing", 300.0, 0.99)[0],
}


@pytest.mark.parametrize("name", AWKWARD)
def test_the_tables_resolution_does_not_show_in_twenty_million_labels(name: str) -> None:
    row = AWKWARD[name]
    transition, m, n = np.tile(row, (len(row), 1)), len(row), 20_500_000
    true_labels = np.zeros(n, dtype=sampling.label_dtype(m))
    labels = sampling.draw_labels(true_labels, transition, rng=np.random.default_rng(6))
    counts = sampling.count_labels(true_labels, labels, m)
    assert p_value(counts, transition) > LEVEL


@pytest.mark.parametrize("name", ["tiny", "300 classes"])
def test_a_table_without_further_bits_would_show(name: str) -> None:
    """What the table alone draws: every cell goes to the label at its lower edge."""
    row = AWKWARD[name]
    m = len(row)
    sampler = LabelSampler(np.tile(row, (m, 1)), rng=np.random.default_rng(7))
    probability = np.bincount(sampler.label[0], minlength=m) / sampler.label.shape[1]
    drawn = np.random.default_rng(7).multinomial(20_500_000, probability)
    counts = np.zeros((m, m), dtype=np.int64)
    counts[0] = drawn
    assert p_value(counts, np.tile(row, (m, 1))) < 1e-6


@pytest.mark.parametrize("kind", ["uniform", "confusing"])
def test_twenty_million_labels_take_little_memory_beside_themselves(kind: str) -> None:
    n = 20_000_000
    true_labels = np.zeros(n, dtype=np.uint8)
    transition = make_transition(10, kind, 20, 0.5)
    tracemalloc.start()
    try:
        sampling.draw_labels(true_labels, transition, rng=np.random.default_rng(0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n < peak < n + 32 * 2**20  # a chunk of 2**18 labels takes about 40 bytes each


@pytest.mark.parametrize("kind", ["uniform", "confusing"])
@pytest.mark.parametrize("m", [10, 300])
def test_a_seed_repeats_and_another_differs(m: int, kind: str) -> None:
    true_labels = (np.arange(1000) % m).astype(sampling.label_dtype(m))
    one, same, other = (
        sampling.draw_labels(
            true_labels, make_transition(m, kind, m, 0.5), rng=np.random.default_rng(seed)
        )
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_nothing_that_is_passed_is_changed() -> None:
    true_labels = (np.arange(100) % 10).astype(np.uint8)
    transition = make_transition(10, "confusing", 20, 0.5)
    before = true_labels.copy(), transition.copy()
    sampling.draw_labels(true_labels, transition, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(true_labels, before[0])
    np.testing.assert_array_equal(transition, before[1])


@pytest.mark.parametrize("kind", ["uniform", "confusing"])
def test_no_labels_are_no_labels(kind: str) -> None:
    transition = make_transition(10, kind, 20, 0.5)
    assert (
        sampling.draw_labels(np.empty(0, np.uint8), transition, rng=np.random.default_rng(0)).size
        == 0
    )


@pytest.mark.parametrize("kind", ["uniform", "confusing"])
def test_a_true_label_that_is_no_class_is_refused(kind: str) -> None:
    draw = LabelSampler(make_transition(10, kind, 20, 0.5), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="got 10; accepted: 0 to 9"):
        draw(np.array([0, 10], dtype=np.uint8))


def test_a_certain_label_is_always_drawn() -> None:
    true_labels = (np.arange(30_000) % 3).astype(np.uint8)
    transition = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    got = sampling.draw_labels(true_labels, transition, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(got, (true_labels + 1) % 3)


@pytest.mark.parametrize("chunk", [1, 7, 1000, sampling.CHUNK])
def test_counts_are_those_of_a_slow_loop(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CHUNK", chunk)
    rng = np.random.default_rng(8)
    true, given = rng.integers(0, 5, (2, 1000)).astype(np.uint8)
    expected = np.zeros((5, 5), dtype=np.int64)
    for i, j in zip(true, given, strict=True):
        expected[i, j] += 1
    np.testing.assert_array_equal(sampling.count_labels(true, given, 5), expected)


def test_the_chunk_is_part_of_every_result() -> None:
    """Labels are drawn a chunk at a time, so that another length would draw other labels."""
    assert sampling.CHUNK == 2**18
