"""Layers of a stack of networks, and what each architecture is made of."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from stages.lib.kernels import stacked
from stages.lib.models import architectures as kinds
from stages.lib.models.architectures import Shape, scaled


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
        self, members: int, channels_in: int, channels: int, stride: int = 1, bias: bool = True,
        side: int = 3,
    ) -> None:  # fmt: skip
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
        self.momentum = 0.1  # share of a batch's statistics in the running ones

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the batch while training, by running statistics otherwise."""
        statistics = self.running_mean.view(-1), self.running_var.view(-1)
        scale, shift = self.weight.flatten(), self.bias.flatten()
        return functional.batch_norm(
            x, *statistics, scale, shift, training=self.training, momentum=self.momentum
        )


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
        self.stride, self.channels_in, self.missing = stride, channels_in, channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output; new channels of an unprojected shortcut are zero."""
        branch = self.branch(x)
        if self.projection is not None:
            return torch.relu_(branch + self.projection(x))
        x = x[:, :, :: self.stride, :: self.stride]
        if self.missing:
            x = x.unflatten(1, (-1, self.channels_in))
            x = functional.pad(x, (0, 0, 0, 0, 0, self.missing)).flatten(1, 2)
        return torch.relu_(branch + x)


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
            first = nn.Conv2d(channels, first.out_channels, 7, stride=2, padding=3, bias=False)
            self.network.conv1 = first
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
    architecture: kinds.Architecture,
    shape: Shape,
    num_classes: int,
    width: float,
    batch_norm: bool,
    members: int,
) -> list[nn.Module]:
    """Return the layers of a stack of ``members`` networks; arguments as of `networks.build`."""
    match architecture:
        case kinds.Perceptron():
            layers: list[nn.Module] = [Pixels()]
            units = architecture.units(math.prod(shape), num_classes, width)
        case kinds.ConvNet():
            layers, inputs = _convnet(architecture, shape, width, batch_norm, members)
            units = [inputs, scaled(architecture.dense, width), num_classes]
        case kinds.ResNet():
            layers, inputs = _resnet(architecture, shape[2], width, members)
            units = [inputs, num_classes]
        case kinds.TorchvisionResNet():
            network = Torchvision(members, architecture.name, shape[2])
            layers, units = [Maps(), network], [network.features, num_classes]
    for before, after in pairwise(units):
        layers += [Dense(members, before, after), nn.ReLU(inplace=True)]
    return layers[:-1]  # the last layer gives logits


def _convnet(
    architecture: kinds.ConvNet, shape: Shape, width: float, batch_norm: bool, members: int
) -> tuple[list[nn.Module], int]:
    """Return the layers before the dense ones, and how many inputs those have."""
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
    return [*layers, Flat(channels)], channels * rows * columns


def _resnet(
    architecture: kinds.ResNet, channels_in: int, width: float, members: int
) -> tuple[list[nn.Module], int]:
    """Return the layers before the dense one, and how many inputs that has."""
    channels = [scaled(units, width) for units in architecture.channels]
    before = channels[0]
    convolution = Convolution(members, channels_in, before, bias=False)
    layers = [Maps(), convolution, Norm(members, before), nn.ReLU(inplace=True)]
    for stage, out in enumerate(channels):
        for block in range(architecture.blocks_per_stage):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(ResidualBlock(members, before, out, stride, architecture.projected))
            before = out
    return [*layers, nn.AdaptiveAvgPool2d(1), Flat(before)], before


#: What draws the weights of a layer alone, outputs first; ``torch`` is nn.Linear's and nn.Conv2d's
#: own way, uniform within 1/sqrt(fan in).
INITIALISERS: dict[str, Callable[..., Tensor]] = {
    "torch": partial(nn.init.kaiming_uniform_, a=math.sqrt(5)),
    "glorot": nn.init.xavier_uniform_,
    "he": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
}


def initialise(layer: nn.Module, k: int, init: str, generator: torch.Generator) -> None:
    """Draw a member's weights as its layer alone would be drawn by `torch.nn`.

    Batch norms start at the identity; what has no weights of its own stays as it is.
    """
    if isinstance(layer, Norm | nn.BatchNorm2d):
        statistics = layer.running_mean, layer.running_var
        for zero, one in ((layer.bias.data, layer.weight.data), statistics):
            zero[k], one[k] = 0, 1  # type: ignore[index]
    if not isinstance(layer, Convolution | Dense | nn.Conv2d):
        return
    stored = layer.weight.data[k]
    if isinstance(layer, Dense):
        stored = stored.T  # to outputs first, as `torch.nn.init` takes a matrix
    weight = INITIALISERS[init](torch.empty(stored.shape), generator=generator)
    stored.copy_(weight)
    if layer.bias is not None:
        bound = 1 / math.sqrt(weight[0].numel()) if init == "torch" else 0.0
        nn.init.uniform_(layer.bias.data[k], -bound, bound, generator=generator)
