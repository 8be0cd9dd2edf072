"""Which runs train side by side: only those that may, each once, and how many of them."""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stages.lib.config.params import STACKINGS, Config
from stages.lib.core import machine
from stages.lib.data import datasets
from stages.lib.execution import packing
from stages.lib.execution.runs import Run, expand
from stages.lib.models import networks
from stages.lib.models.architectures import ARCHITECTURES
from stages.lib.training.batches import CHUNK

MakeRuns = Callable[..., list[Run]]
LARGE = {"data.name": "folder", "data.path": "images", "data.size": 64}  # for any network
PLENTY = 1 << 50  # bytes


@pytest.fixture
def make_runs(
    workspace: Path, make_dataset: Callable[..., Any], make_config: Callable[..., Config]
) -> MakeRuns:
    """Return a maker of runs on two data sets; nothing here reads their labels."""
    for name in ("digits", "mnist5k"):
        datasets.save(make_dataset(name), workspace / "data" / name)

    def make(changes: dict[str, Any] | None = None, name: str = "point") -> list[Run]:
        return expand(name, make_config(changes), workspace / "data", workspace / "labels")

    return make


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets what there is: cores, and bytes free on the GPU."""
    form = packing.form

    def set_host(cores: int = 1, free: int = PLENTY) -> None:
        monkeypatch.setattr(machine, "cores", lambda: cores)
        monkeypatch.setattr(packing, "form", partial(form, free=free))

    set_host()
    return set_host


def sizes(formed: list[list[Run]]) -> list[int]:
    return [len(stack) for stack in formed]


def seeds(count: int) -> dict[str, Any]:
    return {"train.seeds": list(range(count))}


# --- which runs may share a stack

TOGETHER: list[dict[str, Any]] = [
    {"train.learning_rates": [0.1]}, {"train.seeds": [7]}, {"train.min_samples": 640},
    {"train.epochs": 9}, {"train.average": 0.5}, {"noise.alpha": 5}, {"noise.alpha": 0},
    {"data.originals": 40}, {"noise.images": "unique"},
    {"noise.kind": "structured", "noise.delta": 0.1},
]  # fmt: skip
APART: list[dict[str, Any]] = [
    {"model.name": "mlp1"}, {"model.width": 0.5}, {"data.name": "mnist5k"},
    {"data.validation": 19}, {"train.batch_size": 17}, {"train.init": "glorot"},
    {"train.zero_output": True}, {"train.weight_decay": 1e-4},
    {"train.augmentation": "flip_crop"}, {"train.rho": 0.9}, {"train.epsilon": 1e-7},
    {"train.precision": "bfloat16"}, {"train.stacking": "loop"},
    {"train.loss": "expected_noisy_cross_entropy"}, {"noise.images": "white"},
    {"noise.images": "mnist5k"},
]  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_the_members_of_a_stack_share(device: str, make_runs: MakeRuns) -> None:
    for change in TOGETHER:
        formed = packing.form(make_runs() + make_runs(change, "other"), device)
        assert sizes(formed) == [2], change
    for change in APART:
        runs = make_runs(seeds(2)) + make_runs({**change, **seeds(2)}, "other")
        formed = packing.form(runs, device)
        assert len(formed) > 1, change
        assert all(len({run.name.split()[0] for run in stack}) == 1 for stack in formed)
        assert all(len({run.stack_key for run in stack}) == 1 for stack in formed)


def test_white_noise_is_of_one_seed_and_size(make_runs: MakeRuns) -> None:
    """Its images are drawn for both; rates and alphas share them."""
    white = {"noise.images": "white", "train.learning_rates": [0.1, 0.5]}
    runs = make_runs({**white, **seeds(3)})
    runs += make_runs({**white, "noise.alpha": 5})
    runs += make_runs({**white, "data.originals": 50})
    formed = packing.form(runs, "cuda")
    assert sorted(sizes(formed)) == [2, 2, 2, 4]
    for stack in formed:
        assert len({(run.seed, run.config.data.originals) for run in stack}) == 1


def test_images_of_another_set_serve_every_seed(make_runs: MakeRuns) -> None:
    assert sizes(packing.form(make_runs({"noise.images": "mnist5k", **seeds(4)}), "cuda")) == [4]


def test_runs_of_one_loss_share_a_stack_at_every_alpha(make_runs: MakeRuns) -> None:
    noisy = [
        make_runs({"train.loss": "expected_noisy_cross_entropy", "noise.alpha": alpha})[0]
        for alpha in (0, 1, 20)
    ]
    formed = packing.form([*noisy, *make_runs()], "cuda")
    alphas = sorted(sorted((run.config.train.loss, run.alpha) for run in each) for each in formed)
    assert alphas == [
        [("cross_entropy", 2)],
        [("expected_noisy_cross_entropy", alpha) for alpha in (0, 1, 20)],
    ]


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("cores", [1, 5])
def test_each_run_is_in_one_stack(
    device: str, cores: int, make_runs: MakeRuns, host: Callable[..., None]
) -> None:
    host(cores)
    runs = [
        run
        for change in ({}, *TOGETHER[2:], *APART)
        for run in make_runs({**change, **seeds(5)}, str(change))
    ]
    formed = packing.form(runs, device)
    assert all(formed)
    assert packing.form([], device) == []
    assert Counter(run for stack in formed for run in stack) == Counter(runs)


# --- how many on a CPU


@pytest.mark.parametrize(
    ("count", "cores"), [(1, 1), (2, 1), (23, 1), (3, 2), (4, 2), (9, 2), (5, 3), (16, 8), (23, 8)]
)
def test_dense_networks_fill_every_core_before_they_share_one(
    count: int, cores: int, make_runs: MakeRuns, host: Callable[..., None]
) -> None:
    host(cores)
    runs = make_runs(seeds(count))
    found = sizes(packing.form(runs, "cpu"))
    assert max(found) <= packing.CPU_MEMBERS > 1
    assert len(found) >= min(cores, count)
    # Where there are two for each core they are shared, by as few stacks as that size needs.
    assert (max(found) > 1) is (count >= 2 * cores)
    assert len(found) == math.ceil(count / max(found))


@pytest.mark.parametrize(
    ("count", "cores", "expected"), [(5, 1, [3, 2]), (9, 1, [3, 3, 3]), (6, 2, [3, 3])]
)
def test_stacks_of_a_group_are_of_like_size(
    count: int, cores: int, expected: list[int], make_runs: MakeRuns, host: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(packing, "CPU_MEMBERS", 4)
    host(cores)
    assert sizes(packing.form(make_runs(seeds(count)), "cpu")) == expected


@pytest.mark.parametrize("name", ["conv2", "resnet20"])
def test_convolutions_are_alone_on_a_cpu(name: str, make_runs: MakeRuns) -> None:
    """For speed, and because they repeat to the bit only alone."""
    runs = make_runs({"model.name": name, "model.width": 0.1, **seeds(6)})
    assert sizes(packing.form(runs, "cpu")) == sizes(packing.form(runs, "mps")) == [1] * 6
    assert packing.cpu_members("resnet18", (64, 64, 3), 1000, 1.0) == 1


@pytest.mark.parametrize(("name", "width"), [("perceptron", 1.0), ("mlp2", 0.3)])
def test_dense_networks_that_outgrow_the_cache_are_alone_on_a_cpu(
    name: str, width: float, make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the weights that `models` would build."""
    runs = make_runs({"model.name": name, "model.width": width, **seeds(packing.CPU_MEMBERS)})
    weights, _ = networks.sizes(name, (8, 8, 1), 10, width=width, batch_norm=False)
    for room, expected in (
        (weights - 1, 1),
        (2 * weights - 1, 1),
        (2 * weights, 2),
        (10_000 * weights, packing.CPU_MEMBERS),
    ):
        monkeypatch.setattr(packing, "CPU_WEIGHTS", room)
        assert max(sizes(packing.form(runs, "cpu"))) == expected


