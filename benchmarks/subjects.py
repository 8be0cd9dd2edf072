"""What the measurements train: real images in the paper's shapes, and members with noisy labels."""

from pathlib import Path

import numpy as np
import torch

from stages.lib.config.params import ModelParams
from stages.lib.core.randomness import stream
from stages.lib.data import images, sources
from stages.lib.training.replicas import Replica, TrainConfig, TrainingData

CLASSES = 10
BATCH = 128
#: The paper's shapes: MNIST for the first ones, CIFAR-10 for the residual network.
SHAPES = {
    "perceptron": (28, 28, 1),
    "mlp2": (28, 28, 1),
    "conv4": (28, 28, 1),
    "resnet20": (32, 32, 3),
}


def bank(shape: tuple[int, int, int]) -> torch.Tensor:
    """Return 4,000 MNIST images, ``(4000, *shape)`` uint8."""
    mnist = sources.load_source("mnist5k", path=None, size=None, downloads=Path())
    return torch.from_numpy(images.conform(mnist.train_images, *shape))


def data(bank: torch.Tensor, seed: int, *, examples: int = 60_000) -> TrainingData:
    """Return random labels on the bank's images; one test image and no validation images.

    What is measured is training alone.
    """
    labels = np.random.default_rng(seed).integers(0, CLASSES, examples, dtype=np.uint8)
    device, none = bank.device, torch.empty(0, dtype=torch.int64, device=bank.device)
    return TrainingData(
        bank=bank,
        labels=torch.from_numpy(labels).to(device),
        images=torch.arange(len(bank), dtype=torch.int32, device=device),
        validation=none,
        validation_labels=none,
        validation_votes=torch.zeros((0, CLASSES), dtype=torch.int64, device=device),
        test_images=bank[:1],
        test_labels=none.new_zeros(1),
    )


def train_config(name: str, *, width: float = 1.0, precision: str = "float32") -> TrainConfig:
    """Return the paper's config for a network; AdaDelta's constants are the experiment's."""
    return TrainConfig(model=ModelParams(name, width), batch_size=BATCH, precision=precision)


def members(bank: torch.Tensor, count: int, steps: int) -> list[Replica]:
    """Return members that differ in labels, order and learning rate."""
    return [member(data(bank, k), k, steps) for k in range(count)]


def member(data: TrainingData, k: int, steps: int, *, average: float = 0.0) -> Replica:
    """Return the k-th member of a stack."""
    return Replica(
        data=data,
        learning_rate=(0.1, 0.5, 1.0)[k % 3],
        steps=steps,
        average=average,
        alpha=0.0,
        init=stream(k, "init"),
        shuffle=stream(k, "shuffle"),
        augment=stream(k, "augmentation"),
    )
