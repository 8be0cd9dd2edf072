"""Methods: what a first phase answers, what is chosen, and that the second is a run's own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stages.lib.components import label_issues, methods
from stages.lib.components.methods import METHODS, Choice, Method
from stages.lib.config.params import Config
from stages.lib.core.errors import UserError
from stages.lib.data import datasets
from stages.lib.execution import checkpoints, inputs
from stages.lib.execution.runs import Run, expand
from stages.lib.labels import dilution
from stages.lib.training import batches, loop, phases
from stages.lib.training.replicas import shared

MakeRuns = Callable[..., list[Run]]
EXPECTED = "expected_noisy_cross_entropy"
BOTH = ["confident_learning", "self_training"]


@pytest.fixture
def make_runs(
    workspace: Path,
    make_dataset: Callable[..., Any],
    make_config: Callable[..., Config],
    one_thread: None,
) -> MakeRuns:
    """Return a maker of runs by a method: perceptrons on 60 originals, 100 steps."""
    datasets.save(make_dataset("digits", train=400), workspace / "data" / "digits")

    def make(method: str, changes: dict[str, Any] | None = None) -> list[Run]:
        known = {"train.min_samples": 1600, "data.validation": 40, **(changes or {})}
        config = make_config(known)
        config = replace(config, train=replace(config.train, method=method))
        labels = workspace / "labels" / dilution.name_of(config.data, config.noise)
        dilution.materialise(
            config.data, config.noise, config.train.seeds,
            data_folder=workspace / "data", out=labels,
        )  # fmt: skip
        return expand("x", config, workspace / "data", labels)

    return make


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Return the members of every stack that is trained, in their order."""
    seen: list[list[Any]] = []
    train = loop.train

    def watched(config: Any, members: Any, **how: Any) -> Any:
        seen.append(list(members))
        return train(config, members, **how)

    monkeypatch.setattr(loop, "train", watched)
    return seen


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return the images that networks were asked about, and what they answered."""
    seen: list[tuple[NDArray[Any], NDArray[Any]]] = []
    ask = phases.FirstNetworks._ask

    def watched(self: Any, network: Any, images: NDArray[Any]) -> NDArray[Any]:
        seen.append((images, ask(self, network, images)))
        return seen[-1][1]

    monkeypatch.setattr(phases.FirstNetworks, "_ask", watched)
    return seen


def train(runs: list[Run], **how: Any) -> list[dict[str, Any]]:
    return inputs.train_stack(runs, "cpu", "loop", **how)


def without(outcome: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in outcome.items() if k not in ("wall_seconds", *names)}


def examples_of(data: Any) -> list[tuple[int, int]]:
    """Return the image and label of each example, as the loop looks them up."""
    images, labels = data.images.tolist(), data.labels.tolist()
    return [(images[i % len(images)], label) for i, label in enumerate(labels)]


def draw(
    n: int = 90, m: int = 4, repeats: int = 7, seed: int = 0
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return labels, images shown and probabilities of a set in which 30 % of labels are wrong."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, m, n)
    logits = rng.normal(0, 1, (n, m))
    logits[np.arange(n), true] += 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    shown = np.resize(rng.permutation(n), n * repeats - 3)
    wrong = (true[shown] + rng.integers(1, m, len(shown))) % m
    labels = np.where(rng.random(len(shown)) < 0.3, wrong, true[shown])
    return labels.astype(np.uint8), shown.astype(np.int32), probabilities.astype(np.float32)


# --- the first phase


@pytest.mark.parametrize("images", ["same", "unique"])
def test_folds_split_images(
    images: str, make_runs: MakeRuns, trained: list[Any], asked: list[Any]
) -> None:
    """No label of a held-out image is trained on, and all those of the others are, in order."""
    runs = make_runs("confident_learning", {"noise.images": images, "train.seeds": [0, 1]})
    train(runs)
    assert len(trained) == 4
    for k, run in enumerate(runs):
        whole = examples_of(inputs.load_data(run, "cpu"))
        held_out = [set(shown.tolist()) for shown, _ in asked[k::2]]
        assert set.union(*held_out) == {image for image, _ in whole}
        sizes = [len(fold) for fold in held_out]
        assert sum(sizes) == len(set.union(*held_out))
        assert max(sizes) - min(sizes) <= 1
        for fold, members in zip(held_out, trained, strict=False):
            kept = [(image, label) for image, label in whole if image not in fold]
            assert examples_of(members[k].data) == kept
        inits = [tuple(m[k].init.generate_state(2).tolist()) for m in trained]
        assert len(set(inits)) == 4
    assert set(asked[0][0].tolist()) != set(asked[1][0].tolist())  # of another seed


@pytest.mark.parametrize(
    "changes", [{}, {"train.average": 0.5}, {"train.early_stopping": True}], ids=str
)
def test_networks_answer_as_they_are_reported(
    changes: dict[str, Any], make_runs: MakeRuns, asked: list[Any]
) -> None:
    runs = make_runs("self_training", {**changes, "noise.alpha": 6})
    (plain,) = train(make_runs("none", {**changes, "noise.alpha": 6}))
    train(runs)
    data = inputs.load_data(runs[0], "cpu")
    index, answers = asked[1]
    assert index.tolist() == data.validation.tolist()
    right = answers.argmax(axis=1) == data.validation_labels.numpy()
    assert right.mean() == pytest.approx(plain["val_accuracy"], abs=1e-12)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)


# --- confident learning


@pytest.mark.parametrize("chunk", [40, 10**6])
def test_label_issues_are_cleanlabs(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the whole set at once, with the probabilities of each example."""
    from cleanlab.count import compute_confident_joint
    from cleanlab.filter import find_label_issues

    monkeypatch.setattr(label_issues, "CHUNK", chunk)
    labels, shown, probabilities = draw()
    probabilities[:9, :2] = probabilities[:9, 2:] = [0.45, 0.05]  # two classes are as likely
    issues = label_issues.find(labels, shown, probabilities)
    every, given = probabilities[shown], labels.astype(int)
    expected = find_label_issues(given, every, filter_by="confident_learning", n_jobs=1)
    np.testing.assert_array_equal(issues.found, expected)
    assert 0.2 < expected.mean() < 0.5
    np.testing.assert_array_equal(issues.joint, compute_confident_joint(given, every))
    assert issues.joint.sum() == len(labels)