# --- in which order


def lengths(make_runs: MakeRuns, change: dict[str, Any], steps: list[int]) -> list[Run]:
    """Return a run for each number of steps, of 16 examples each."""
    return [
        make_runs({**change, "train.min_samples": 16 * number}, f"{number}")[0] for number in steps
    ]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_runs_of_similar_length_share_a_stack(
    device: str, make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "CPU_MEMBERS", 4)
    monkeypatch.setattr(packing, "GPU_MEMBERS", 4)
    runs = lengths(make_runs, {}, [20, 900, 30, 700, 21, 1000, 25, 800, 22])
    found = [[run.steps for run in stack] for stack in packing.form(runs, device)]
    assert found == [[1000, 900, 800], [700, 30, 25], [22, 21, 20]]


def test_the_costliest_stack_is_first(make_runs: MakeRuns, host: Callable[..., None]) -> None:
    """Of one kind by steps and batch; else the deeper network, at its width."""
    host(cores=8)  # so that each is a stack
    runs = [
        *lengths(make_runs, {}, [40, 4000, 400]),
        *lengths(make_runs, {"train.batch_size": 64}, [2000]),  # 500 steps of 64
        *lengths(make_runs, {"model.name": "conv4"}, [399]),
        *lengths(make_runs, {"model.name": "conv4", "model.width": 2.0}, [401]),
        *lengths(make_runs, {"model.name": "resnet20"}, [398]),
    ]
    names = [stack[0].name.split()[0] for stack in packing.form(runs, "cpu")]
    assert names == ["398", "401", "399", "4000", "2000", "400", "40"]


