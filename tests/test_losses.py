"""Losses against slow loops of their formulas, and against torch's own."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stages.lib.components.losses import LOSSES, Context, LossParams, cross_entropy
from stages.lib.components.losses import expected_noisy_cross_entropy as expected_loss
from stages.lib.components.targets import LabelCounts, Labels

ALPHAS = [0.0, 10.0]


def h_alpha(logits: Tensor, labels: Tensor, alphas: Tensor | None = None) -> Tensor:
    """Return ``H_alpha``; without alphas cross-entropy."""
    if alphas is None:
        return cross_entropy(logits, Labels(labels), context(logits))
    return expected_loss(logits, Labels(labels), context(logits, alphas))


def context(logits: Tensor, alphas: Tensor | None = None, **params: float) -> Context:
    """Return what losses of some networks may need; a matrix of each network's own."""
    (members, _, m), rng = logits.shape, np.random.default_rng(1)
    matrices = rng.dirichlet(np.ones(m), (members, m))
    none = logits.new_zeros(members) if alphas is None else alphas
    return Context(none, LossParams(**params), torch.from_numpy(matrices).to(logits.dtype))


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


def cost(loss: str, p: list[float], label: int, matrix: np.ndarray) -> float:
    """Return what a label costs at some probabilities, by the formula of its paper."""
    m = len(p)
    if loss == "label_smoothing":
        return -sum((0.7 * (k == label) + 0.3 / m) * math.log(p[k]) for k in range(m))
    if loss == "generalised_cross_entropy":
        return (1 - p[label] ** 0.4) / 0.4
    if loss == "forward_correction":
        return -math.log(sum(p[true] * matrix[true, label] for true in range(m)))
    return -math.log(p[label])


ONE_LABEL = [name for name, loss in LOSSES.items() if not loss.originals_only]


@pytest.mark.parametrize("loss", ONE_LABEL)
def test_a_loss_is_the_mean_of_what_labels_cost_one_or_all_of_each_image(loss: str) -> None:
    """All labels of each image: the sum over classes of count times cost, by the mean count."""
    logits, labels = draw(members=2)
    given = context(logits, smoothing=0.3, q=0.4)
    counts = np.random.default_rng(2).integers(0, 4, logits.shape)
    mean = counts.sum() / (2 * logits.shape[1])
    one = LOSSES[loss].function(logits, Labels(labels), given)
    every = LOSSES[loss].function(logits, LabelCounts(torch.from_numpy(counts / mean)), given)
    assert given.transition is not None
    for k, p in enumerate(logits.softmax(2).tolist()):
        costs = [[cost(loss, row, j, given.transition[k].numpy()) for j in range(5)] for row in p]
        expected = np.mean([row[j] for row, j in zip(costs, labels[k].tolist(), strict=True)])
        assert one[k].item() == pytest.approx(expected, rel=1e-12)
        expected = (counts[k] * costs).sum() / mean / logits.shape[1]
        assert every[k].item() == pytest.approx(expected, rel=1e-12)


def test_losses_are_torchs_and_cross_entropy_where_they_should_be() -> None:
    logits, labels = draw(members=1)
    smoothed = functional.cross_entropy(logits[0], labels[0], label_smoothing=0.3)
    plain = functional.cross_entropy(logits[0], labels[0])
    identity = context(logits)._replace(transition=torch.eye(5, dtype=logits.dtype).unsqueeze(0))
    for loss, given, expected in (
        ("label_smoothing", context(logits, smoothing=0.3), smoothed),
        ("label_smoothing", context(logits, smoothing=0.0), plain),
        ("generalised_cross_entropy", context(logits, q=1e-9), plain),
        ("forward_correction", identity, plain),
    ):
        found = LOSSES[loss].function(logits, Labels(labels), given)[0]
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)


def test_a_network_that_is_sure_and_wrong_is_corrected_with_a_finite_gradient() -> None:
    logits = torch.tensor([[[200.0, 0.0, -200.0]]], requires_grad=True)
    matrix = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]])
    given = Context(torch.zeros(1), LossParams(), matrix)
    loss = LOSSES["forward_correction"].function(logits, Labels(torch.tensor([[2]])), given)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.item() == pytest.approx(400)
    assert gradient.isfinite().all()
    with pytest.raises(ValueError, match="got no transition matrix"):
        LOSSES["forward_correction"].function(
            logits, Labels(torch.tensor([[2]])), given._replace(transition=None)
        )
