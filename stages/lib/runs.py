"""Runs: one training each of a point at one learning rate and seed, done once and kept.

On a CPU, as many worker processes as there are cores train runs side by side with one thread each;
on an accelerator they train one after another. Which of these was used changes no outcome.
"""

import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from stages.lib import datasets, dilution, files, hosts, noise
from stages.lib.architectures import ARCHITECTURES, ConvNet, Perceptron, ResNet
from stages.lib.errors import UserError
from stages.lib.params import Config
from stages.lib.points import PointStore
from stages.lib.streams import stream

# torch takes seconds to import: the process that only looks outcomes up does without it.
if TYPE_CHECKING:
    import torch

    from stages.lib.training import TrainingData


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
        train, n = self.config.train, self.config.data.originals
        examples = n + noise.count_noisy(n, self.config.noise.alpha)
        return math.ceil(max(train.passes * examples, train.min_examples) / train.batch_size)

    def identity(self) -> dict[str, Any]:
        """Return all that decides the outcome besides code and device: numbers and digests."""
        train, wanted = self.config.train, self.config.noise
        data = self.config.data
        other: Any = None
        if wanted.alpha == 0:
            other = None  # no noisy example shows one
        elif wanted.images == "white":
            other = {"white": data.originals}
        elif wanted.images not in ("same", "unique"):
            other = _digests(self.data / wanted.images)["train_images"]
        return {
            "model": asdict(self.config.model),
            "loss": train.loss,
            "alpha": wanted.alpha if train.loss == "noisy_loss" else 0.0,
            "learning_rate": self.learning_rate,
            "batch_size": train.batch_size,
            "rho": train.rho,
            "epsilon": train.epsilon,
            "init": train.init,
            "zero_output": train.zero_output,
            "steps": self.steps,
            "seed": self.seed,
            "data": _digests(self.data / data.name),
            "other_images": other,
            "labels": files.read_json(self.labels / "noise.json")["sha256"],
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


def complete(runs: list[Run], title: str) -> tuple[list[dict[str, Any]], str]:
    """Return the outcomes of runs, in their order, training those that no store holds yet.

    Args:
        runs: at least one; all for the same device.
        title: what the progress bar says.

    Returns:
        The outcomes, and the device that they were trained on.

    Raises:
        UserError: the device isn't there, or a file is not what it was written as.
    """
    wanted = {run.config.train.device for run in runs}
    if len(wanted) != 1:
        raise UserError(f"train.device: got {sorted(wanted)}; accepted: one device for a figure")
    with _Workers() as workers:
        device = workers.call(_resolve_device, wanted.pop())
        store = PointStore(device)
        found = {run: store.get(run.identity()) for run in dict.fromkeys(runs)}
        missing = [run for run, outcome in found.items() if outcome is None]
        # Runs that share an identity (alpha = 0 under every noise model) are trained once.
        first = {store.path(run.identity()): run for run in reversed(missing)}
        queue = sorted(first.values(), key=lambda run: -_cost(run))
        with tqdm(total=sum(run.steps for run in queue), unit="step", desc=title) as bar:
            bar.write(f"{title}: {len(runs)} runs, {len(queue)} to train on {device}")
            train_all = _train_here if device != "cpu" else workers.train
            train_all(queue, device, bar)
    outcomes = [store.get(run.identity()) for run in runs]
    return [outcome for outcome in outcomes if outcome is not None], device


def _cost(run: Run) -> float:
    """Return a rough cost, which only serves to start the longest runs first."""
    relative = {Perceptron: 1.0, ConvNet: 30.0, ResNet: 100.0}
    kind = type(ARCHITECTURES[run.config.model.name])
    return run.steps * run.config.train.batch_size * relative[kind] * run.config.model.width


def _resolve_device(name: str) -> str:
    from stages.lib.training import resolve_device

    return resolve_device(name)


def _train_here(queue: list[Run], device: str, bar: tqdm) -> None:  # type: ignore[type-arg]
    for run in queue:
        last = 0

        def report(steps: int, accuracy: float | None, run: Run = run) -> None:
            nonlocal last
            _show(bar, run.name, steps - last, accuracy)
            last = steps

        _train(run, device, report)


def _show(bar: tqdm, name: str, steps: int, accuracy: float | None) -> None:  # type: ignore[type-arg]
    said = "" if accuracy is None else f" val={accuracy:.3f}"
    bar.set_postfix_str(name + said, refresh=False)
    bar.update(steps)


class _Workers:
    """Processes of one thread each that import torch once and train runs until closed."""

    def __enter__(self) -> "_Workers":
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            context.set_forkserver_preload(["stages.lib.training"])
        self.events = context.SimpleQueue()
        self.pool = ProcessPoolExecutor(
            hosts.cores(),
            mp_context=context,
            initializer=_start_worker,
            initargs=(self.events,),
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)

    def call(self, function: Callable[[str], str], argument: str) -> str:
        return self.pool.submit(function, argument).result()

    def train(self, queue: list[Run], device: str, bar: tqdm) -> None:  # type: ignore[type-arg]
        open_ = {self.pool.submit(_train_in_worker, run, device) for run in queue}
        while open_:
            done, open_ = wait(open_, timeout=0.5, return_when=FIRST_COMPLETED)
            while not self.events.empty():
                _show(bar, *self.events.get())
            for future in done:
                future.result()


_events: Any = None  # set once in each worker process, never in the parent


def _start_worker(events: Any) -> None:
    import torch

    global _events
    _events = events
    torch.set_num_threads(1)


def _train_in_worker(run: Run, device: str) -> None:
    last = 0

    def report(steps: int, accuracy: float | None) -> None:
        nonlocal last
        _events.put((run.name, steps - last, accuracy))
        last = steps

    _train(run, device, report)


def _train(run: Run, device: str, report: Callable[[int, float | None], None]) -> None:
    """Train one run and store its outcome."""
    from stages.lib.training import Recipe, Streams, train

    identity = run.identity()
    params = run.config.train
    recipe = Recipe(
        model=run.config.model,
        init=params.init,
        zero_output=params.zero_output,
        learning_rate=run.learning_rate,
        rho=params.rho,
        epsilon=params.epsilon,
        batch_size=params.batch_size,
        steps=run.steps,
        alpha=identity["alpha"],
    )
    point = files.to_json(identity, indent=None)
    streams = Streams(stream(run.seed, "init", point), stream(run.seed, "shuffle", point))
    outcome = train(recipe, load_data(run, device), streams, on_evaluation=report)
    PointStore(device).put(identity, outcome)


def load_data(run: Run, device: str) -> "TrainingData":
    """Return the tensors of a run on a device; images are read once per process."""
    import torch

    from stages.lib.training import TrainingData

    name, originals = run.config.data.name, run.config.data.originals
    wanted = run.config.noise.images
    dataset, test_images, test_labels = _load_dataset(run.data / name, device)
    if wanted == "white":
        bank = _load_bank(run.data, name, wanted, originals, run.seed, device)
    else:  # one bank serves every size and seed
        bank = _load_bank(run.data, name, wanted, 0, 0, device)
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
        images=tensor(images, np.int64),
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
    return dataset, torch.from_numpy(dataset.test_images).to(device), labels


@lru_cache(maxsize=2)
def _load_bank(
    data: Path, name: str, wanted: str, originals: int, seed: int, device: str
) -> "torch.Tensor":
    """Return the image bank: training images, then the images that noise is drawn on."""
    import torch

    dataset, _, _ = _load_dataset(data / name, device)
    other = datasets.load(data / wanted) if wanted in datasets.NAMED else None
    extra = dilution.other_images(wanted, dataset, originals, other, seed)
    parts = [dataset.train_images] if extra is None else [dataset.train_images, extra]
    return torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts)).to(device)
