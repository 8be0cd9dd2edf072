"""A training recomputed in plain numpy, and that stacking changes nothing of it."""

import io
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import top_k_accuracy_score
from torch import Tensor

from stages.lib.components.augmentation import AUGMENTATIONS, BoxSampler, augment
from stages.lib.components.losses import LOSSES
from stages.lib.config.params import PRECISIONS, ModelParams
from stages.lib.core import files
from stages.lib.core.errors import UserError
from stages.lib.models import networks
from stages.lib.models.operations import operations
from stages.lib.training import (
    batches,
    devices,
    ensemble,
    evaluation,
    loop,
    replicas,
    reports,
    running_mean,
)
from stages.lib.training.loop import train
from stages.lib.training.order import Order
from stages.lib.training.replicas import Replica, TrainConfig, TrainingData

M, N, V, T = 4, 240, 60, 200
Outcome = dict[str, Any]


def sized(name: str, width: float) -> ModelParams:
    return ModelParams(name, width, batch_norm=False)


EXPECTED = "expected_noisy_cross_entropy"
PERCEPTRON = TrainConfig(
    model=sized("perceptron", 1.0), init="torch", zero_output=False, rho=0.95, epsilon=1e-6,
    batch_size=32, loss=EXPECTED,  # with alpha = 0 plain cross-entropy
)  # fmt: skip
MLP = replace(PERCEPTRON, model=sized("mlp1", 0.125), init="he", zero_output=True)

pytestmark = pytest.mark.usefixtures("one_thread")


def make_data(
    noise: float = 0.0, shuffle: bool = False, validation: int = V, bright: int = 150
) -> TrainingData:
    """Return images with a bright bar at a place for each class, some of them mislabelled."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, M, N + V + T)
    images = rng.integers(0, 60, (len(labels), 8, 8, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += bright
    given = np.where(rng.random(N) < noise, rng.integers(0, M, N), labels[:N])
    if shuffle:
        given = rng.permutation(given)
    votes = np.zeros((validation, M), dtype=np.int64)
    for row in votes:  # three given labels for each
        np.add.at(row, rng.integers(0, M, 3), 1)
    return TrainingData(
        bank=torch.from_numpy(images[: N + V]),
        labels=torch.from_numpy(given.astype(np.uint8)),
        images=torch.arange(N),
        validation=torch.arange(N, N + validation),
        validation_labels=torch.from_numpy(labels[N : N + validation]),
        validation_votes=torch.from_numpy(votes),
        test_images=torch.from_numpy(images[N + V :]),
        test_labels=torch.from_numpy(labels[N + V :]),
    )


def member(data: TrainingData, seed: int = 0, **numbers: Any) -> Replica:
    """Return a member; ``numbers`` are other ones than these."""
    whole = {"learning_rate": 1.0, "steps": 40, "average": 0.0, "alpha": 0.0, **numbers}
    names = ("init", "shuffle", "augment")
    streams = {name: np.random.SeedSequence((seed, k)) for k, name in enumerate(names)}
    return Replica(data, **streams, **whole)


def train_alone(config: TrainConfig, one: Replica, **how: Any) -> Outcome:
    (outcome,) = train(config, [one], **how)
    return outcome


def without_time(outcome: Outcome) -> Outcome:
    return {key: value for key, value in outcome.items() if key != "wall_seconds"}


def keep_networks(monkeypatch: pytest.MonkeyPatch) -> dict[int, networks.Network]:
    """Return where the networks that are reported on are kept from now on, by member."""
    kept_networks: dict[int, networks.Network] = {}
    report = reports._report

    def keep(stack: Any, done: list[int], *seen: Any) -> list[Outcome]:
        kept_networks.update({k: stack.snapshot([k]) for k in done})
        return report(stack, done, *seen)

    monkeypatch.setattr(reports, "_report", keep)
    return kept_networks


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> dict[int, networks.Network]:
    return keep_networks(monkeypatch)


def train_to_the_bit(config: TrainConfig, members: list[Replica], **how: Any) -> list[Outcome]:
    """Return outcomes without their times, and with a digest of the network reported on."""
    with pytest.MonkeyPatch.context() as patch:
        kept_networks = keep_networks(patch)
        outcomes = train(config, members, **how)
    for k, outcome in enumerate(outcomes):
        # Adding 0 makes -0 a 0: which of them a bias starts its mean at is of no account.
        tensors = (tensor + 0 for tensor in (kept_networks[k].weights, *kept_networks[k].buffers()))
        digest = files.sha256_of_bytes(*(tensor.numpy().tobytes() for tensor in tensors))
        outcomes[k] = {**without_time(outcome), "network": digest}
    return outcomes


@pytest.fixture
def trained(reported: dict[int, networks.Network]) -> Any:
    """Return a function that trains and gives the reported network's parameters, as an array."""

    def run(config: TrainConfig, data: TrainingData, **numbers: Any) -> NDArray[np.float32]:
        train(config, [member(data, **numbers)])
        return reported.pop(0).weights[0].numpy()

    return run


# --- the order of examples


def order(count: int, seed: int = 0) -> Order:
    return Order(count, np.random.SeedSequence(seed), torch.device("cpu"))


@pytest.mark.parametrize(
    ("count", "batch_size"), [(10, 5), (10, 3), (10, 10), (7, 20), (1, 4), (13, 1)]
)
def test_every_pass_shows_each_example_once(count: int, batch_size: int) -> None:
    steps, examples = math.ceil(6 * count / batch_size), order(count)
    batches = [examples.take(batch_size) for _ in range(steps)]
    assert [len(batch) for batch in batches] == [batch_size] * steps
    shown = torch.cat(batches).tolist()
    for start in range(0, len(shown) - count + 1, count):
        assert sorted(shown[start : start + count]) == list(range(count))
    uses = Counter(shown)
    assert max(uses.values()) - min(uses.values()) <= 1
    assert order(count).take(len(shown)).tolist() == shown
    if count > 1:
        assert shown[:count] != shown[count : 2 * count]
        assert order(count, seed=1).take(len(shown)).tolist() != shown


