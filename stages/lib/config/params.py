"""The typed sections of ``params.yaml`` and of ``scales/*.yaml``, checked before any compute.

Every section is a frozen dataclass whose fields carry the rule for their values. A missing,
unknown, mistyped or out-of-range value raises one `ParamsError`, whose single line names file,
section, key, value and what is accepted.
"""

from dataclasses import dataclass

from stages.lib.config.rules import (
    POSITIVE,
    WIDTH,
    boolean,
    integer,
    list_of,
    number,
    one_of,
    optional,
    ruled,
    text,
)
from stages.lib.data import registry
from stages.lib.models.architectures import ARCHITECTURES, INITS
from stages.lib.noise import transitions

AUGMENTATIONS = ("none", "flip_crop", "resized_crop")

LOSSES = ("cross_entropy", "expected_noisy_cross_entropy")

DEVICES = ("auto", "cpu", "cuda", "mps")

PRECISIONS = ("float32", "tf32", "bfloat16")

STACKINGS = ("auto", "grouped", "unfold", "loop", "batched")

NOISE_KINDS = ("uniform", "structured")

TOP = 5  # a class among so many largest logits is right for top-5 accuracy

MOST_CONFUSED = 100  # classes whose confusion is counted: of a thousand, a million numbers a run


@dataclass(frozen=True)
class DataParams:
    """Which images, and how many of them keep their true label (Rolnick et al. 2017, section 3)."""

    name: str = ruled(one_of(*registry.DATASETS))
    path: str | None = ruled(optional(text()))
    size: int | None = ruled(optional(integer(4, 1024)))
    originals: int = ruled(integer(1))
    validation: int = ruled(integer(0))


@dataclass(frozen=True)
class NoiseParams:
    """How the noisy labels are drawn, and on which images (sections 3.1 to 3.3)."""

    kind: str = ruled(one_of(*NOISE_KINDS))
    alpha: float = ruled(number(0, 1e6))
    delta: float = ruled(number(0, 1))
    order: str = ruled(one_of(*transitions.ORDERS))
    images: str = ruled(one_of("same", "unique", "white", *registry.NAMED))


@dataclass(frozen=True)
class ModelParams:
    """The network, the factor on its units and channels, and a ConvNet's batch norm."""

    name: str = ruled(one_of(*ARCHITECTURES))
    width: float = ruled(WIDTH)
    batch_norm: bool = ruled(boolean())


@dataclass(frozen=True)
class TrainParams:
    """How a network is trained (section 3.4), and what the paper leaves open."""

    loss: str = ruled(one_of(*LOSSES))
    learning_rates: tuple[float, ...] = ruled(list_of(POSITIVE))
    batch_size: int = ruled(integer(1))
    rho: float = ruled(number(0, 1))
    epsilon: float = ruled(POSITIVE)
    init: str = ruled(one_of(*INITS))
    zero_output: bool = ruled(boolean())
    epochs: float = ruled(number(0, 1e6))
    min_samples: int = ruled(integer(0))
    average: float = ruled(number(0, 1))
    early_stopping: bool = ruled(boolean())
    weight_decay: float = ruled(number(0, 1))
    augmentation: str = ruled(one_of(*AUGMENTATIONS))
    seeds: tuple[int, ...] = ruled(list_of(integer(0)))
    device: str = ruled(one_of(*DEVICES))
    precision: str = ruled(one_of(*PRECISIONS))
    stacking: str = ruled(one_of(*STACKINGS))


@dataclass(frozen=True)
class ConfusionParams:
    """How the classes' confusion is estimated (section 3.2): repeated small-subset training."""

    subset: int = ruled(integer(1))
    held_out: int = ruled(integer(1))
    repeats: int = ruled(integer(1, 1000))
    model: str = ruled(one_of(*ARCHITECTURES))
    width: float = ruled(WIDTH)
    learning_rate: float = ruled(POSITIVE)
    batch_size: int = ruled(integer(1))
    min_samples: int = ruled(integer(1))


@dataclass(frozen=True)
class Config:
    """Everything that decides one point: an experiment, or one place on a figure."""

    data: DataParams
    noise: NoiseParams
    model: ModelParams
    train: TrainParams


@dataclass(frozen=True)
class Params:
    """The whole of ``params.yaml``."""

    data: DataParams
    noise: NoiseParams
    model: ModelParams
    train: TrainParams
    confusion: ConfusionParams
    scale: str
    figures: tuple[str, ...]


SECTIONS: dict[str, type] = {
    "data": DataParams,
    "noise": NoiseParams,
    "model": ModelParams,
    "train": TrainParams,
    "confusion": ConfusionParams,
}