def test_a_class_that_a_chunk_or_the_set_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanlab.filter import find_label_issues

    monkeypatch.setattr(label_issues, "CHUNK", 12)
    labels, shown, probabilities = draw()
    labels[labels == 2] = 1
    found = label_issues.find(labels, shown, probabilities).found
    expected = find_label_issues(
        labels.astype(int), probabilities[shown], filter_by="confident_learning", n_jobs=1
    )
    np.testing.assert_array_equal(found, expected)


def test_what_is_left_is_what_cleanlab_leaves(
    make_runs: MakeRuns, trained: list[Any], asked: list[Any]
) -> None:
    from cleanlab.filter import find_label_issues

    runs = make_runs("confident_learning")
    told: list[int] = []
    (outcome,) = train(runs, on_evaluation=lambda _, steps, __: told.append(steps))
    assert told == list(range(10, 401, 10))  # of three folds and what is left
    assert runs[0].steps_total == outcome["method"]["steps_total"] == 400
    answers = {int(i): p for index, found in asked for i, p in zip(index, found, strict=True)}
    whole = examples_of(inputs.load_data(runs[0], "cpu"))
    issues = find_label_issues(
        np.array([label for _, label in whole]), np.array([answers[i] for i, _ in whole]),
        filter_by="confident_learning", n_jobs=1,
    )  # fmt: skip
    kept = [example for example, wrong in zip(whole, issues, strict=True) if not wrong]
    assert examples_of(trained[-1][0].data) == kept
    assert outcome["method"]["issues"] == issues.sum() > 0
    assert outcome["method"]["examples"] == len(kept)


def test_of_planted_wrong_labels_fewer_are_left(make_runs: MakeRuns) -> None:
    """30 % are wrong. Cleaned by random probabilities as many are left: the control."""
    runs = make_runs(
        "confident_learning",
        {"noise.alpha": 0.5, "data.originals": 300, "train.min_samples": 6400},
    )
    (outcome,) = train(runs)
    found = outcome["method"]
    assert found["given_accuracy"] == pytest.approx(0.7, abs=0.03)
    assert found["accuracy"] > 0.9
    assert found["examples"] > 0.5 * 450
    data, true = inputs.load_data(runs[0], "cpu"), datasets.load(runs[0].data / "digits")
    labels, shown = data.labels.numpy(), np.resize(np.arange(300), 450)
    random = np.random.default_rng(0).dirichlet(np.ones(10), 300).astype(np.float32)
    left = ~label_issues.find(labels, shown, random).found
    right = labels == true.train_labels[data.images.numpy()[shown]]
    spread = np.sqrt(0.7 * 0.3 / left.sum())
    assert abs(right[left].mean() - right.mean()) < 3 * spread
    assert 0 < left.sum() < 450