@pytest.mark.parametrize("parts", [[3, 4, 20, 1], [28], [20, 8], [7, 7, 7, 7], [0, 28]])
def test_how_many_are_taken_at_once_does_not_matter(parts: list[int]) -> None:
    """A longer training begins like a shorter one, whatever the chunks it looks batches up in."""
    examples, whole = order(20, seed=3), order(20, seed=3).take(63)
    assert torch.equal(torch.cat([examples.take(part) for part in parts]), whole[:28])


@pytest.mark.parametrize(
    ("name", "augmentation"),
    [("perceptron", "none"), ("perceptron", "flip_crop"), ("resnet20", "resized_crop")],
)
def test_steps_that_are_looked_up_at_once_do_not_matter(
    name: str, augmentation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(MLP, model=sized(name, 0.125), augmentation=augmentation)
    one = member(make_data(noise=0.3), steps=7)
    outcomes = []
    for chunk in (64, 1, 3, 7):
        monkeypatch.setitem(batches.CHUNK, "cpu", chunk)
        outcomes += train_to_the_bit(config, [one])
    assert outcomes == [outcomes[0]] * 4


# --- the optimizer


def slow_adadelta(
    data: TrainingData, config: TrainConfig, learning_rate: float, steps: int, alpha: float
) -> NDArray[np.float64]:
    """Train a perceptron that starts at zero on the whole set, in float64 (Zeiler 2012, alg. 1)."""
    x = data.bank[data.images.tile(N)[:N]].numpy().reshape(N, -1) / 255
    x = np.hstack([x, np.ones((N, 1))])  # the bias
    y = np.eye(M)[data.labels.numpy()]
    q = (y + alpha / M) / (1 + alpha)
    w, squares, updates = (np.zeros((x.shape[1], M)) for _ in range(3))
    for _ in range(steps):
        p = np.exp(x @ w)
        p /= p.sum(axis=1, keepdims=True)
        gradient = x.T @ (p - q) / N + config.weight_decay * w
        squares = config.rho * squares + (1 - config.rho) * gradient**2
        step = gradient * np.sqrt(updates + config.epsilon) / np.sqrt(squares + config.epsilon)
        updates = config.rho * updates + (1 - config.rho) * step**2
        w = w - learning_rate * step
    return w.ravel()  # the bias last


@pytest.mark.parametrize(
    "change", [{}, {"rho": 0.5, "epsilon": 1e-4}, {"weight_decay": 0.1}], ids=str
)
def test_each_member_of_a_stack_steps_as_adadelta_in_numpy(
    change: dict[str, Any], reported: dict[int, networks.Network]
) -> None:
    """On images found by their indices, which repeat; all of them are in every batch."""
    config = replace(PERCEPTRON, zero_output=True, batch_size=N, **change)
    own = [
        {"learning_rate": 1.0, "steps": 5, "alpha": 3.0},
        {"learning_rate": 0.2, "steps": 3, "alpha": 20.0},
        {"learning_rate": 2.0, "steps": 9, "alpha": 0.0},
        {"learning_rate": 0.5, "steps": 1, "alpha": 0.0},
    ]
    sets = [diluted(make_data(), k, shown, N, M) for k, shown in enumerate((240, 100, 50, 240))]
    sets[3] = replace(sets[3], labels=sets[3].labels.to(torch.int32))  # as of many classes
    train(config, [member(data, k, **own[k]) for k, data in enumerate(sets)])
    for k, data in enumerate(sets):
        expected, got = slow_adadelta(data, config, **own[k]), reported[k].weights[0].numpy()
        # float32 gradients differ by 1e-6 of their size; a step is at most about its rate's scale.
        scale = np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * scale)
        other = slow_adadelta(data, config, **{**own[k], "alpha": own[k]["alpha"] + 1})
        assert np.abs(got - other).max() > 1e-2 * scale


def test_a_tiny_rate_changes_nothing_and_two_steps_change_everything(trained: Any) -> None:
    start = trained(PERCEPTRON, make_data(), steps=1, learning_rate=1e-30)
    still = trained(PERCEPTRON, make_data(), steps=30, learning_rate=1e-30)
    np.testing.assert_array_equal(start, still)
    moved = trained(PERCEPTRON, make_data(), steps=2)
    assert (moved != start).mean() > 0.99


# --- averaging


def test_averaged_weights_are_the_mean_over_the_last_steps(trained: Any) -> None:
    """Equal or exponential; a share of less than a step reports the trained network."""
    data = make_data()
    path = np.array([trained(MLP, data, steps=steps) for steps in (1, 2, 3, 4)])
    for average, first in ((1.0, 0), (0.75, 1), (0.5, 2), (0.25, 3)):
        got = trained(MLP, data, steps=4, average=average)
        np.testing.assert_allclose(got, path[first:].mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(trained(MLP, data, steps=4, average=0.24), path[3])
    config = replace(MLP, averaging="ema", ema_decay=0.5)
    for average, weights in ((1.0, [1, 1, 2, 4]), (0.5, [0, 0, 1, 1]), (0.25, [0, 0, 0, 1])):
        got = trained(config, data, steps=4, average=average)
        expected = np.average(path, axis=0, weights=weights)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got, path[3])  # of one step


def test_the_curve_looks_at_the_mean_as_soon_as_there_is_one() -> None:
    """An evaluation halfway sees what a training that ends there reports."""
    data = make_data(noise=0.7)
    curve = train_alone(MLP, member(data, steps=10, average=0.7))["curve"]
    for steps, average in ((3, 0.0), (4, 0.25), (7, 4 / 7), (9, 6 / 9)):
        outcome = train_alone(MLP, member(data, steps=steps, average=average))
        assert curve[steps - 1]["val_accuracy"] == outcome["val_accuracy"]
    plain = train_alone(MLP, member(data, steps=10))["curve"]
    assert [row["val_accuracy"] for row in curve] != [row["val_accuracy"] for row in plain]


