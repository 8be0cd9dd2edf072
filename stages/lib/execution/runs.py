"""Runs: one training each, of a point at one rate and seed; what decides it, and its data.

Runs that share a `stack_key` can train side by side in one stack.
"""

import math
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from stages.lib.components import averaging, losses, methods, optimizers
from stages.lib.components.losses import LOSSES
from stages.lib.config.params import Config, ModelParams, TrainParams
from stages.lib.core import files
from stages.lib.core.fields import neutral_values
from stages.lib.data import datasets
from stages.lib.labels import dilution
from stages.lib.training.replicas import shared

#: Of `TrainParams`, what cannot change an outcome, or is in an identity as rate, seed or steps; a
#: recipe is there as the values that it set.
NOT_DECIDING = frozenset(("recipe", "device", "learning_rates", "seeds", "epochs", "min_samples"))


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
        """Number of batches: ``epochs`` over all samples, or ``min_samples`` if that is more.

        ``H_alpha`` stands for a diluted set that it doesn't need: it is trained for as long.
        """
        train = self.config.train
        seen = max(train.epochs * self.config.samples, train.min_samples)
        return math.ceil(seen / train.batch_size)

    @property
    def steps_total(self) -> int:
        """Number of batches of all trainings: a method's first phase has some of its own."""
        train = self.config.train
        return (methods.METHODS[train.method].first(train) + 1) * self.steps

    @property
    def alpha(self) -> float:
        """Noisy labels per clean label, which losses may read."""
        return self.config.noise.alpha

    @property
    def stack_key(self) -> Hashable:
        """What runs must share to train as one stack: network, images, batches, arithmetic."""
        data = self.data, self.config.data.name, self.config.data.validation, *self._bank
        return shared(self.config), self.config.train.stacking, data

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
        """Return all that decides the outcome besides code and environment: numbers and digests.

        A parameter at its neutral value, and one that only other entries of a registry read, is
        left out.

        Raises:
            UserError: a package that its method needs is not installed.
            DamagedError: the diluted set is another run's or of other images, or a file is not as
                it was written.
        """
        data, wanted, train = self.config.data, self.config.noise, self.config.train
        facts = dilution.read_facts(self.labels)
        if (facts["config"], facts["seed"]) != (dilution.config_of(data, wanted), self.seed):
            raise files.damaged(self.labels / "noise.json", "is of another config or seed")
        if facts.get("images") != dilution.digests_of(self.data, data, wanted):
            raise files.damaged(self.labels / "noise.json", "was drawn for other images")
        other: Any = None
        if wanted.alpha == 0:
            other = None  # no noisy example shows one
        elif wanted.images == "white":
            other = {"white": data.originals}
        elif wanted.images not in ("same", "unique"):
            images = dilution.digests(self.data / datasets.noise_folder(wanted.images))[
                "train_images"
            ]
            other = {"images": images, "resized by Pillow": metadata.version("pillow")}
        ignored = NOT_DECIDING | optimizers.unread(train.optimizer) | averaging.unread(train)
        ignored |= losses.unread(train.loss) | methods.unread(train.method)
        known = LOSSES[train.loss].corrects and train.transition == "known"
        packages = methods.versions(train.method)
        return {
            "model": _deciding(self.config.model),
            "train": {k: v for k, v in _deciding(train).items() if k not in ignored},
            "alpha": self.alpha if LOSSES[train.loss].originals_only else 0.0,
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "seed": self.seed,
            "data": dilution.digests(self.data / data.name),
            "other_images": other,
            "labels": facts["sha256"],
            **({"transition": facts["transition"]} if known else {}),
            **({"packages": packages} if packages else {}),
        }


def _deciding(section: ModelParams | TrainParams) -> dict[str, Any]:
    """Return a section's fields but those at their neutral value."""
    neutral = neutral_values(type(section))
    return {k: v for k, v in asdict(section).items() if k not in neutral or v != neutral[k]}


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
