"""Running means, equal and exponential: of any number of steps; kept, selected, begun anew."""

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stages.lib.components.averaging import AveragingParams, unread
from stages.lib.models import networks
from stages.lib.training import running_mean
from stages.lib.training.running_mean import RunningMean

TAIL = AveragingParams()


def make(count: int) -> networks.Network:
    generators = [torch.Generator().manual_seed(k) for k in range(count)]
    return networks.build(
        "conv2", (8, 8, 1), 3, width=0.05, batch_norm=True, init="he", zero_output=False,
        generators=generators,
    )  # fmt: skip


def run(mean: RunningMean, path: np.ndarray, first: int = 1) -> None:
    """Take a path of weights ``(steps, K)`` into a mean: every weight of a member has its value."""
    for step, values in enumerate(path, first):
        for tensor in (mean.network.weights, *mean.network.buffers()):
            tensor.copy_(torch.from_numpy(values)[:, None].expand_as(tensor))
        mean.update(torch.tensor(step))
        mean.close_blocks(step)


def values(mean: RunningMean, step: int) -> np.ndarray:
    """Return each member's mean, of whose weights and statistics all must agree."""
    found = mean.of(range(mean.network.members), step)
    rows = torch.cat([found.weights, *found.buffers()], dim=1)
    assert (rows == rows[:, :1]).all()
    return rows[:, 0].double().numpy()


def test_a_long_mean_moves_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without blocks a step's share of a change of 0.01 is rounded away at 256, and it is lost."""
    monkeypatch.setattr(running_mean, "BLOCK", 1000)
    path = np.repeat(np.array([[256.0], [256.01]], dtype=np.float32), 2000, axis=0)
    mean = RunningMean(make(1), [1], TAIL)
    run(mean, path)
    assert abs(values(mean, len(path))[0] - path.astype(np.float64).mean()) < 1e-4


def test_means_in_blocks_are_those_of_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members begin at different steps, one anew; selected, and gone on from a state."""
    monkeypatch.setattr(running_mean, "BLOCK", 7)
    path = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    mean, exact = RunningMean(make(3), [1, 4, 30], TAIL), path.astype(np.float64)
    run(mean, path[:20])
    mean.begin(0, 23)
    run(mean, path[20:40], 21)
    expected = [exact[22:40, 0].mean(), exact[3:40, 1].mean(), exact[29:40, 2].mean()]
    np.testing.assert_allclose(values(mean, 40), expected, rtol=1e-5, atol=1e-6)
    resumed = RunningMean(make(2), [1, 1], TAIL)
    for row, old in enumerate((2, 1)):
        resumed.restore(row, mean.state(old))
    chosen = mean.select([2, 1], make(2))
    for each in (chosen, resumed):
        run(each, path[40:, [2, 1]], 41)
    expected = [exact[29:, 2].mean(), exact[3:, 1].mean()]
    np.testing.assert_allclose(values(chosen, 60), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(values(chosen, 60), values(resumed, 60))


def slow_ema(path: np.ndarray, first: int, decay: float) -> float:
    """Return the mean of weights from a step on: of the first ones equal, then exponential."""
    own = path[first - 1 :].astype(np.float64)
    equal = min(len(own), round(1 / (1 - decay)))
    weights = [decay ** (len(own) - equal) / equal] * equal
    weights += [(1 - decay) * decay ** (len(own) - k) for k in range(equal + 1, len(own) + 1)]
    assert sum(weights) == pytest.approx(1)
    return float(np.dot(weights, own))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_exponential_averages_are_those_of_a_slow_sum(
    decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members begin at different steps, one anew; selected, and gone on from a state to the bit."""
    monkeypatch.setattr(running_mean, "BLOCK", 7)  # of equal means alone
    params = AveragingParams(averaging="ema", ema_decay=decay)
    path = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    mean = RunningMean(make(3), [1, 4, 38], params)
    run(mean, path[:4])
    assert (mean.of([1], 4).weights == float(path[3, 1])).all()  # of one step: its weights
    run(mean, path[4:20], 5)
    mean.begin(0, 23)
    run(mean, path[20:40], 21)
    expected = [slow_ema(path[:40, k], first, decay) for k, first in enumerate((23, 4, 38))]
    np.testing.assert_allclose(values(mean, 40), expected, rtol=1e-5, atol=1e-6)
    resumed = RunningMean(make(2), [1, 1], params)
    for row, old in enumerate((2, 1)):
        resumed.restore(row, mean.state(old))
    chosen = mean.select([2, 1], make(2))
    for each in (chosen, resumed):
        run(each, path[40:, [2, 1]], 41)
    expected = [slow_ema(path[:, k], first, decay) for k, first in ((2, 38), (1, 4))]
    np.testing.assert_allclose(values(chosen, 60), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(values(chosen, 60), values(resumed, 60))


def test_an_exponential_average_goes_on_as_torchs() -> None:
    """From where the equal mean of the first weights ends."""
    path = np.random.default_rng(1).normal(size=(50, 1)).astype(np.float32)
    mean = RunningMean(make(1), [1], AveragingParams(averaging="ema", ema_decay=0.95))
    run(mean, path)
    theirs, update = torch.tensor(path[:20].mean(), dtype=torch.float64), get_ema_multi_avg_fn(0.95)
    for value in path[20:, 0].astype(np.float64):
        update([theirs], [torch.tensor(value)], 0)
    np.testing.assert_allclose(values(mean, 50), float(theirs), rtol=1e-5)


@pytest.mark.parametrize(
    ("averaging", "average", "expected"),
    [
        ("tail", 0.0, {"averaging", "ema_decay"}), ("tail", 0.5, {"ema_decay"}),
        ("ema", 0.0, {"averaging", "ema_decay"}), ("ema", 0.5, set()),
    ],
)  # fmt: skip
def test_what_an_average_does_not_read(averaging: str, average: float, expected: set[str]) -> None:
    assert unread(AveragingParams(averaging=averaging, average=average)) == expected