def test_averaging_takes_batch_norms_statistics_along(
    reported: dict[int, networks.Network],
) -> None:
    config, data = replace(MLP, model=sized("resnet20", 0.25)), make_data()
    outcome = train_alone(config, member(data, steps=30, average=0.25))
    assert outcome["test_accuracy"] > 0.8
    path = []
    for steps in (3, 4):
        train_alone(config, member(data, steps=steps))
        path.append([buffer.clone() for buffer in reported[0].buffers()])
    train_alone(config, member(data, steps=4, average=0.5))
    for got, third, fourth in zip(reported[0].buffers(), *path, strict=True):
        assert not torch.equal(third, fourth)
        np.testing.assert_allclose(got, (third + fourth) / 2, rtol=1e-5, atol=1e-7)


# --- what is learnt


@pytest.mark.parametrize(
    ("name", "alpha", "noise"),
    [("perceptron", 0.0, 0.5), ("mlp1", 0.0, 0.5), ("conv2", 0.0, 0.5), ("mlp1", 10.0, 0.0)],
)
def test_an_easy_task_is_learnt_through_noise(name: str, alpha: float, noise: float) -> None:
    config = replace(MLP, model=sized(name, 0.125))
    outcome = train_alone(config, member(make_data(noise=noise), alpha=alpha, steps=80))
    assert outcome["test_accuracy"] > 0.9
    assert outcome["val_accuracy"] > 0.9
    assert not outcome["diverged"]
    # Shuffled labels teach nothing. Chance is 1 in 4, and whole classes may be mapped wrongly.
    lost = train_alone(config, member(make_data(shuffle=True), alpha=alpha, steps=80))
    assert lost["test_accuracy"] < 0.6


# --- repeating


@pytest.mark.parametrize("name", ["mlp2", "conv2", "resnet20"])
def test_seeds_repeat_to_the_bit_and_others_differ(name: str) -> None:
    config = replace(MLP, model=sized(name, 0.1), zero_output=False)
    (one,), (same,), (other,) = (
        train_to_the_bit(config, [member(make_data(noise=0.3), seed, steps=12, average=0.5)])
        for seed in (0, 0, 1)
    )
    assert one == same
    assert one["curve"] != other["curve"]


@pytest.mark.parametrize("which", ["init", "shuffle", "augment"])
def test_what_is_drawn_has_streams_of_its_own(which: str) -> None:
    config = replace(MLP, zero_output=False, augmentation="flip_crop")
    one = member(make_data(), steps=5)
    other = replace(one, **{which: np.random.SeedSequence(99)})
    assert train_alone(config, other)["curve"] != train_alone(config, one)["curve"]


# --- augmentation


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_batch_is_its_images_each_in_a_box_of_its_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of the examples is what it is without; only training images are changed."""
    shown: list[tuple[Tensor, Tensor]] = []

    def note(which: str, images: Tensor, boxes: Tensor) -> Tensor:
        assert which == name
        shown.append((images, boxes))
        return augment(which, images, boxes)

    monkeypatch.setattr(ensemble, "augment", note)
    config, one = replace(MLP, augmentation=name), member(make_data(), steps=20)
    changed = train_alone(config, one)
    assert len(shown) == 20
    examples = Order(N, one.shuffle, torch.device("cpu")).take(20 * 32)
    generator = torch.Generator().manual_seed(int(one.augment.generate_state(1, np.uint64)[0] >> 1))
    boxes = BoxSampler(name, (8, 8), generator, torch.device("cpu")).draw(20 * 32)
    assert torch.equal(torch.cat([images[0] for images, _ in shown]), one.data.bank[examples])
    assert torch.equal(torch.cat([own[0] for _, own in shown]), boxes)
    shown.clear()
    plain = train_alone(replace(config, augmentation="none"), one)
    assert not shown
    assert plain["curve"] != changed["curve"]


# --- torchvision's networks


def test_torchvisions_network_trains_averages_and_goes_on_from_a_checkpoint(
    checkpointed: list[tuple[int, ensemble.State]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHUNK", {"cpu": 2})
    small = make_data(validation=8)
    large = {
        name: getattr(small, name).repeat_interleave(8, 1).repeat_interleave(8, 2)
        for name in ("bank", "test_images")
    }
    data = replace(small, **large)
    data = replace(data, test_images=data.test_images[:8], test_labels=data.test_labels[:8])
    one = member(data, steps=4, average=0.5)
    config = replace(
        MLP, model=sized("resnet18", 1.0), batch_size=8, augmentation="resized_crop",
        weight_decay=1e-4,
    )  # fmt: skip
    whole = train_to_the_bit(
        config, [one], checkpoint_seconds=0.0, on_checkpoint=lambda *each: checkpointed.append(each)
    )
    (_, state), *_ = checkpointed
    assert state["step"] == 2
    assert train_to_the_bit(config, [one], states=[state]) == whole
    assert not whole[0]["diverged"]
    first, last = whole[0]["curve"][0], whole[0]["curve"][-1]
    assert first["train_loss"] == pytest.approx(math.log(M), abs=1e-5)  # the output starts at zero
    assert last["train_loss"] != first["train_loss"]


# --- top-5


def test_a_class_has_the_rank_that_a_slow_loop_gives_it() -> None:
    logits = torch.tensor([[[1.0, 3, 3, 0], [2, 2, 2, 2], [math.nan] * 4, [math.inf, 1, 0, 0]]])
    ranks = [[2, 0, 1, 3], [0, 1, 2, 3], [4, 4, 4, 4], [4, 1, 2, 3]]
    for true in range(4):
        found = evaluation.ranks(logits, torch.tensor([true] * 4))
        assert found.tolist() == [[row[true] for row in ranks]]


@pytest.mark.parametrize("limit", [9, 10])
def test_top_5_and_of_few_classes_the_confusion_are_reported(
    limit: int, reported: dict[int, networks.Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MOST_CONFUSED", limit)
    data = ten_classes(8)
    outcomes = train(of("mlp1"), [member(data, seed, steps=1) for seed in range(2)])
    for k, outcome in enumerate(outcomes):
        logits = reported[k].eval()(data.test_images[None])[0].detach()
        expected = top_k_accuracy_score(data.test_labels, logits, k=5, labels=np.arange(10))
        assert outcome["test_top5_accuracy"] == pytest.approx(expected, abs=1e-12)
        assert 0 < outcome["test_accuracy"] < outcome["test_top5_accuracy"] < 1
        for key in ("val_confusion", "test_confusion"):
            assert (outcome[key] is None) is (limit < 10)


def test_neither_global_generators_nor_data_are_touched() -> None:
    data = make_data()
    tensors = {name: value for name, value in vars(data).items() if value is not None}
    before = {name: value.clone() for name, value in tensors.items()}
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train_alone(MLP, member(data))
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert all(torch.equal(before[name], value) for name, value in tensors.items())


# --- early stopping


@pytest.mark.parametrize("average", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("steps", [1, 37, 130])
def test_early_stopping_reports_the_best_of_trainings_of_doubled_lengths(
    steps: int, average: float
) -> None:
    """Each evaluation is the end of a training of its own, to the bit; of equals the first."""
    data = make_data(noise=0.6)
    one = member(data, steps=steps, average=average, early_stopping=True)
    (got,) = train_to_the_bit(MLP, [one])
    evaluations = sorted({math.ceil(steps / 2**k) for k in range(replicas.EVALUATIONS)})
    assert [row["examples_seen"] for row in got["curve"]] == [
        32 * evaluation for evaluation in evaluations
    ]
    alone = [
        train_to_the_bit(MLP, [member(data, steps=evaluation, average=average)])[0]
        for evaluation in evaluations
    ]
    accuracies = [outcome["val_accuracy"] for outcome in alone]
    assert [row["val_accuracy"] for row in got["curve"]] == accuracies
    best = accuracies.index(max(accuracies))
    wanted = {**alone[best], "curve": got["curve"], "stopped_at": 32 * evaluations[best]}
    wanted |= {key: alone[-1][key] for key in ("steps", "operations")}  # it took them all
    assert got == wanted


def test_what_blows_up_after_its_best_look_is_reported_as_it_was_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network of NaNs predicts the first class, the only one here: it is never the best."""
    data = make_data(noise=0.6)
    data = replace(data, validation_labels=torch.zeros_like(data.validation_labels))
    one, steps, sound = member(data, steps=64), itertools.count(1), LOSSES[EXPECTED]
    alone = train_alone(MLP, replace(one, steps=32))

    def breaking(*given: Any) -> Tensor:
        return sound.function(*given) * (math.nan if next(steps) > 40 else 1.0)

    monkeypatch.setitem(LOSSES, EXPECTED, sound._replace(function=breaking))
    best = train_alone(MLP, replace(one, early_stopping=True))
    assert best["stopped_at"] <= 32 * 32
    assert best["diverged"] is False
    assert best["curve"][-1] == {
        "examples_seen": 64 * 32, "val_accuracy": 1.0, "train_loss": None
    }  # fmt: skip
    assert best["val_accuracy"] >= alone["val_accuracy"]
    steps = itertools.count(1)
    assert train_alone(MLP, one)["diverged"] is True


