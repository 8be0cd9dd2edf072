"""The noisy loss H_alpha against a slow loop of its formula."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stages.lib.components.losses import Context, cross_entropy
from stages.lib.components.losses import expected_noisy_cross_entropy as expected_loss

ALPHAS = [0.0, 10.0]


def h_alpha(logits: Tensor, labels: Tensor, alphas: Tensor | None = None) -> Tensor:
    """Return ``H_alpha``; without alphas cross-entropy."""
    if alphas is None:
        return cross_entropy(logits, labels, Context(logits.new_zeros(len(logits))))
    return expected_loss(logits, labels, Context(alphas))


def draw(b: int = 6, m: int = 5, members: int = 1) -> tuple[Tensor, Tensor]:
    """Return logits and labels of some networks, other ones for each."""
    rng = np.random.default_rng(b * m)
    logits = torch.from_numpy(rng.normal(0, 3, (members, b, m)))
    return logits, torch.from_numpy(rng.integers(0, m, (members, b)))


def column(*alphas: float) -> Tensor:
    return torch.tensor(alphas, dtype=torch.float64)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("b", "m"), [(6, 5), (1, 300)])
def test_the_loss_is_that_of_a_slow_loop(b: int, m: int, alpha: float) -> None:
    """For each of three networks, the others of which have another alpha."""
    logits, labels = draw(b, m, members=3)
    alphas = [alpha, 2.5, alpha + 1]
    losses = h_alpha(logits, labels, column(*alphas))
    assert losses.shape == (3,)
    for k, own in enumerate(alphas):
        total = 0.0
        for row, true in zip(logits[k].tolist(), labels[k].tolist(), strict=True):
            normaliser = sum(math.exp(value) for value in row)
            log_p = [value - math.log(normaliser) for value in row]
            total -= log_p[true] / (1 + own) + own / (m * (1 + own)) * sum(log_p)
        assert losses[k].item() == pytest.approx(total / b, rel=1e-12)


def test_without_noise_it_is_cross_entropy() -> None:
    logits, labels = draw(members=3)
    expected = torch.stack(list(map(functional.cross_entropy, logits, labels)))
    for alphas in (None, column(0.0, 0.0, 0.0)):
        torch.testing.assert_close(h_alpha(logits, labels, alphas), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("alphas", [None, [0.5, 0.0, 100.0]])
def test_a_network_in_a_stack_has_its_loss_and_gradient_to_the_bit(
    alphas: list[float] | None,
) -> None:
    logits, labels = draw(33, 7, members=3)
    logits = logits.float().requires_grad_()
    given = None if alphas is None else torch.tensor(alphas)
    losses = h_alpha(logits, labels, given)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    for k in range(3):
        own = logits.detach()[k : k + 1].clone().requires_grad_()
        loss = h_alpha(own, labels[k : k + 1], None if given is None else given[k : k + 1])
        assert torch.equal(loss, losses[k : k + 1])
        assert torch.equal(torch.autograd.grad(loss.sum(), own)[0][0], gradient[k])


@pytest.mark.parametrize("alpha", ALPHAS)
def test_its_gradient_is_the_difference_from_the_expected_labels(alpha: float) -> None:
    """The gradient of cross-entropy against q is (p - q) / b, and q holds the paper's numbers."""
    logits, labels = draw(members=2)
    _, b, m = logits.shape
    logits.requires_grad_()
    h_alpha(logits, labels, column(alpha, 3.0)).sum().backward()
    assert logits.grad is not None
    for k, own in enumerate((alpha, 3.0)):
        p = np.exp(logits[k].detach().numpy())
        p /= p.sum(axis=1, keepdims=True)
        q = np.full((b, m), (own / m) / (1 + own))
        q[np.arange(b), labels[k].numpy()] = (1 + own / m) / (1 + own)
        np.testing.assert_allclose(logits.grad[k].numpy(), (p - q) / b, rtol=1e-10, atol=1e-14)
