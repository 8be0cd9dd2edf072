"""Whether what CUDA computes is right: against other ways to compute it, and float64 on the CPU."""

import copy
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.runner import Know, Setup
from benchmarks.gpu.subjects import PRECISIONS, SIZES, aggregated, members, train_config
from benchmarks.stacking import ways
from stages.lib.components import losses
from stages.lib.components.augmentation import AUGMENTATIONS
from stages.lib.components.targets import Labels
from stages.lib.core import machine
from stages.lib.data import datasets
from stages.lib.execution import executors, runs
from stages.lib.execution.store import RunStore
from stages.lib.labels import dilution
from stages.lib.models import networks
from stages.lib.studies import grids
from stages.lib.training import batches, devices, ensemble, evaluation, loop, replicas

#: Of a gradient against float64, relative to its length. Rounding moves some unit across its kink:
#: on a CPU, in a deep network, up to 0.01 in float32 and 0.26 in bfloat16.
ROUNDED = {"float32": 1e-3, "tf32": 0.02, "bfloat16": 0.15}
DEEP = {"float32": 0.03, "tf32": 0.15, "bfloat16": 0.5}
#: After the few steps of a comparison: of what one step more or less changes.
OF_A_STEP = 0.25
#: After many steps, where roundings have grown: of how far the weights have moved.
ALIKE = 0.5
#: Of a mean loss, or of 0.1 where it is smaller.
LOSSES = 0.01
#: Learning rates are divided by this: a difference of 1e-7 grew to 6e-4 in 60 steps of conv2 at a
#: rate of 0.1, and to 0.17 at 0.5 (float32, on a CPU).
SLOWED = 10.0
#: Where memory is made to lack besides: between the forward and the backward part of a capture.
IN_THE_MIDDLE = "in the middle of a capture"
COMPARED = ("perceptron", "mlp2", "conv2", "resnet20")


class WrongError(Exception):
    """What was computed is not what it must be."""


def require(wrong: list[str]) -> None:
    """Raise `WrongError` if something was."""
    if wrong:
        raise WrongError("; ".join(wrong))


def relative(got: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor) -> float:
    """Return the distance of two vectors over the length of a third."""
    return float((got - expected).norm() / scale.norm())


def gradients(names: tuple[str, ...], setup: Setup, know: Know) -> None:
    """A first gradient of networks, every way and precision, against float64 on the CPU."""
    device, sizes, wrong = setup.device, SIZES[setup.device], []
    for name in names:
        for count in sizes.few:
            plain = train_config(name, device)
            own = members(name, device, count, 1)
            images = own[0].data.bank[: count * plain.batch_size]
            images = images.view(count, plain.batch_size, *images.shape[1:])
            labels = torch.arange(count * plain.batch_size, device=device).view(count, -1) % 10
            exact = _gradient(_build(plain, own, "grouped", "cpu"), images, labels, "float64")
            for way in ways(name, count, device):
                for precision in PRECISIONS[device]:
                    network = _build(plain, own, way, device)
                    with devices.Precision(precision):
                        got = _gradient(network, images, labels, precision)
                    error = relative(got, exact, exact)
                    key = f"{name}, K = {count}, {way}, {precision}"
                    limit = (DEEP if name == "resnet20" else ROUNDED)[precision]
                    found = {"error": error, "limit": limit, "ok": error < limit}
                    know(key, found, f"{key}: {error:.1e}")
                    if not found["ok"]:
                        wrong.append(f"{key}: {error:.1e}")
    require(wrong)


def _build(
    plain: replicas.TrainConfig, own: list[replicas.Replica], way: str, device: str
) -> networks.Network:
    shape = own[0].data.bank.shape[1:]
    return networks.build(
        plain.model.name,
        (shape[0], shape[1], shape[2]),
        10,
        width=plain.model.width,
        batch_norm=plain.model.batch_norm,
        init=plain.init,
        zero_output=False,
        generators=[torch.Generator().manual_seed(k) for k in range(len(own))],
        stacking=way,
        device=torch.device(device),
    )


def _gradient(
    network: networks.Network, images: torch.Tensor, labels: torch.Tensor, precision: str
) -> torch.Tensor:
    """Return the gradient of the mean loss, ``(K * P,)`` float64 on the CPU."""
    if precision == "float64":
        layers, labels = network.layers.double(), labels.cpu()
        logits = layers[1:](layers[0](images.cpu()).double())
        parameters = list(layers.parameters())
    else:
        logits = evaluation.forward(network, images, precision)
        parameters = list(network.parameters())
    context = losses.Context(logits.new_zeros(len(logits)), losses.LossParams())
    loss = losses.cross_entropy(logits, Labels(labels), context).sum()
    found = torch.autograd.grad(loss, parameters)
    return torch.cat([each.flatten(1) for each in found], dim=1).double().cpu().flatten()