def test_early_stopping_goes_on_from_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after the best evaluation, and between two evaluations."""
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", math.inf)
    monkeypatch.setitem(batches.CHUNK, "cpu", 4)  # checkpoints are taken between two
    states: list[ensemble.State] = []
    one = member(make_data(noise=0.6), steps=1000, average=0.5, early_stopping=True)
    (whole,) = train_to_the_bit(
        MLP, [one], checkpoint_seconds=0.0, on_checkpoint=lambda _, state: states.append(state)
    )
    stopped = whole["stopped_at"] // 32
    between = [state for state in states if stopped / 2 < state["step"] < stopped]
    assert between
    for state in between:
        assert train_to_the_bit(MLP, [one], states=[state]) == [whole]
    del whole["network"]
    for state in (states[0], states[-1]):  # the last is taken after the best evaluation
        assert without_time(train_alone(MLP, one, states=[state])) == whole


# --- the report


@pytest.mark.parametrize("steps", [1, 3, 10, 11, 40])
def test_the_curve_has_ten_looks_or_one_for_each_step(steps: int) -> None:
    outcome = train_alone(MLP, member(make_data(), steps=steps))
    expected = sorted({math.ceil(steps * k / 10) for k in range(1, 11)})
    assert len(expected) == min(steps, 10)
    assert [row["examples_seen"] for row in outcome["curve"]] == [32 * s for s in expected]


def test_the_training_losses_are_those_of_their_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of every step, averaged over the steps between two evaluations, for each member."""
    data = make_data(noise=0.5)
    members = [member(data, steps=20), member(data, 1, steps=30, alpha=0.0, learning_rate=0.1)]
    curves = [outcome["curve"] for outcome in train(MLP, members)]
    monkeypatch.setattr(replicas, "EVALUATIONS", 60)  # times, or at every step
    for one, curve in zip(members, curves, strict=True):
        every = [row["train_loss"] for row in train_alone(MLP, one)["curve"]]
        assert len(every) == one.steps
        assert len(set(every)) > 10
        evaluations = [row["examples_seen"] // 32 for row in curve]
        means = [np.mean(every[a:b]) for a, b in pairwise([0, *evaluations])]
        np.testing.assert_allclose([row["train_loss"] for row in curve], means, rtol=1e-5)


@pytest.mark.parametrize("name", ["mlp1", "resnet20"])
@pytest.mark.parametrize("average", [0.0, 0.5])
def test_looking_changes_nothing(
    name: str, average: float, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = replace(MLP, model=sized(name, 0.125)), make_data(noise=0.3)
    often = trained(config, data, steps=8, average=average)
    monkeypatch.setattr(replicas, "EVALUATIONS", 1)
    np.testing.assert_array_equal(trained(config, data, steps=8, average=average), often)


@pytest.mark.parametrize(
    ("name", "steps", "parameters"),
    [
        ("mlp1", 1, 64 * 64 + 64 + 64 * M + M),
        # 2, 4 and 8 channels, as counted in test_models.py.
        ("resnet20", 16, 22 + 6 * 40 + 80 + 5 * 152 + 304 + 5 * 592 + 8 * M + M),
    ],
)
def test_accuracies_and_confusion_are_those_of_a_slow_loop(
    name: str, steps: int, parameters: int, reported: dict[int, networks.Network]
) -> None:
    data = diluted(make_data(noise=0.5), 1, N, N, M)
    outcome = train_alone(replace(MLP, model=sized(name, 0.125)), member(data, steps=steps))
    network = reported[0].eval()

    def classify(images: Tensor) -> list[int]:
        return [int(network(image[None, None]).argmax()) for image in images]

    def count(true: Tensor, predicted: list[int]) -> NDArray[np.integer]:
        counts = np.zeros((M, M), dtype=int)
        for row, column in zip(true.tolist(), predicted, strict=True):
            counts[row, column] += 1
        return counts

    confusion = count(data.test_labels, classify(data.test_images))
    assert outcome["test_confusion"] == confusion.tolist()
    assert outcome["test_accuracy"] == pytest.approx(np.trace(confusion) / T, abs=1e-12)
    assert 0.3 < outcome["test_accuracy"] < 1  # both right and wrong ones were counted
    agree = votes = right = 0
    validation = classify(data.bank[data.validation])
    for i, predicted in enumerate(validation):
        right += int(predicted == data.validation_labels[i])
        for label in range(M):
            for _ in range(int(data.validation_votes[i, label])):
                votes += 1
                agree += int(label == predicted)
    assert outcome["test_top5_accuracy"] is None  # of four classes
    assert outcome["noisy_val_accuracy"] == pytest.approx(agree / votes, abs=1e-12)
    assert outcome["val_accuracy"] == pytest.approx(right / V, abs=1e-12)
    assert outcome["val_confusion"] == count(data.validation_labels, validation).tolist()
    assert outcome["parameters"] == parameters
    each = operations(name, (8, 8, 1), M, width=0.125, batch_norm=False)
    assert (outcome["steps"], outcome["operations"]) == (steps, each * 32 * steps)
    assert outcome["wall_seconds"] > 0


def test_without_validation_images_their_accuracies_are_none() -> None:
    members = [member(make_data(validation=0), seed, steps=3) for seed in range(2)]
    outcomes = train(MLP, members)
    for one, outcome in zip(members, outcomes, strict=True):
        assert outcome["val_accuracy"] is None
        assert outcome["noisy_val_accuracy"] is None
        assert [row["val_accuracy"] for row in outcome["curve"]] == [None] * 3
        assert np.sum(outcome["val_confusion"]) == 0
        assert 0 <= outcome["test_accuracy"] <= 1
        assert without_time(train_alone(MLP, one)) == without_time(outcome)


def two_networks(name: str) -> networks.Network:
    return networks.build(
        name, (8, 8, 1), M, width=0.25, batch_norm=False, init="he", zero_output=False,
        generators=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
    )  # fmt: skip


def test_prediction_goes_in_parts_and_leaves_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    network, bank = two_networks("resnet20"), make_data().bank
    index = torch.randint(0, len(bank), (2, 10), generator=torch.Generator().manual_seed(0))
    network(bank[index])  # running statistics
    expected = network.eval()(bank[index]).argmax(dim=2)
    assert not torch.equal(expected[0], expected[1])
    parts: list[int] = []
    forward = evaluation.forward

    def note(network: networks.Network, images: Tensor, precision: str) -> Tensor:
        parts.append(images.shape[1])
        return forward(network, images, precision)

    monkeypatch.setattr(evaluation, "forward", note)
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 3)
    for mode in (False, True):
        network.train(mode)
        assert torch.equal(evaluation.predict(network, bank, index, "float32"), expected)
        assert network.training is mode
    assert parts == [3, 3, 3, 1] * 2
    assert evaluation.predict(network, bank, index[:, :0], "float32").shape == (2, 0)


def test_large_stacks_are_evaluated_on_fewer_images_at_once() -> None:
    sizes = [evaluation._evaluated_at_once(members) for members in range(1, 200)]
    assert sizes[0] == evaluation.EVALUATION_BATCH
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < sizes[-1] < sizes[0]


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.resolve_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.resolve_device("auto") == "cpu"
    with pytest.raises(UserError, match="got 'cuda'; accepted on this machine: auto, cpu"):
        devices.resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.resolve_device("auto") == devices.resolve_device("cuda") == "cuda"


# --- in a stack

OWN: list[dict[str, Any]] = [
    {"learning_rate": 1.0, "steps": 100, "average": 0.0},
    {"learning_rate": 0.1, "steps": 3, "average": 0.5},
    {"learning_rate": 0.5, "steps": 70, "average": 1.0},
    {"learning_rate": 2.0, "steps": 24, "average": 0.3},
    {"learning_rate": 0.3, "steps": 23, "average": 0.0},
    {"learning_rate": 1.5, "steps": 130, "average": 0.25},
]
ALPHAS = [4.0, 0.5, 100.0, 1.0, 20.0, 0.0]
DENSE = ["perceptron", "mlp1", "mlp2"]
COMPANIES = [[0, 1], [4, 2], [5, 3, 1], [0, 1, 2, 3, 4, 5], [3, 5, 0, 4, 2, 1]]


def diluted(data: TrainingData, k: int, shown: int, labels: int, classes: int) -> TrainingData:
    """Return a set of a member's own on the images of another: sizes, labels, validation, votes."""
    rng = np.random.default_rng(k)
    true = np.concatenate([data.labels.numpy(), data.validation_labels.numpy()])
    images = rng.permutation(len(true))[:shown]
    given = np.where(
        rng.random(labels) < 0.1 * k,
        rng.integers(0, classes, labels),
        np.resize(true[images], labels),
    )
    validation = rng.permutation(len(true))[: len(data.validation)]
    return replace(
        data,
        images=torch.from_numpy(images.astype(np.int32)),
        labels=torch.from_numpy(given.astype(np.uint8)),
        validation=torch.from_numpy(validation),
        validation_labels=torch.from_numpy(true[validation].astype(np.int64)),
        validation_votes=torch.from_numpy(rng.integers(0, 3, data.validation_votes.shape)),
    )


@lru_cache
def stacked(smooth: bool = False, shortened: int = 1) -> list[Replica]:
    """Return six members that differ in all that members may differ in, on a task that is hard."""
    shared = make_data(bright=6)
    sizes = [(240, 240), (100, 300), (50, 500), (240, 720), (200, 200), (70, 70)]
    members = []
    for k, own in enumerate(OWN):
        numbers = {**own, "steps": math.ceil(own["steps"] / shortened)}
        alpha = ALPHAS[k] if smooth else 0.0
        members.append(member(diluted(shared, k, *sizes[k], M), k, **numbers, alpha=alpha))
    return members


@lru_cache
def alone(name: str, k: int, smooth: bool = False, shortened: int = 1) -> Outcome:
    (outcome,) = train_to_the_bit(of(name), [stacked(smooth, shortened)[k]])
    return outcome


def of(name: str) -> TrainConfig:
    return replace(MLP, model=sized(name, 0.125), zero_output=False)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[int]]]:
    """Return where each shrinking of a stack is noted: steps done, and the members that go on."""
    shrunk: list[tuple[int, list[int]]] = []
    keep = ensemble.Ensemble.keep

    def note(stack: Any, members: list[int]) -> None:
        shrunk.append((stack.step, members))
        keep(stack, members)

    monkeypatch.setattr(ensemble.Ensemble, "keep", note)
    return shrunk


