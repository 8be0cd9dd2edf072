"""Which classes a network confuses, estimated as the paper does (section 3.2).

"We determine commonly confused labels by training the network repeatedly on a small subset of MNIST
and observing the errors it makes on a test set." Here the errors are counted on training images
outside the subset, so that the test set stays unseen.
"""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.config.checks import check_confusion
from stages.lib.config.params import (
    MOST_CONFUSED,
    Config,
    ConfusionParams,
    DataParams,
    ModelParams,
    NoiseParams,
    TrainParams,
)
from stages.lib.config.yaml_files import fail
from stages.lib.core import files
from stages.lib.core.errors import UserError
from stages.lib.data import datasets
from stages.lib.execution import executors, runs
from stages.lib.labels.dilution import materialise
from stages.lib.noise import transitions
from stages.lib.studies import summaries
from stages.lib.studies.grids import Grid

NO_NOISE = NoiseParams(kind="uniform", alpha=0.0)

TIES = "equal counts, never-seen errors among them, go by class index, the smaller first"


@dataclass(frozen=True)
class SharedTraining:
    """How the small trainings start and step, as the trainings that follow; `TrainParams` says."""

    rho: float
    epsilon: float
    init: str
    zero_output: bool
    device: str
    precision: str
    stacking: str


def shared_training(grid: Grid) -> tuple[str, SharedTraining]:
    """Return the data set and the start of training that a figure's points share.

    Raises:
        UserError: they differ, and one confusion matrix cannot serve them all.
    """
    names = [field.name for field in fields(SharedTraining)]
    found = {
        (p.data.name, SharedTraining(**{name: getattr(p.train, name) for name in names}))
        for p in grid.points
    }
    if len(found) > 1:
        raise UserError(
            f"{grid.key}: got several data sets or starts with structured noise; use one"
        )
    return found.pop()


def config_of(params: ConfusionParams, dataset: str, start: SharedTraining) -> Config:
    """Return the config of the small trainings, on clean labels; a seed for every repeat."""
    return Config(
        data=DataParams(dataset, None, None, params.subset, params.held_out),
        noise=NO_NOISE,
        model=ModelParams(params.model, params.width),
        train=TrainParams(
            learning_rates=(params.learning_rate,),
            batch_size=params.batch_size,
            epochs=0.0,
            min_samples=params.min_samples,
            seeds=tuple(range(params.repeats)),
            **asdict(start),
        ),
    )


def estimate(
    params: ConfusionParams, dataset_name: str, start: SharedTraining, data_folder: Path, file: Path
) -> dict[str, Any]:
    """Train ``repeats`` networks on subsets and count their errors on held-out images.

    Args:
        params: subset, held-out images, repeats, network.
        dataset_name: which images.
        start: optimizer, initialisation and device.
        data_folder: folder with one folder per data set.
        file: where the parameters were read from, for errors.

    Returns:
        ``counts`` ``(m, m)`` with the true class in the rows, ``orders`` of false classes
        (``confusing`` and ``reverse``; ``random`` is drawn per seed), how ties were broken and how
        many pairs were tied, and ``matrix``, the counts as rows for the plot. Of more classes than
        `MOST_CONFUSED`, which no noise is structured by, ``counts`` is None: nothing is trained.

    Raises:
        ParamsError: subset and held-out images are more than the training images, or a repeat
            diverged: an order made of what a network of NaNs answers would be none.
    """
    dataset = datasets.load(data_folder / dataset_name, labels_only=True)
    config = config_of(params, dataset_name, start)
    seen = replace(config.data, size=min(dataset.image_shape[:2]))
    check_confusion(params, seen, len(dataset.train_labels), file)
    if dataset.num_classes > MOST_CONFUSED:
        why = f"{dataset.num_classes} classes, more than {MOST_CONFUSED}: none are ordered"
        return {"dataset": dataset_name, "counts": None, "why": why}
    with files.scratch_folder() as folder:
        materialise(config.data, NO_NOISE, config.train.seeds, data_folder=data_folder, out=folder)
        todo = runs.expand(f"confusion {params.model}", config, data_folder, folder)
        outcomes, _ = executors.train_or_load(todo, f"confusion on {dataset_name}")
    diverged = sum(outcome["diverged"] for outcome in outcomes)
    if diverged:
        smaller = f"a smaller one, for {diverged} of {len(outcomes)} repeats diverged"
        fail(file, "confusion", "learning_rate", params.learning_rate, smaller)
    counts = np.sum([outcome["val_confusion"] for outcome in outcomes], axis=0)
    orders = {
        order: transitions.false_class_order(counts, order).tolist()
        for order in transitions.ORDERS
        if order != "random"
    }
    return {
        "dataset": dataset_name,
        "model": params.model,
        "repeats": params.repeats,
        "subset": params.subset,
        "held_out": params.held_out,
        "accuracy": float(np.trace(counts) / counts.sum()),
        "counts": counts.tolist(),
        "counts_axes": "row: true class; column: predicted class",
        "orders": orders,
        "orders_axes": "row: true class; its false classes, the most likely noisy label first",
        "ties": TIES,
        "tied_neighbours": _tied(counts, np.asarray(orders["confusing"])),
        "matrix": summaries.table(counts),
    }


def _tied(counts: NDArray[np.integer], order: NDArray[np.integer]) -> int:
    """Count neighbours in the order whose counts are equal, so that only the index ranks them."""
    ranked = np.take_along_axis(counts, order, axis=1)
    return int((ranked[:, 1:] == ranked[:, :-1]).sum())
