"""Runs: one training each, of a point at one rate and seed; what decides it, and its data.

Runs that share a `stack_key` can train side by side in one stack.
"""

import math
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages.lib import datasets, dilution, files, hosts, noise
from stages.lib.params import Config
from stages.lib.streams import stream

# torch takes seconds to import: the process that only looks outcomes up does without it.
if TYPE_CHECKING:
    import torch

    from stages.lib.training import Member, Recipe, State, TrainingData

#: Parameters that came after the others, as they are where they do nothing. They are then left out
#: of an identity: it decides the random streams, and results from before them stay what they are.
UNUSED: dict[str, Any] = {
    "batch_norm": False,
    "weight_decay": 0.0,
    "augmentation": "none",
    "early_stopping": False,
}


@dataclass(frozen=True)
class Run:
    """One training: a config at one of its learning rates and seeds, and where its inputs lie.

    Attributes:
        name: what progress bars call it.
        config: the point's config.
        learning_rate: one of ``config.train.learning_rates``.
        seed: one of ``config.train.seeds``.
        data: folder with one folder per data set.
        labels: folder of the diluted set for this config and seed.
    """

    name: str
    config: Config
    learning_rate: float
    seed: int
    data: Path
    labels: Path

    @property
    def steps(self) -> int:
        """Number of batches: ``passes`` over the diluted set, or ``min_examples`` if that is more.

        ``H_alpha`` stands for a diluted set that it doesn't need: it is trained for as long.
        """
        train = self.config.train
        seen = max(train.passes * self.examples, train.min_examples)
        return math.ceil(seen / train.batch_size)

    @property
    def examples(self) -> int:
        """Number of examples of the diluted set."""
        n = self.config.data.originals
        return n + noise.count_noisy(n, self.config.noise.alpha)

    @property
    def alpha(self) -> float:
        """The alpha of ``H_alpha``; 0 for plain cross-entropy."""
        return self.config.noise.alpha if self.config.train.loss == "noisy_loss" else 0.0

    @property
    def stack_key(self) -> Hashable:
        """What runs must share to train as one stack: network, images, batches, arithmetic."""
        train = self.config.train
        return (
            self.config.model,
            (train.init, train.zero_output, train.rho, train.epsilon, train.batch_size),
            (train.weight_decay, train.augmentation),
            (train.precision, train.stacking, self.alpha > 0),
            (self.data, self.config.data.name, self.config.data.validation, *self._bank),
        )

    @property
    def _bank(self) -> tuple[str, int, int]:
        """Which images follow the training images in the bank: whose, and how many, by what seed.

        One bank serves every size and seed, unless the images are drawn for them.
        """
        wanted = self.config.noise.images
        if wanted == "white":
            return wanted, self.config.data.originals, self.seed
        return ("same" if wanted == "unique" else wanted), 0, 0

    def identity(self) -> dict[str, Any]:
        """Return all that decides the outcome besides code and device: numbers and digests.

        Raises:
            DamagedError: the diluted set is another run's, or a file is not as it was written.
        """
        model, train, wanted = self.config.model, self.config.train, self.config.noise
        data, facts = self.config.data, dilution.read_facts(self.labels)
        if (facts["config"], facts["seed"]) != (dilution.config_of(data, wanted), self.seed):
            raise files.damaged(self.labels / "noise.json", "is of another config or seed")
        other: Any = None
        if wanted.alpha == 0:
            other = None  # no noisy example shows one
        elif wanted.images == "white":
            other = {"white": data.originals}
        elif wanted.images not in ("same", "unique"):
            other = _digests(self.data / datasets.noise_folder(wanted.images))["train_images"]
        used = {
            "batch_norm": model.batch_norm,
            "weight_decay": train.weight_decay,
            "augmentation": train.augmentation,
            "early_stopping": train.early_stopping,
        }
        return {
            **{name: value for name, value in used.items() if value != UNUSED[name]},
            "model": {"name": model.name, "width": model.width},
            "loss": train.loss,
            "alpha": self.alpha,
            "learning_rate": self.learning_rate,
            "batch_size": train.batch_size,
            "rho": train.rho,
            "epsilon": train.epsilon,
            "init": train.init,
            "zero_output": train.zero_output,
            "average": train.average,
            "precision": train.precision,
            "steps": self.steps,
            "seed": self.seed,
            "data": _digests(self.data / data.name),
            "other_images": other,
            "labels": facts["sha256"],
        }


@lru_cache(maxsize=8)
def _digests(folder: Path) -> dict[str, str]:
    arrays = files.read_json(folder / datasets.DESCRIPTION)["arrays"]
    return {name: array["sha256"] for name, array in arrays.items()}