def test_members_of_the_stacking_tests_differ() -> None:
    outcomes = [alone("mlp1", k) for k in range(6)]
    for key in ("curve", "test_confusion"):
        assert len({str(outcome[key]) for outcome in outcomes}) == 6
    for k, outcome in enumerate(outcomes):
        changed = alone("mlp1", k, smooth=True)["network"] != outcome["network"]
        assert changed is (ALPHAS[k] > 0)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("rows", COMPANIES, ids=str)
@pytest.mark.parametrize("name", DENSE)
def test_stacking_changes_no_bit_of_a_dense_network(
    name: str, rows: list[int], smooth: bool, kept: list[tuple[int, list[int]]]
) -> None:
    together = train_to_the_bit(of(name), [stacked(smooth)[k] for k in rows])
    assert together == [alone(name, k, smooth) for k in rows]
    lengths = sorted(OWN[k]["steps"] for k in rows)
    # It shrank as soon as half were done, and not only between chunks.
    assert kept[0][0] == lengths[math.ceil(len(rows) / 2) - 1]
    assert any(step % batches.CHUNK["cpu"] for step, _ in kept)


def test_a_stack_shrinks_when_half_of_it_is_done(kept: list[tuple[int, list[int]]]) -> None:
    data = make_data()
    steps = [40, 10, 30, 20, 60, 50]
    train(PERCEPTRON, [member(data, k, steps=number) for k, number in enumerate(steps)])
    assert kept == [(30, [0, 4, 5]), (50, [4])]


