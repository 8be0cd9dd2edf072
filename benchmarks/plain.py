"""The script that one would write: one model at a time, a DataLoader, PyTorch's own layers.

What `benchmarks.training` and `benchmarks.headline` are compared with. Images come as in PyTorch's
own MNIST example, out of a data set like torchvision's by ``ToTensor`` and ``Normalize``
(``transforms``), or, faster, out of a tensor of floats as a TensorDataset has it (``tensors``).
"""

from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

SOURCES = ("transforms", "tensors")


class Images(Dataset[Any]):
    """Images and labels one by one, by the lines of `torchvision.datasets.MNIST`.

    Where there are more labels than images, these repeat.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.data, self.targets = images.squeeze(3), labels
        channels = images.shape[3]
        self.transform = transforms.Compose(
            [
                transforms.ToTensor(),
                transforms.Normalize((0.1307,) * channels, (0.3081,) * channels),
            ]
        )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        image, target = self.data[index % len(self.data)], int(self.targets[index])
        return self.transform(Image.fromarray(image.numpy())), target


class Floats(Dataset[Any]):
    """Images and labels one by one out of tensors; images repeat likewise."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.data = images.permute(0, 3, 1, 2).float().div(255).contiguous()
        self.targets = labels.long()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        return self.data[index % len(self.data)], self.targets[index]


class Block(nn.Module):
    """A residual block of He et al. (2016) with a parameter-free shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.stride, self.missing = stride, channels - channels_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.missing))
        return functional.relu(y + shortcut)


def model(name: str, *, width: float = 1.0, side: int = 28) -> nn.Module:
    """Return a network for images like those of `benchmarks.subjects.SHAPES`.

    Args:
        name: the network.
        width: factor on units and channels; not of the residual network.
        side: pixels of a side; not of the residual network.
    """
    pixels, units = side * side, round(512 * width)
    if name == "perceptron":
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 10))
    if name == "mlp2":
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(pixels, units),
            nn.ReLU(),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Linear(units, 10),
        )
    if name == "conv4":
        few, many = round(32 * width), round(64 * width)
        return nn.Sequential(
            nn.Conv2d(1, few, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(few, few, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(few, many, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(many, many, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(many * (side // 4) ** 2, units),
            nn.ReLU(),
            nn.Linear(units, 10),
        )
    if name == "resnet20":
        widths = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2
        widths += [(32, 64, 2)] + [(64, 64, 1)] * 2
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            *(Block(*sizes) for sizes in widths),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )
    raise ValueError(f"model: got {name!r}")


class Script:
    """A training that goes on where it stopped, so that its start is not measured.

    Args:
        name: the network.
        images: ``(n, height, width, channels)`` uint8.
        labels: ``(n,)``.
        batch_size: examples of a step.
        device: where to train.
        source: one of `SOURCES`.
        width: factor on units and channels.
    """

    def __init__(
        self,
        name: str,
        images: torch.Tensor,
        labels: torch.Tensor,
        batch_size: int,
        device: str,
        source: str,
        width: float = 1.0,
    ) -> None:
        self.model, self.device = model(name, width=width, side=images.shape[1]).to(device), device
        self.optimizer = torch.optim.Adadelta(self.model.parameters(), lr=0.1, rho=0.95, eps=1e-8)
        dataset = (Floats if source == "tensors" else Images)(images, labels)
        self.loader = DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            pin_memory=device == "cuda",
        )

    def train(self, steps: int) -> None:
        """Train for some steps."""
        done = 0
        while True:
            for images, labels in self.loader:
                if done == steps:
                    return
                images = images.to(self.device, non_blocking=True)
                labels = labels.to(self.device, non_blocking=True)
                self.optimizer.zero_grad()
                loss = functional.cross_entropy(self.model(images), labels)
                loss.backward()
                self.optimizer.step()
                done += 1
