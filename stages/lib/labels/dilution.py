"""Diluted training sets: which image each example shows, and which label it is given.

A diluted set is labels and image indices, never images. Of its ``(1 + alpha) * n`` examples the
first ``n`` are the originals with their true labels; the rest are noisy. Example ``i`` shows image
``images[i % len(images)]`` of the image bank: the training images, followed by the images that
noise is drawn on where these are others. Where noisy examples reuse the originals' images, the
list holds those ``n`` once and repeats by itself.
"""

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.config.checks import check_fit
from stages.lib.config.params import MOST_CONFUSED, DataParams, NoiseParams
from stages.lib.core import files, machine, paths
from stages.lib.core.errors import DamagedError, UserError
from stages.lib.core.randomness import stream
from stages.lib.data import datasets
from stages.lib.data.datasets import Dataset
from stages.lib.data.images import conform, white_noise
from stages.lib.noise import sampling, transitions
from stages.lib.noise.sampling import Labels

ARRAYS = ("labels", "images", "validation_labels", "validation_images")


@dataclass(frozen=True)
class Dilution:
    """A diluted training set and the validation set that was held out of the same images.

    Attributes:
        labels: ``(N,)`` given labels; the first ``originals`` are true.
        images: ``(n,)`` or ``(N,)`` uint32 indices into the image bank, repeated to ``N``.
        validation_labels: ``(V,)`` labels of the validation images diluted in the same way; the
            first ``len(validation_images)`` are true.
        validation_images: ``(v,)`` uint32 indices of held-out training images.
        facts: what ``noise.json`` says: config, transition and counts (None of more than
            `MOST_CONFUSED` classes), accuracy, seed, digests of the arrays and of the images.
    """

    labels: Labels
    images: NDArray[np.uint32]
    validation_labels: Labels
    validation_images: NDArray[np.uint32]
    facts: dict[str, Any]

    @property
    def originals(self) -> int:
        """Number of examples whose label is certainly true: the first ones."""
        return int(self.facts["originals"])


def transition_matrix(
    params: NoiseParams, num_classes: int, confusion: NDArray[np.integer] | None, seed: int
) -> transitions.Matrix:
    """Return the ``(m, m)`` transition matrix of a noise config.

    Structured noise needs ``(m, m)`` confusion counts, true class in the rows. The seed decides the
    order of ``order: random`` only.

    Raises:
        ValueError: confusion counts are needed and missing, or ``delta`` is too large.
    """
    if params.kind == "uniform" or params.alpha == 0:
        return transitions.uniform_transition(num_classes)
    if confusion is None:
        raise UserError("structured noise: got no confusion counts; run the confuse stage first")
    rng = np.random.default_rng(stream(seed, "order"))
    order = transitions.false_class_order(confusion, params.order, rng=rng)
    return transitions.structured_transition(order, params.alpha, params.delta)


