"""Operations of training, against those that torch counts while it trains."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stages.lib.models import networks
from stages.lib.models.operations import operations


@pytest.mark.parametrize(
    ("name", "shape", "width", "batch_norm"),
    [
        ("perceptron", (14, 14, 1), 1.0, False),
        ("mlp2", (8, 8, 1), 0.25, False),
        ("conv4", (14, 14, 1), 0.25, False),
        ("conv2", (8, 8, 3), 0.25, True),
        ("resnet20", (8, 8, 1), 0.5, False),
        ("resnet18", (64, 64, 3), 1.0, False),
    ],
)
def test_operations_are_those_that_torch_counts(
    name: str, shape: tuple[int, int, int], width: float, batch_norm: bool
) -> None:
    make = networks.maker(name, shape, 10, width=width, batch_norm=batch_norm)
    network = networks.Network(make, 1, "grouped", torch.device("meta")).eval()
    with FlopCounterMode(display=False) as counted:
        logits = network(torch.empty((1, 3, *shape), dtype=torch.uint8, device="meta"))
        torch.autograd.grad(logits.sum(), list(network.parameters()))
    each = operations(name, shape, 10, width=width, batch_norm=batch_norm)
    assert 3 * each == counted.get_total_flops()  # of a batch of three
