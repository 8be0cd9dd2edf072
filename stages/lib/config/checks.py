"""Checks across the fields and sections of a config, and against its data."""

import math
from pathlib import Path

from stages.lib.components.losses import LOSSES
from stages.lib.config.params import Config, ConfusionParams, DataParams, ModelParams, NoiseParams
from stages.lib.config.yaml_files import fail
from stages.lib.core import paths
from stages.lib.data.registry import FACTS
from stages.lib.models.architectures import (
    ARCHITECTURES,
    ConvNet,
    TorchvisionResNet,
    is_residual,
    smallest_side,
)
from stages.lib.noise import sampling, transitions

MOST_AVERAGED = 0.5  # with early stopping: a report's average may not reach back to the one before

MOST_EXAMPLES = 2**31 - 1  # the order of examples is int32

IMAGENET_SIDES = (64, 224)  # pixels: the least and the most that ImageNet is decoded to


def check_confusion(
    params: ConfusionParams, train_size: int, file: Path | str, section: str
) -> None:
    """Require that subset and held-out images fit into the training images.

    Raises:
        ParamsError: they do not, or a batch is larger than the subset.
    """
    if params.subset + params.held_out > train_size:
        limit = f"at most {train_size - params.held_out} beside {params.held_out} held-out images"
        fail(file, section, "subset", params.subset, limit)
    if params.batch_size > params.subset:
        fail(file, section, "batch_size", params.batch_size, f"at most the subset, {params.subset}")


def check_config(config: Config, file: Path | str = paths.PARAMS, prefix: str = "") -> None:
    """Check what can be known before the data are there.

    Raises:
        ParamsError: the sections contradict each other.
    """
    data, train = config.data, config.train
    _check_source(data, file, prefix + "data")
    if data.validation == 0 and len(train.learning_rates) > 1:
        accepted = "at least 1 where there is more than one learning rate to choose from"
        fail(file, prefix + "data", "validation", data.validation, accepted)
    _check_length(config, file, prefix)
    largest = max(data.originals, data.validation)  # validation images are diluted as well
    if largest + sampling.count_noisy(largest, config.noise.alpha) > MOST_EXAMPLES:
        highest = MOST_EXAMPLES // largest - 1
        accepted = f"at most {highest} with {largest} images: a set holds {MOST_EXAMPLES} examples"
        fail(file, prefix + "noise", "alpha", config.noise.alpha, accepted)
    examples = data.originals
    originals_only = LOSSES[train.loss].originals_only
    if not originals_only:
        examples += sampling.count_noisy(data.originals, config.noise.alpha)
    if train.batch_size > examples:
        most = f"at most the training set, {examples} examples"
        fail(file, prefix + "train", "batch_size", train.batch_size, most)
    if originals_only and (config.noise.kind, config.noise.images) != ("uniform", "same"):
        accepted = "cross_entropy: H_alpha stands for uniform noise on the same images only"
        fail(file, prefix + "train", "loss", train.loss, accepted)
    check_model(config.model, data, file, prefix + "model")
    if train.batch_size == 1 and (config.model.batch_norm or is_residual(config.model.name)):
        accepted = f"2 or more for {config.model.name}: batch norm has no variance of one image"
        fail(file, prefix + "train", "batch_size", 1, accepted)
    if config.noise.images == data.name:
        accepted = "same or unique for images of the originals' own data set"
        fail(file, prefix + "noise", "images", data.name, accepted)
    facts = FACTS.get(data.name)
    if facts is not None:
        check_fit(data, config.noise, facts.train_size, facts.num_classes, file, prefix)


def _check_length(config: Config, file: Path | str, prefix: str) -> None:
    data, train = config.data, config.train
    if train.epochs == 0 and train.min_samples == 0:
        fail(file, prefix + "train", "epochs", train.epochs, "above 0 where min_samples is 0")
    if train.early_stopping and data.validation == 0:
        fail(file, prefix + "data", "validation", 0, "at least 1 with train.early_stopping")
    if train.early_stopping and train.average > MOST_AVERAGED:
        accepted = f"at most {MOST_AVERAGED:g} with train.early_stopping"
        fail(file, prefix + "train", "average", train.average, accepted)