def ten_classes(size: int) -> TrainingData:
    """Return images of any size with ten classes: noise with five bright pixels."""
    rng = np.random.default_rng(size)
    labels = rng.integers(0, 10, 900)
    images = rng.integers(0, 60, (900, size * size), dtype=np.uint8)
    for shift in range(0, 50, 10):
        images[np.arange(900), labels + shift] = 255
    images = images.reshape(900, size, size, 1)
    return TrainingData(
        bank=torch.from_numpy(images[:700]),
        labels=torch.from_numpy(labels[:600].astype(np.uint8)),
        images=torch.arange(600, dtype=torch.int32),
        validation=torch.arange(600, 700),
        validation_labels=torch.from_numpy(labels[600:700]),
        validation_votes=torch.ones(100, 10, dtype=torch.int64),
        test_images=torch.from_numpy(images[700:]),
        test_labels=torch.from_numpy(labels[700:]),
    )


def three_of(size: int) -> list[Replica]:
    """Return members on sets of their own of ten classes."""
    data, sizes = ten_classes(size), [(600, 1800), (300, 300), (500, 500)]
    return [
        member(diluted(data, k, *sizes[k], 10), k, learning_rate=rate, steps=steps, average=share)
        for k, (rate, steps, share) in enumerate([(1.0, 12, 0.0), (0.1, 5, 0.5), (0.4, 11, 1.0)])
    ]


def stopping() -> list[Replica]:
    """Return members of which some stop early, one of them in a stack that shrank."""
    data, numbers = make_data(noise=0.6), [(100, 0.5), (100, 0.5), (37, 0.25), (140, 0.5), (140, 0)]
    return [
        member(data, k, steps=steps, average=average, early_stopping=k in (0, 2, 3))
        for k, (steps, average) in enumerate(numbers)
    ]


@pytest.mark.parametrize(
    ("name", "change", "members"),
    [
        # As in the paper's figures: 28x28, 512 units, batches of 128, ten classes.
        ("mlp2", {"model": sized("mlp2", 1.0), "batch_size": 128}, lambda: three_of(28)),
        # An odd number of pixels, or an odd batch: a member's matrices begin at odd addresses.
        # MKL rounds by them, unless it is told not to before it loads: `processes.prepare`.
        ("perceptron", {"batch_size": 32}, lambda: three_of(9)),
        ("perceptron", {"batch_size": 15}, lambda: three_of(8)),
        ("mlp1", {"batch_size": 15}, lambda: three_of(8)),
        ("mlp2", {"batch_size": 1}, lambda: three_of(9)),
        ("mlp2", {"precision": "bfloat16"}, lambda: stacked(shortened=4)[:4]),
        *(("mlp2", {"augmentation": a}, lambda: stacked(shortened=4)[:4]) for a in AUGMENTATIONS),
        *(
            (name, {"averaging": "ema", "ema_decay": 0.9}, members)
            for name, members in (("mlp2", lambda: stacked(shortened=4)[:4]), ("mlp1", stopping))
        ),
        ("mlp1", {}, stopping),
    ],
)
def test_stacking_changes_no_bit(
    name: str, change: dict[str, Any], members: Callable[[], list[Replica]]
) -> None:
    config, whole = replace(of(name), **change), members()
    together = train_to_the_bit(config, whole)
    for one, outcome in zip(whole, together, strict=True):
        assert train_to_the_bit(config, [one]) == [outcome]
    assert len({outcome["network"] for outcome in together}) == len(whole)