def captured(name: str, setup: Setup, know: Know) -> None:
    """A captured step, replayed, against the same steps launched kernel by kernel."""
    device, (few, many), wrong = setup.device, SIZES[setup.device].steps, []
    torch.backends.cudnn.deterministic = True
    for count in SIZES[device].few:
        cases = [
            ("none", way, precision, "labels")
            for way in ways(name, count, device)
            for precision in PRECISIONS[device]
        ]
        if name in ("conv2", "resnet20"):
            cases += [(each, "loop", "float32", "labels") for each in AUGMENTATIONS]
        cases.append(("none", "loop", "float32", "aggregated"))
        for augmentation, way, precision, targets in cases:
            how = train_config(name, device, precision, augmentation=augmentation, targets=targets)
            own = members(name, device, count, 10 * many, slowed=SLOWED)
            if targets == "aggregated":
                own = [replace(member, data=aggregated(member.data)) for member in own]
            # First the eager steps: the captured ones then find the kernels that these chose.
            start, before, eager, end = _path(how, own, way, (0, few - 1, few, many), eager=True)
            replayed, replayed_end = _path(how, own, way, (few, many), eager=False)
            step = relative(before, eager, eager - start)
            found = {
                "error": relative(replayed, eager, eager - start),
                "limit": OF_A_STEP * step,
                "error_of_a_step_less": step,
                f"error after {many} steps": relative(replayed_end, end, end - start),
                "to_the_bit": torch.equal(replayed_end, end),
            }
            key = f"K = {count}, {way}, {precision}, augmentation {augmentation}, {targets}"
            errors = found["error"], found[f"error after {many} steps"]
            found["ok"] = errors[0] < OF_A_STEP * step and errors[1] < ALIKE
            know(key, found, f"{key}: {errors[0]:.1e} (a step: {step:.1e}), then {errors[1]:.1e}")
            if not found["ok"]:
                wrong.append(f"{key}: {errors[0]:.1e}, {errors[1]:.1e}")
    require(wrong)


def _path(
    how: replicas.TrainConfig,
    own: list[replicas.Replica],
    way: str,
    steps: tuple[int, ...],
    *,
    eager: bool,
) -> list[torch.Tensor]:
    """Return all weights after each of some numbers of steps, in one vector."""
    found = []
    with devices.Precision(how.precision):
        stack = ensemble.Ensemble(how, own, way, eager=eager)
        for step in steps:
            stack.advance(step - stack.step)
            found.append(stack.network.weights.double().cpu().flatten())
    return found


def shrinking(setup: Setup, know: Know) -> None:
    """Members of several lengths in one stack, against each of them alone."""
    device, wrong = setup.device, list[str]()
    torch.backends.cudnn.deterministic = True
    lengths = SIZES[device].lengths
    for name in ("mlp2", "conv2"):
        how = train_config(name, device)
        own = [
            replace(member, steps=steps)
            for member, steps in zip(
                members(name, device, len(lengths), 1, slowed=SLOWED), lengths, strict=True
            )
        ]
        together = loop.train(how, own, stacking="loop")
        alone = [loop.train(how, [member], stacking="loop")[0] for member in own]
        _compare(f"{name}, {lengths} steps", together, alone, know, wrong)
    require(wrong)


def resumed(setup: Setup, know: Know) -> None:
    """A training that goes on from a checkpoint, against one that was never interrupted."""
    device, wrong = setup.device, list[str]()
    torch.backends.cudnn.deterministic = True
    steps = SIZES[device].chunks * batches.CHUNK[device]
    for name in ("mlp2", "conv2"):
        how, own = train_config(name, device), members(name, device, 2, steps, slowed=SLOWED)
        states: dict[int, list[ensemble.State]] = {}

        def keep(_: int, state: ensemble.State, states: Any = states) -> None:
            stream = io.BytesIO()
            torch.save(state, stream)
            stream.seek(0)
            states.setdefault(state["step"], []).append(torch.load(stream, weights_only=True))

        whole = loop.train(how, own, stacking="loop", checkpoint_seconds=0.0, on_checkpoint=keep)
        step, first = next(iter(states.items()))
        again = loop.train(how, own, stacking="loop", states=first)
        _compare(f"{name}, from step {step} of {steps}", again, whole, know, wrong)
    require(wrong)