def test_weights_of_classes_are_those_of_the_joint() -> None:
    """``Q[true = k] / Q[given = k, true = k]``, of a slow loop."""
    labels, shown, probabilities = draw()
    joint = label_issues.find(labels, shown, probabilities).joint
    expected = [sum(row[k] for row in joint) / joint[k, k] for k in range(4)]
    np.testing.assert_allclose(label_issues.class_weights(labels, joint), expected, rtol=1e-6)
    assert max(expected) > 1.05 * min(expected)


def test_repeated_examples_stand_for_weights() -> None:
    kept = np.array([3, 5, 8, 9, 11, 20])
    classes = np.array([0, 0, 0, 2, 2, 2])
    weights = np.array([1.0, 0.1, 2.4])  # of a class without examples as well
    found = label_issues.repeat(kept, classes, weights, most=100)
    times = {int(i): int((found == i).sum()) for i in kept}
    assert [times[i] for i in (3, 5, 8)] == [1, 1, 1]
    assert sorted(times[i] for i in (9, 11, 20)) == [2, 2, 3]  # 7.2, rounded
    few = label_issues.repeat(kept, classes, weights, most=6)
    assert len(few) == 6
    assert np.isin(few, [9, 11, 20]).sum() == 4  # 7.2 of 10.2, of six


def test_reweighting_trains_on_repeated_examples(make_runs: MakeRuns, trained: list[Any]) -> None:
    changes = {"data.originals": 100, "noise.alpha": 4}
    runs = make_runs("confident_learning", changes)
    (pruned,) = train(runs)
    kept = trained[-1][0].data
    config = replace(runs[0].config, train=replace(runs[0].config.train, cleaning="reweight"))
    (weighted,) = train([replace(runs[0], config=config)])
    again = trained[-1][0].data
    assert set(examples_of(again)) == set(examples_of(kept))
    assert len(again.labels) > len(kept.labels)
    assert weighted["method"]["issues"] == pruned["method"]["issues"]


# --- self-training


def slow_threshold(
    confidence: list[float], right: list[bool], m: int
) -> tuple[float | None, float]:
    best, chosen, share = 0.0, None, 0.0
    for threshold in (0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99):
        above = [ok for sure, ok in zip(confidence, right, strict=True) if sure >= threshold]
        if above:
            margin = max(0, (m * sum(above) / len(above) - 1) / (m - 1))
            score = len(above) / len(right) * margin * margin
            if score > best:
                best, chosen, share = score, threshold, len(above) / len(right)
    return chosen, share


@pytest.mark.parametrize("m", [2, 10])
def test_the_threshold_is_that_of_a_slow_loop(m: int) -> None:
    rng, chosen = np.random.default_rng(m), set()
    for _ in range(60):
        confidence = rng.random(40) ** rng.uniform(0.05, 1)
        right = rng.random(40) < confidence ** rng.uniform(0, 9)
        found = methods.best_threshold(confidence, right, m)
        assert found == pytest.approx(slow_threshold(confidence.tolist(), right.tolist(), m))
        chosen.add(found[0])
    assert len(chosen) > 4
    assert methods.best_threshold(confidence, np.zeros(40, bool), m) == (None, 0.0)


def test_pseudo_labels_are_the_first_networks(
    make_runs: MakeRuns, trained: list[Any], asked: list[Any]
) -> None:
    runs = make_runs("self_training", {"noise.alpha": 8, "data.originals": 100})
    (outcome,) = train(runs)
    data = inputs.load_data(runs[0], "cpu")
    (images, answers), (_, validation) = asked
    right = validation.argmax(axis=1) == data.validation_labels.numpy()
    threshold, share = slow_threshold(validation.max(axis=1).tolist(), right.tolist(), 10)
    assert threshold is not None
    kept = [
        (int(image), int(np.argmax(p)))
        for image, p in zip(images, answers, strict=True)
        if max(p) >= threshold
    ]
    assert sorted(images.tolist()) == sorted(data.images.tolist())
    assert examples_of(trained[-1][0].data) == kept
    true = datasets.load(runs[0].data / "digits").train_labels
    assert outcome["method"] == {
        "threshold": threshold,
        "validation_coverage": pytest.approx(share),
        "examples": len(kept),
        "accuracy": pytest.approx(np.mean([true[i] == label for i, label in kept])),
        "given_accuracy": pytest.approx(
            np.mean([true[i] == label for i, label in examples_of(data)])
        ),
        "trained_again": True,
        "steps_total": 200,
    }


