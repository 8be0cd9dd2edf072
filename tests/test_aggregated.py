"""Aggregated targets: the same labels grouped by image, and what that changes of a gradient."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_training import MLP, M, make_data, member, of, sized, train_alone, train_to_the_bit

from stages.lib.components.losses import LOSSES, Context, LossParams
from stages.lib.components.targets import LabelCounts, Labels
from stages.lib.core.errors import UserError
from stages.lib.labels.aggregated import aggregate
from stages.lib.training.replicas import Replica, TrainConfig, TrainingData

AGGREGATED = replace(MLP, targets="aggregated", loss="cross_entropy", zero_output=False)

pytestmark = pytest.mark.usefixtures("one_thread")


def given(images: int, labels: int, m: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return indices of images, which repeat, and some labels of each."""
    rng = np.random.default_rng(seed)
    return (
        rng.permutation(3 * images)[:images].astype(np.uint32),
        rng.integers(0, m, labels).astype(np.uint16),
    )


@pytest.mark.parametrize("m", [3, 256, 300])  # of so many, counts are of the classes that are there
@pytest.mark.parametrize("listed", [False, True])
def test_the_counts_are_those_of_a_slow_loop(m: int, listed: bool) -> None:
    images, labels = given(20, 130, m)
    if listed:  # each example's own image: the originals, then other images, some of them again
        images = np.concatenate([images, np.resize(images[::-1][:15] + 100, 110)])
    found = aggregate(labels, images, m)
    expected = Counter((int(images[i % len(images)]), int(k)) for i, k in enumerate(labels))
    assert found.images.tolist() == list(dict.fromkeys(images.tolist()))
    assert (found.classes is None) is (m <= 256)
    seen: Counter[tuple[int, int]] = Counter()
    for row, image in enumerate(found.images.tolist()):
        classes = range(m) if found.classes is None else found.classes[row].tolist()
        for k, count in zip(classes, found.counts[row].tolist(), strict=True):
            seen[image, k] += count
    assert seen == expected


def test_counts_beyond_65535_are_kept() -> None:
    found = aggregate(np.zeros(70_000, np.uint8), np.array([4], np.uint32), 2)
    assert found.counts.tolist() == [[70_000, 0]]


def grouped(data: TrainingData, m: int = M) -> TrainingData:
    """Return the same examples, grouped by image."""
    found = aggregate(data.labels.numpy(), data.images.numpy().astype(np.uint32), m)
    classes = None if found.classes is None else torch.from_numpy(found.classes)
    images = torch.from_numpy(found.images.astype(np.int32))
    return replace(data, images=images, labels=torch.from_numpy(found.counts), classes=classes)


def repeated(data: TrainingData, times: int, seed: int = 0, noise: float = 0.4) -> TrainingData:
    """Return each image with several labels, some of them wrong."""
    rng = np.random.default_rng(seed)
    labels = np.tile(data.labels.numpy(), times)
    noisy = rng.random(len(labels)) < noise
    labels[noisy] = rng.integers(0, M, noisy.sum())
    return replace(data, labels=torch.from_numpy(labels))


def test_where_images_are_not_repeated_nothing_changes() -> None:
    data = make_data(noise=0.3)
    for loss in (name for name, entry in LOSSES.items() if not entry.takes):
        plain = replace(AGGREGATED, targets="labels", loss=loss)
        expected = train_to_the_bit(plain, [member(data)])
        assert train_to_the_bit(replace(plain, targets="aggregated"), [member(grouped(data))]) == (
            expected
        )