@pytest.mark.parametrize("name", ["conv2", "conv4", "resnet20"])
def test_a_loop_changes_no_bit_of_a_convolutional_network(
    name: str, kept: list[tuple[int, list[int]]]
) -> None:
    rows, shortened = [3, 2, 1], 8
    members = [stacked(shortened=shortened)[k] for k in rows]
    together = train_to_the_bit(of(name), members, stacking="loop")
    assert together == [alone(name, k, shortened=shortened) for k in rows]
    assert kept


@pytest.mark.parametrize("name", ["conv2", "conv4", "resnet20"])
def test_stacked_convolutions_train_as_well_as_alone(name: str) -> None:
    """They round otherwise, so weights part slowly: first losses agree, and what is learnt."""
    config = replace(of(name), model=sized(name, 0.25 if name == "resnet20" else 0.125))
    for steps in (4, 40):
        members = [member(make_data(), seed, steps=steps, average=0.25) for seed in range(3)]
        apart = [train_alone(config, one) for one in members]
        for stacking in ("grouped", "unfold"):
            together = train(config, members, stacking=stacking)
            for one, other in zip(apart, together, strict=True):
                if steps == 4:  # looked at one by one
                    losses = [[row["train_loss"] for row in each["curve"]] for each in (one, other)]
                    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
                else:
                    assert abs(one["test_accuracy"] - other["test_accuracy"]) <= 0.03
                    assert one["test_accuracy"] > 0.9
            assert len({outcome["curve"][0]["train_loss"] for outcome in together}) == 3


@pytest.mark.parametrize(("steps", "rate"), [(1, math.inf), (5, 3e38)])
@pytest.mark.parametrize("stacking", ["grouped", "unfold", "loop"])
@pytest.mark.parametrize("name", ["mlp1", "conv2", "resnet20"])
def test_a_member_that_blows_up_takes_no_other_along(
    name: str, stacking: str, steps: int, rate: float
) -> None:
    """With the only step's loss still finite, and with later ones that are not."""
    data = make_data(noise=0.3)
    members = [
        member(data, seed, steps=steps, average=0.5, learning_rate=rate if seed == 1 else 1.0)
        for seed in range(3)
    ]
    with_it = train_to_the_bit(of(name), members, stacking=stacking)
    assert [outcome["diverged"] for outcome in with_it] == [False, True, False]
    assert all(
        r["train_loss"] is None or math.isfinite(r["train_loss"]) for r in with_it[1]["curve"]
    )
    healthy = [replace(one, learning_rate=1.0) for one in members]
    without_it = train_to_the_bit(of(name), healthy, stacking=stacking)
    assert [with_it[k] for k in (0, 2)] == [without_it[k] for k in (0, 2)]


# --- checkpoints


@pytest.fixture
def checkpointed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ensemble.State]]:
    """Have a checkpoint taken after every chunk of 8 steps, and return where they are noted."""
    monkeypatch.setattr(batches, "CHUNK", {"cpu": 8})
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", math.inf)
    return []


