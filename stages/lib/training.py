"""Trains one network on one diluted set, top to bottom.

Images stay one uint8 tensor on the device, a batch is a gather by index, and a diluted set is
labels and indices. Everything random comes from the two seed sequences that the caller passes, so a
result depends on nothing that trains beside it: on one CPU thread it repeats to the bit.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn

from stages.lib import losses, models
from stages.lib.errors import UserError
from stages.lib.params import ModelParams

EVALUATIONS = 10  # times that a training looks at the validation images
EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class TrainingData:
    """Tensors on one device.

    Attributes:
        bank: ``(B, height, width, channels)`` uint8, the image bank.
        labels: ``(N,)`` given labels, uint8 or int32.
        images: ``(n,)`` or ``(N,)`` int32 indices into the bank, repeated to ``N``.
        validation: ``(v,)`` int64 indices into the bank.
        validation_labels: ``(v,)`` true classes.
        validation_votes: ``(v, m)`` how often each label was given to each validation image.
        test_images: ``(t, height, width, channels)`` uint8.
        test_labels: ``(t,)`` true classes.
    """

    bank: Tensor
    labels: Tensor
    images: Tensor
    validation: Tensor
    validation_labels: Tensor
    validation_votes: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def num_classes(self) -> int:
        """Number of classes, m."""
        return self.validation_votes.shape[1]


@dataclass(frozen=True)
class Recipe:
    """The numbers of one training (section 3.4); ``alpha`` is that of ``H_alpha``, else 0."""

    model: ModelParams
    init: str
    zero_output: bool
    learning_rate: float
    rho: float
    epsilon: float
    batch_size: int
    steps: int
    average: float
    alpha: float


@dataclass(frozen=True)
class Streams:
    """Where a training's randomness comes from."""

    init: np.random.SeedSequence
    shuffle: np.random.SeedSequence


def resolve_device(name: str) -> str:
    """Return ``cpu``, ``cuda`` or ``mps`` for a parameter; ``auto`` takes the fastest there is.

    Raises:
        UserError: the named device is not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(device for device, there in available.items() if there)
    if not available.get(name, False):
        there = ", ".join(device for device, yes in available.items() if yes)
        raise UserError(f"train.device: got {name!r}; accepted on this machine: auto, {there}")
    return name


def train(
    recipe: Recipe,
    data: TrainingData,
    streams: Streams,
    *,
    on_evaluation: Callable[[int, float | None], None] | None = None,
) -> dict[str, Any]:
    """Train one network and return what `stages.lib.points` stores of it.

    Args:
        recipe: the numbers.
        data: the diluted set, on the device to train on.
        streams: randomness of weights and of the order of examples.
        on_evaluation: called with steps done and validation accuracy, `EVALUATIONS` times.

    Returns:
        Accuracies as fractions (``val_accuracy`` and ``noisy_val_accuracy`` None without validation
        images), confusion counts with the true class in the rows, the curve over examples seen,
        ``diverged`` when a loss was not finite, ``wall_seconds``.
    """
    started = time.perf_counter()
    device = data.bank.device
    model = models.build(
        recipe.model.name,
        (data.bank.shape[1], data.bank.shape[2], data.bank.shape[3]),
        data.num_classes,
        width=recipe.model.width,
        init=recipe.init,
        zero_output=recipe.zero_output,
        generator=_generator(streams.init),
    ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adadelta(
        model.parameters(),
        lr=recipe.learning_rate,
        rho=recipe.rho,
        eps=recipe.epsilon,
        foreach=True,
    )
    averaged = AveragedModel(model, avg_fn=get_swa_avg_fn(), use_buffers=True)
    first_averaged = recipe.steps - math.floor(recipe.average * recipe.steps) + 1
    looks = {math.ceil(recipe.steps * k / EVALUATIONS) for k in range(1, EVALUATIONS + 1)}
    curve: list[dict[str, Any]] = []
    loss_sum, since = torch.zeros((), device=device), 0
    order = shuffled(len(data.labels), recipe.batch_size, recipe.steps, _generator(streams.shuffle))
    for step, example in enumerate(order, start=1):
        index = example.to(device, dtype=torch.int64)
        images = data.bank[data.images[index % len(data.images)]]
        labels = data.labels[index].long()
        loss = losses.noisy_loss(model(images), labels, recipe.alpha)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss_sum, since = loss_sum + loss.detach(), since + 1
        if step >= first_averaged:
            averaged.update_parameters(model)
        if step in looks:
            network = averaged if step >= first_averaged else model
            accuracy = _share(predict(network, data.bank[data.validation]), data.validation_labels)
            mean_loss = (loss_sum / since).item()
            curve.append(
                {
                    "examples_seen": step * recipe.batch_size,
                    "val_accuracy": accuracy,
                    "train_loss": mean_loss if math.isfinite(mean_loss) else None,
                }
            )
            loss_sum, since = torch.zeros((), device=device), 0
            if on_evaluation is not None:
                on_evaluation(step, accuracy)
    finite = all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    return {
        **_evaluate(averaged if first_averaged <= recipe.steps else model, data),
        "curve": curve,
        "diverged": not finite or any(row["train_loss"] is None for row in curve),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "wall_seconds": time.perf_counter() - started,
    }


def shuffled(
    count: int, batch_size: int, steps: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield ``steps`` batches of example numbers; every pass shows each example exactly once.

    Batches are all full: one may end a pass and begin the next. int32 holds up to 2**31 examples at
    four bytes each.
    """
    order = torch.empty(0, dtype=torch.int32)
    position = 0
    for _ in range(steps):
        while len(order) - position < batch_size:
            fresh = torch.randperm(count, generator=generator, dtype=torch.int32)
            order, position = torch.cat([order[position:], fresh]), 0
        yield order[position : position + batch_size]
        position += batch_size


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return ``(n,)`` predicted classes of ``(n, height, width, channels)`` uint8 images."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        parts = [model(part).argmax(dim=1) for part in images.split(EVALUATION_BATCH) if len(part)]
    model.train(training)
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=images.device)


def _generator(sequence: np.random.SeedSequence) -> torch.Generator:
    """Return a CPU generator, so that weights and orders are the same on every device."""
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


def _evaluate(model: nn.Module, data: TrainingData) -> dict[str, Any]:
    validation = predict(model, data.bank[data.validation])
    test = predict(model, data.test_images)
    m = data.num_classes
    votes = data.validation_votes
    noisy: float | None = None
    if len(validation):
        noisy = votes.gather(1, validation[:, None]).sum().item() / votes.sum().item()
    return {
        "val_accuracy": _share(validation, data.validation_labels),
        "noisy_val_accuracy": noisy,
        "test_accuracy": _share(test, data.test_labels),
        "val_confusion": _confusion(data.validation_labels, validation, m),
        "test_confusion": _confusion(data.test_labels, test, m),
    }


def _share(predicted: Tensor, true: Tensor) -> float | None:
    """Return the fraction of right predictions; None where there are none to be right."""
    return (predicted == true).sum().item() / len(true) if len(true) else None


def _confusion(true: Tensor, predicted: Tensor, m: int) -> list[list[int]]:
    """Return ``(m, m)`` counts, true class in the rows, predicted class in the columns."""
    counts = torch.bincount(true.long() * m + predicted.long(), minlength=m * m)
    rows: list[list[int]] = counts.reshape(m, m).tolist()
    return rows
