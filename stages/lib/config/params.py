"""The typed sections of ``params.yaml`` and of ``scales/*.yaml``, checked before any compute.

Every section is a strict, frozen dataclass of pydantic's. A parameter has a default; files say what
differs. `stages.lib.config.reading` turns a wrong value into one line for the user.
"""

from typing import Annotated

from annotated_types import Interval
from pydantic.dataclasses import dataclass

from stages.lib.components.augmentation import AugmentationParams
from stages.lib.components.averaging import AveragingParams
from stages.lib.components.losses import LossParams
from stages.lib.components.methods import MethodParams
from stages.lib.components.optimizers import OptimizerParams
from stages.lib.components.schedules import ScheduleParams
from stages.lib.components.targets import TargetsParams
from stages.lib.config.recipes import RECIPES
from stages.lib.core.fields import (
    STRICT,
    Count,
    Fraction,
    Neutral,
    OneOf,
    Positive,
    PositiveCount,
    Rates,
    Seeds,
    Text,
    Width,
)
from stages.lib.data import registry
from stages.lib.models.architectures import ARCHITECTURES, INITS
from stages.lib.noise import sampling, transitions

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("float32", "tf32", "bfloat16")
STACKINGS = ("auto", "grouped", "unfold", "loop", "batched")
NOISE_KINDS = ("uniform", "structured")
TOP = 5  # a class among so many largest logits is right for top-5 accuracy
MOST_CONFUSED = 100  # classes whose confusion is counted: of a thousand, a million numbers a run


@dataclass(frozen=True, config=STRICT)
class DataParams:
    """Which images, and how many of them keep their true label (Rolnick et al. 2017, section 3)."""

    name: Annotated[str, OneOf(registry.DATASETS)] = "mnist5k"
    path: Text | None = None
    size: Annotated[int, Interval(ge=4, le=1024)] | None = None
    originals: PositiveCount = 3500
    validation: Count = 500


@dataclass(frozen=True, config=STRICT)
class NoiseParams:
    """How the noisy labels are drawn, and on which images (sections 3.1 to 3.3)."""

    kind: Annotated[str, OneOf(NOISE_KINDS)] = "uniform"
    alpha: Annotated[float, Interval(ge=0, le=1e6)] = 0.0
    delta: Fraction = 0.0
    order: Annotated[str, OneOf(transitions.ORDERS)] = "confusing"
    images: Annotated[str, OneOf(("same", "unique", "white", *registry.NAMED))] = "same"


@dataclass(frozen=True, config=STRICT)
class ModelParams:
    """The network, the factor on its units and channels, and a ConvNet's batch norm."""

    name: Annotated[str, OneOf(ARCHITECTURES)] = "conv4"
    width: Width = 1.0
    batch_norm: Annotated[bool, Neutral(False)] = False


@dataclass(frozen=True, config=STRICT)
class TrainParams(
    TargetsParams,
    LossParams,
    OptimizerParams,
    ScheduleParams,
    AveragingParams,
    AugmentationParams,
    MethodParams,
):
    """How a network is trained (section 3.4), and what the paper leaves open.

    Attributes:
        recipe: which of `RECIPES` had its say before the other values, which are all that decides.
    """

    recipe: Annotated[str, OneOf(RECIPES)] = "paper"
    learning_rates: Rates = (1.0,)
    batch_size: PositiveCount = 128
    init: Annotated[str, OneOf(INITS)] = "he"
    zero_output: bool = True
    epochs: Annotated[float, Interval(ge=0, le=1e6)] = 0.0
    min_samples: Count = 64000
    early_stopping: Annotated[bool, Neutral(False)] = False
    memorisation: Annotated[bool, Neutral(False)] = False
    seeds: Seeds = (0, 1)
    device: Annotated[str, OneOf(DEVICES)] = "auto"
    precision: Annotated[str, OneOf(PRECISIONS)] = "float32"
    stacking: Annotated[str, OneOf(STACKINGS), Neutral("auto")] = "auto"


@dataclass(frozen=True, config=STRICT)
class ConfusionParams:
    """How the classes' confusion is estimated (section 3.2): repeated small-subset training."""

    subset: PositiveCount = 500
    held_out: PositiveCount = 500
    repeats: Annotated[int, Interval(ge=1, le=1000)] = 5
    model: Annotated[str, OneOf(ARCHITECTURES)] = "conv4"
    width: Width = 0.25
    learning_rate: Positive = 1.0
    batch_size: PositiveCount = 128
    min_samples: PositiveCount = 25600


@dataclass(frozen=True, config=STRICT)
class Config:
    """Everything that decides one point: an experiment, or one place on a figure."""

    data: DataParams
    noise: NoiseParams
    model: ModelParams
    train: TrainParams

    @property
    def examples(self) -> int:
        """Number of examples of the diluted set, a label each."""
        return self.data.originals + sampling.count_noisy(self.data.originals, self.noise.alpha)

    @property
    def samples(self) -> int:
        """Number of samples in an epoch: examples, or with aggregated targets distinct images."""
        n, images = self.data.originals, self.noise.images
        if self.train.targets == "labels" or images == "unique":
            return self.examples
        most = {"same": 0, "white": n}
        others = most[images] if images in most else registry.FACTS[images].train_size
        return n + min(self.examples - n, others)


@dataclass(frozen=True, config=STRICT)
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
