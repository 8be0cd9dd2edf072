"""Layers of a stack of networks, and what each architecture is made of."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from stages.lib.kernels import stacked
from stages.lib.models.architectures import (
    Architecture,
    ConvNet,
    Perceptron,
    ResNet,
    TorchvisionResNet,
    scaled,
)


class Pixels(nn.Module):
    """Images as stored to the inputs of dense layers, ``(K, b, pixels)`` in [0, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        """Scale a batch."""
        return images.flatten(2) * (1 / 255)


class Maps(nn.Module):
    """Images as stored to maps, ``(b, K * channels, height, width)`` in [0, 1], channels last."""

    def forward(self, images: Tensor) -> Tensor:
        """Scale a batch; the permuted view stays channels-last, which convolutions like best."""
        return images.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2) * (1 / 255)


class Dense(nn.Module):
    """Dense layers, ``(K, b, units in)`` to ``(K, b, units)``."""

    def __init__(self, members: int, units_in: int, units: int) -> None:
        super().__init__()
        # Inputs first, unlike nn.Linear: the product's gradient then comes out in this order.
        self.weight = nn.Parameter(torch.empty(members, units_in, units))
        self.bias = nn.Parameter(torch.empty(members, units))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layers' outputs."""
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)


class Convolution(nn.Module):
    """Convolutions that keep the size, ``(b, K * in, h, w)`` to ``(b, K * channels, h, w)``."""

    def __init__(
        self,
        members: int,
        channels_in: int,
        channels: int,
        stride: int = 1,
        bias: bool = True,
        side: int = 3,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, channels, channels_in, side, side))
        self.bias = nn.Parameter(torch.empty(members, channels)) if bias else None
        self.stride, self.side = stride, side
        self.way = "grouped"

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolutions' outputs; halved by a stride of 2."""
        members = len(self.weight)
        if self.way == "unfold" and members > 1:
            return self._unfolded(x)
        if self.way == "batched" and members > 1:
            flags: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
            rounding = "tf32" if flags.fp32_precision == "tf32" else "ieee"  # as the other ways
            return stacked.batched_conv2d(x, self.weight, self.bias, self.stride, rounding)
        bias = None if self.bias is None else self.bias.flatten()
        return functional.conv2d(
            x, self.weight.flatten(0, 1), bias, self.stride, self.side // 2, groups=members
        )

    def _unfolded(self, x: Tensor) -> Tensor:
        members, height, width = len(self.weight), *x.shape[2:]
        patches = functional.unfold(x, self.side, padding=self.side // 2, stride=self.stride)
        patches = patches.unflatten(1, (members, -1))
        y = torch.einsum("koi,bkil->bkol", self.weight.flatten(2), patches)
        if self.bias is not None:
            y = y + self.bias.unsqueeze(-1)
        places = -(-height // self.stride), -(-width // self.stride)
        maps: Tensor = y.flatten(1, 2).unflatten(2, places)
        return maps


class Norm(nn.Module):
    """Batch norm of every channel of every member (Ioffe and Szegedy 2015), torch's defaults."""

    def __init__(self, members: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, channels))
        self.bias = nn.Parameter(torch.empty(members, channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.empty(members, channels))
        self.register_buffer("running_var", torch.empty(members, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the batch while training, by running statistics otherwise."""
        return functional.batch_norm(
            x,
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.flatten(),
            self.bias.flatten(),
            training=self.training,
        )


def reset(norm: "Norm | nn.BatchNorm2d", k: int) -> None:
    """Start a member's batch norm at the identity."""
    for ones in (norm.weight.data, norm.running_var):
        ones[k] = 1  # type: ignore[index]
    for zeros in (norm.bias.data, norm.running_mean):
        zeros[k] = 0  # type: ignore[index]


class Flat(nn.Module):
    """Maps to the inputs of dense layers: ``(b, K * c, h, w)`` to ``(K, b, h * w * c)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Return each member's maps in a row, channels last as they lie in memory."""
        x = x.permute(0, 2, 3, 1).unflatten(3, (-1, self.channels))  # b, h, w, K, c
        return x.permute(3, 0, 1, 2, 4).flatten(2)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut around them (He et al. 2016).

    Where the block changes size or channels, the shortcut is parameter-free (their option A), or
    ``projected`` by a 1x1 convolution with batch norm (B).
    """

    def __init__(
        self, members: int, channels_in: int, channels: int, stride: int, projected: bool
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            Convolution(members, channels_in, channels, stride, bias=False),
            Norm(members, channels),
            nn.ReLU(inplace=True),
            Convolution(members, channels, channels, bias=False),
            Norm(members, channels),
        )
        self.projection: nn.Module | None = None
        if projected and (stride > 1 or channels_in != channels):
            self.projection = nn.Sequential(
                Convolution(members, channels_in, channels, stride, bias=False, side=1),
                Norm(members, channels),
            )
        self.stride = stride
        self.channels_in = channels_in
        self.missing = channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return torch.relu_(self.branch(x) + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        """Return the input in the output's shape; new channels are zero where none is projected."""
        if self.projection is not None:
            projected: Tensor = self.projection(x)
            return projected
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.missing:
            shortcut = shortcut.unflatten(1, (-1, self.channels_in))
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.missing)).flatten(1, 2)
        return shortcut


class Torchvision(nn.Module):
    """Torchvision's residual networks without their last layer; `Network` calls them one by one.

    The module is torchvision's own, with K of each parameter and running statistic. A call is of a
    single member: maps ``(b, channels, h, w)`` to features ``(1, b, features)``.
    """

    def __init__(self, members: int, name: str, channels: int) -> None:
        super().__init__()
        import torchvision.models  # which takes a while, and only these networks need it

        self.network = getattr(torchvision.models, name)(weights=None)
        self.features: int = self.network.fc.in_features
        self.network.fc = nn.Identity()
        first = self.network.conv1
        if channels != first.in_channels:
            self.network.conv1 = nn.Conv2d(
                channels, first.out_channels, 7, stride=2, padding=3, bias=False
            )
        for module in self.network.modules():
            for key, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, key, nn.Parameter(torch.empty(members, *parameter.shape)))
            for key, buffer in list(module.named_buffers(recurse=False)):
                stacked = torch.empty(members, *buffer.shape)
                # A count of batches decides nothing where there is a momentum.
                setattr(module, key, stacked if buffer.is_floating_point() else None)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features; while training, running statistics are updated in place."""
        tensors = [*self.network.named_parameters(), *self.network.named_buffers()]
        own = {key: tensor.squeeze(0) for key, tensor in tensors}
        features: Tensor = functional_call(self.network, own, x)
        return features.unsqueeze(0)


def layers_of(
    architecture: Architecture,
    shape: tuple[int, int, int],
    num_classes: int,
    width: float,
    batch_norm: bool,
    members: int,
) -> list[nn.Module]:
    """Return the layers of a stack of ``members`` networks; arguments as of `networks.build`."""
    if isinstance(architecture, Perceptron):
        sizes = architecture.units(math.prod(shape), num_classes, width)
        return [Pixels(), *_dense(members, sizes)]
    if isinstance(architecture, ConvNet):
        return _convnet(architecture, shape, num_classes, width, batch_norm, members)
    if isinstance(architecture, TorchvisionResNet):
        network = Torchvision(members, architecture.name, shape[2])
        return [Maps(), network, Dense(members, network.features, num_classes)]
    return _resnet(architecture, shape[2], num_classes, width, members)


def _dense(members: int, sizes: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [Dense(members, before, after), nn.ReLU(inplace=True)]
    return layers[:-1]  # the last layer gives logits


def _convnet(
    architecture: ConvNet,
    shape: tuple[int, int, int],
    num_classes: int,
    width: float,
    batch_norm: bool,
    members: int,
) -> list[nn.Module]:
    rows, columns, channels = shape
    layers: list[nn.Module] = [Maps()]
    for block in architecture.blocks:
        for out in (scaled(units, width) for units in block):
            # Batch norm has a shift of its own.
            layers.append(Convolution(members, channels, out, bias=not batch_norm))
            layers += [Norm(members, out)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            channels = out
        # The largest before ReLU is the largest after it, of a quarter as many.
        layers.insert(-1, nn.MaxPool2d(2))
        rows, columns = rows // 2, columns // 2
    sizes = [channels * rows * columns, scaled(architecture.dense, width), num_classes]
    return [*layers, Flat(channels), *_dense(members, sizes)]


def _resnet(
    architecture: ResNet, channels_in: int, num_classes: int, width: float, members: int
) -> list[nn.Module]:
    channels = [scaled(units, width) for units in architecture.channels]
    before = channels[0]
    layers: list[nn.Module] = [
        Maps(),
        Convolution(members, channels_in, before, bias=False),
        Norm(members, before),
        nn.ReLU(inplace=True),
    ]
    for stage, out in enumerate(channels):
        for block in range(architecture.blocks_per_stage):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(ResidualBlock(members, before, out, stride, architecture.projected))
            before = out
    return [*layers, nn.AdaptiveAvgPool2d(1), Flat(before), *_dense(members, [before, num_classes])]


def initialise(
    layer: Convolution | Dense | nn.Conv2d, k: int, init: str, generator: torch.Generator
) -> None:
    """Draw a member's weights as its layer alone would be drawn by `torch.nn`."""
    stored = layer.weight.data[k]
    if isinstance(layer, Dense):
        stored = stored.T  # to outputs first, as `torch.nn.init` takes a matrix
    weight = torch.empty(stored.shape)
    if init == "glorot":
        nn.init.xavier_uniform_(weight, generator=generator)
    elif init == "he":
        nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
    else:
        # What nn.Linear and nn.Conv2d do by themselves: uniform within 1/sqrt(fan in).
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    stored.copy_(weight)
    if layer.bias is not None:
        bound = 1 / math.sqrt(weight[0].numel()) if init == "torch" else 0.0
        nn.init.uniform_(layer.bias.data[k], -bound, bound, generator=generator)