def check_model(
    model: ModelParams, data: DataParams, file: Path | str, section: str, key: str = "name"
) -> None:
    """Require images that a network can halve, and of a network only what it can be.

    Args:
        model: the network.
        data: whose images it takes.
        file: where they were read from.
        section: where the network stands there, ...
        key: ... and its name in that section.

    Raises:
        ParamsError: the images are too small, torchvision's network is to have another width, or
            what is no ConvNet is to have batch norm.
    """
    architecture, size = ARCHITECTURES[model.name], data.size
    if size is None and data.name in FACTS:
        size = min(FACTS[data.name].height, FACTS[data.name].width)
    if size is not None and size < smallest_side(model.name):
        fits = ", ".join(name for name in ARCHITECTURES if smallest_side(name) <= size)
        fail(file, section, key, model.name, f"{fits} for images of {size}x{size}")
    if isinstance(architecture, TorchvisionResNet) and model.width != 1:
        fail(file, section, "width", model.width, f"1 for {model.name}, which is torchvision's")
    if model.batch_norm and not isinstance(architecture, ConvNet):
        why = "a choice for ConvNets alone; residual networks always have it"
        fail(file, section, "batch_norm", True, f"false for {model.name}: {why}")


def _check_source(data: DataParams, file: Path | str, section: str) -> None:
    low, high = IMAGENET_SIDES
    if data.name not in ("folder", "imagenet"):
        if data.path is not None:
            fail(file, section, "path", data.path, f"null where name is {data.name}")
    elif data.path is None:
        kinds = {"folder": "a folder, .zip or .tar", "imagenet": "the folder of ILSVRC2012"}
        fail(file, section, "path", None, f"{kinds[data.name]} where name is {data.name}")
    elif data.name == "imagenet":
        if data.size is None or not low <= data.size <= high:
            needs = f"a whole number from {low} to {high}, pixels of a side, where name is imagenet"
            fail(file, section, "size", data.size, needs)
    elif data.size is None:
        fail(file, section, "size", None, "pixels of a side where name is folder")


def check_fit(
    data: DataParams,
    wanted: NoiseParams,
    train_size: int,
    num_classes: int,
    file: Path | str = paths.PARAMS,
    prefix: str = "",
) -> None:
    """Check data and noise against a data set of ``train_size`` images of ``num_classes`` classes.

    Raises:
        ParamsError: more images are asked for than there are, delta exceeds the largest allowed
            for alpha (PAPER: ``delta <= alpha/m``), or images of other classes are asked for with
            structured noise.
    """
    free = train_size - data.validation
    if data.originals > free:
        most = f"at most {max(free, 0)}: {data.validation} of {train_size} are for validation"
        fail(file, prefix + "data", "originals", data.originals, most)
    left = free - data.originals
    if wanted.images == "unique" and sampling.count_noisy(data.originals, wanted.alpha) > left:
        most = f"at most {left / data.originals:g}: {left} unique images are left for noisy labels"
        fail(file, prefix + "noise", "alpha", wanted.alpha, most)
    if wanted.kind == "uniform":
        if wanted.delta != 0:
            fail(file, prefix + "noise", "delta", wanted.delta, "0 where kind is uniform")
        return
    if num_classes < 3:
        needs = f"uniform: {num_classes} classes leave no order among false classes"
        fail(file, prefix + "noise", "kind", wanted.kind, needs)
    largest = transitions.largest_delta(wanted.alpha, num_classes)
    # The smallest numbers are rounded up to twice what they are: the quotient alone does not do.
    over = wanted.delta * num_classes > wanted.alpha * transitions.ROUNDING
    if over or wanted.delta > largest * transitions.ROUNDING:
        shown = math.floor(largest * 1e6) / 1e6  # never rounded up
        at = f"at most {shown:.6g} at alpha {wanted.alpha:g} with {num_classes} classes"
        fail(file, prefix + "noise", "delta", wanted.delta, at)
    if wanted.images not in ("same", "unique"):
        needs = "same or unique where kind is structured: other images have no true class here"
        fail(file, prefix + "noise", "images", wanted.images, needs)
