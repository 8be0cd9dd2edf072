"""Paired differences, against scipy's own paired test."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from stages.lib.studies.pairs import add_differences, difference

RNG = np.random.default_rng(0)
OURS, THEIRS = (RNG.normal(mean, 0.1, 7).tolist() for mean in (0.8, 0.6))


def test_a_difference_and_its_interval_are_those_of_scipys_paired_test() -> None:
    found = difference(OURS, THEIRS)
    test = stats.ttest_rel(OURS, THEIRS)
    interval = test.confidence_interval(0.95)
    assert found["difference"] == pytest.approx(np.mean(OURS) - np.mean(THEIRS), abs=1e-12)
    assert (found["difference_lo"], found["difference_hi"]) == pytest.approx(
        (interval.low, interval.high), abs=1e-12
    )
    assert found["pairs"] == 7
    unpaired = stats.ttest_ind(OURS, THEIRS).confidence_interval(0.95)
    assert unpaired.low != pytest.approx(interval.low, abs=1e-3)


def test_of_few_seeds_or_of_some_that_diverged_there_is_no_interval() -> None:
    mean = np.mean(np.subtract(OURS, THEIRS)[1:5])
    for ours, theirs in ((OURS[1:5], THEIRS[1:5]), ([None, *OURS[1:]], [*THEIRS[:5], None, None])):
        found = difference(ours, theirs)
        assert found["difference"] == pytest.approx(mean, abs=1e-12)
        assert (found["difference_lo"], found["difference_hi"], found["pairs"]) == (None, None, 4)
    assert difference([None], [0.5])["difference"] is None


def point(series: str, alpha: float, values: dict[int, float], **more: Any) -> dict[str, Any]:
    return {
        "series": series, "alpha": alpha, "seeds": list(values), "values": [*values.values()],
        "baseline": "b", **more,
    }  # fmt: skip


def test_points_are_compared_at_one_place_and_seed_by_seed() -> None:
    points = [
        point("a", 0, {0: 0.5, 1: 0.9}),
        point("a", 5, {1: 0.4, 0: 0.2, 2: 0.9}),
        point("a", 9, {0: 0.1}),  # where the baseline is not
        point("b", 0, {0: 0.25, 1: 0.25}),
        point("b", 5, {0: 0.25, 1: 0.125}),
    ]
    found = add_differences(points, "alpha")
    expected = [(0.25 + 0.65) / 2, (0.275 - 0.05) / 2, None, None, None]
    assert [each["difference"] for each in found] == [
        value if value is None else pytest.approx(value, abs=1e-12) for value in expected
    ]
    assert [each["pairs"] for each in found] == [2, 2, 0, 0, 0]
    alone = [{key: value for key, value in points[0].items() if key != "baseline"}]
    assert add_differences(alone, "alpha") == alone
