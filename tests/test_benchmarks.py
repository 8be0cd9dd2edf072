"""What measurements rest on: that both sides train the same networks, and counts by hand."""

import json
import math
import re
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import (
    arithmetic,
    growth,
    headline,
    labels,
    lengths,
    plain,
    rates,
    recipe,
    subjects,
    tables,
    training,
    updates,
    variants,
)
from stages.lib.config import recipes
from stages.lib.config.checks import check_config
from stages.lib.execution import packing
from stages.lib.models import layers, networks
from stages.lib.studies import grids

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("name", "side", "width"),
    [*((name, shape[0], 1.0) for name, shape in subjects.SHAPES.items()),
     *((name, 14, 0.25) for name in ("perceptron", "mlp2", "conv4"))],
)  # fmt: skip
def test_the_plain_script_trains_the_same_network(name: str, side: int, width: float) -> None:
    """With our weights copied into its layers, the plain model gives our logits."""
    shape = (side, side, subjects.SHAPES[name][2])
    ours = networks.build(
        name, shape, 10, width=width, batch_norm=False, init="torch", zero_output=False,
        generators=[torch.Generator().manual_seed(0)],
    )  # fmt: skip
    theirs = plain.model(name, width=width, side=side)
    kinds = (layers.Convolution, layers.Norm, layers.Dense)
    mine = [layer for layer in ours.modules() if isinstance(layer, kinds)]
    others = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    yours = [layer for layer in theirs.modules() if isinstance(layer, others)]
    flat = next((layer for layer in ours.modules() if isinstance(layer, layers.Flat)), None)
    with torch.no_grad():
        for i, (a, b) in enumerate(zip(mine, yours, strict=True)):
            weight = a.weight[0]
            if isinstance(a, layers.Dense):
                weight = weight.T
                if flat is not None and isinstance(mine[i - 1], layers.Convolution):
                    side = shape[0] // 4  # their maps lie channel by channel
                    weight = weight.unflatten(1, (side * side, -1)).transpose(1, 2).flatten(1)
            b.weight.copy_(weight)
            if a.bias is not None:
                b.bias.copy_(a.bias[0])
    images = torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    expected = theirs(images.permute(0, 3, 1, 2).float() / 255)
    np.testing.assert_allclose(ours(images[None])[0].detach(), expected.detach(), atol=1e-4)
    assert ours.weights.numel() == sum(parameter.numel() for parameter in theirs.parameters())


def test_operations_are_those_counted_by_hand() -> None:
    """A product of b x i and i x o takes 2 b i o; so do both of its gradients."""
    b = subjects.BATCH
    assert training.operations("perceptron") == 2 * (2 * b * 784 * 10)  # no gradient for images
    forward = 2 * b * (784 * 512 + 512 * 512 + 512 * 10)
    assert training.operations("mlp2") == 3 * forward - 2 * b * 784 * 512
    convolutions = 9 * (784 * 32 + 784 * 32 * 32 + 196 * 32 * 64 + 196 * 64 * 64)
    forward = 2 * b * (convolutions + 64 * 49 * 512 + 512 * 10)
    assert training.operations("conv4") == 3 * forward - 2 * b * 9 * 784 * 32
    weights, outputs = 784 * 10 + 10, 4 * 5 * 10
    assert training.bytes_moved("perceptron") == 40 * weights + 128 * (outputs + 13 * 784)


@pytest.mark.parametrize("source", plain.SOURCES)
def test_the_plain_script_learns(source: str) -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 512)
    images = torch.zeros(512, 28, 28, 1, dtype=torch.uint8)
    for image, label in zip(images, classes, strict=True):
        image[14 * label : 14 * (label + 1)] = 200  # the upper half or the lower
    script = plain.Script("perceptron", images, torch.from_numpy(classes), 128, "cpu", source)
    script.train(100)
    floats = images[:64].permute(0, 3, 1, 2).float() / 255
    assert (script.model(floats).argmax(dim=1).numpy() == classes[:64]).all()


def test_the_usual_stacks_are_the_largest_that_stages_form() -> None:
    assert rates.usual("perceptron", "cpu").members == packing.CPU_MEMBERS
    assert rates.usual("mlp2", "cpu").members == 1
    assert rates.usual("conv4", "cuda") == rates.Stack("conv4", packing.GPU_MEMBERS, "cuda", "loop")
    assert rates.usual("conv4", "cuda", 3).members == 3


def test_slopes() -> None:
    assert growth.slope([1, 10, 100], [3, 3 * 10**2.5, 3 * 100**2.5]) == pytest.approx(2.5)


