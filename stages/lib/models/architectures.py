"""The networks of the paper as plain descriptions; `stages.lib.models.networks` builds them.

The paper names them by their depth only ("2-layer ConvNet"). Sizes follow the classic Keras
examples of its time: dense layers of 512 units on MNIST; 3x3 convolutions of 32 and 64 channels
with two dense layers behind. The residual networks are He et al.'s. Apart from torch, so that
stages that only check names start fast.
"""

from dataclasses import dataclass

INITS = ("torch", "glorot", "he")
Shape = tuple[int, int, int]  # height, width, channels of an image


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
    """A residual network for small images (He et al. 2016): stages of basic blocks.

    The first convolution is 3x3 and nothing is pooled before the first stage.

    Attributes:
        blocks_per_stage: each of two 3x3 convolutions.
        channels: of each stage.
        projected: whether a shortcut to more channels is a 1x1 convolution with batch norm (their
            option B), as in ImageNet's networks, or has no parameters (A), as in CIFAR-10's.
    """

    blocks_per_stage: int
    channels: tuple[int, ...]
    projected: bool = False


@dataclass(frozen=True)
class TorchvisionResNet:
    """He et al.'s residual network for ImageNet, by its name in `torchvision.models`."""

    name: str


Architecture = Perceptron | ConvNet | ResNet | TorchvisionResNet

ARCHITECTURES: dict[str, Architecture] = {
    "perceptron": Perceptron(()),
    "mlp1": Perceptron((512,)),
    "mlp2": Perceptron((512, 512)),
    "conv2": ConvNet(((32, 64),), 128),
    "conv4": ConvNet(((32, 32), (64, 64)), 512),
    "conv6": ConvNet(((32, 32), (64, 64), (128, 128)), 512),
    "resnet20": ResNet(3, (16, 32, 64)),
    "resnet32": ResNet(5, (16, 32, 64)),
    "resnet56": ResNet(9, (16, 32, 64)),
    "resnet18_small": ResNet(2, (64, 128, 256, 512), projected=True),
    "resnet18": TorchvisionResNet("resnet18"),
    "resnet34": TorchvisionResNet("resnet34"),
    "resnet50": TorchvisionResNet("resnet50"),
    "resnet101": TorchvisionResNet("resnet101"),
}


def is_residual(name: str) -> bool:
    """Tell whether a network is residual: it always has batch norm."""
    return isinstance(ARCHITECTURES[name], ResNet | TorchvisionResNet)


def smallest_side(name: str) -> int:
    """Return how many pixels the sides of a network's images have at least."""
    architecture = ARCHITECTURES[name]
    if isinstance(architecture, Perceptron):
        return 1
    return 64 if isinstance(architecture, TorchvisionResNet) else 8