def test_a_stack_of_many_costs_more_than_one_of_few(make_runs: MakeRuns) -> None:
    few = lengths(make_runs, {"train.rho": 0.9}, [100, 100])
    many = make_runs({**seeds(4), "train.min_samples": 16 * 60})
    assert packing.form([*few, *many], "cuda") == [many, few]


# --- how many on a GPU


def largest(runs: list[Run]) -> int:
    return max(sizes(packing.form(runs, "cuda")))


def needed(runs: list[Run], host: Callable[..., None], members: int) -> int:
    """Return the bytes that must be free for so many members, within a thousandth."""
    low, high = 0, PLENTY
    while high - low > high / 1000:
        middle = (low + high) // 2
        host(free=middle)
        low, high = (low, middle) if largest(runs) >= members else (middle, high)
    return high


@pytest.mark.parametrize("name", ["mlp2", "conv4"])
def test_a_stack_is_as_large_as_the_memory_of_a_gpu_allows(
    name: str, make_runs: MakeRuns, host: Callable[..., None]
) -> None:
    runs = make_runs({"model.name": name, "model.width": 0.25, **seeds(9)})
    weights, outputs = networks.sizes(name, (8, 8, 1), 10, width=0.25, batch_norm=False)
    # Weights, their gradients, two averages of AdaDelta; each output and its gradient: as float32.
    # Index and label of each example looked up ahead.
    least = 4 * (4 * weights + 2 * 16 * outputs) + 16 * CHUNK["cuda"] * 16
    images = (200 + 100) * 8 * 8  # of training and testing, which lie there as well
    two = needed(runs, host, 2) - images
    assert 2 * least < two < 10 * 2 * least
    for members in (3, 9):
        alone = needed(runs, host, members) - images
        assert alone == pytest.approx(two / 2 * members, rel=0.01)
    for free in (0, two // 3):
        host(free=free)
        assert sizes(packing.form(runs, "cuda")) == [1] * 9
    host(cores=64)  # which a GPU does not ask about
    assert sizes(packing.form(runs, "cuda")) == [9]


def test_more_of_everything_needs_more_memory(
    make_runs: MakeRuns, host: Callable[..., None]
) -> None:
    def need(change: dict[str, Any]) -> int:
        return needed(make_runs({"model.name": "conv2", **seeds(2), **change}), host, 2)

    plain = need({})
    for change in (
        {"model.width": 2.0},
        {"train.batch_size": 32},
        {"noise.alpha": 1000},
        {"train.stacking": "unfold"},  # every patch is there
    ):
        assert need(change) > 1.1 * plain
    # Five int32 for each example looked up ahead, and each image as floats twice.
    boxes = 2 * 16 * (20 * CHUNK["cuda"] + 2 * 4 * 64)
    assert need({"train.augmentation": "resized_crop"}) > plain + boxes


def test_the_largest_set_decides_how_many_fit(
    make_runs: MakeRuns, host: Callable[..., None]
) -> None:
    small = make_runs(seeds(4))
    large = make_runs({"noise.alpha": 1000, "train.seeds": [9]})
    host(free=needed(small, host, 4))
    assert largest(small) == 4
    assert largest(small[1:] + large) < 4


@pytest.mark.parametrize(("count", "expected"), [(6, [6]), (7, [4, 3]), (13, [5, 5, 3])])
def test_a_gpu_has_at_most_so_many_members(
    count: int, expected: list[int], make_runs: MakeRuns,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(packing, "GPU_MEMBERS", 6)
    assert sizes(packing.form(make_runs(seeds(count)), "cuda")) == expected


# --- how convolutions are computed


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("wanted", ["grouped", "loop"])
def test_a_stacking_that_is_asked_for_is_taken(
    wanted: str, device: str, make_runs: MakeRuns
) -> None:
    (run,) = make_runs({"model.name": "conv4", "train.stacking": wanted})
    assert packing.stacking(run, device) == wanted


@pytest.mark.parametrize("name", ["mlp2", "conv4", "resnet20", "resnet18"])
def test_auto_goes_by_device_and_kind(
    name: str, make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = make_runs({"model.name": name, "train.stacking": "auto", **LARGE})
    assert packing.stacking(run, "cpu") == packing.stacking(run, "mps") == "loop"
    kind = type(ARCHITECTURES[name])
    assert packing.stacking(run, "cuda") in set(STACKINGS) - {"auto"}
    table = {other: f"as {other.__name__}" for other in packing.GPU_STACKING}
    monkeypatch.setattr(packing, "GPU_STACKING", table)
    assert packing.stacking(run, "cuda") == f"as {kind.__name__}"
