"""How many floating-point operations training takes: those of products and convolutions."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from stages.lib.models import layers, networks
from stages.lib.models.architectures import Shape


@cache
def operations(name: str, shape: Shape, num_classes: int, *, width: float, batch_norm: bool) -> int:
    """Return the operations of training on one image: a forward and a backward pass.

    A layer's forward pass takes two for each weight and place of its outputs, a multiplication and
    an addition; its backward pass as many for the gradient of its weights, and again for that of
    its inputs, which the first layer's have none. That is what torch's ``FlopCounterMode`` counts
    of a single network, whatever the way of stacking; all else is proportional to activations.

    Args:
        name: a key of `ARCHITECTURES`.
        shape: (height, width, channels) of an image.
        num_classes: number of logits.
        width: factor on units and channels.
        batch_norm: whether a ConvNet has batch norm.
    """
    forward: list[int] = []

    def count(module: Any, _: Any, output: Tensor) -> None:
        match module:
            case layers.Dense():
                inputs = module.weight.shape[1]
            case layers.Convolution():
                inputs = module.weight[0, 0].numel()
            case _:
                inputs = module.weight[0].numel()
        forward.append(2 * output.numel() * inputs)

    make = networks.maker(name, shape, num_classes, width=width, batch_norm=batch_norm)
    # On the CPU: what the meta device loads takes every worker longer than a small training does.
    network = networks.Network(make, 1, "grouped", torch.device("cpu"))
    for module in network.modules():
        if isinstance(module, layers.Dense | layers.Convolution | nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros((1, 1, *shape), dtype=torch.uint8))
    return 3 * sum(forward) - forward[0]