def _compare(
    key: str,
    got: list[dict[str, Any]],
    expected: list[dict[str, Any]],
    know: Know,
    wrong: list[str],
) -> None:
    """Note how far curves of mean losses are from others."""
    pairs = [
        (one["train_loss"], other["train_loss"])
        for mine, theirs in zip(got, expected, strict=True)
        for one, other in zip(mine["curve"], theirs["curve"], strict=True)
    ]
    error = max(abs(one - other) / max(other, 0.1) for one, other in pairs)
    equal = all(one == other for one, other in pairs)
    know(key, {"error": error, "limit": LOSSES, "to_the_bit": equal}, f"{key}: {error:.1e}")
    if not error < LOSSES:
        wrong.append(f"{key}: {error:.1e}")


def halving(setup: Setup, know: Know) -> None:
    """A stack whose memory runs out, in warm-up or in capture: halved, and trained all the same."""
    (config, *_) = grids.read_grid("paper", "fig1_uniform_mnist").points
    config = replace(
        config,
        data=replace(config.data, name="mnist5k", originals=400, validation=100),
        noise=replace(config.noise, alpha=2.0),
        model=replace(config.model, name="conv2", width=0.5),
        train=replace(
            config.train, device=setup.device, seeds=(0, 1), epochs=0.0, min_samples=12_800
        ),
    )  # four rates and two seeds
    data, labels = setup.work / "halving", setup.work / "halving-labels"
    _save_random(data / config.data.name)
    seeds = config.train.seeds
    dilution.materialise(config.data, config.noise, seeds, data_folder=data, out=labels)
    todo = runs.expand("halving", config, data, labels)
    whole = _trained(todo, setup.work / "whole", "nowhere")[0]
    wrong = []
    for place in (ensemble.IN_WARM_UP, ensemble.IN_CAPTURE, IN_THE_MIDDLE):
        outcomes, sizes, said = _trained(todo, setup.work / place.replace(" ", "-"), place)
        ends = [
            (o["test_accuracy"], w["test_accuracy"]) for o, w in zip(outcomes, whole, strict=True)
        ]
        know(place, {"stacks": sizes, "said": said, "accuracies": ends}, f"{place}: {sizes}")
        noted = ensemble.IN_CAPTURE if place == IN_THE_MIDDLE else place
        if sizes[:1] != [len(todo)] or len(sizes) != 3 or not any(noted in each for each in said):
            wrong.append(f"{place}: stacks of {sizes}, {said}")
    require(wrong)


def _save_random(folder: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (700, 28, 28, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, 700, dtype=np.uint8)
    names = tuple("0123456789")
    datasets.save(
        datasets.Dataset(
            name=folder.name,
            train_images=images[:500],
            train_labels=labels[:500],
            test_images=images[500:],
            test_labels=labels[500:],
            class_names=names,
            source="random numbers",
        ),
        folder,
    )


class _Limited(executors.Processes):
    """Workers that have no memory left at some place of the first stack's training."""

    def __init__(self, place: str) -> None:
        self.position, self.sizes, self.said = place, list[int](), list[str]()

    def _submit(self, _: Any, *arguments: Any) -> Any:
        stack, _ = arguments
        place = self.position if not self.sizes else "nowhere"
        self.sizes.append(len(stack))
        future = super()._submit(partial(_train_limited, place), *arguments)
        future.add_done_callback(lambda done: self.said.append(done.result()))
        return future


def _train_limited(place: str, stack: Any, store: Any) -> str:
    noted, loss = ensemble.noted, losses.LOSSES["cross_entropy"]

    @contextmanager
    def limited(where: str) -> Iterator[None]:
        with noted(where):
            if where == place:
                torch.cuda.set_per_process_memory_fraction(1e-6)
            yield

    def lacking(*arguments: Any) -> torch.Tensor:
        """With networks on several streams, as where memory really lacks in a capture."""
        if place == IN_THE_MIDDLE and torch.cuda.is_current_stream_capturing():
            torch.cuda.set_per_process_memory_fraction(1e-6)
        return loss.function(*arguments)

    ensemble.noted = limited  # type: ignore[assignment]
    losses.LOSSES["cross_entropy"] = loss._replace(function=lacking)
    return executors._train_in_worker(stack, store)


def _trained(todo: list[Any], folder: Path, place: str) -> tuple[list[Any], list[int], list[str]]:
    """Return outcomes, the sizes of the stacks that were tried, and what was said of memory."""
    from tqdm import tqdm

    store = RunStore("cuda", folder, machine.accelerator("cuda"))
    store.prepare()
    pool = _Limited(place)
    with pool, tqdm(disable=True) as bar:
        pool.train([copy.copy(todo)], store, executors.Bar(bar))
    outcomes = [store.get(run.identity()) for run in todo]
    return outcomes, pool.sizes, [said for said in pool.said if said]