def run(main: Callable[[], None], monkeypatch: Any, capsys: Any, *arguments: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    main()
    return json.loads(capsys.readouterr().out)


def test_labels_prints_its_measurements(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(labels, "IMAGENET_LABELS", 1000)
    report = run(labels.main, monkeypatch, capsys, "--labels", "20000", "--repeats", "1")
    for kind in ("uniform", "structured"):
        ours, loop = (
            report[kind][k]["median"] for k in ("labels_per_second", "loop_labels_per_second")
        )
        assert report[kind]["ratio_to_loop"]["median"] == pytest.approx(ours / loop)
        assert report[kind]["bytes_beyond_the_labels"] > 0
    assert report["imagenet"]["seconds"]["median"] > 0


def test_arithmetic_compares_seed_by_seed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    threads = torch.get_num_threads()
    report = run(
        arithmetic.main, monkeypatch, capsys,
        "--device", "cpu", "--model", "perceptron", "--steps", "10", "--seeds", "2",
    )  # fmt: skip
    torch.set_num_threads(threads)
    alone = report["float32, alone"]["accuracies"]
    # On a CPU dense networks don't depend on their stack.
    assert report["float32, stacked: grouped"]["accuracies"] == alone
    assert report["float32, stacked: grouped"]["difference"]["largest"] == 0
    got = report["bfloat16, stacked: grouped"]
    differences = np.subtract(got["accuracies"], alone)
    assert got["difference"]["mean"] == pytest.approx(differences.mean())
    assert got["difference"]["largest"] == pytest.approx(np.abs(differences).max())


@pytest.mark.parametrize("name", [each for each in tables.TABLES if each != "docs/RESULTS.md"])
def test_a_document_has_the_tables_of_the_results(name: str) -> None:
    text = (tables.ROOT / name).read_text(encoding="utf-8")
    assert tables.filled(name, text, tables.measured()) == text
    named = {make.__name__ for make in tables.TABLES[name]}
    assert named == set(re.findall(r"<!-- table: (\w+) -->", text))


def test_numbers_in_tables() -> None:
    found = [tables.number(value) for value in (0.01234, 1.0, 12.345, 1234.5, 99.96)]
    assert found == ["0.0123", "1", "12.3", "1,230", "100"]


def test_an_order_that_changes_with_length_is_listed() -> None:
    def point(series: str, alpha: int, accuracy: float) -> dict[str, Any]:
        return {"series": series, "alpha": alpha, "test_accuracy": accuracy, "sd": 0.01}

    first = [point("a", 0, 0.9), point("b", 0, 0.8), point("a", 5, 0.5), point("b", 5, 0.6)]
    second = [point("a", 0, 0.9), point("b", 0, 0.7), point("a", 5, 0.7), point("b", 5, 0.6)]
    found = lengths.compare("alpha", "test_accuracy", first, second)
    (swapped,) = found["pairs_swapped"]
    assert (swapped["series"], swapped["alpha"]) == (["a", "b"], 5)
    assert swapped["gap"] == pytest.approx(0.1)
    assert (found["points"], found["pairs"]) == (4, 2)
    wanted = {"mean": 0.025, "smallest": -0.1, "largest": 0.2}
    assert found["change"] == pytest.approx(wanted)
    assert found["mean_sd_of_seeds"] == pytest.approx(0.01)


@pytest.mark.parametrize(("alpha", "classes"), [(0.0, 10), (50.0, 4)])
def test_the_entropy_of_noisy_labels(alpha: float, classes: int) -> None:
    true = (1 + alpha / classes) / (1 + alpha)
    false = alpha / classes / (1 + alpha)
    others = (classes - 1) * false * math.log(false) if false else 0.0
    assert lengths.entropy(alpha, classes) == pytest.approx(-true * math.log(true) - others)


def test_updates_of_noise_alone_are_those_of_torch_and_follow_epsilon() -> None:
    """The step where noise dominates: a multiple of sqrt(epsilon), whatever the gradients' size."""
    steps, sizes = 300, (0.01, 0.1)
    small, large = (updates.update(0.95, epsilon, sizes, steps) for epsilon in (1e-7, 1e-5))
    assert small[1] == pytest.approx(small[0], rel=0.05)
    assert large[1] == pytest.approx(10 * small[1], rel=0.05)
    generator = torch.Generator().manual_seed(0)
    parameter = torch.zeros(2, updates.PARAMETERS, dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.Adadelta([parameter], lr=1.0, rho=0.95, eps=1e-7)
    for _ in range(steps):
        before = parameter.detach().clone()
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.grad = torch.tensor(sizes, dtype=torch.float64)[:, None] * noise
        theirs.step()
    moved = (parameter.detach() - before).square().mean(1).sqrt()
    np.testing.assert_allclose(small, moved, rtol=1e-6)


def test_errors_to_the_second_class() -> None:
    favours = [[0.5, 0.2, 0.3], [0.1, 0.6, 0.3], [0.3, 0.2, 0.5]]
    assert variants.to_second_class([[5, 3, 1], [0, 9, 0], [2, 4, 4]], favours) == (1 + 0 + 2) / 10
    assert variants.to_second_class([[5, 0], [0, 5]], [[0.6, 0.4], [0.4, 0.6]]) == 0


def test_variants_are_accepted_and_differ_and_are_those_recorded() -> None:
    for key, changes in variants.VARIANTS.values():
        first = grids.read_grid("laptop", key).points[0]
        points = [variants.changed(first, each) for each in changes]
        for point in points:
            check_config(point)
        assert len(set(points)) == len(points)
    recorded = json.loads((tables.RESULTS / "variants.json").read_text(encoding="utf-8"))
    found = {
        question: (group["figure"], [point["changes"] for point in group["points"]])
        for question, group in recorded["variants"].items()
    }
    asked = json.loads(json.dumps(variants.VARIANTS))
    assert found == {question: tuple(each) for question, each in asked.items()}


# --- the recipe, and the headline

SMALL = (
    "--data", "digits", "--size", "8", "--originals", "300", "--validation", "100",
    "--width", "0.1",
)  # fmt: skip


def test_candidates_change_one_group_of_the_lead_and_are_accepted() -> None:
    """A recipe could hold each, or says what else it would have to set."""
    given = recipe.options().parse_args([])
    seen = [recipe.config_of({}, ("conv4", 20.0, 0), given)]
    for changes in (each for group in recipe.CANDIDATES.values() for each in group):
        seen.append(recipe.config_of(changes, ("conv4", 20.0, 0), given))
        assert set(changes) - recipes.KEYS <= {"smoothing", "q", "transition"}
        assert seen[-1].train.transition == "estimated"
    assert len(set(seen)) == len(seen)
    assert set(recipe.LEAD) == recipes.KEYS
    # At equal operations: as many samples, whatever the batch.
    assert {config.train.min_samples for config in seen} == {given.samples}


def test_gains_are_paired() -> None:
    mean, error = recipe.gain([0.5, 0.9, 0.7], [0.4, 0.6, 0.5])
    differences = np.array([0.1, 0.3, 0.2])
    assert mean == pytest.approx(differences.mean())
    assert error == pytest.approx(differences.std(ddof=1) / np.sqrt(3))
    assert recipe.gain([0.5], [0.4])[1] == math.inf


def test_of_a_group_what_helps_clearly_is_taken_in_fewer_steps_if_it_is_as_good() -> None:
    lead = [0.5, 0.6]
    groups: dict[str, Any] = {
        "better": [({"x": 1}, [0.6, 0.7]), ({"x": 2}, [0.52, 0.62]), ({"x": 3}, [0.9, 0.4])],
        "worse, or by chance": [({"y": 1}, [0.4, 0.5]), ({"y": 2}, [0.5, 0.9])],
        "as good": [({"batch_size": 32}, [0.7, 0.81]), ({"batch_size": 64}, [0.71, 0.79])],
        "not as good": [({"batch_size": 16}, [0.7, 0.8]), ({"batch_size": 99}, [0.6, 0.7])],
    }
    assert recipe.helpful(groups, lead) == [{"x": 1}, {"batch_size": 64}, {"batch_size": 16}]


def test_the_recipe_is_the_candidate_with_the_best_mean(
    workspace: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Of accuracies that are made up: constant rates help everywhere, batches of 64 in one cell."""

    def train(todo: Any, _: str) -> Any:
        found = []
        for run in todo:
            train, alpha = run.config.train, run.config.noise.alpha
            value = 0.5 + 0.01 * run.seed - 0.002 * alpha
            value += 0.1 * (train.schedule == "constant")
            value += 0.2 * (train.batch_size == 64 and alpha == 0 and run.seed == 0)
            lost = train.schedule == "cosine"
            found.append({"diverged": lost, "val_accuracy": value})
        return found, "cpu"

    monkeypatch.setattr(recipe.executors, "train_or_load", train)
    asked = ["--networks", "perceptron", "--alphas", "0", "3", "--seeds", "0", "1"]
    groups = ["--groups", "schedule and averaging", "batch size"]
    report = run(recipe.main, monkeypatch, capsys, *SMALL, *asked, *groups)
    rows = {row["name"]: row for row in report["candidates"]}
    lead = {"perceptron": {"0": [0.5, 0.51], "3": [0.494, 0.504]}}
    assert rows["lead"]["val_accuracy"]["perceptron"].keys() == {"0", "3"}
    for alpha, values in lead["perceptron"].items():
        got = rows["lead"]["val_accuracy"]["perceptron"][alpha]
        np.testing.assert_allclose(got, values, atol=1e-9)
    assert rows["schedule cosine"]["mean"] == 0
    assert rows["batch_size 64"]["gain"] == pytest.approx(0.05)
    assert report["combined"] == {"schedule": "constant"}
    assert report["chosen"]["train"] == {
        **json.loads(json.dumps(recipe.LEAD)), "schedule": "constant",
    }  # fmt: skip


def test_the_recipe_is_the_one_that_was_chosen() -> None:
    recorded = json.loads((tables.RESULTS / "recipe.json").read_text(encoding="utf-8"))
    assert recorded["chosen"]["train"] == recipes.RECIPES["massive_noise"]


class Here:
    """A pool of no processes."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return [function(*each) for each in zip(*arguments, strict=True)]

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        found: Future[Any] = Future()
        found.set_result(function(*arguments))
        return found


def test_the_headline_counts_until_the_target(
    workspace: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(headline, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(headline, "PLAIN_STEPS", 2)
    asked = ["--alpha", "5", "--seeds", "0", "--budget", "0.3", "--trial", "10"]
    asked += ["--model", "perceptron", "--arms", "labels-paper", "aggregated-recipe"]
    easy = run(headline.main, monkeypatch, capsys, *SMALL, *asked, "--target", "0")
    for name, each in (("labels-paper", 1), ("aggregated-recipe", 6)):
        arm = easy["arms"][name]
        (found,) = arm["runs"]
        assert found["reached"]
        assert found["shorter_attempts"] == []  # the first evaluation of the first attempt
        assert found["labels_seen"] == found["steps"] * headline.RECIPE["batch_size"] * each
        best = max(trial["val_accuracy"] for trial in arm["trials"])
        chosen = [t for t in arm["trials"] if t["learning_rate"] == arm["learning_rate"]]
        assert chosen[0]["val_accuracy"] == best
    assert not easy["compared"]["at_least"]
    seconds = easy["plain"]["core_seconds_per_step"]
    told = easy["plain"]["extrapolated"]
    assert told["core_seconds"] == pytest.approx(told["steps"] * min(seconds.values()))
    hard = run(headline.main, monkeypatch, capsys, *SMALL, *asked, "--target", "2")
    assert not any(arm["runs"][0]["reached"] for arm in hard["arms"].values())
    assert hard["compared"] is None
    assert hard["plain"]["extrapolated"]["at_least"]
    attempts = hard["arms"]["labels-paper"]["runs"][0]
    steps = [*(each["steps"] for each in attempts["shorter_attempts"]), attempts["steps"]]
    assert steps == sorted(steps)


def test_attempts_double_and_the_last_is_the_budget() -> None:
    assert headline.lengths(6400.9) == [100, 200, 400, 800, 1600, 3200, 6400]
    assert headline.lengths(100) == [10, 12, 25, 50, 100]


def test_the_headline_compares_with_the_best_arm_by_label() -> None:
    def arm(*runs: tuple[float, bool]) -> dict[str, Any]:
        before = {"shorter_attempts": [{"core_seconds": 8.0}, {"core_seconds": 15.0}]}
        return {"runs": [{"core_seconds": s, "reached": there, **before} for s, there in runs]}

    arms = {
        "labels-paper": arm((90, False), (90, False)), "labels-recipe": arm((50, True), (70, True)),
        "aggregated-paper": arm((1, True)), "aggregated-recipe": arm((2, True), (4, True)),
    }  # fmt: skip
    best = {"best_by_label": "labels-recipe", "times_its_core_seconds": 20.0}
    told = {**best, "from_below": 5.0, "at_least": False}
    assert headline.compare(arms) == told
    arms["labels-recipe"] = arm((60, True), (60, False))
    assert headline.compare(arms) == {**told, "from_below": 12.5, "at_least": True}
    arms["aggregated-recipe"] = arm((2, True), (4, False))
    assert headline.compare(arms) is None
