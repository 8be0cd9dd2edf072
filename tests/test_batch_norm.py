"""Running statistics computed anew: those of torch's own function, and of nothing but a network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from test_training import MLP, diluted, keep_networks, make_data, member, sized, train_to_the_bit
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from stages.lib.config.params import ModelParams
from stages.lib.models import networks
from stages.lib.models.layers import Convolution, Norm
from stages.lib.training import batch_norm
from stages.lib.training.batch_norm import recompute
from stages.lib.training.loop import train

pytestmark = pytest.mark.usefixtures("one_thread")

CONV = replace(MLP, model=ModelParams("conv2", 0.125, batch_norm=True), recompute_batch_norm=True)
SIZES = [(240, 240), (100, 300), (50, 500), (240, 720)]  # images and examples of members


def draw(count: int, side: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, side, side, 1), dtype=np.uint8))


def build(name: str, side: int, members: int, width: float = 0.125) -> networks.Network:
    return networks.build(
        name, (side, side, 1), 4, width=width, batch_norm=name.startswith("conv"), init="torch",
        zero_output=False, generators=[torch.Generator().manual_seed(k) for k in range(members)],
        stacking="loop",
    )  # fmt: skip


def in_batches(images: Tensor, batch_size: int) -> list[Tensor]:
    """Return images as torch has them, the last batch filled up with the first ones."""
    wanted = -(-len(images) // batch_size) * batch_size
    numbers = [k % len(images) for k in range(wanted)]
    pixels = images.permute(0, 3, 1, 2).float() / 255
    return [pixels[numbers[start : start + batch_size]] for start in range(0, wanted, batch_size)]


def plain_conv2(network: networks.Network, k: int) -> nn.Sequential:
    """Return torch's layers of a member up to its last batch norm."""
    layers: list[nn.Module] = []
    for layer in network.layers:
        if isinstance(layer, Convolution):
            _, outputs, inputs, _, _ = layer.weight.shape
            own = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            own.weight.data.copy_(layer.weight[k])
            layers.append(own)
        elif isinstance(layer, Norm):
            norm = nn.BatchNorm2d(layer.weight.shape[1])
            norm.weight.data.copy_(layer.weight[k])
            norm.bias.data.copy_(layer.bias[k])
            layers += [norm, nn.ReLU()]
    return nn.Sequential(*layers)


def statistics(model: nn.Module, k: int | None = None) -> list[NDArray[np.float32]]:
    """Return running means and variances, of a member of a stack or of torch's network."""
    return [
        (buffer if k is None else buffer[k]).numpy()
        for buffer in model.buffers()
        if buffer.is_floating_point()
    ]


def assert_alike(mine: nn.Module, k: int, theirs: nn.Module) -> None:
    found, expected = statistics(mine, k), statistics(theirs)
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("most", [batch_norm.MOST, 100])
def test_statistics_are_those_of_torchs_update_bn(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of members with images of their own, more than are taken, or less than a batch, or lost."""
    monkeypatch.setattr(batch_norm, "MOST", most)
    bank, rng = draw(300, 8), np.random.default_rng(1)
    images = [torch.from_numpy(rng.permutation(300)[:n].astype(np.int32)) for n in (200, 20, 200)]
    network = build("conv2", 8, 3)
    for buffer in network.buffers():
        buffer[0] = torch.nan
    before = network.weights.clone()
    recompute(network, bank, images, 32, "float32")
    assert torch.equal(network.weights, before)
    for k, own in enumerate(images):
        plain = plain_conv2(network, k)
        # One in so many, from all of them alike.
        chosen = own[:: 2 if len(own) > most else 1].long()
        update_bn(in_batches(bank[chosen], 32), plain)
        assert_alike(network, k, plain)


def test_torchvisions_statistics_are_those_of_its_own_network() -> None:
    bank, network = draw(12, 64), build("resnet18", 64, 2, 1.0)
    images = [torch.arange(12), torch.arange(12).flip(0)]
    recompute(network, bank, images, 8, "float32")
    for k, own in enumerate(images):
        theirs = torchvision.models.resnet18()
        theirs.fc = nn.Identity()  # type: ignore[assignment]
        theirs.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        mine = dict(network.layers[1].network.named_parameters())  # type: ignore[union-attr]
        for name, parameter in theirs.named_parameters():
            parameter.data.copy_(mine[name][k])
        update_bn(in_batches(bank[own], 8), theirs)
        assert_alike(network, k, theirs)


@pytest.mark.parametrize("averaging", ["tail", "ema"])
def test_a_report_is_of_the_averaged_weights_and_their_statistics(
    averaging: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported, data = keep_networks(monkeypatch), make_data()
    found = []
    for anew in (True, False):
        config = replace(CONV, recompute_batch_norm=anew, averaging=averaging, ema_decay=0.7)
        train(config, [member(data, steps=12, average=0.5)])
        found.append(reported.pop(0))
    assert torch.equal(found[0].weights, found[1].weights)
    plain = plain_conv2(found[0], 0)
    update_bn(in_batches(data.bank[data.images], config.batch_size), plain)
    assert_alike(found[0], 0, plain)
    with pytest.raises(AssertionError):  # without it they are others
        assert_alike(found[1], 0, plain)


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_a_training_goes_on_with_statistics_of_its_own(average: float) -> None:
    """Looks find other accuracies; every loss, and so every step, stays as it was."""
    config = replace(CONV, augmentation="shift")
    one = member(make_data(noise=0.5), steps=30, average=average)
    curves = []
    for anew in (True, False):
        (outcome,) = train(replace(config, recompute_batch_norm=anew), [one])
        curves.append(outcome["curve"])
    losses = [[row["train_loss"] for row in curve] for curve in curves]
    assert losses[0] == losses[1]
    assert curves[0] != curves[1]


@pytest.mark.parametrize("name", ["conv2", "resnet20"])
def test_what_trains_beside_a_member_does_not_matter(name: str) -> None:
    """Members with as many images, and with others, of stacks that shrink."""
    config = replace(CONV, model=replace(sized(name, 0.125), batch_norm=name == "conv2"))
    config = replace(config, averaging="ema", ema_decay=0.8)
    shared = make_data(bright=20)
    members = [
        member(diluted(shared, k, *sizes, 4), k, steps=steps, average=0.5)
        for k, (sizes, steps) in enumerate(zip(SIZES, (12, 5, 9, 12), strict=True))
    ]
    together = train_to_the_bit(config, members, stacking="loop")
    for one, outcome in zip(members, together, strict=True):
        assert train_to_the_bit(config, [one]) == [outcome]
