"""Memorisation: accuracies on truly and on noisily labelled examples, against a slow loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.lib.data import datasets
from stages.lib.execution import inputs, runs
from stages.lib.labels import dilution
from stages.lib.labels.aggregated import aggregate
from stages.lib.training import memorisation

COLUMNS = {"true_as_given", "noisy_as_given", "noisy_as_true", "test_accuracy"}


@pytest.mark.parametrize("m", [4, 300])  # of so many, counts are of the classes that are there
def test_shares_are_those_of_a_slow_loop(m: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.permutation(40)[:30].astype(np.uint32)  # those from 25 on are of no class
    true = rng.integers(0, m, 25)
    labels = rng.integers(0, m, 200)
    for i in range(120):  # some of them are true
        shown = images[i % 30]
        labels[i] = true[shown] if shown < 25 else labels[i]
    found = aggregate(labels.astype(np.uint16), images, m)
    answers = rng.integers(0, m, 40)
    for image in images[:20]:  # right, or one of the labels given
        own = labels[images[np.arange(200) % 30] == image]
        answers[image] = true[image] if image % 2 and image < 25 else own[-1]
    tally: dict[str, list[bool]] = {name: [] for name in COLUMNS - {"test_accuracy"}}
    for i, label in enumerate(labels):
        shown = images[i % 30]
        answer = answers[shown]
        if shown < 25 and label == true[shown]:
            tally["true_as_given"].append(answer == label)
        else:
            tally["noisy_as_given"].append(answer == label)
            tally["noisy_as_true"].append(shown < 25 and answer == true[shown])
    expected = {name: float(np.mean(each)) for name, each in tally.items()}
    assert all(0 < share < 1 for share in expected.values())
    seen = memorisation.examples(found, true, "cpu")
    predicted = torch.from_numpy(answers[found.images.astype(np.int64)])
    assert memorisation.shares(seen, predicted) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("targets", ["labels", "aggregated"])
def test_looking_at_examples_changes_no_training(
    targets: str, tmp_path: Path, make_dataset: Callable[..., Any], make_config: Callable[..., Any]
) -> None:
    datasets.save(make_dataset("digits"), tmp_path / "digits")
    changes = {"train.targets": targets, "train.batch_size": 15, "train.seeds": [0, 1]}
    outcomes: dict[bool, list[dict[str, Any]]] = {}
    for looking in (False, True):
        config = make_config(changes | {"train.memorisation": looking})
        labels = tmp_path / "labels"
        dilution.materialise(
            config.data, config.noise, config.train.seeds, data_folder=tmp_path, out=labels
        )
        todo = runs.expand("", config, tmp_path, labels)
        outcomes[looking] = inputs.train_stack(todo, "cpu", "loop")
    for plain, looked in zip(outcomes[False], outcomes[True], strict=True):
        assert looked["test_accuracy"] == looked["curve"][-1]["test_accuracy"]
        assert {*looked["curve"][0]} == {*plain["curve"][0]} | COLUMNS
        for row in looked["curve"]:
            shares = [row.pop(name) for name in COLUMNS]
            assert all(0 <= share <= 1 for share in shares)
        assert {**looked, "wall_seconds": 0} == {**plain, "wall_seconds": 0}
    assert (
        runs.expand("", make_config(), tmp_path, labels)[0]
        .identity()["train"]
        .keys()
        .isdisjoint({"memorisation"})
    )
