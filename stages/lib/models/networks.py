"""Builds stacks of the networks that `architectures` describes, with their weights.

A stack is K networks of one architecture side by side: every parameter has a leading axis of K
members. Dense layers are batched matrix products over ``(K, b, units)``. Convolutions work on
``(b, K * channels, height, width)``, where a member's channels are one group. A single network is a
stack of one, computed by the same code.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stages.lib.models import layers
from stages.lib.models.architectures import ARCHITECTURES, Shape, smallest_side

STREAMS = 8  # few networks at a time fill a GPU
_streams: list["torch.cuda.Stream"] = []


class Network(nn.Module):
    """A stack of networks from uint8 images ``(K, b, height, width, channels)`` to logits.

    Args:
        make: returns the layers of a stack of so many members, from `Pixels` or `Maps` to the last
            `Dense`.
        members: number of networks in the stack, K.
        stacking: how networks with convolutions are computed: ``grouped`` (one grouped convolution
            for all members, to which `torch.func.vmap` turns them too), ``unfold`` (patches, then
            one batched matrix product), ``batched`` (a kernel of `stages.lib.kernels`, CUDA) or
            ``loop`` (a member after another; on CUDA on up to `STREAMS` streams). Torchvision's
            networks are a loop in any case.
        device: where the parameters lie.

    Attributes:
        weights: ``(K, P)``, the memory of all parameters, which are views of it.
    """

    def __init__(
        self, make: Callable[[int], list[nn.Module]], members: int, stacking: str,
        device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__()
        self.make, self.members, self.stacking, self.device = make, members, stacking, device
        self.loop = False
        with torch.device("meta"):
            self.layers = nn.Sequential(*make(members))
        for layer in self.modules():
            if isinstance(layer, layers.Convolution):
                layer.way = stacking
                self.loop = stacking == "loop" and members > 1
            elif isinstance(layer, layers.Torchvision):
                self.loop = members > 1
        count = sum(parameter[0].numel() for parameter in self.parameters())
        self.weights = torch.empty(members, count, device=device)
        offset = 0
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                size = parameter[0].numel()
                view = self.weights[:, offset : offset + size].view(parameter.shape)
                setattr(module, name, nn.Parameter(view))
                offset += size
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, torch.empty_like(buffer, device=device))

    def select(self, rows: Sequence[int], device: torch.device | None = None) -> "Network":
        """Return a copy of some members, on the same device or another."""
        chosen = Network(self.make, len(rows), self.stacking, device or self.device)
        index = torch.tensor(rows, device=self.device)
        chosen.weights.copy_(self.weights[index])
        for mine, theirs in zip(chosen.buffers(), self.buffers(), strict=True):
            mine.copy_(theirs[index])
        return chosen

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, ``(K, b, classes)``."""
        if not self.loop:
            logits: Tensor = self.layers(images)
            return logits
        tensors = [*self.layers.named_parameters(), *self.layers.named_buffers()]
        parts = {name: tensor.split(1) for name, tensor in tensors}
        each = [{name: part[k] for name, part in parts.items()} for k in range(self.members)]
        calls = [
            partial(functional_call, self.layers, own, images[k : k + 1])
            for k, own in enumerate(each)
        ]
        on_gpu = images.device.type == "cuda"
        return torch.cat(on_streams(calls) if on_gpu else [call() for call in calls])


def on_streams(calls: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """Return what the calls do, spread over CUDA streams."""
    here = torch.cuda.current_stream()
    while len(_streams) < min(STREAMS, len(calls)):
        _streams.append(torch.cuda.Stream())
    used = _streams[: len(calls)]
    for stream in used:
        stream.wait_stream(here)
    results = []
    for k, call in enumerate(calls):
        with torch.cuda.stream(used[k % len(used)]):
            results.append(call())
    for stream in used:
        here.wait_stream(stream)
    return results


def build(
    name: str,
    shape: Shape,
    num_classes: int,
    *,
    width: float,
    batch_norm: bool,
    init: str,
    zero_output: bool,
    generators: Sequence[torch.Generator],
    stacking: str = "grouped",
    device: torch.device | None = None,
) -> Network:
    """Return a stack of freshly initialised networks from uint8 images to logits.

    Args:
        name: a key of `ARCHITECTURES`.
        shape: (height, width, channels) of an image, at least `smallest_side` high and wide.
        num_classes: number of logits.
        width: factor on every number of hidden units and channels (a perceptron has none, and
            torchvision's networks are as they are).
        batch_norm: whether a ConvNet has batch norm; residual networks always have.
        init: ``torch`` (its default), ``glorot`` (uniform, as in Keras) or ``he`` (normal).
        zero_output: start the last layer at zero, so that training starts from uniform predictions.
        generators: one for each member, source of its weights' randomness, on the CPU.
        stacking: how convolutions of several members are computed, see `Network`.
        device: where to put them; None: the CPU.

    Raises:
        ValueError: images too small for the network.
    """
    if min(shape[:2]) < (least := smallest_side(name)):
        got = f"{shape[0]}x{shape[1]}"
        raise ValueError(f"model: {name} needs images of {least}x{least} or more, got {got}")
    make = maker(name, shape, num_classes, width=width, batch_norm=batch_norm)
    network = Network(make, len(generators), stacking, torch.device("cpu"))
    for k, generator in enumerate(generators):
        for layer in network.modules():
            layers.initialise(layer, k, init, generator)
    if zero_output:
        for parameter in network.layers[-1].parameters():
            nn.init.zeros_(parameter)
    return network if device is None else network.select(range(len(generators)), device)


def maker(
    name: str, shape: Shape, num_classes: int, *, width: float, batch_norm: bool
) -> Callable[[int], list[nn.Module]]:
    """Return what makes the layers of a stack; arguments as of `build`."""
    return partial(layers.layers_of, ARCHITECTURES[name], shape, num_classes, width, batch_norm)


@cache
def sizes(
    name: str, shape: Shape, num_classes: int, *, width: float, batch_norm: bool
) -> tuple[int, int]:
    """Return how many parameters, and outputs of all layers for an image, a network has.

    Arguments are as of `build`.
    """
    outputs = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal outputs
        if not list(module.children()):
            outputs += output.numel()

    make = maker(name, shape, num_classes, width=width, batch_norm=batch_norm)
    network = Network(make, 1, "grouped", torch.device("meta"))
    for module in network.modules():
        module.register_forward_hook(count)
    network.eval()(torch.empty((1, 1, *shape), dtype=torch.uint8, device="meta"))
    return network.weights.shape[1], outputs
