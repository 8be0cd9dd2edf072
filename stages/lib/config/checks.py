"""Checks across the fields and sections of a config, and against its data."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from stages.lib.components.losses import LOSSES
from stages.lib.components.methods import METHODS
from stages.lib.config.params import (
    Config,
    ConfusionParams,
    DataParams,
    ModelParams,
    NoiseParams,
    TrainParams,
)
from stages.lib.config.yaml_files import fail
from stages.lib.core import paths
from stages.lib.data.registry import FACTS
from stages.lib.models.architectures import ARCHITECTURES as NETWORKS
from stages.lib.models.architectures import ConvNet, TorchvisionResNet, is_residual, smallest_side
from stages.lib.noise import sampling, transitions

MOST_AVERAGED = 0.5  # with early stopping: a report's average may not reach back to the one before
MOST_EXAMPLES = 2**31 - 1  # the order of examples is int32
Refuse = Callable[[str, str], NoReturn]  # at a place, section.key, saying what is accepted
IMAGENET_SIDES = (64, 224)  # pixels: the least and the most that ImageNet is decoded to


def _refusing(file: Path | str, prefix: str = "", **sections: Any) -> Refuse:
    """Return what raises the error for the value at ``section.key``, given what is accepted."""

    def refuse(place: str, accepted: str) -> NoReturn:
        section, key = place.split(".")
        fail(file, prefix + section, key, getattr(sections[section], key), accepted)

    return refuse


def check_confusion(
    params: ConfusionParams, data: DataParams, train_size: int | None, file: Path | str
) -> None:
    """Require images and a network that the estimation of confusion can work with.

    Args:
        params: the section.
        data: whose images it takes.
        train_size: how many of them there are for training, if that is known.
        file: where the section was read from.

    Raises:
        ParamsError: subset and held-out images are more than there are, a batch is larger than the
            subset, or the network cannot take these images.
    """
    refuse = _refusing(file, confusion=params)
    check_model(ModelParams(params.model, params.width), data, file, "confusion", key="model")
    if train_size is not None and params.subset + params.held_out > train_size:
        left = train_size - params.held_out
        refuse("confusion.subset", f"at most {left} beside {params.held_out} held-out images")
    if params.batch_size == 1 and is_residual(params.model):
        refuse("confusion.batch_size", f"2 or more for {params.model}, which has batch norm")
    if params.batch_size > params.subset:
        refuse("confusion.batch_size", f"at most the subset, {params.subset}")


def check_config(config: Config, file: Path | str = paths.PARAMS, prefix: str = "") -> None:
    """Check what can be known before the data are there.

    Raises:
        ParamsError: the sections contradict each other.
    """
    data, noise, model, train = config.data, config.noise, config.model, config.train
    refuse = _refusing(file, prefix, data=data, noise=noise, model=model, train=train)
    _check_source(data, refuse)
    _check_length(data, train, refuse)
    largest = max(data.originals, data.validation)  # validation images are diluted as well
    if largest + sampling.count_noisy(largest, noise.alpha) > MOST_EXAMPLES:
        highest = MOST_EXAMPLES // largest - 1
        most = f"at most {highest} with {largest} images: a set holds {MOST_EXAMPLES} examples"
        refuse("noise.alpha", most)
    _check_loss(config, refuse)
    _check_method(config, refuse)
    check_model(model, data, file, prefix + "model")
    normalised = model.batch_norm or is_residual(model.name)
    if train.batch_size == 1 and normalised:
        refuse("train.batch_size", f"2 or more for {model.name}: batch norm has no variance of one")
    if train.recompute_batch_norm and not normalised:
        refuse("train.recompute_batch_norm", f"false for {model.name}, which is without batch norm")
    if noise.images == data.name:
        refuse("noise.images", "same or unique for images of the originals' own data set")
    if facts := FACTS.get(data.name):
        check_fit(data, noise, facts.train_size, facts.num_classes, file, prefix)


def _check_loss(config: Config, refuse: Refuse) -> None:
    data, noise, train = config.data, config.noise, config.train
    loss = LOSSES[train.loss]
    samples = data.originals if loss.originals_only else config.samples
    if train.batch_size > samples:
        shown = "examples" if train.targets == "labels" else "images"
        refuse("train.batch_size", f"at most the training set, {samples} {shown}")
    if loss.originals_only and (noise.kind, noise.images) != ("uniform", "same"):
        refuse("train.loss", "cross_entropy: H_alpha stands for uniform noise on the same images")
    if loss.originals_only and train.targets != "labels":
        refuse("train.targets", f"labels with train.loss {train.loss}: originals have one label")
    if loss.corrects and noise.alpha and noise.images not in ("same", "unique"):
        refuse("train.loss", "another: images of other classes have no transition matrix")
    if loss.corrects and train.transition == "estimated" and data.validation == 0:
        refuse("data.validation", "at least 1, on which the transition matrix is estimated")


def _check_method(config: Config, refuse: Refuse) -> None:
    """Require a set of single examples, and of each method what it needs."""
    data, noise, train = config.data, config.noise, config.train
    method = METHODS[train.method]
    if method.choose is None:
        return
    if LOSSES[train.loss].originals_only:
        refuse("train.method", f"none with train.loss {train.loss}: it has no noisy examples")
    if LOSSES[train.loss].corrects:
        why = "its matrix is of the whole set, not of what a method leaves"
        refuse("train.method", f"none with train.loss {train.loss}: {why}")
    if train.targets != "labels":
        refuse("train.method", "none with train.targets aggregated: methods choose single examples")
    if method.validates and data.validation == 0:
        refuse("data.validation", f"at least 1 with train.method {train.method}")
    if method.of_known and noise.alpha and noise.images not in ("same", "unique"):
        why = f"{train.method} supposes that each image is of one of the classes"
        refuse("noise.images", f"same or unique: {why}")
    images = config.examples if noise.images == "unique" else data.originals
    if "folds" in method.takes and train.folds > images:
        refuse("train.folds", f"at most the number of images, {images}")


def _check_length(data: DataParams, train: TrainParams, refuse: Refuse) -> None:
    if data.validation == 0 and len(train.learning_rates) > 1:
        refuse("data.validation", "at least 1 where there is more than one learning rate")
    if data.validation == 0 and train.early_stopping:
        refuse("data.validation", "at least 1 with train.early_stopping")
    if train.early_stopping and train.average > MOST_AVERAGED:
        refuse("train.average", f"at most {MOST_AVERAGED:g} with train.early_stopping")
    if train.epochs == 0 and train.min_samples == 0:
        refuse("train.epochs", "above 0 where min_samples is 0")


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
    network, size = NETWORKS[model.name], data.size
    if size is None and data.name in FACTS:
        size = min(FACTS[data.name].height, FACTS[data.name].width)
    if size is not None and size < smallest_side(model.name):
        fits = ", ".join(name for name in NETWORKS if smallest_side(name) <= size)
        fail(file, section, key, model.name, f"{fits} for images of {size}x{size}")
    if isinstance(network, TorchvisionResNet) and model.width != 1:
        fail(file, section, "width", model.width, f"1 for {model.name}, which is torchvision's")
    if model.batch_norm and not isinstance(network, ConvNet):
        why = "a choice for ConvNets alone; residual networks always have it"
        fail(file, section, "batch_norm", True, f"false for {model.name}: {why}")


def _check_source(data: DataParams, refuse: Refuse) -> None:
    (low, high), own = IMAGENET_SIDES, data.name not in FACTS
    if not own and data.path is not None:
        refuse("data.path", f"null where name is {data.name}")
    if own and data.path is None:
        kinds = {"folder": "a folder, .zip or .tar", "imagenet": "the folder of ILSVRC2012"}
        refuse("data.path", f"{kinds[data.name]} where name is {data.name}")
    if data.name == "imagenet" and (data.size is None or not low <= data.size <= high):
        refuse("data.size", f"a whole number from {low} to {high}, pixels of a side, of imagenet")
    if own and data.size is None:
        refuse("data.size", "pixels of a side where name is folder")


def check_fit(
    data: DataParams,
    noise: NoiseParams,
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
    refuse = _refusing(file, prefix, data=data, noise=noise)
    free = train_size - data.validation
    if data.originals > free:
        taken = f"{data.validation} of {train_size} are for validation"
        refuse("data.originals", f"at most {max(free, 0)}: {taken}")
    left = free - data.originals
    if noise.images == "unique" and sampling.count_noisy(data.originals, noise.alpha) > left:
        why = f"{left} unique images are left for noisy labels"
        refuse("noise.alpha", f"at most {left / data.originals:g}: {why}")
    if noise.kind == "uniform":
        if noise.delta != 0:
            refuse("noise.delta", "0 where kind is uniform")
        return
    if num_classes < 3:
        refuse("noise.kind", f"uniform: {num_classes} classes leave no order among false classes")
    largest = transitions.largest_delta(noise.alpha, num_classes)
    # The smallest numbers are rounded up to twice what they are: the quotient alone does not do.
    over = noise.delta * num_classes > noise.alpha * transitions.ROUNDING
    if over or noise.delta > largest * transitions.ROUNDING:
        shown = math.floor(largest * 1e6) / 1e6  # never rounded up
        at = f"at most {shown:.6g} at alpha {noise.alpha:g} with {num_classes} classes"
        refuse("noise.delta", at)
    if noise.images not in ("same", "unique"):
        needs = "same or unique where kind is structured: other images have no true class here"
        refuse("noise.images", needs)
