"""The networks of the paper as plain descriptions; `stages.lib.models` builds them.

The paper names them by their depth only ("2-layer ConvNet"). Sizes follow the classic Keras
examples of its time: dense layers of 512 units on MNIST; 3x3 convolutions of 32 and 64 channels
with two dense layers behind. Apart from torch, so that stages that only check names start fast.
"""

from dataclasses import dataclass

INITS = ("torch", "glorot", "he")


@dataclass(frozen=True)
class Perceptron:
    """Dense layers with ReLU between them; without hidden units a perceptron in one layer."""

    hidden: tuple[int, ...]

    def units(self, inputs: int, outputs: int, width: float) -> list[int]:
        """Return the numbers of units from the inputs to the outputs at a width."""
        return [inputs, *(scaled(units, width) for units in self.hidden), outputs]


def scaled(units: int, width: float) -> int:
    """Return a number of units or channels at a width: at least one."""
    return max(1, round(units * width))


@dataclass(frozen=True)
class ConvNet:
    """Blocks of 3x3 convolutions, each block ended by 2x2 max pooling, then two dense layers."""

    blocks: tuple[tuple[int, ...], ...]
    dense: int


@dataclass(frozen=True)
class ResNet:
    """He et al.'s (2016) residual network for small images: three stages of basic blocks."""

    blocks_per_stage: int
    channels: tuple[int, ...]


ARCHITECTURES: dict[str, Perceptron | ConvNet | ResNet] = {
    "perceptron": Perceptron(()),
    "mlp1": Perceptron((512,)),
    "mlp2": Perceptron((512, 512)),
    "conv2": ConvNet(((32, 64),), 128),
    "conv4": ConvNet(((32, 32), (64, 64)), 512),
    "conv6": ConvNet(((32, 32), (64, 64), (128, 128)), 512),
    "resnet20": ResNet(3, (16, 32, 64)),
}