def dilute(
    dataset: Dataset,
    data: DataParams,
    params: NoiseParams,
    *,
    seed: int,
    confusion: NDArray[np.integer] | None = None,
    other_images: int = 0,
) -> Dilution:
    """Dilute ``n`` originals with ``round(alpha * n)`` noisy examples (section 3).

    Args:
        dataset: the images; only its training images are used.
        data: how many originals, and how many images to hold out for validation.
        params: the noise config.
        seed: decides the split, the noisy labels and the images that they are put on.
        confusion: ``(m, m)`` counts that order structured noise, true class in the rows.
        other_images: how many images follow the training images in the bank (``noise.images``).

    Raises:
        ParamsError: the config does not fit the data set (`checks.check_fit`).
        UserError: structured noise without confusion counts, or more examples than memory.
    """
    check_fit(data, params, len(dataset.train_labels), dataset.num_classes)
    n, m = data.originals, dataset.num_classes
    noisy, total = sampling.count_noisy(n, params.alpha), len(dataset.train_labels)
    needed = (n + noisy) * (sampling.label_dtype(m).itemsize + (4 if other_images else 0))
    machine.require_memory(needed, f"noise.alpha {params.alpha:g}: {n + noisy:,} examples")
    # The seed alone decides the split: sets of different sizes are nested, and every noise level
    # is chosen on the same validation images.
    split = np.random.default_rng(stream(seed, "split")).permutation(total).astype(np.uint32)
    originals, held_out = split[:n], split[total - data.validation :]
    transition = transition_matrix(params, m, confusion, seed)

    known = params.images in ("same", "unique")  # else noisy images belong to none of the classes
    if params.images == "same":
        images = originals
    elif params.images == "unique":
        images = split[: n + noisy]
    else:
        rng = np.random.default_rng(stream(seed, "images"))
        extra = (total + rng.permutation(other_images)).astype(np.uint32)
        images = np.empty(n + noisy, dtype=np.uint32)
        images[:n] = originals
        for start in range(n, n + noisy, len(extra)):  # in place: no second list of this length
            images[start : start + len(extra)] = extra[: n + noisy - start]

    true, v = dataset.train_labels, len(held_out)
    rng = np.random.default_rng(stream(seed, "labels"))
    labels = _dilute_labels(true, images if known else originals, n, noisy, transition, rng)
    rng = np.random.default_rng(stream(seed, "validation"))
    noisy_v = sampling.count_noisy(v, params.alpha)
    validation_labels = _dilute_labels(true, held_out, v, noisy_v, transition, rng)

    counts, unknown = np.diag(np.bincount(true[originals], minlength=m)), np.zeros(m, np.int64)
    for chunk in sampling.chunks(n, n + noisy):
        if known:
            counts += sampling.count_labels(_shown(true, images, chunk), labels[chunk], m)
        else:
            unknown += np.bincount(labels[chunk], minlength=m)
    facts = {
        "config": config_of(data, params),
        "dataset": dataset.name,
        "seed": seed,
        "originals": n,
        "examples": n + noisy,
        "num_classes": m,
        # Of a thousand classes, a million numbers for each seed; and the noise is uniform then.
        "transition": transition.tolist() if m <= MOST_CONFUSED else None,
        "transition_axes": "row: true class; column: noisy label; rows sum to 1",
        "counts": counts.tolist() if m <= MOST_CONFUSED else None,
        "counts_axes": "row: true class; column: given label; clean and noisy examples together",
        "counts_of_unknown_images": unknown.tolist(),
        "label_accuracy": float(np.trace(counts) / (n + noisy)),
    }
    arrays = dict(zip(ARRAYS, (labels, images, validation_labels, held_out), strict=True))
    facts["sha256"] = {name: files.sha256_of_array(array) for name, array in arrays.items()}
    return Dilution(**arrays, facts=facts)


def canonical(params: NoiseParams) -> NoiseParams:
    """Return the config that decides the draw: without structure, any order is uniform noise."""
    if params.kind == "uniform" or params.delta == 0:
        return replace(params, kind="uniform", delta=0.0, order=transitions.ORDERS[0])
    return params


def _dilute_labels(
    all_labels: Labels,
    images: NDArray[np.uint32],
    clean: int,
    noisy: int,
    transition: transitions.Matrix,
    rng: np.random.Generator,
) -> Labels:
    """Return true labels of the first ``clean`` examples, then noisy ones, drawn chunk by chunk."""
    labels = np.empty(clean + noisy, dtype=sampling.label_dtype(len(transition)))
    labels[:clean] = all_labels[images[:clean]]
    draw = sampling.LabelSampler(transition, rng=rng)
    for chunk in sampling.chunks(clean, clean + noisy):
        labels[chunk] = draw(_shown(all_labels, images, chunk))
    return labels


def _shown(all_labels: Labels, images: NDArray[np.uint32], chunk: slice) -> Labels:
    """Return the true labels of what some examples show."""
    labels: Labels = all_labels[images[np.arange(chunk.start, chunk.stop) % len(images)]]
    return labels


def other_images(
    wanted: str, dataset: Dataset, originals: int, other: Dataset | None, seed: int
) -> NDArray[np.uint8] | None:
    """Return the images that follow the training images in the bank, or None (section 3.3).

    White noise, which the seed decides: as many images as there are originals, reused like them.
    The other data set that ``noise.images`` names: all its training images, brought to this one's
    size and channels.
    """
    if wanted == "white":
        rng = np.random.default_rng(stream(seed, "pixels"))
        return white_noise(dataset.train_images, originals, rng=rng)
    if other is not None:
        return conform(other.train_images, *dataset.train_images.shape[1:])
    return None


def name_of(data: DataParams, params: NoiseParams) -> str:
    """Return the name of the folder of a noise config's sets: a digest of what decides them."""
    return files.sha256_of_bytes(files.to_json([asdict(data), asdict(params)]).encode())[:16]


