"""One training: its optimizer, order, averaging and report, recomputed in plain numpy."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.lib import training
from stages.lib.errors import UserError
from stages.lib.params import ModelParams
from stages.lib.training import Recipe, Streams, TrainingData, shuffled, train

M, N, V, T = 4, 240, 60, 200
PERCEPTRON = Recipe(
    model=ModelParams("perceptron", 1.0), init="torch", zero_output=False, learning_rate=1.0,
    rho=0.95, epsilon=1e-6, batch_size=32, steps=40, average=0.0, alpha=0.0,
)  # fmt: skip
MLP = replace(PERCEPTRON, model=ModelParams("mlp1", 0.1), init="he", zero_output=True)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Train as the workers do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_data(noise: float = 0.0, shuffle: bool = False, validation: int = V) -> TrainingData:
    """Return images with a bright bar at a place for each class, some of them mislabelled."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, M, N + V + T)
    images = rng.integers(0, 60, (len(labels), 8, 8, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 150
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


def streams(seed: int = 0) -> Streams:
    return Streams(np.random.SeedSequence((seed, 0)), np.random.SeedSequence((seed, 1)))


def without_time(outcome: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in outcome.items() if key != "wall_seconds"}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that trains and gives the reported network's parameters, as an array."""
    networks: list[nn.Module] = []
    evaluate = training._evaluate

    def keep(model: nn.Module, data: TrainingData) -> dict[str, Any]:
        networks.append(model)
        return evaluate(model, data)

    monkeypatch.setattr(training, "_evaluate", keep)

    def run(recipe: Recipe, data: TrainingData, seed: int = 0) -> NDArray[np.float32]:
        train(recipe, data, streams(seed))
        return np.concatenate([p.detach().numpy().ravel() for p in networks.pop().parameters()])

    return run


# --- the order of examples


@pytest.mark.parametrize(
    ("count", "batch_size"), [(10, 5), (10, 3), (10, 10), (7, 20), (1, 4), (13, 1)]
)
def test_every_pass_shows_each_example_once(count: int, batch_size: int) -> None:
    steps = math.ceil(6 * count / batch_size)
    batches = list(shuffled(count, batch_size, steps, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [batch_size] * steps
    shown = torch.cat(batches).tolist()
    for start in range(0, len(shown) - count + 1, count):
        assert sorted(shown[start : start + count]) == list(range(count))
    uses = Counter(shown)
    assert max(uses.values()) - min(uses.values()) <= 1


def test_passes_are_shuffled_afresh_and_repeat_with_the_seed() -> None:
    def order(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return torch.cat(list(shuffled(50, 25, 4, generator))).tolist()

    one = order(0)
    assert one[:50] != one[50:] != list(range(50))
    assert one == order(0) != order(1)


def test_a_longer_training_begins_like_a_shorter_one() -> None:
    short, long = (
        list(shuffled(20, 7, steps, torch.Generator().manual_seed(3))) for steps in (4, 9)
    )
    assert all(torch.equal(a, b) for a, b in zip(short, long[:4], strict=True))


# --- the optimizer


def slow_adadelta(
    data: TrainingData, recipe: Recipe
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Train a perceptron that starts at zero on the whole set, in float64 (Zeiler 2012, alg. 1)."""
    x = data.bank[data.images].numpy().reshape(N, -1) / 255
    x = np.hstack([x, np.ones((N, 1))])  # the bias
    y = np.eye(M)[data.labels.numpy()]
    q = (y + recipe.alpha / M) / (1 + recipe.alpha)
    w, squares, steps = (np.zeros((x.shape[1], M)) for _ in range(3))
    for _ in range(recipe.steps):
        p = np.exp(x @ w)
        p /= p.sum(axis=1, keepdims=True)
        gradient = x.T @ (p - q) / N
        squares = recipe.rho * squares + (1 - recipe.rho) * gradient**2
        step = gradient * np.sqrt(steps + recipe.epsilon) / np.sqrt(squares + recipe.epsilon)
        steps = recipe.rho * steps + (1 - recipe.rho) * step**2
        w = w - recipe.learning_rate * step
    return w[:-1].T, w[-1]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"learning_rate": 0.1},
        {"rho": 0.5, "epsilon": 1e-4},
        {"alpha": 10.0},
        {"steps": 1},
    ],
)
def test_steps_are_those_of_adadelta_in_numpy(change: dict[str, Any], trained: Any) -> None:
    recipe = replace(PERCEPTRON, zero_output=True, batch_size=N, steps=5)
    recipe = replace(recipe, **change)
    data = make_data(noise=0.5)
    expected = np.concatenate([part.ravel() for part in slow_adadelta(data, recipe)])
    got = trained(recipe, data)
    # float32 gradients differ by 1e-6 of their size; a step is at most about its rate's scale.
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    "change", [{"rho": 0.9}, {"epsilon": 1e-5}, {"learning_rate": 0.9}, {"alpha": 1.0}]
)
def test_other_numbers_fail_the_same_test(change: dict[str, Any], trained: Any) -> None:
    recipe = replace(PERCEPTRON, zero_output=True, batch_size=N, steps=5)
    data = make_data(noise=0.5)
    expected = np.concatenate([p.ravel() for p in slow_adadelta(data, recipe)])
    got = trained(replace(recipe, **change), data)
    assert np.abs(got - expected).max() > 1e-2 * np.abs(expected).max()


def test_a_tiny_rate_changes_nothing_and_two_steps_change_everything(trained: Any) -> None:
    start = trained(replace(PERCEPTRON, steps=1, learning_rate=1e-30), make_data())
    still = trained(replace(PERCEPTRON, steps=30, learning_rate=1e-30), make_data())
    np.testing.assert_array_equal(start, still)
    moved = trained(replace(PERCEPTRON, steps=2), make_data())
    assert (moved != start).mean() > 0.99


# --- the images and labels that it sees


def test_image_indices_repeat_to_the_number_of_labels(trained: Any) -> None:
    short = make_data()
    labels = torch.cat([short.labels, short.labels.flip(0)])
    short = replace(short, labels=labels)
    long = replace(short, images=torch.cat([short.images, short.images]))
    recipe = replace(MLP, steps=20)
    np.testing.assert_array_equal(trained(recipe, short), trained(recipe, long))


def test_images_are_found_in_the_bank_by_their_index(trained: Any) -> None:
    data = make_data()
    permutation = torch.randperm(len(data.bank), generator=torch.Generator().manual_seed(0))
    place = permutation.argsort()
    moved = replace(
        data, bank=data.bank[permutation], images=place[data.images],
        validation=place[data.validation],
    )  # fmt: skip
    assert without_time(train(MLP, data, streams())) == without_time(train(MLP, moved, streams()))


def test_labels_of_many_classes_are_the_same_as_of_few(trained: Any) -> None:
    data = make_data()
    wide = replace(data, labels=data.labels.to(torch.int32))
    np.testing.assert_array_equal(trained(MLP, data), trained(MLP, wide))


# --- averaging


def test_averaged_weights_are_the_mean_over_the_last_steps(trained: Any) -> None:
    data = make_data()
    path = np.array([trained(replace(MLP, steps=steps), data) for steps in (1, 2, 3, 4)])
    for average, first in ((1.0, 0), (0.75, 1), (0.5, 2), (0.25, 3)):
        got = trained(replace(MLP, steps=4, average=average), data)
        np.testing.assert_allclose(got, path[first:].mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("average", "steps"), [(0.05, 15), (0.01, 40), (0.4, 2)])
def test_a_share_of_less_than_a_step_reports_the_trained_network(
    average: float, steps: int, trained: Any
) -> None:
    data = make_data()
    last = trained(replace(MLP, steps=steps), data)
    np.testing.assert_array_equal(trained(replace(MLP, steps=steps, average=average), data), last)


def test_the_curve_looks_at_the_network_that_is_reported() -> None:
    for average in (0.0, 0.5, 1.0):
        outcome = train(replace(MLP, steps=25, average=average), make_data(), streams())
        assert outcome["curve"][-1]["val_accuracy"] == outcome["val_accuracy"]


def test_averaging_takes_batch_norms_statistics_along() -> None:
    recipe = replace(MLP, model=ModelParams("resnet20", 0.25), steps=30, average=0.25)
    outcome = train(recipe, make_data(), streams())
    assert outcome["test_accuracy"] > 0.8


# --- what is learnt


@pytest.mark.parametrize("name", ["perceptron", "mlp1", "conv2"])
def test_an_easy_task_is_learnt_through_noise(name: str) -> None:
    recipe = replace(MLP, model=ModelParams(name, 0.1), steps=80)
    outcome = train(recipe, make_data(noise=0.5), streams())
    assert outcome["test_accuracy"] > 0.9
    assert outcome["val_accuracy"] > 0.9
    assert not outcome["diverged"]


def test_shuffled_labels_teach_nothing() -> None:
    outcome = train(replace(MLP, steps=80), make_data(shuffle=True), streams())
    # Chance is 1 in 4. A network may map whole classes wrongly: a loose bound, far from 0.9.
    assert outcome["test_accuracy"] < 0.6


def test_the_noisy_loss_alone_learns_too() -> None:
    outcome = train(replace(MLP, alpha=10.0, steps=80), make_data(), streams())
    assert outcome["test_accuracy"] > 0.9


# --- repeating


@pytest.mark.parametrize("name", ["mlp2", "conv2", "resnet20"])
def test_seeds_repeat_to_the_bit_and_others_differ(name: str) -> None:
    recipe = replace(MLP, model=ModelParams(name, 0.1), steps=12, zero_output=False, average=0.5)
    data = make_data(noise=0.3)
    one, same, other = (without_time(train(recipe, data, streams(seed))) for seed in (0, 0, 1))
    assert one == same
    assert one["curve"] != other["curve"]


@pytest.mark.parametrize("which", ["init", "shuffle"])
def test_weights_and_order_have_streams_of_their_own(which: str, trained: Any) -> None:
    data, seeds = make_data(), streams()
    recipe = replace(MLP, steps=5, zero_output=False)
    first = train(recipe, data, seeds)["curve"]
    changed = replace(seeds, **{which: np.random.SeedSequence(99)})
    assert train(recipe, data, changed)["curve"] != first


def test_neither_global_generators_nor_data_are_touched() -> None:
    data = make_data()
    before = {name: value.clone() for name, value in vars(data).items()}
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(MLP, data, streams())
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert all(torch.equal(before[name], value) for name, value in vars(data).items())


# --- the report


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 10, 11, 40])
def test_the_curve_has_ten_looks_or_one_for_each_step(steps: int) -> None:
    seen: list[tuple[int, float | None]] = []
    outcome = train(
        replace(MLP, steps=steps), make_data(), streams(), on_evaluation=lambda *a: seen.append(a)
    )
    expected = sorted({math.ceil(steps * k / 10) for k in range(1, 11)})
    assert len(expected) == min(steps, 10)
    assert [row["examples_seen"] for row in outcome["curve"]] == [32 * s for s in expected]
    assert [step for step, _ in seen] == expected
    assert [accuracy for _, accuracy in seen] == [r["val_accuracy"] for r in outcome["curve"]]


def test_the_training_loss_is_the_mean_since_the_last_look() -> None:
    data = make_data()
    recipe = replace(MLP, steps=4, zero_output=True, learning_rate=1e-30)
    losses = [row["train_loss"] for row in train(recipe, data, streams())["curve"]]
    np.testing.assert_allclose(losses, math.log(M), rtol=1e-6)  # uniform predictions


def test_accuracies_and_confusion_are_those_of_a_slow_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    networks: list[nn.Module] = []
    evaluate = training._evaluate
    monkeypatch.setattr(
        training, "_evaluate", lambda model, data: networks.append(model) or evaluate(model, data)
    )
    data = make_data(noise=0.5)
    outcome = train(replace(MLP, steps=1), data, streams())
    network = networks[0].eval()

    def classify(images: Tensor) -> list[int]:
        return [int(network(image[None]).argmax()) for image in images]

    tests = classify(data.test_images)
    confusion = np.zeros((M, M), dtype=int)
    for true, predicted in zip(data.test_labels.tolist(), tests, strict=True):
        confusion[true, predicted] += 1
    assert outcome["test_confusion"] == confusion.tolist()
    assert outcome["test_accuracy"] == pytest.approx(np.trace(confusion) / T, abs=1e-12)
    assert 0.3 < outcome["test_accuracy"] < 1  # both right and wrong ones were counted
    agree = votes = right = 0
    for i, predicted in enumerate(classify(data.bank[data.validation])):
        right += int(predicted == data.validation_labels[i])
        for label in range(M):
            for _ in range(int(data.validation_votes[i, label])):
                votes += 1
                agree += int(label == predicted)
    assert votes == 3 * V
    assert outcome["noisy_val_accuracy"] == pytest.approx(agree / votes, abs=1e-12)
    assert outcome["val_accuracy"] == pytest.approx(right / V, abs=1e-12)
    assert np.trace(outcome["val_confusion"]) == right
    assert outcome["parameters"] == 64 * 51 + 51 + 51 * M + M
    assert outcome["wall_seconds"] > 0


def test_without_validation_images_their_accuracies_are_none() -> None:
    outcome = train(replace(MLP, steps=3), make_data(validation=0), streams())
    assert outcome["val_accuracy"] is None
    assert outcome["noisy_val_accuracy"] is None
    assert [row["val_accuracy"] for row in outcome["curve"]] == [None] * 3
    assert np.sum(outcome["val_confusion"]) == 0
    assert 0 <= outcome["test_accuracy"] <= 1


@pytest.mark.parametrize("steps", [2, 20])
def test_a_training_that_blows_up_is_told(steps: int) -> None:
    """At a rate near the largest float, the first step ends all sense."""
    recipe = replace(MLP, steps=steps, learning_rate=3e38)
    outcome = train(recipe, make_data(noise=0.5), streams())
    assert outcome["diverged"] is True
    for row in outcome["curve"]:
        assert row["train_loss"] is None or math.isfinite(row["train_loss"])


def test_prediction_goes_in_parts_and_leaves_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, M))
    images = torch.rand(10, 8, 8, 1)
    expected = model(images).argmax(dim=1)
    monkeypatch.setattr(training, "EVALUATION_BATCH", 3)
    for mode in (True, False):
        model.train(mode)
        assert torch.equal(training.predict(model, images), expected)
        assert model.training is mode
    assert training.predict(model, images[:0]).shape == (0,)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert training.resolve_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert training.resolve_device("auto") == "cpu"
    with pytest.raises(UserError, match="got 'cuda'; accepted on this machine: auto, cpu"):
        training.resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert training.resolve_device("auto") == training.resolve_device("cuda") == "cuda"