def test_without_an_image_left_the_first_networks_outcome_stands(
    make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a stack with one of which some are left."""
    monkeypatch.setattr(methods, "THRESHOLDS", (0.4,))
    changes = {"noise.alpha": 0, "train.learning_rates": [1e-4, 30.0]}
    runs = make_runs("self_training", changes)
    told: list[tuple[Run, int]] = []
    finished: list[Run] = []
    outcomes = train(
        runs, on_evaluation=lambda run, steps, _: told.append((run, steps)),
        on_done=lambda run, _: finished.append(run),
    )  # fmt: skip
    assert [outcome["method"]["trained_again"] for outcome in outcomes] == [False, True]
    assert [outcome["method"]["steps_total"] for outcome in outcomes] == [100, 200]
    assert outcomes[0]["method"]["examples"] == 0
    assert outcomes[0]["method"]["threshold"] is outcomes[0]["method"]["accuracy"] is None
    plain = train(make_runs("none", changes))
    assert without(outcomes[0], "method") == without(plain[0])
    assert without(outcomes[1], "method") != without(plain[1])
    assert finished == runs
    for run in runs:
        steps = [step for each, step in told if each is run]
        assert steps == sorted(set(steps))
        assert steps[-1] == run.steps_total == 200


# --- the second phase


@pytest.mark.usefixtures("one_thread")
def test_a_method_that_chooses_everything_is_none_to_the_bit(
    make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second phase has a run's own weights, order, images and length: it is paired."""

    def everything(first: Any, _: Any) -> list[Choice]:
        first.out_of_sample(2)
        return [Choice(each.shown, each.labels, {}) for each in first.examples]

    changes = {
        "train.seeds": [0, 1], "train.average": 0.2, "train.augmentation": "flip_crop",
        "noise.images": "unique",
    }  # fmt: skip
    plain = train(make_runs("none", changes))
    assert all("method" not in outcome for outcome in plain)
    runs = make_runs("self_training", changes)
    monkeypatch.setitem(METHODS, "self_training", Method(everything, lambda _: 2))
    found = train(runs)
    assert [without(one, "method") for one in found] == [without(one) for one in plain]
    assert found[0]["wall_seconds"] > plain[0]["wall_seconds"]
    assert found[0]["method"]["steps_total"] == 300


@pytest.mark.parametrize("method", BOTH)
def test_same_seed_repeats_in_any_stack_and_true_labels_decide_nothing(
    method: str, make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = make_runs(method, {"train.seeds": [0, 1]})
    together = train(runs)
    shuffled = np.random.default_rng(0).permutation
    loaded = inputs._load_dataset

    def other(*place: Any) -> Any:
        dataset, *rest = loaded(*place)
        return replace(dataset, train_labels=shuffled(dataset.train_labels)), *rest

    data = [inputs.load_data(run, "cpu") for run in runs]
    monkeypatch.setattr(inputs, "_load_dataset", other)
    own = dict(zip(runs, data, strict=True))
    monkeypatch.setattr(inputs, "load_data", lambda run, _: own[run])
    alone = [train([run])[0] for run in runs]
    for one, other_one in zip(together, alone, strict=True):
        assert without(one, "method") == without(other_one, "method")
        assert one["method"]["accuracy"] > other_one["method"]["accuracy"]
    assert without(alone[0], "method") != without(alone[1], "method")


@pytest.mark.parametrize("method", BOTH)
def test_a_resumed_second_phase_is_the_uninterrupted_one(
    method: str, make_runs: MakeRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the disk, and without the first phase."""
    monkeypatch.setattr(batches, "CHUNK", {"cpu": 16})
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", float("inf"))
    runs = make_runs(method, {"train.seeds": [0, 1], "train.average": 0.5})
    kept: dict[Run, Path] = {}

    def keep(run: Run, state: dict[str, Any]) -> None:
        if state["step"] <= 48:
            kept[run] = tmp_path / f"{run.seed}.pt"
            checkpoints.write(kept[run], state)

    whole = train(runs, checkpoint_seconds=1e-9, on_checkpoint=keep)
    states = [checkpoints.read(kept[run]) for run in runs]
    assert [state["step"] for state in states if state] == [48, 48]
    monkeypatch.delattr(phases, "FirstNetworks")
    told: list[int] = []
    resumed = train(runs, states=states, on_evaluation=lambda _, steps, __: told.append(steps))
    assert [without(one) for one in resumed] == [without(one) for one in whole]
    assert told[0] > runs[0].steps_total - runs[0].steps
    assert told[-1] == runs[0].steps_total
    for one, state in zip(resumed, states, strict=True):
        assert state is not None
        assert one["wall_seconds"] > state["method"]["seconds"] > 0


def test_too_few_examples_without_issues_or_a_diverged_fold_keep_all(
    make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = make_runs("confident_learning")
    data = inputs.load_data(runs[0], "cpu")
    config, members = shared(runs[0].config), [inputs._member(runs[0], "cpu")]
    first = phases.FirstNetworks(config, members, [0], "loop")
    far = np.full((60, 10), np.nan, dtype=np.float32)
    monkeypatch.setattr(first, "out_of_sample", lambda _: [far])
    (choice,) = methods.confident_learning(first, runs[0].config.train)
    assert (len(choice.labels), choice.found) == (180, {})
    monkeypatch.setattr(first, "out_of_sample", lambda _: [np.full((60, 10), 0.1, np.float32)])
    monkeypatch.setattr(
        label_issues, "find",
        lambda labels, *_: label_issues.Issues(np.arange(len(labels)) >= 15, np.eye(10, dtype=int)),
    )  # fmt: skip
    (choice,) = methods.confident_learning(first, runs[0].config.train)
    np.testing.assert_array_equal(choice.labels, data.labels)
    assert choice.found["issues"] == 165
    first.batch_size = 15
    (choice,) = methods.confident_learning(first, runs[0].config.train)
    np.testing.assert_array_equal(choice.labels, data.labels[:15])


# --- parameters


def test_only_what_a_method_reads_is_part_of_a_runs_identity(make_runs: MakeRuns) -> None:
    def identity(method: str, **changes: Any) -> dict[str, Any]:
        (run,) = make_runs(method)
        config = replace(run.config, train=replace(run.config.train, **changes))
        return replace(run, config=config).identity()

    plain = identity("none")
    assert not {"method", "folds", "cleaning"} & {*plain["train"]}
    assert "packages" not in plain
    for method, read in (("none", False), ("self_training", False), ("confident_learning", True)):
        for change in ({"folds": 5}, {"cleaning": "reweight"}):
            assert (identity(method, **change) != identity(method)) is read
        assert (identity(method) == plain) is (method == "none")
    from importlib import metadata

    assert identity("confident_learning")["packages"] == {"cleanlab": metadata.version("cleanlab")}


def test_a_missing_package_is_told(make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = make_runs("confident_learning")

    def version(name: str) -> str:
        raise methods.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(methods.metadata, "version", version)
    said = "train.method: got 'confident_learning'; accepted without the package cleanlab: none"
    with pytest.raises(UserError, match=said):
        run.identity()


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("confident_learning", {"train.loss": EXPECTED}, "none with train.loss"),
        ("self_training", {"train.loss": EXPECTED}, "none with train.loss"),
        ("self_training", {"train.targets": "aggregated"}, "methods choose single examples"),
        ("self_training", {"data.validation": 0}, "at least 1 with train.method self_training"),
        ("confident_learning", {"noise.images": "white"}, "same or unique: confident_learning"),
        ("confident_learning", {"train.folds": 61}, "at most the number of images, 60"),
        (
            "confident_learning", {"train.folds": 91, "data.originals": 30,
            "noise.images": "unique"}, "at most the number of images, 90",
        ),
    ],
)  # fmt: skip
def test_what_a_method_cannot_be_combined_with(
    method: str, changes: dict[str, Any], said: str, make_config: Callable[..., Config]
) -> None:
    with pytest.raises(UserError) as raised:
        make_config({"train.method": method, **changes})
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    make_config({**changes, "train.folds": 61})


def test_a_torch_tensor_set_restricts_as_its_list() -> None:
    """Lists that repeat with a rest, of every length."""
    for length in range(5, 16):
        data = phases.TrainingData(
            *(torch.zeros(0),), labels=torch.arange(length), images=torch.arange(5) + 7,
            validation=torch.zeros(0), validation_labels=torch.zeros(0),
            validation_votes=torch.zeros(0), test_images=torch.zeros(0), test_labels=torch.zeros(0),
        )  # fmt: skip
        kept = torch.tensor([True, False, True, True, False])
        expected = [one for one in examples_of(data) if one[0] in (7, 9, 10)]
        assert examples_of(phases.restrict(data, kept)) == expected