def expand(name: str, config: Config, data: Path, labels: Path) -> list[Run]:
    """Return the runs of a point: every seed at every learning rate.

    Args:
        name: what progress bars call the point.
        config: the point's config.
        data: folder with one folder per data set.
        labels: folder with one folder ``seed-S`` per seed.
    """
    return [
        Run(f"{name} lr={rate:g} seed={seed}", config, rate, seed, data, labels / f"seed-{seed}")
        for seed in config.train.seeds
        for rate in config.train.learning_rates
    ]


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
    """Train runs side by side; return their outcomes, as `stages.lib.training.train` describes.

    Args:
        stack: at least one run; all of the same `Run.stack_key`.
        device: ``cpu``, ``cuda`` or ``mps``.
        stacking: how convolutions of several members are computed, see `models.Network`.
        states: what each goes on from, see `stages.lib.training.train`.
        checkpoint_seconds: between two checkpoints, at least.
        on_checkpoint: called then with a run and its state, for each that is not done.
        on_evaluation: called now and then with a run, steps done and validation accuracy.
        on_report: called with a run and what its outcome would be, were this its end.
        on_done: called with a run and its outcome when it is done.
    """
    from stages.lib.training import train

    settle(device)
    return train(
        recipe(stack[0].config),
        [_member(run, device) for run in stack],
        stacking=stacking,
        states=states,
        checkpoint_seconds=checkpoint_seconds,
        on_checkpoint=lambda k, state: on_checkpoint(stack[k], state),
        on_evaluation=lambda k, steps, accuracy: on_evaluation(stack[k], steps, accuracy),
        on_report=lambda k, outcome: on_report(stack[k], outcome),
        on_done=lambda k, outcome: on_done(stack[k], outcome),
    )


def settle(device: str) -> None:
    """Have this process compute as every run on a device is computed."""
    import torch

    if device == "cpu":
        torch.set_num_threads(1)  # sums in another order round differently
        # AdaDelta's averages of gradients that stay zero decay to denormal numbers, which some
        # CPUs compute with slowly.
        torch.set_flush_denormal(True)


def recipe(config: Config) -> "Recipe":
    """Return what the runs of a config share."""
    from stages.lib.training import Recipe

    return Recipe(
        model=config.model,
        init=config.train.init,
        zero_output=config.train.zero_output,
        rho=config.train.rho,
        epsilon=config.train.epsilon,
        batch_size=config.train.batch_size,
        weight_decay=config.train.weight_decay,
        augmentation=config.train.augmentation,
        precision=config.train.precision,
    )


def _member(run: Run, device: str) -> "Member":
    from stages.lib.training import Member

    identity = run.identity()
    for same in ("precision", "early_stopping"):  # from the same weights, in the same order
        identity.pop(same, None)
    point = files.to_json(identity, indent=None)
    return Member(
        data=load_data(run, device),
        learning_rate=run.learning_rate,
        steps=run.steps,
        average=run.config.train.average,
        alpha=run.alpha,
        init=stream(run.seed, "init", point),
        shuffle=stream(run.seed, "shuffle", point),
        augment=stream(run.seed, "augmentation", point),
        early_stopping=run.config.train.early_stopping,
    )


def load_data(run: Run, device: str) -> "TrainingData":
    """Return the tensors of a run on a device; images are read once per process."""
    import torch

    from stages.lib.training import TrainingData

    name = run.config.data.name
    dataset, test_images, test_labels = _load_dataset(run.data / name, device)
    bank = _load_bank(run.data, name, *run._bank, device)
    diluted = dilution.load(run.labels)
    clean_only = run.config.train.loss == "noisy_loss"
    labels = diluted.labels[: diluted.originals] if clean_only else diluted.labels
    images = diluted.images[: diluted.originals] if clean_only else diluted.images
    v, m = len(diluted.validation_images), dataset.num_classes
    votes = np.zeros((v, m), dtype=np.int64)
    given = diluted.validation_labels
    np.add.at(votes, (np.arange(len(given)) % max(v, 1), given), 1)

    def tensor(array: Any, dtype: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype)).to(device)

    return TrainingData(
        bank=bank,
        labels=tensor(labels, np.uint8 if m <= 256 else np.int32),
        images=tensor(images, np.int32),
        validation=tensor(diluted.validation_images, np.int64),
        validation_labels=tensor(dataset.train_labels[diluted.validation_images], np.int64),
        validation_votes=tensor(votes, np.int64),
        test_images=test_images,
        test_labels=test_labels,
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
        hosts.require_gpu_memory(images.nbytes, f"{len(images):,} images")
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
