"""Forward correction at work: a network that is told the transition matrix, by training."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy import stats
from test_training import MLP, member, sized

from stages.lib.noise.transitions import estimate
from stages.lib.training.loop import train
from stages.lib.training.replicas import TrainingData

M, N, SEEDS = 4, 12000, range(5)
#: A 30 % cyclic flip: no symmetric matrix, so that a transposed one shows.
FLIP = 0.7 * np.eye(M) + 0.3 * np.roll(np.eye(M), 1, axis=1)

pytestmark = pytest.mark.usefixtures("one_thread")


@lru_cache
def blurred() -> TrainingData:
    """Return images whose classes overlap, labelled truly."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, M, N + 1000)
    images = rng.normal(100, 30, (len(labels), 8, 8, 1))
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 20
    pixels = torch.from_numpy(images.clip(0, 255).astype(np.uint8))
    true, none = torch.from_numpy(labels), torch.empty(0, dtype=torch.int64)
    return TrainingData(
        bank=pixels[:N], labels=true[:N].to(torch.uint8), images=torch.arange(N),
        validation=none, validation_labels=none, validation_votes=none.view(0, M),
        test_images=pixels[N:], test_labels=true[N:],
    )  # fmt: skip


@lru_cache
def accuracies(matrix: str) -> np.ndarray:
    """Return test accuracies by seed, corrected by a matrix, of flipped labels or of true ones."""
    config = replace(
        MLP, model=sized("perceptron", 1.0), loss="forward_correction", batch_size=128,
        zero_output=True, optimizer="adamw", schedule="linear",
    )  # fmt: skip
    members = []
    for seed in SEEDS:
        data, rng = blurred(), np.random.default_rng((1, seed))
        true = data.labels.numpy()
        given = np.array([rng.choice(M, p=FLIP[label]) for label in true])
        told = {
            "true labels": np.eye(M), "none": np.eye(M), "true": FLIP, "transposed": FLIP.T,
            "estimated": estimate(true[:500], np.eye(M, dtype=int)[given[:500]]),
        }[matrix]  # fmt: skip
        labels = true if matrix == "true labels" else given.astype(np.uint8)
        own = replace(
            data, labels=torch.from_numpy(labels), transition=torch.from_numpy(told).float()
        )
        numbers = {"learning_rate": 0.003, "steps": 1000}
        members.append(member(own, seed, **numbers))
    outcomes = train(config, members)
    return np.array([outcome["test_accuracy"] for outcome in outcomes])


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a paired mean."""
    found = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    return found.low, found.high


@pytest.mark.parametrize("matrix", ["true", "estimated"])
def test_the_matrix_gives_back_what_clean_labels_give(matrix: str) -> None:
    """To 0.03; without it thrice as much is lost, and with its axes mixed up far more."""
    low, high = interval(accuracies(matrix) - accuracies("true labels"))
    assert -0.03 < low < high < 0.03
    for other, least in (("none", 0.05), ("transposed", 0.3)):
        low, _ = interval(accuracies(matrix) - accuracies(other))
        assert low > least