@pytest.mark.parametrize("block", [running_mean.BLOCK, 16])
@pytest.mark.parametrize(
    ("name", "shortened", "change"),
    [
        ("perceptron", 1, {}),
        ("mlp2", 2, {}),
        ("conv2", 4, {}),
        ("resnet20", 8, {}),
        ("mlp2", 4, {"augmentation": "flip_crop", "weight_decay": 1e-3}),
        ("conv2", 8, {"augmentation": "resized_crop"}),
        ("perceptron", 2, {"optimizer": "sgd", "weight_decay": 1e-3}),
        ("mlp2", 4, {"optimizer": "adamw", "schedule": "cosine", "warmup": 0.2}),
        ("mlp2", 4, {"averaging": "ema", "ema_decay": 0.9, "augmentation": "shift"}),
        ("resnet20", 8, {"averaging": "ema", "ema_decay": 0.5, "recompute_batch_norm": True}),
    ],
)
def test_a_training_goes_on_from_a_checkpoint_to_the_bit(
    name: str,
    shortened: int,
    change: dict[str, Any],
    block: int,
    checkpointed: list[tuple[int, ensemble.State]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Members of all lengths, rates and averages, before and after the stack has shrunk."""
    monkeypatch.setattr(running_mean, "BLOCK", block)
    config = replace(of(name), **change)
    members = stacked(smooth=True, shortened=shortened)

    def note(k: int, state: ensemble.State) -> None:
        stream = io.BytesIO()  # as of then, whatever is done to the tensors later
        torch.save(state, stream)
        stream.seek(0)
        checkpointed.append((k, torch.load(stream, weights_only=True)))

    whole = train_to_the_bit(
        config, members, stacking="loop", checkpoint_seconds=0.0, on_checkpoint=note
    )
    assert whole == train_to_the_bit(config, members, stacking="loop")
    steps = sorted({state["step"] for _, state in checkpointed})
    assert steps == list(range(8, max(one.steps for one in members), 8))
    for step in steps[:: max(1, len(steps) // 3)]:
        left = {k: state for k, state in checkpointed if state["step"] == step}
        assert set(left) == {k for k, one in enumerate(members) if one.steps > step}
        resumed = train_to_the_bit(
            config, [members[k] for k in left], stacking="loop", states=list(left.values())
        )
        assert resumed == [whole[k] for k in left]
        alone = next(iter(left))  # whatever trained beside it before
        again = train_to_the_bit(config, [members[alone]], stacking="loop", states=[left[alone]])
        assert again == [whole[alone]]


def test_a_state_holds_no_more_than_its_member(
    checkpointed: list[tuple[int, ensemble.State]],
) -> None:
    """A slice of the stack's matrices would be saved with all of them."""
    sizes = []
    for count in (1, 5):
        members = [member(make_data(), seed, steps=16) for seed in range(count)]
        train(
            of("mlp1"), members, checkpoint_seconds=0.0,
            on_checkpoint=lambda *noted: checkpointed.append(noted),
        )  # fmt: skip
        stream = io.BytesIO()
        torch.save(checkpointed[-1][1], stream)
        sizes.append(len(stream.getvalue()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


@pytest.mark.parametrize(("seconds", "cost", "expected"), [(50, 0, 2), (0, 4, 2), (1000, 0, 0)])
def test_checkpoints_are_taken_at_intervals_and_cost_little(
    seconds: float, cost: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a chunk takes 20 s; what is still queued is no cost of a checkpoint."""
    now = [0.0]
    look_up = ensemble.Ensemble._prefetch

    def slow(stack: Any) -> None:
        now[0] += 20
        look_up(stack)

    def write(*_: Any) -> None:
        now[0] += cost
        written.append(now[0])

    def drain(_: str) -> None:
        now[0] += 9

    written: list[float] = []
    monkeypatch.setattr(batches, "CHUNK", {"cpu": 8})
    monkeypatch.setattr(loop, "synchronise", drain)
    monkeypatch.setattr(ensemble.Ensemble, "_prefetch", slow)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    train(
        PERCEPTRON, [member(make_data(), steps=56)],
        checkpoint_seconds=seconds, on_checkpoint=write,
    )  # fmt: skip
    assert len(written) == expected, written


# --- callbacks and time


def test_a_member_is_told_of_and_reported_when_it_is_done() -> None:
    steps = [40, 7, 30, 7]
    members = [member(make_data(), k, steps=number) for k, number in enumerate(steps)]
    events: list[tuple[int, int | None, Any]] = []
    outcomes = train(
        MLP,
        members,
        on_evaluation=lambda *event: events.append(event),
        on_done=lambda k, outcome: events.append((k, None, outcome)),
    )
    assert [k for k, step, _ in events if step is None] == [1, 3, 2, 0]
    seen = [step for _, step, _ in events if step is not None]
    assert seen == sorted(seen)
    assert any(step for _, step, _ in events[events.index((1, None, outcomes[1])) :])
    for k, outcome in enumerate(outcomes):
        *told, (_, _, last) = [event for event in events if event[0] == k]
        assert last is outcome
        curve = [(row["examples_seen"] // 32, row["val_accuracy"]) for row in outcome["curve"]]
        assert [event[1:] for event in told] == curve


def test_a_member_that_stops_early_is_told_of_between_its_last_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "CHUNK", {"cpu": 4})
    one = member(make_data(), steps=200, early_stopping=True)
    told: list[tuple[int, float | None]] = []
    outcome = train_alone(MLP, one, on_evaluation=lambda _, *event: told.append(event))
    seen = {row["examples_seen"] // 32: row["val_accuracy"] for row in outcome["curve"]}
    between = [48, 72, 92, 120, 140, 160, 180]  # ends of chunks, at least 20 steps apart
    assert [step for step, _ in told] == sorted([1, 2, 4, 7, 13, 25, 50, 100, 200, *between])
    for step, accuracy in told:
        assert accuracy == seen[max(look for look in seen if look <= step)]


def test_the_time_is_shared_among_the_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a step of a stack of five takes 5 s, whoever of the five is done."""
    now = [0.0]
    step = ensemble.Ensemble._train

    def slow(stack: Any, batch: Any) -> None:
        now[0] += len(batch["images"])
        step(stack, batch)

    monkeypatch.setattr(ensemble.Ensemble, "_train", slow)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    outcomes = train(
        MLP, [member(make_data(), k, steps=s) for k, s in enumerate([600, 100, 600, 600, 50])]
    )
    # The three long ones go on in it: all of its time is theirs, not three fifths.
    fifty, hundred = 50, 50 + 50 * 5 / 4
    whole = hundred + 500 * 5 / 3
    assert [outcome["wall_seconds"] for outcome in outcomes] == pytest.approx(
        [whole, hundred, whole, whole, fifty]
    )
    assert now[0] == 5 * 600


# --- precision


@pytest.mark.parametrize("name", ["perceptron", "mlp1", "conv2"])
def test_bfloat16_learns_as_well(name: str, reported: dict[int, networks.Network]) -> None:
    members = [member(make_data(noise=0.3), seed, steps=80, average=0.25) for seed in range(2)]
    exact = train(of(name), members)
    rounded = train(replace(of(name), precision="bfloat16"), members)
    assert reported[0].weights.dtype == torch.float32
    for one, other in zip(exact, rounded, strict=True):
        assert one["test_accuracy"] > 0.95
        assert abs(one["test_accuracy"] - other["test_accuracy"]) <= 0.03
        first, second = (outcome["curve"][0]["train_loss"] for outcome in (one, other))
        assert first != second  # it was rounded
        assert first == pytest.approx(second, rel=0.02)


def test_logits_are_float32_at_every_precision() -> None:
    network, images = two_networks("conv2"), make_data().bank[torch.arange(20).view(2, 10)]
    with torch.no_grad():
        exact, tf32, rounded = (evaluation.forward(network, images, p) for p in PRECISIONS)
    assert exact.dtype == tf32.dtype == rounded.dtype == torch.float32
    assert torch.equal(exact, tf32)  # which only CUDA knows
    assert not torch.equal(exact, rounded)
    np.testing.assert_allclose(rounded, exact, rtol=0.05, atol=0.02 * float(exact.abs().max()))


def flags() -> list[str]:
    return [each.fp32_precision for each in devices._rounding_flags()]


@pytest.fixture(params=["none", "ieee", "tf32"])
def before(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Set the flags to values that a training finds."""
    own = flags()
    for each in devices._rounding_flags():
        each.fp32_precision = request.param
    yield flags()
    for each, value in zip(devices._rounding_flags(), own, strict=True):
        each.fp32_precision = value


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_products_round_to_is_set_and_restored(precision: str, before: list[str]) -> None:
    config, one = replace(PERCEPTRON, precision=precision), member(make_data(), steps=2)
    seen: list[list[str]] = []

    def fail(*_: Any) -> None:
        raise KeyError

    train_alone(config, one, on_evaluation=lambda *_: seen.append(flags()))
    assert flags() == before
    with pytest.raises(KeyError):
        train_alone(config, one, on_evaluation=lambda *_: seen.append(flags()), on_done=fail)
    assert flags() == before
    assert seen == [["tf32" if precision == "tf32" else "ieee"] * 3] * 4


def test_the_older_flags_can_be_read_after_a_training() -> None:
    """PyTorch refuses to read one kind where the other was set to what it cannot say."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    train_alone(replace(PERCEPTRON, precision="tf32"), member(make_data(), steps=2))
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
