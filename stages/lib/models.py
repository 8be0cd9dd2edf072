"""Builds the networks that `stages.lib.architectures` describes, and starts their weights."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from stages.lib.architectures import ARCHITECTURES, INITS, ConvNet, Perceptron, ResNet


def build(
    name: str,
    shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: float,
    init: str,
    zero_output: bool,
    generator: torch.Generator,
) -> nn.Sequential:
    """Return a freshly initialised network from uint8 images to logits.

    Args:
        name: a key of `ARCHITECTURES`.
        shape: (height, width, channels) of an image, at least 8x8 for convolutions.
        num_classes: number of logits.
        width: factor on every number of hidden units and channels (a perceptron has none).
        init: ``torch`` (its default), ``glorot`` (uniform, as in Keras) or ``he`` (normal).
        zero_output: start the last layer at zero, so that training starts from uniform predictions.
        generator: source of the weights' randomness, on the CPU.

    Raises:
        ValueError: an unknown name or init, or images too small for the network.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"model: got {name!r}; accepted: {', '.join(ARCHITECTURES)}")
    if init not in INITS:
        raise ValueError(f"init: got {init!r}; accepted: {', '.join(INITS)}")
    architecture = ARCHITECTURES[name]
    if not isinstance(architecture, Perceptron) and min(shape[:2]) < 8:
        raise ValueError(f"model: {name} needs images of 8x8 or more, got {shape[0]}x{shape[1]}")
    # By default torch draws weights from its global generator as a layer is made. On the meta
    # device nothing is drawn, and every weight below comes from `generator`.
    with torch.device("meta"):
        layers = _layers(architecture, shape, num_classes, width)
        model = nn.Sequential(*layers)
    model.to_empty(device="cpu")
    weighted = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in weighted:
        _initialise(layer, init, generator)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_parameters()  # ones and zeros: no randomness
    if zero_output:
        for parameter in weighted[-1].parameters():
            nn.init.zeros_(parameter)
    return model


class Scale(nn.Module):
    """Images as stored, ``(b, height, width, channels)`` uint8, to ``(b, c, h, w)`` in [0, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        """Scale a batch; the permuted view stays channels-last, which convolutions like best."""
        return images.permute(0, 3, 1, 2).float().div(255)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a parameter-free shortcut (He et al. 2016, A)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.stride = stride
        self.missing = channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output; new channels of the shortcut are zero."""
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.missing:
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.missing))
        return torch.relu(self.branch(x) + shortcut)


def _scaled(units: int, width: float) -> int:
    return max(1, round(units * width))


def _layers(
    architecture: Perceptron | ConvNet | ResNet,
    shape: tuple[int, int, int],
    num_classes: int,
    width: float,
) -> list[nn.Module]:
    if isinstance(architecture, Perceptron):
        hidden = [_scaled(units, width) for units in architecture.hidden]
        return [Scale(), nn.Flatten(), *_dense([math.prod(shape), *hidden, num_classes])]
    if isinstance(architecture, ConvNet):
        return _convnet(architecture, shape, num_classes, width)
    return _resnet(architecture, shape[2], num_classes, width)


def _dense(sizes: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers[:-1]  # the last layer gives logits


def _convnet(
    architecture: ConvNet, shape: tuple[int, int, int], num_classes: int, width: float
) -> list[nn.Module]:
    rows, columns, channels = shape
    layers: list[nn.Module] = [Scale()]
    for block in architecture.blocks:
        for out in (_scaled(units, width) for units in block):
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU()]
            channels = out
        layers.append(nn.MaxPool2d(2))
        rows, columns = rows // 2, columns // 2
    sizes = [channels * rows * columns, _scaled(architecture.dense, width), num_classes]
    return [*layers, nn.Flatten(), *_dense(sizes)]


def _resnet(
    architecture: ResNet, channels_in: int, num_classes: int, width: float
) -> list[nn.Module]:
    channels = [_scaled(units, width) for units in architecture.channels]
    before = channels[0]
    layers: list[nn.Module] = [
        Scale(),
        nn.Conv2d(channels_in, before, 3, padding=1, bias=False),
        nn.BatchNorm2d(before),
        nn.ReLU(),
    ]
    for stage, out in enumerate(channels):
        for block in range(architecture.blocks_per_stage):
            layers.append(ResidualBlock(before, out, 2 if stage > 0 and block == 0 else 1))
            before = out
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)]


def _initialise(layer: nn.Conv2d | nn.Linear, init: str, generator: torch.Generator) -> None:
    if init == "glorot":
        nn.init.xavier_uniform_(layer.weight, generator=generator)
    elif init == "he":
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    else:
        # What nn.Linear and nn.Conv2d do by themselves: uniform within 1/sqrt(fan in).
        nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    if layer.bias is not None:
        bound = 1 / math.sqrt(layer.weight[0].numel()) if init == "torch" else 0.0
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
