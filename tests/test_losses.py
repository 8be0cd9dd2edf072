"""The noisy loss H_alpha against a slow loop of its formula."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from stages.lib.losses import noisy_loss

ALPHAS = [0.0, 0.5, 1.0, 10.0, 100.0]


def draw(b: int = 6, m: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(b * m)
    logits = torch.from_numpy(rng.normal(0, 3, (b, m)))
    return logits, torch.from_numpy(rng.integers(0, m, b))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("b", "m"), [(6, 5), (1, 10), (3, 2), (4, 300)])
def test_the_loss_is_that_of_a_slow_loop(b: int, m: int, alpha: float) -> None:
    logits, labels = draw(b, m)
    total = 0.0
    for row, true in zip(logits.tolist(), labels.tolist(), strict=True):
        normaliser = sum(math.exp(value) for value in row)
        log_p = [value - math.log(normaliser) for value in row]
        total -= log_p[true] / (1 + alpha) + alpha / (m * (1 + alpha)) * sum(log_p)
    assert noisy_loss(logits, labels, alpha).item() == pytest.approx(total / b, rel=1e-12)


def test_without_noise_it_is_cross_entropy() -> None:
    logits, labels = draw()
    assert torch.equal(noisy_loss(logits, labels, 0.0), functional.cross_entropy(logits, labels))


def test_noise_changes_it() -> None:
    logits, labels = draw()
    assert abs(noisy_loss(logits, labels, 1.0) - noisy_loss(logits, labels, 0.0)) > 0.1


@pytest.mark.parametrize("alpha", ALPHAS)
def test_its_gradient_is_the_difference_from_the_expected_labels(alpha: float) -> None:
    """The gradient of cross-entropy against q is (p - q) / b, and q holds the paper's numbers."""
    logits, labels = draw()
    b, m = logits.shape
    logits.requires_grad_()
    noisy_loss(logits, labels, alpha).backward()
    p = np.exp(logits.detach().numpy())
    p /= p.sum(axis=1, keepdims=True)
    q = np.full((b, m), (alpha / m) / (1 + alpha))
    q[np.arange(b), labels.numpy()] = (1 + alpha / m) / (1 + alpha)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), (p - q) / b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_its_gradient_is_that_of_finite_differences(alpha: float) -> None:
    logits, labels = draw()
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: noisy_loss(x, labels, alpha), (logits,))


def test_it_is_what_many_noisy_labels_average_to() -> None:
    """The mean loss of uniformly diluted labels."""
    alpha, m = 4.0, 5
    logits, _ = draw(1, m)
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(40_000) < 1 / (1 + alpha), 2, rng.integers(0, m, 40_000))
    drawn = functional.cross_entropy(logits.expand(40_000, m), torch.from_numpy(labels))
    expected = noisy_loss(logits, torch.tensor([2]), alpha)
    losses = -torch.log_softmax(logits, dim=1)[0, torch.from_numpy(labels)]
    tolerance = 4 * losses.std().item() / math.sqrt(40_000)
    assert drawn.item() == pytest.approx(expected.item(), abs=tolerance)
    assert tolerance < 0.1
