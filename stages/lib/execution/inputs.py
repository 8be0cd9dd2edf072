"""What a run needs to train, loaded onto a device; and the training of a stack of runs."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.components.losses import LOSSES
from stages.lib.core import machine
from stages.lib.core.randomness import stream
from stages.lib.data import datasets
from stages.lib.execution.runs import Run
from stages.lib.labels import dilution
from stages.lib.labels.aggregated import aggregate
from stages.lib.noise import transitions

# torch takes seconds to import: the process that only looks outcomes up does without it.
if TYPE_CHECKING:
    import torch

    from stages.lib.training.ensemble import State
    from stages.lib.training.replicas import Replica, TrainingData


def train_stack(
    stack: Sequence[Run],
    device: str,
    stacking: str,
    *,
    states: "Sequence[State] | None" = None,
    checkpoint_seconds: float = math.inf,
    on_checkpoint: "Callable[[Run, State], None]" = lambda *_: None,
    on_evaluation: Callable[[Run, int, float | None], None] = lambda *_: None,
    on_report: Callable[[Run, dict[str, Any]], None] = lambda *_: None,
    on_done: Callable[[Run, dict[str, Any]], None] = lambda *_: None,
) -> list[dict[str, Any]]:
    """Train runs side by side; return their outcomes, as `loop.train` describes them.

    Args:
        stack: at least one run; all of the same `Run.stack_key`.
        device: ``cpu``, ``cuda`` or ``mps``.
        stacking: how convolutions of several members are computed, see `models.Network`.
        states: what each goes on from, see `stages.lib.training.loop.train`.
        checkpoint_seconds: between two checkpoints, at least.
        on_checkpoint: called then with a run and its state, for each that is not done.
        on_evaluation: called now and then with a run, steps done and validation accuracy.
        on_report: called with a run and what its outcome would be, were this its end.
        on_done: called with a run and its outcome when it is done.
    """
    from stages.lib.training import loop, phases
    from stages.lib.training.replicas import shared

    configure_torch(device)
    config, train = shared(stack[0].config), loop.train
    if config.method != "none":
        dataset, *_ = _load_dataset(stack[0].data / stack[0].config.data.name, device)
        seeds = [run.seed for run in stack]
        train = partial(phases.train, seeds=seeds, true_labels=dataset.train_labels)
    return train(
        config,
        [_member(run, device) for run in stack],
        stacking=stacking,
        states=states,
        checkpoint_seconds=checkpoint_seconds,
        on_checkpoint=lambda k, state: on_checkpoint(stack[k], state),
        on_evaluation=lambda k, steps, accuracy: on_evaluation(stack[k], steps, accuracy),
        on_report=lambda k, outcome: on_report(stack[k], outcome),
        on_done=lambda k, outcome: on_done(stack[k], outcome),
    )


def configure_torch(device: str) -> None:
    """Have this process compute as every run on a device is computed."""
    import torch

    if device == "cpu":
        torch.set_num_threads(1)  # sums in another order round differently
        # Optimizers' averages of gradients that stay zero decay to denormal numbers, which some
        # CPUs compute with slowly.
        torch.set_flush_denormal(True)


def _member(run: Run, device: str) -> "Replica":
    from stages.lib.training.replicas import Replica

    return Replica(
        data=load_data(run, device),
        learning_rate=run.learning_rate,
        steps=run.steps,
        average=run.config.train.average,
        alpha=run.alpha,
        init=stream(run.seed, "init"),
        shuffle=stream(run.seed, "shuffle"),
        augment=stream(run.seed, "augmentation"),
        early_stopping=run.config.train.early_stopping,
    )


def load_data(run: Run, device: str) -> "TrainingData":
    """Return the tensors of a run on a device; images are read once per process."""
    import torch

    from stages.lib.training import memorisation
    from stages.lib.training.replicas import TrainingData

    name = run.config.data.name
    dataset, test_images, test_labels = _load_dataset(run.data / name, device)
    bank = _load_bank(run.data, name, *run._bank, device)
    diluted = dilution.load(run.labels)
    loss, train = LOSSES[run.config.train.loss], run.config.train
    labels = diluted.labels[: diluted.originals] if loss.originals_only else diluted.labels
    images = diluted.images[: diluted.originals] if loss.originals_only else diluted.images
    v, m = len(diluted.validation_images), dataset.num_classes
    targets: tuple[Any, ...] = images, labels, None
    examples = None
    if train.targets == "aggregated" or train.memorisation:
        aggregated = aggregate(labels, images, m)
        targets = aggregated if train.targets == "aggregated" else targets
        if train.memorisation:
            examples = memorisation.examples(aggregated, dataset.train_labels, device)
    votes = np.zeros((v, m), dtype=np.int64)
    given = diluted.validation_labels
    np.add.at(votes, (np.arange(len(given)) % max(v, 1), given), 1)
    transition = None
    validation_labels = dataset.train_labels[diluted.validation_images]
    if loss.corrects and train.transition == "known":
        known = diluted.facts["transition"]  # None of many classes, whose noise is uniform
        drawn = transitions.uniform_transition(m) if known is None else np.array(known)
        transition = transitions.diluted_distribution(drawn, run.alpha)
    elif loss.corrects:
        transition = transitions.estimate(validation_labels, votes)

    def tensor(array: Any, dtype: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype)).to(device)

    return TrainingData(
        bank=bank,
        labels=tensor(targets[1], np.uint8 if targets[1].ndim == 1 and m <= 256 else np.int32),
        images=tensor(targets[0], np.int32),
        validation=tensor(diluted.validation_images, np.int64),
        validation_labels=tensor(validation_labels, np.int64),
        validation_votes=tensor(votes, np.int64),
        test_images=test_images,
        test_labels=test_labels,
        classes=None if targets[2] is None else tensor(targets[2], np.int32),
        transition=None if transition is None else tensor(transition, np.float32),
        examples=examples,
    )


@lru_cache(maxsize=2)
def _load_dataset(folder: Path, device: str) -> Any:
    import torch

    dataset = datasets.load(folder)
    labels = torch.from_numpy(dataset.test_labels.astype(np.int64)).to(device)
    return dataset, _to_device(dataset.test_images, device), labels


def _to_device(images: NDArray[np.uint8], device: str) -> "torch.Tensor":
    """Return images as a tensor; on the CPU it shares their memory, mapped as it may be.

    Raises:
        UserError: they do not fit in the GPU's memory.
    """
    import torch

    if device == "cuda":
        machine.require_gpu_memory(images.nbytes, f"{len(images):,} images")
    with warnings.catch_warnings():  # mapped images cannot be written to, and nobody does
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images).to(device)


@lru_cache(maxsize=2)
def _load_bank(
    data: Path, name: str, wanted: str, originals: int, seed: int, device: str
) -> "torch.Tensor":
    """Return the image bank: training images, then the images that noise is drawn on."""
    dataset, _, _ = _load_dataset(data / name, device)
    other = None
    if wanted in datasets.NAMED:
        other = datasets.load(data / datasets.noise_folder(wanted))
    extra = dilution.other_images(wanted, dataset, originals, other, seed)
    parts = [dataset.train_images] if extra is None else [dataset.train_images, extra]
    return _to_device(parts[0] if len(parts) == 1 else np.concatenate(parts), device)
