"""What the steps train: the paper's networks at full width on random images, and their sizes."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks import subjects
from stages.lib.core.randomness import stream
from stages.lib.labels.aggregated import aggregate
from stages.lib.training.replicas import Replica, TrainConfig, TrainingData

#: Networks of the comparisons: (height, width, channels), and whether a ConvNet has batch norm.
NETWORKS: dict[str, tuple[tuple[int, int, int], bool]] = {
    "perceptron": ((28, 28, 1), False),
    "mlp2": ((28, 28, 1), False),
    "conv2": ((28, 28, 1), True),
    "conv4": ((28, 28, 1), False),
    "resnet20": ((32, 32, 3), False),
}
IMAGES = 2000


@dataclass(frozen=True)
class Sizes:
    """How much is done: enough to tell on a GPU, enough to go through every line on a CPU."""

    steps: tuple[int, int]  # of a comparison: to the bit or nearly so, and at all alike
    few: tuple[int, ...]  # members of a comparison
    many: tuple[int, ...]  # members of a measurement
    width: float
    seconds: float  # of a measurement
    batch: int
    lengths: tuple[int, ...]  # of a stack that shrinks
    chunks: int  # of a resumed training


SIZES = {
    "cuda": Sizes((6, 60), (1, 3), (1, 32, 66), 1.0, 0.4, 128, (20, 40, 60), 3),
    "cpu": Sizes((2, 4), (1, 2), (1, 2), 0.125, 0.02, 16, (2, 4, 6), 2),
}
#: The fastest first, for what is cut off.
PRECISIONS = {"cuda": ("tf32", "bfloat16", "float32"), "cpu": ("bfloat16", "float32")}
#: Labels of a member: an order of few examples takes longer to draw than they take to train on.
EXAMPLES = {"cuda": 1 << 18, "cpu": IMAGES}


def train_config(name: str, device: str, precision: str = "float32", **changes: Any) -> TrainConfig:
    """Return how a network is trained; every weight has a gradient from the first step on."""
    plain = subjects.train_config(name, width=SIZES[device].width, precision=precision)
    model = replace(plain.model, batch_norm=NETWORKS[name][1])
    batch = SIZES[device].batch
    return replace(plain, model=model, zero_output=False, batch_size=batch, **changes)


def members(
    name: str, device: str, count: int, steps: int, *, slowed: float = 1.0
) -> list[Replica]:
    """Return members with labels, orders and rates of their own, on the same random images.

    Args:
        name: of the network.
        device: where they train.
        count: how many.
        steps: of each.
        slowed: what learning rates are divided by: at high ones roundings grow from step to step.
    """
    shape, _ = NETWORKS[name]
    rng = np.random.default_rng(0)
    bank = torch.from_numpy(rng.integers(0, 256, (IMAGES, *shape), dtype=np.uint8)).to(device)
    index = torch.arange(IMAGES, device=device)
    held = index[: IMAGES // 4]
    shared = torch.from_numpy(rng.integers(0, 10, IMAGES)).to(device)
    return [
        Replica(
            data=TrainingData(
                bank=bank,
                labels=torch.from_numpy(rng.integers(0, 10, EXAMPLES[device], dtype=np.uint8)).to(
                    device
                ),
                images=index.to(torch.int32),
                validation=held,
                validation_labels=shared[: len(held)],
                validation_votes=torch.ones(len(held), 10, dtype=torch.int64, device=device),
                test_images=bank[: len(held)],
                test_labels=shared[: len(held)],
            ),
            learning_rate=(0.1, 0.5, 1.0)[k % 3] / slowed,
            steps=steps,
            average=0.25,
            alpha=0.0,
            init=stream(k, "init"),
            shuffle=stream(k, "shuffle"),
            augment=stream(k, "augmentation"),
        )
        for k in range(count)
    ]


def aggregated(data: TrainingData) -> TrainingData:
    """Return the same examples, each image with the counts of its labels."""
    found = aggregate(data.labels.cpu().numpy(), data.images.cpu().numpy().astype(np.uint32), 10)
    counts = torch.from_numpy(found.counts).to(data.labels.device)
    images = torch.from_numpy(found.images.astype(np.int32)).to(data.labels.device)
    return replace(data, labels=counts, images=images)