def gradients(data: TrainingData, weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return of a linear network the gradient of each example's loss, and each image's."""
    pixels = data.bank.flatten(1).double() / 255
    both = []
    for one in (data, grouped(data)):
        number = len(one.labels)
        shown = pixels[one.images[torch.arange(number) % len(one.images)].long()]
        w = weights.expand(number, -1, -1).clone().requires_grad_()
        logits = torch.einsum("np,npm->nm", shown, w)
        context = Context(torch.zeros(number), LossParams())
        if one.labels.ndim == 1:
            targets: Any = Labels(one.labels.long().view(-1, 1))
        else:
            counts = one.labels.double()
            targets = LabelCounts((counts / counts.sum(1).mean()).unsqueeze(1))
        loss = LOSSES["cross_entropy"].function(logits.unsqueeze(1), targets, context)
        both.append(torch.autograd.grad(loss.sum(), w)[0].flatten(1))
    return tuple(both)


def test_gradients_agree_and_grouping_takes_the_labels_share_of_the_variance() -> None:
    """Over batches of B the variance is (V_image + V_label) / B one label each, V_image / B all."""
    data = repeated(make_data(), 9)
    torch.manual_seed(0)
    by_label, by_image = gradients(data, 0.1 * torch.randn(64, M, dtype=torch.float64))
    whole = by_label.mean(0)
    torch.testing.assert_close(by_image.mean(0), whole, rtol=1e-9, atol=1e-12)
    # The two shares, by the law of total variance; each image has nine labels here.
    own = by_label.view(9, -1, by_label.shape[1])
    v_label = own.var(0, unbiased=False).sum(1).mean()
    v_image = (own.mean(0) - whole).square().sum(1).mean()
    assert v_label > v_image  # else the check below could not tell them apart
    batch, times, rng = 16, 4000, np.random.default_rng(3)
    for each, expected in ((by_label, v_image + v_label), (by_image, v_image)):
        drawn = torch.from_numpy(rng.integers(0, len(each), (times, batch)))
        means = torch.stack([each[chosen].mean(0) for chosen in drawn])
        squares = (means - whole).square().sum(1)
        error = squares.std() / times**0.5
        assert abs(squares.mean() - expected / batch) < 4 * error
        wrong = v_image if each is by_label else v_image + v_label
        assert abs(squares.mean() - wrong / batch) > 20 * error  # the negative control
        off = (means.mean(0) - whole).abs() / (means.std(0) / times**0.5).clamp(min=1e-12)
        assert off.max() < 5


def stack() -> list[Replica]:
    """Return members whose images have other labels, of other numbers."""
    return [
        member(grouped(repeated(make_data(), times, times)), times, steps=steps, average=average)
        for times, steps, average in ((3, 100, 0.5), (9, 60, 0.0), (2, 80, 1.0))
    ]


@pytest.mark.parametrize("name", ["perceptron", "mlp1"])
def test_members_of_a_stack_and_alone_train_to_the_same_bits(name: str) -> None:
    config = replace(AGGREGATED, model=sized(name, 0.125))
    together = train_to_the_bit(config, stack())
    for one, outcome in zip(stack(), together, strict=True):
        assert train_to_the_bit(config, [one]) == [outcome]


def test_it_goes_on_from_a_checkpoint_to_the_bit() -> None:
    taken: dict[int, Any] = {}
    whole = train_to_the_bit(
        AGGREGATED, stack(), checkpoint_seconds=0.0, on_checkpoint=taken.setdefault
    )
    assert taken[0]["step"] == 64
    resumed = train_to_the_bit(AGGREGATED, [stack()[0]], states=[taken[0]])
    assert resumed == [whole[0]]


def test_rare_classes_train_as_all_classes_do() -> None:
    """Counts of the classes that are there, beside counts of every class."""
    dense, config = stack()[:2], of("mlp1")
    rare = []
    for one in dense:
        counts = one.data.labels.numpy()
        order = np.argsort(-counts, axis=1, kind="stable")
        most = int((counts > 0).sum(1).max())
        sorted_counts = np.take_along_axis(counts, order, 1)[:, :most]
        shown = np.where(sorted_counts > 0, order[:, :most], 0)
        labels, classes = torch.from_numpy(sorted_counts), torch.from_numpy(shown)
        rare.append(replace(one, data=replace(one.data, labels=labels, classes=classes)))
    config = replace(config, loss="cross_entropy", targets="aggregated")
    assert train_to_the_bit(config, rare) == train_to_the_bit(config, dense)


def test_it_learns_what_single_labels_hide_in_as_many_steps() -> None:
    """Of the labels of an image a third is right: a step sees one of them, or all."""
    data, config = repeated(make_data(bright=20), 40, noise=0.9), replace(AGGREGATED, batch_size=16)

    def accuracy(config: TrainConfig, data: TrainingData) -> float:
        found: float = train_alone(config, member(data, steps=150))["test_accuracy"]
        return found

    by_label = accuracy(replace(config, targets="labels"), data)
    assert accuracy(config, grouped(data)) > 0.8 > by_label + 0.2


@pytest.mark.parametrize(
    ("images", "alpha", "samples", "examples"),
    [
        ("same", 2, 60, 180), ("unique", 2, 180, 180), ("white", 0.5, 90, 90),
        ("white", 2, 120, 180), ("mnist5k", 2, 180, 180), ("mnist5k", 70, 4060, 4260),
    ],
)  # fmt: skip
def test_an_epoch_shows_each_image_once(
    images: str, alpha: float, samples: int, examples: int, make_config: Any
) -> None:
    changes = {"noise.images": images, "noise.alpha": alpha, "train.batch_size": 60}
    config = make_config({**changes, "train.targets": "aggregated", "data.originals": 60})
    assert (config.samples, config.examples) == (samples, examples)
    assert make_config(changes).samples == examples


def test_a_batch_is_of_no_more_images_than_there_are(make_config: Any) -> None:
    with pytest.raises(
        UserError, match="batch_size: got 61; accepted: at most the training set, 60"
    ):
        make_config({"train.targets": "aggregated", "train.batch_size": 61})
