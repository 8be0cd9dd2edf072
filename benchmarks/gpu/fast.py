"""How fast it is: layers, whole steps, the optimizer, and which way and precision are the best."""

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import plain, rates
from benchmarks.gpu.runner import Know, Setup
from benchmarks.gpu.subjects import IMAGES, NETWORKS, PRECISIONS, SIZES, members, train_config
from benchmarks.stacking import WAYS, ways
from stages.lib.components.optimizers import OptimizerParams, Stepper
from stages.lib.core import machine
from stages.lib.core.errors import UserError
from stages.lib.execution import packing
from stages.lib.execution.runs import Run
from stages.lib.kernels import checks
from stages.lib.models import layers, networks
from stages.lib.studies import grids
from stages.lib.training.devices import Precision, fastest_convolutions, side_stream, synchronise
from stages.lib.training.ensemble import IN_CAPTURE, Ensemble, steps_per_second

#: Channels in and out, and pixels a side, of the paper's networks' convolutions.
LAYERS = ((32, 32, 28), (64, 64, 14), (1, 32, 28), (16, 16, 32))
MEASURED = ("perceptron", "mlp2", "conv4", "resnet20")
REPEATS = {"cuda": 20, "cpu": 1}
COPIED = 1 << 28  # floats
SIDE = {"cuda": 8192, "cpu": 1024}  # of matrices whose product is timed
#: They change how PyTorch uses a GPU.
VARIABLES = ("CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def device(setup: Setup, know: Know) -> None:
    """Whether the device is there; the first step, since it loads what all others need.

    Raises:
        UserError: it is not.
    """
    if setup.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: got 'cuda', and PyTorch finds none; accepted here: cpu")
    know("device", setup.device, f"{setup.device} is there")


def kernels(setup: Setup, know: Know) -> None:
    """Whether Triton's kernels compile and are right; steps after it do without where it ends."""
    for name in checks.CHECKS:
        found = checks.usable(torch.device(setup.device), name)
        know(name, found, f"{name}: {'usable' if found else 'not usable'}")


def facts(setup: Setup, know: Know) -> None:
    """What the device is, and what it reaches: copies, and large matrix products."""
    device = setup.device
    found: dict[str, Any] = {"hardware": machine.hardware(device), "versions": machine.versions()}
    found["environment"] = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if device == "cuda":
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with suppress(OSError):
            found["driver"] = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
        properties = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info()
        found["cuda"] = {
            "runtime": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": total,
            "free_bytes": free,
        }
        found["versions"]["triton"] = metadata.version("triton")
    name = str(found["hardware"].get("accelerator") or found["hardware"]["processor"])
    know("machine", found, f"{name}, torch {found['versions']['torch']}")
    if device == "cuda":
        source = torch.rand(COPIED, device=device)
        target = torch.empty_like(source)
        speed = 8 * COPIED / _mean_seconds(lambda: target.copy_(source), device)
        know("bandwidth_bytes_per_second", speed, f"copies {speed / 1e12:.2f} TB/s")
    side = SIDE[device]
    for precision in PRECISIONS[device]:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        a, b = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
        with Precision(precision):
            rate = 2 * side**3 / _mean_seconds(partial(torch.mm, a, b), device)
        key = f"product_operations_per_second {precision}"
        know(key, rate, f"products in {precision} {rate / 1e12:.1f} TFLOP/s")


def steps(name: str, setup: Setup, know: Know) -> None:
    """Whole steps of a network: every number of members, way and precision; their memory."""
    device, sizes = setup.device, SIZES[setup.device].many
    pairs = [(way, count) for count in sizes for way in ways(name, count, device)]
    for way, count in sorted(pairs, key=lambda pair: WAYS.index(pair[0])):  # else as they are
        for precision in PRECISIONS[device]:
            key = f"K = {count}, {way}, {precision}"
            try:
                found = _steps(name, device, count, way, precision)
            except RuntimeError as error:
                if not machine.is_out_of_memory(error):
                    raise
                know(key, {"error": f"out of memory: {error}"[:200]}, f"{key}: out of memory")
                if IN_CAPTURE in getattr(error, "__notes__", ()):
                    return  # this process's allocator stays as it was left
                continue
            line = f"{key}: {found['steps_per_second']:,.0f} steps/s"
            if device == "cuda":
                share = found["peak_bytes"] / found["estimated_bytes"]
                line += f", {found['peak_bytes'] / 2**30:.2f} GiB ({share:.2f} of the estimate)"
            know(key, found, line)


def _steps(name: str, device: str, count: int, way: str, precision: str) -> dict[str, Any]:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_reserved()
    how = replace(train_config(name, device, precision), zero_output=True)
    own = members(name, device, count, 2)
    found: dict[str, Any] = {
        "members": count,
        "stacking": way,
        "precision": precision,
        "steps_per_second": steps_per_second(how, own, stacking=way, seconds=SIZES[device].seconds),
    }
    if device == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_reserved() - before
        found["estimated_bytes"] = count * estimate(name, way)
    return found


def estimate(name: str, way: str) -> int:
    """Return the bytes that `packing.memory` expects of a member, without its diluted set."""
    (config, *_) = grids.read_grid("paper", "fig1_uniform_mnist").points
    shape, batch_norm = NETWORKS[name]
    config = replace(
        config,
        model=replace(config.model, name=name, batch_norm=batch_norm),
        train=replace(config.train, stacking=way),
    )
    run = Run(name, config, 0.1, 0, Path(), Path())
    return packing.memory(run, IMAGES, "cuda", packing.ImageInfo(shape, 10, IMAGES))


def scripts(setup: Setup, know: Know) -> None:
    """The scripts that one would write, one network at a time, in PyTorch's own precision."""
    device = setup.device
    for name in MEASURED:
        shape, _ = NETWORKS[name]
        images = torch.from_numpy(
            np.random.default_rng(0).integers(0, 256, (IMAGES, *shape), dtype=np.uint8)
        )
        labels = torch.arange(IMAGES) % 10
        for kind in plain.SOURCES:
            script = plain.Script(name, images, labels, 128, device, kind)
            script.train(3)
            count = 40 if device == "cuda" else 2
            seconds = rates.timed(partial(script.train, count), device)
            key = f"{name}, {kind}"
            know(key, count / seconds, f"{key}: {count / seconds:,.0f} steps/s")


def single_layers(setup: Setup, know: Know) -> None:
    """Single convolutions, forward and backward, in every way, replayed from a graph on CUDA."""
    device, sizes = setup.device, SIZES[setup.device]
    for channels_in, channels, side in LAYERS:
        for count in sizes.many[1:]:
            for way in ways("conv4", count, device):
                for precision in PRECISIONS[device]:
                    with Precision(precision):
                        step = _layer(device, count, channels_in, channels, side, way, precision)
                        seconds = _replayed(step, device)
                    operations = 2 * 9 * channels_in * channels * side**2 * sizes.batch * count
                    operations *= 3 if channels_in > 1 else 2  # no gradient for images
                    key = f"{channels_in} to {channels} at {side}, K = {count}, {way}, {precision}"
                    found = {"seconds": seconds, "operations_per_second": operations / seconds}
                    speed = operations / seconds / 1e12
                    know(key, found, f"{key}: {seconds * 1e3:.3f} ms, {speed:.1f} TFLOP/s")


def _layer(
    device: str, count: int, channels_in: int, channels: int, side: int, way: str, precision: str
) -> Callable[[], Any]:
    """Return a call that computes a layer's outputs and all gradients."""
    batch, loop = SIZES[device].batch, way == "loop"
    layer = layers.Convolution(1 if loop else count, channels_in, channels).to(device)
    layer.way = way
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    shape = (batch, (1 if loop else count) * channels_in, side, side)
    inputs = [
        torch.randn(shape, device=device)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_(channels_in > 1)
        for _ in range(count if loop else 1)
    ]
    wanted = [*(x for x in inputs if x.requires_grad), *layer.parameters()]

    def step() -> Any:
        autocast = torch.autocast(
            device, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False
        )
        with autocast:
            calls = [partial(layer, x) for x in inputs]
            outputs = networks.on_streams(calls) if device == "cuda" else [call() for call in calls]
        return torch.autograd.grad(outputs, wanted, [torch.ones_like(y) for y in outputs])

    return step


def _replayed(step: Callable[[], Any], device: str) -> float:
    """Return the seconds of a call, on CUDA of a replay of its graph."""
    call: Callable[[], Any] = step
    if device == "cuda":
        side = side_stream()
        side.wait_stream(torch.cuda.current_stream())
        with fastest_convolutions(), torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        call = graph.replay
    return _mean_seconds(call, device)


def _mean_seconds(call: Callable[[], Any], device: str) -> float:
    """Return the mean seconds of a call once it is warm."""
    call()
    repeats = REPEATS[device]
    return rates.timed(lambda: [call() for _ in range(repeats)], device) / repeats


def optimizer(setup: Setup, know: Know) -> None:
    """AdaDelta on a whole stack's weights: PyTorch's operations, and the fused kernel."""
    device, sizes = setup.device, SIZES[setup.device]
    for name in ("conv4", "resnet20"):
        shape, batch_norm = NETWORKS[name]
        count = sizes.many[-1]
        with torch.device("meta"):
            network = networks.Network(
                networks.maker(name, shape, 10, width=sizes.width, batch_norm=batch_norm),
                count,
                "grouped",
                torch.device("meta"),
            )
        gradients = [
            torch.randn(parameter.shape, device=device) for parameter in network.parameters()
        ]
        weights = torch.zeros(network.weights.shape, device=device)
        kernel = checks.fused(torch.device(device), "adadelta")
        for fused in (None, kernel)[: 1 + (kernel is not None)]:
            rates_ = torch.full((count, 1), 0.1, device=device)
            adadelta = Stepper(weights, OptimizerParams(), fused)
            seconds = _replayed(partial(adadelta.step, gradients, rates_), device)
            speed = 7 * 4 * weights.numel() / seconds
            key = f"{name}, K = {count}, {'fused' if fused else 'plain'}"
            found = {"seconds": seconds, "least_bytes_per_second": speed}
            know(key, found, f"{key}: {seconds * 1e3:.3f} ms, {speed / 1e12:.2f} TB/s of 7 floats")


def profile(setup: Setup, know: Know) -> None:
    """The ten longest kernels of conv4's step in a stack, launched one by one."""
    device, sizes = setup.device, SIZES[setup.device]
    count = sizes.many[-2] if device == "cuda" else sizes.many[-1]
    how = train_config("conv4", device, "tf32" if device == "cuda" else "float32")
    activities = torch.profiler.ProfilerActivity
    activity = activities.CUDA if device == "cuda" else activities.CPU
    with Precision(how.precision), fastest_convolutions():
        stack = Ensemble(how, members("conv4", device, count, 2), "loop", eager=True)
        stack.advance(3)
        synchronise(device)
        with torch.profiler.profile(activities=[activity], acc_events=True) as recorded:
            stack.advance(2)
            synchronise(device)
    kind = f"self_{device}_time_total" if device == "cpu" else "self_device_time_total"
    rows = sorted(recorded.key_averages(), key=lambda row: -getattr(row, kind))[:10]
    total = sum(getattr(row, kind) for row in recorded.key_averages()) or 1.0
    for row in rows:
        share = getattr(row, kind) / total
        found = {"microseconds": getattr(row, kind), "calls": row.count, "share": share}
        know(row.key[:120], found, f"{share:5.1%} {row.count:5} {row.key[:70]}")


def best(found: dict[str, Any]) -> dict[str, Any]:
    """Return the fastest way and precision of each network, of all its members together.

    Args:
        found: the report's ``steps``. Only what was compared and found right counts: its gradient,
            and on CUDA its captured steps, where they were reached.
    """
    judged: dict[tuple[str, ...], bool] = {}
    for step, entry in found.items():
        kind, _, network = step.partition(" ")
        if kind not in ("gradients", "captured"):
            continue
        for key, case in entry.get("found", {}).items():
            names = key.split(", ")
            name, way, precision = (names[0], *names[2:]) if kind == "gradients" else (
                network, *names[1:3]
            )  # fmt: skip
            judged[name, way, precision] = judged.get((name, way, precision), True) and case["ok"]
    chosen = {}
    for name in MEASURED:
        like = {"conv4": "conv2"}.get(name, name)  # which network was compared
        rows = [
            row
            for row in found.get(f"steps {name}", {}).get("found", {}).values()
            if "steps_per_second" in row and judged.get((like, row["stacking"], row["precision"]))
        ]
        if rows:
            chosen[name] = max(rows, key=lambda row: row["steps_per_second"])
    return chosen