def materialise(
    data: DataParams,
    params: NoiseParams,
    seeds: tuple[int, ...],
    *,
    data_folder: Path,
    out: Path,
    confusion_file: Path | None = None,
    file: Path = paths.PARAMS,
    prefix: str = "",
) -> None:
    """Write the diluted set of every seed to ``out/seed-S``; those that are there are kept.

    Each data set has a folder in ``data_folder``. The counts of ``confusion_file`` are read for
    structured noise only. ``file`` and ``prefix`` say in errors where the config stands.

    Raises:
        ParamsError: the config does not fit the data set.
        DamagedError: the data set or the confusion counts are not as they were written.
        UserError: structured noise of more classes than confusion is counted of.
    """
    dataset = datasets.load(data_folder / data.name, labels_only=True)
    confusion = None
    if params.kind == "structured" and confusion_file is not None:
        report = files.read_json(confusion_file)
        if report["dataset"] != data.name:
            raise files.damaged(confusion_file, f"is of {report['dataset']}, not of {data.name}")
        if report["counts"] is None:
            raise UserError(f"noise.kind: got 'structured'; accepted: uniform: {report['why']}")
        confusion = np.array(report["counts"])
    others = 0
    if params.images == "white":
        others = data.originals
    elif params.images not in ("same", "unique"):
        others = len(datasets.load(data_folder / datasets.noise_folder(params.images)).train_labels)
    check_fit(data, params, len(dataset.train_labels), dataset.num_classes, file, prefix)
    digests.cache_clear()  # sets are drawn for the images that lie there now
    drawn_by: dict[str, Any] = {
        "config": config_of(data, params),
        "images": digests_of(data_folder, data, params),
    }
    if confusion is not None:
        drawn_by["confusion"] = {"counts": files.sha256_of_array(confusion)}
    draw = partial(dilute, dataset, data, params, confusion=confusion, other_images=others)
    for seed in seeds:
        folder = out / f"seed-{seed}"
        with suppress(DamagedError):
            if drawn_by.items() <= read_facts(folder).items():  # points of a figure share sets
                continue
        diluted = draw(seed=seed)
        diluted.facts.update(drawn_by)
        save(diluted, folder)


def digests_of(data_folder: Path, data: DataParams, params: NoiseParams) -> dict[str, str]:
    """Return the digests of the images and labels that a diluted set is drawn for, by file."""
    wanted: dict[str, tuple[str, ...]] = {data.name: ("train_images", "train_labels")}
    if params.images in datasets.NAMED and params.alpha:
        wanted[datasets.noise_folder(params.images)] = ("train_images",)
    found: dict[str, str] = {}
    for folder, names in wanted.items():
        known = digests(data_folder / folder)
        found |= {f"{folder}/{name}": known[name] for name in names}
    return found


@lru_cache(maxsize=8)
def digests(folder: Path) -> dict[str, str]:
    """Return the digests of a data set's arrays by their names; read once per process."""
    arrays = files.read_json(folder / datasets.DESCRIPTION)["arrays"]
    return {name: array["sha256"] for name, array in arrays.items()}


def config_of(data: DataParams, params: NoiseParams) -> dict[str, Any]:
    """Return what a diluted set's facts say of the config that it was drawn by."""
    # A path is of the user's machine: images are told apart by their digests.
    described = {key: value for key, value in asdict(data).items() if key != "path"}
    return {"data": described, "noise": asdict(params)}


def save(dilution: Dilution, folder: Path) -> None:
    """Write the arrays, then ``noise.json``, whose presence says that the folder is whole."""
    (folder / "noise.json").unlink(missing_ok=True)
    for name in ARRAYS:
        files.write_array(folder / f"{name}.npy", getattr(dilution, name))
    files.write_json(folder / "noise.json", dilution.facts)


def load(folder: Path) -> Dilution:
    """Read a diluted set back and check it against its digests.

    Raises:
        DamagedError: a file is missing, or is not the one that was written.
    """
    facts = read_facts(folder)
    digests = facts["sha256"]
    arrays = {name: files.read_array(folder / f"{name}.npy", digests[name]) for name in ARRAYS}
    return Dilution(**arrays, facts=facts)


def read_facts(folder: Path) -> dict[str, Any]:
    """Return a diluted set's facts, see `Dilution`, with the errors of `load`."""
    return files.read_json(folder / "noise.json")
