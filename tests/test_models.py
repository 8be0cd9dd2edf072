"""Networks: sizes counted by hand, initial weights, wiring, and that a stack is its members."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet

from stages.lib.config.params import STACKINGS as PARAMETERS
from stages.lib.models import layers, networks
from stages.lib.models.architectures import ARCHITECTURES, INITS
from stages.lib.models.layers import Convolution, Dense, Maps, Norm, Pixels
from stages.lib.models.networks import Network

SHAPES = [(8, 8, 1), (14, 14, 1), (28, 28, 1), (32, 32, 3)]
IMAGENET = ["resnet18", "resnet34", "resnet50", "resnet101"]
#: A network of every kind for small images; resnet32 and resnet56 are resnet20 with more blocks.
NETWORKS = [*ARCHITECTURES.keys() - IMAGENET - {"resnet32", "resnet56"}]
NETWORKS.sort(key=list(ARCHITECTURES).index)
DEEP = [name for name in NETWORKS if name != "perceptron"]
CONVOLUTIONAL = ["conv2", "conv4", "conv6", "resnet20", "resnet18_small"]
STACKINGS = [way for way in PARAMETERS if way not in ("auto", "batched")]  # which needs CUDA

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def _float64() -> Iterator[None]:
    """Build and compute in float64, so that an error of the formula stands out from rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(
    name: str = "conv2",
    shape: tuple[int, int, int] = (8, 8, 1),
    num_classes: int = 10,
    width: float = 0.25,
    init: str = "he",
    zero_output: bool = False,
    seeds: Sequence[int] = (0,),
    stacking: str = "grouped",
    batch_norm: bool = False,
) -> Network:
    """Return a stack with a member for every seed."""
    return networks.build(
        name, shape, num_classes, width=width, batch_norm=batch_norm, init=init,
        zero_output=zero_output, stacking=stacking,
        generators=[torch.Generator().manual_seed(seed) for seed in seeds],
    )  # fmt: skip


def images_of(shape: tuple[int, int, int], count: int = 4, members: int = 1) -> Tensor:
    """Return other images for each member; the first member's are those of fewer members."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (members, count, *shape), dtype=np.uint8))


def weighted(model: nn.Module) -> list[Convolution | Dense]:
    return [layer for layer in model.modules() if isinstance(layer, Convolution | Dense)]


def norms_of(model: nn.Module) -> list[Norm]:
    return [layer for layer in model.modules() if isinstance(layer, Norm)]


def weights(model: nn.Module) -> Tensor:
    """Return a stack's parameters in their order, ``(K, P)``."""
    return torch.cat([parameter.detach().flatten(1) for parameter in model.parameters()], dim=1)


def as_torch_has_it(layer: Convolution | Dense, k: int = 0) -> Tensor:
    """Return a member's weight with outputs first, as in `nn.Linear` and `nn.Conv2d`."""
    weight = layer.weight.detach()[k]
    return weight.T if isinstance(layer, Dense) else weight


def shake(network: Network, seeds: Sequence[int]) -> Network:
    """Give each member's batch norms values that its seed decides, none of them the identity."""
    for k, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        for norm in norms_of(network):
            for values in (norm.weight.data, norm.running_var):
                values[k].uniform_(0.5, 1.5, generator=generator)
            for values in (norm.bias.data, norm.running_mean):
                values[k].uniform_(-0.5, 0.5, generator=generator)
    return network


# A layer of i inputs and o outputs has i * o + o weights; a 3x3 convolution 9 * i * o + o.
COUNTS = [
    ("perceptron", (28, 28, 1), 7_850),  # 784 * 10 + 10
    ("perceptron", (8, 8, 1), 650),  # 64 * 10 + 10
    ("mlp1", (28, 28, 1), 407_050),  # 784 -> 512: 401,920; 512 -> 10: 5,130
    ("mlp2", (28, 28, 1), 669_706),  # and 512 -> 512: 262,656
    # 1 -> 32: 320; 32 -> 64: 18,496; 64 * 14 * 14 -> 128: 1,605,760; 128 -> 10: 1,290
    ("conv2", (28, 28, 1), 1_625_866),
    # 320; 32 -> 32: 9,248; 18,496; 64 -> 64: 36,928; 64 * 7 * 7 -> 512: 1,606,144; 5,130
    ("conv4", (28, 28, 1), 1_676_266),
    # 3 -> 32: 896; 9,248; 18,496; 36,928; 64 * 8 * 8 -> 512: 2,097,664; 5,130
    ("conv4", (32, 32, 3), 2_168_362),
    # 896; 9,248; 18,496; 36,928; 64 -> 128: 73,856; 128 -> 128: 147,584;
    # 128 * 4 * 4 -> 512: 1,049,088; 5,130
    ("conv6", (32, 32, 3), 1_341_226),
    # He et al.'s 0.27 million. No biases but a scale and a shift for each channel after each of the
    # convolutions: 432 + 32; six of 2,304 + 32; 4,608 + 64 and five of 9,216 + 64; 18,432 + 128 and
    # five of 36,864 + 128; 64 -> 10: 650
    ("resnet20", (32, 32, 3), 269_722),
    # 0.46 and 0.85 million: two or six blocks more in each stage, each of 2 * (2,304 + 32),
    # 2 * (9,216 + 64) or 2 * (36,864 + 128)
    ("resnet32", (32, 32, 3), 269_722 + 2 * (4_672 + 18_560 + 73_984)),
    ("resnet56", (32, 32, 3), 269_722 + 6 * (4_672 + 18_560 + 73_984)),
    # resnet18's on 10 classes, with a first convolution of 3x3 in place of 7x7
    ("resnet18_small", (32, 32, 3), 11_689_512 - 990 * 513 - 40 * 3 * 64),
    # as torchvision has them; by its documentation, for the 1,000 classes of ImageNet, beside which
    # 10 lack 990 outputs of 512 or 2,048 weights and a bias each
    ("resnet18", (64, 64, 3), 11_689_512 - 990 * 513),
    ("resnet34", (64, 64, 3), 21_797_672 - 990 * 513),
    ("resnet50", (64, 64, 3), 25_557_032 - 990 * 2_049),
    ("resnet101", (64, 64, 3), 44_549_160 - 990 * 2_049),
]


@pytest.mark.parametrize(("name", "shape", "count"), COUNTS)
def test_parameters_are_as_many_as_counted_by_hand(
    name: str, shape: tuple[int, int, int], count: int
) -> None:
    assert networks.sizes(name, shape, 10, width=1.0, batch_norm=False)[0] == count
    if name not in IMAGENET:  # of which building takes seconds
        assert weights(build(name, shape, width=1.0)).shape == (1, count)


def test_every_architecture_is_counted() -> None:
    assert {name for name, _, _ in COUNTS} == set(ARCHITECTURES)


# 4 -> 8 channels, 8 * 14 * 14 -> 16: 40 + 296 + 25,104 + 170.
# Hidden layers of 64. ResNet of 4, 8 and 16.
@pytest.mark.parametrize(
    ("name", "width", "count"),
    [
        ("conv2", 0.125, 25_610),
        ("mlp1", 0.125, 784 * 64 + 64 + 64 * 10 + 10),
        ("mlp1", 2.0, 784 * 1024 + 1024 + 1024 * 10 + 10),
        ("mlp1", 1e-6, 784 + 1 + 10 + 10),  # at least one unit
        ("perceptron", 0.125, 7_850),  # which has nothing to scale
        (
            "resnet20", 0.25,
            36 + 8 + 6 * (144 + 8) + 288 + 5 * 576 + 6 * 16 + 1152 + 5 * 2304 + 6 * 32 + 170,
        ),
    ],
)  # fmt: skip
def test_width_scales_units_and_channels(name: str, width: float, count: int) -> None:
    assert weights(build(name, (28, 28, 1), width=width)).shape == (1, count)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_tells_the_number_of_parameters(name: str, shape: tuple[int, int, int]) -> None:
    counted, _ = networks.sizes(name, shape, 7, width=0.25, batch_norm=False)
    network = build(name, shape, num_classes=7)
    assert counted == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "width", "outputs"),
    [
        ("perceptron", (28, 28, 1), 1.0, 784 + 10),
        # Pixels, then 512 units and their ReLU twice, then logits.
        ("mlp2", (28, 28, 1), 1.0, 784 + 4 * 512 + 10),
        # Maps, 32 of them and their ReLU, 64, which are pooled to 14x14, their ReLU, those in a
        # row, 128 units and their ReLU, logits.
        ("conv2", (28, 28, 1), 1.0, 784 * (1 + 2 * 32 + 64) + 3 * 64 * 196 + 2 * 128 + 10),
        ("conv2", (9, 11, 3), 0.125, 99 * (3 + 2 * 4 + 8) + 3 * 8 * 20 + 2 * 16 + 10),
    ],
)
def test_sizes_tells_the_outputs_of_all_layers(
    name: str, shape: tuple[int, int, int], width: float, outputs: int
) -> None:
    assert networks.sizes(name, shape, 10, width=width, batch_norm=False)[1] == outputs


def test_sizes_of_a_network_beyond_the_memory_are_counted() -> None:
    assert networks.sizes("mlp1", (1024, 1024, 3), 10, width=64.0, batch_norm=False)[0] > 1e11


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_have_a_column_for_every_class(name: str, shape: tuple[int, int, int]) -> None:
    logits = build(name, shape, num_classes=7, seeds=(0, 1))(images_of(shape, members=2))
    assert logits.shape == (2, 4, 7)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["perceptron", "mlp2"])
def test_dense_networks_take_images_of_any_size(name: str) -> None:
    assert build(name, (3, 5, 1))(images_of((3, 5, 1))).shape == (1, 4, 10)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("shape", [(7, 8, 1), (8, 7, 1), (4, 4, 3)])
def test_images_too_small_are_refused(name: str, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"{name} needs images of 8x8 or more, got {shape[0]}x"):
        build(name, shape)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="got 'vgg'; accepted: perceptron, mlp1"):
        build("vgg")
    with pytest.raises(ValueError, match="got 'lecun'; accepted: torch, glorot, he"):
        build(init="lecun")


# --- what a network computes


def test_maps_are_scaled_to_one_and_channels_come_first_member_by_member() -> None:
    images = images_of((5, 6, 3), members=2)
    first, second = images.numpy().astype(np.float32).transpose(0, 1, 4, 2, 3) / 255
    maps = Maps()(images)
    np.testing.assert_allclose(maps, np.concatenate([first, second], axis=1), rtol=2e-7)
    assert maps.is_contiguous(memory_format=torch.channels_last)


def test_pixels_are_scaled_to_one_in_the_order_that_they_are_stored_in() -> None:
    images = images_of((5, 6, 3), members=2)
    expected = images.numpy().reshape(2, 4, 90).astype(np.float32) / 255
    np.testing.assert_allclose(Pixels()(images), expected, rtol=2e-7)


def test_maps_are_put_in_a_row_with_channels_last_member_by_member() -> None:
    rng = np.random.default_rng(0)
    each = rng.normal(size=(2, 4, 5, 6, 3))  # K, b, c, h, w
    expected = each.transpose(0, 1, 3, 4, 2).reshape(2, 4, 90)
    got = layers.Flat(5)(torch.from_numpy(np.concatenate(each, axis=1)))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", ["perceptron", "mlp1", "mlp2"])
def test_dense_layers_with_relu_between(name: str) -> None:
    model, images = build(name, init="torch"), images_of((8, 8, 1))
    x = images.numpy().reshape(4, -1) / 255
    *hidden, last = weighted(model)
    for layer in hidden:
        x = np.maximum(x @ layer.weight.detach().numpy()[0] + layer.bias.detach().numpy()[0], 0)
    x = x @ last.weight.detach().numpy()[0] + last.bias.detach().numpy()[0]
    np.testing.assert_allclose(model(images).detach().numpy()[0], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "blocks"), [("conv2", [2]), ("conv4", [2, 2]), ("conv6", [2, 2, 2])]
)
def test_blocks_of_convolutions_end_in_pooling(name: str, blocks: list[int]) -> None:
    model, images = build(name, (14, 14, 3), init="torch"), images_of((14, 14, 3))
    layers = iter(weighted(model))
    x = images[0].permute(0, 3, 1, 2).double() / 255
    for convolutions in blocks:
        for _ in range(convolutions):
            layer = next(layers)
            weight, bias = layer.weight[0].double(), layer.bias[0].double()
            x = functional.conv2d(x, weight, bias, padding=1).relu()
        x = functional.max_pool2d(x, 2)
    first, last = layers
    x = x.permute(0, 2, 3, 1).flatten(1)  # channels last
    x = (x @ first.weight[0].double() + first.bias[0].double()).relu()
    x = x @ last.weight[0].double() + last.bias[0].double()
    np.testing.assert_allclose(model(images)[0].detach(), x.detach(), rtol=1e-4, atol=1e-5)


def slow_resnet(model: Network, images: Tensor, widths: list[int], blocks: int) -> Tensor:
    """Compute a CIFAR ResNet from its list of parameters and buffers alone, in float64."""
    convolutions = [m for m in model.modules() if isinstance(m, Convolution)]
    norms = norms_of(model)
    assert len(convolutions) == len(norms) == 6 * blocks + 1

    def convolve(x: Tensor, i: int, stride: int) -> Tensor:
        x = functional.conv2d(x, convolutions[i].weight[0].double(), stride=stride, padding=1)
        norm = norms[i]
        if model.training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        else:
            mean, variance = norm.running_mean[0].double(), norm.running_var[0].double()
        x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        return x * norm.weight[0].double()[:, None, None] + norm.bias[0].double()[:, None, None]

    x = convolve(images[0].permute(0, 3, 1, 2).double() / 255, 0, 1).relu()
    i = 1
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            branch = convolve(convolve(x, i, stride).relu(), i + 1, 1)
            shortcut = torch.zeros_like(branch)
            shortcut[:, : x.shape[1]] = x[:, :, ::stride, ::stride]  # new channels are zero
            assert branch.shape[1] == width
            x, i = (branch + shortcut).relu(), i + 2
    last = weighted(model)[-1]
    return x.mean((2, 3)) @ last.weight[0].double() + last.bias[0].double()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "shape", "blocks"),
    [
        ("resnet20", (8, 8, 1), 3),
        ("resnet20", (14, 14, 1), 3),
        ("resnet20", (32, 32, 3), 3),
        ("resnet32", (32, 32, 3), 5),
        ("resnet56", (32, 32, 3), 9),
    ],
)
def test_cifar_resnets_are_wired_as_he_et_al_say(
    name: str, shape: tuple[int, int, int], blocks: int, training: bool
) -> None:
    model, images = shake(build(name, shape), [1]), images_of(shape)
    model.train(training)
    expected = slow_resnet(model, images, [4, 8, 16], blocks)
    np.testing.assert_allclose(model(images)[0].detach(), expected.detach(), rtol=1e-3, atol=1e-4)


class OfWidth(resnet.ResNet):
    """Torchvision's ResNet-18 with other numbers of channels."""

    def _make_layer(
        self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        return super()._make_layer(block, planes // 4, blocks, stride, dilate)


def torchvisions(name: str, channels: int, num_classes: int) -> nn.Module:
    """Return torchvision's network for images of so many channels."""
    if name == "resnet18_small":
        other = OfWidth(resnet.BasicBlock, [2, 2, 2, 2])
        other.inplanes = 16  # after the first convolution
        for stage, planes in enumerate((64, 128, 256, 512)):
            layer = other._make_layer(resnet.BasicBlock, planes, 2, 2 if stage else 1)
            setattr(other, f"layer{stage + 1}", layer)
        other.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        other.bn1, other.maxpool = nn.BatchNorm2d(16), nn.Identity()
        other.fc = nn.Linear(128, num_classes)
        return other
    other = getattr(torchvision.models, name)(weights=None, num_classes=num_classes)
    if channels != 3:
        other.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return other


def hand_over(model: Network, k: int, other: nn.Module) -> None:
    """Give torchvision's network the parameters and buffers of a member, in their order."""
    mine = [layer for layer in model.modules() if list(layer.parameters(recurse=False))]
    theirs = [layer for layer in other.modules() if list(layer.parameters(recurse=False))]
    for own, copy in zip(mine, theirs, strict=True):
        for key, tensor in (*own.named_parameters(), *own.named_buffers()):
            turned = tensor[k].T if isinstance(own, Dense) and key == "weight" else tensor[k]
            target = getattr(copy, key)
            assert target.shape == turned.shape
            target.data.copy_(turned.detach())


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    ("name", "shape", "seeds"),
    [
        ("resnet18_small", (32, 32, 3), (3, 1)),
        ("resnet18_small", (9, 11, 1), (3, 1)),
        ("resnet18", (64, 72, 1), (3, 1)),
        ("resnet50", (64, 64, 3), (3,)),
    ],
)
def test_larger_resnets_are_torchvisions_own_module(
    name: str, shape: tuple[int, int, int], seeds: tuple[int, ...]
) -> None:
    """Logits, gradients and running statistics of each member of a stack, then its evaluation."""
    model = shake(build(name, shape, seeds=seeds), seeds)
    others = [torchvisions(name, shape[2], 10) for _ in seeds]
    for k, other in enumerate(others):
        hand_over(model, k, other)
    images = images_of(shape, count=3, members=len(seeds))
    weighing = torch.linspace(-1, 1, 10)
    got = model(images)
    (got * weighing).sum().backward()
    for k, other in enumerate(others):
        x = images[k].permute(0, 3, 1, 2) / 255
        expected = other(x)
        (expected * weighing).sum().backward()
        np.testing.assert_allclose(got[k].detach(), expected.detach(), rtol=1e-8, atol=1e-9)
        mine = torch.cat([p.grad[k].flatten().sort()[0] for p in model.parameters()])
        theirs = torch.cat([p.grad.flatten().sort()[0] for p in other.parameters()])
        scale = float(theirs.abs().max())
        np.testing.assert_allclose(mine, theirs, rtol=1e-7, atol=1e-9 * scale)
        statistics = [b for b in other.buffers() if b.is_floating_point()]
        for buffer, own in zip(model.buffers(), statistics, strict=True):
            np.testing.assert_allclose(buffer[k], own, rtol=1e-9, atol=1e-12)
        evaluated = other.eval()(x).detach()
        np.testing.assert_allclose(
            model.select([k]).eval()(images[k : k + 1])[0].detach(), evaluated, rtol=1e-8, atol=1e-9
        )


@pytest.mark.parametrize("stacking", STACKINGS)
def test_torchvisions_members_are_computed_one_by_one_to_the_bit(stacking: str) -> None:
    shape = (64, 64, 1)
    whole = build("resnet18", shape, seeds=(3, 1), stacking=stacking)
    images = images_of(shape, count=2, members=2)
    together = computed(whole, images)
    for k, seed in enumerate((3, 1)):
        alone = build("resnet18", shape, seeds=[seed], stacking=stacking)
        for mine, theirs in zip(together, computed(alone, images[k : k + 1]), strict=True):
            assert torch.equal(mine[k], theirs[0])


@pytest.mark.parametrize("init", INITS)
def test_torchvisions_networks_start_as_the_others(init: str) -> None:
    before = torch.random.get_rng_state()
    network = build("resnet18", (64, 64, 3), init=init, zero_output=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 20
    for layer in convolutions:
        weight = layer.weight.detach()[0]
        fan_in, fan_out = weight[0].numel(), weight.numel() // weight.shape[1]
        variance = {"he": 2 / fan_in, "glorot": 2 / (fan_in + fan_out), "torch": 1 / (3 * fan_in)}
        # Of 4,096 weights or more: five standard deviations of a normal's mean square.
        spread = 5 * math.sqrt(2 / weight.numel())
        assert float(weight.square().mean()) == pytest.approx(variance[init], rel=spread)
    for norm in (layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)):
        assert (norm.weight == 1).all()
        assert (norm.running_var == 1).all()
        assert (norm.bias == 0).all()
        assert (norm.running_mean == 0).all()
    assert (network(images_of((64, 64, 3), count=2)) == 0).all()


def test_torchvisions_networks_need_larger_images() -> None:
    with pytest.raises(ValueError, match="resnet18 needs images of 64x64 or more, got 32x"):
        build("resnet18", (32, 32, 3))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_of_a_convnet_stands_between_convolution_and_relu(training: bool) -> None:
    shape = (9, 11, 3)
    model = shake(build("conv4", shape, batch_norm=True), [1]).train(training)
    images, layers, norms = images_of(shape), iter(weighted(model)), norms_of(model)
    assert len(norms) == 4
    x = images[0].permute(0, 3, 1, 2) / 255
    for i, norm in enumerate(norms):
        layer = next(layers)
        assert layer.bias is None
        x = functional.conv2d(x, layer.weight[0], padding=1)
        own = (norm.running_mean[0].clone(), norm.running_var[0].clone())
        x = functional.batch_norm(x, *own, norm.weight[0], norm.bias[0], training=training).relu()
        x = functional.max_pool2d(x, 2) if i % 2 else x
    first, last = layers
    x = x.permute(0, 2, 3, 1).flatten(1)
    x = (x @ first.weight[0] + first.bias[0]).relu() @ last.weight[0] + last.bias[0]
    np.testing.assert_allclose(model(images)[0].detach(), x.detach(), rtol=1e-4, atol=1e-5)


def test_batch_norm_starts_at_the_identity() -> None:
    norms = norms_of(build("resnet20", seeds=(0, 1)))
    assert len(norms) == 19
    for norm in norms:
        assert (norm.weight == 1).all()
        assert (norm.running_var == 1).all()
        assert (norm.bias == 0).all()
        assert (norm.running_mean == 0).all()


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_torchs_for_each_member(training: bool) -> None:
    """Outputs, and the running statistics of three batches."""
    generator = torch.Generator().manual_seed(0)
    stack, alone = Norm(3, 4).train(training), [nn.BatchNorm2d(4).train(training) for _ in range(3)]
    for k, own in enumerate(alone):
        layers.reset(stack, k)
        for theirs, mine in ((own.weight, stack.weight), (own.bias, stack.bias)):
            theirs.data.normal_(generator=generator)
            mine.data[k] = theirs.data
    for _ in range(3):
        x = 2 + 3 * torch.randn(5, 3, 4, 6, 7, generator=generator)
        got = stack(x.flatten(1, 2)).unflatten(1, (3, 4))
        for k, own in enumerate(alone):
            for mine, theirs in (
                (got[:, k].detach(), own(x[:, k]).detach()),
                (stack.running_mean[k], own.running_mean),
                (stack.running_var[k], own.running_var),
            ):
                np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)
    assert bool((stack.running_mean != 0).all()) is training


# --- a stack is its members

SEEDS = (3, 1, 2)


def pair(
    name: str, shape: tuple[int, int, int], stacking: str, training: bool
) -> tuple[Network, list[Network]]:
    """Return a stack, and each of its members built alone."""
    whole = shake(build(name, shape, init="torch", seeds=SEEDS, stacking=stacking), SEEDS)
    alone = [
        shake(build(name, shape, init="torch", seeds=[seed], stacking=stacking), [seed])
        for seed in SEEDS
    ]
    return whole.train(training), [network.train(training) for network in alone]


def computed(network: Network, images: Tensor) -> list[Tensor]:
    """Return logits, the parameters' gradients of a loss that weighs each logit, and buffers."""
    logits = network(images)
    loss = (logits * torch.arange(1, logits.shape[2] + 1) + logits.square()).sum()
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return [logits.detach(), *gradients, *network.buffers()]


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stacking", STACKINGS)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 11, 3)])
def test_each_member_computes_what_it_does_alone(
    shape: tuple[int, int, int], name: str, stacking: str, training: bool
) -> None:
    whole, alone = pair(name, shape, stacking, training)
    images = images_of(shape, count=5, members=3)
    together = computed(whole, images)
    for k, network in enumerate(alone):
        for mine, theirs in zip(together, computed(network, images[k : k + 1]), strict=True):
            scale = float(theirs.abs().max())
            np.testing.assert_allclose(mine[k], theirs[0], rtol=1e-9, atol=1e-9 * scale)
    # The members are not all one.
    assert not torch.allclose(together[0][0], together[0][1])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "stacking"),
    [(name, "loop") for name in NETWORKS]
    + [(name, "grouped") for name in NETWORKS if name not in CONVOLUTIONAL],
)
def test_loops_and_dense_layers_do_it_to_the_bit(name: str, stacking: str, training: bool) -> None:
    whole, alone = pair(name, (8, 8, 1), stacking, training)
    images = images_of((8, 8, 1), count=16, members=3)
    together = computed(whole, images)
    for k, network in enumerate(alone):
        for mine, theirs in zip(together, computed(network, images[k : k + 1]), strict=True):
            assert torch.equal(mine[k], theirs[0])


@pytest.mark.parametrize("stacking", STACKINGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_member_alone_is_the_same_in_every_stacking(name: str, stacking: str) -> None:
    images = images_of((8, 8, 1))
    expected = computed(build(name), images)
    got = computed(build(name, stacking=stacking), images)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("unfold", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_stacked_convolutions_are_vmap_over_torchs(
    size: tuple[int, int], stride: int, bias: bool, unfold: bool
) -> None:
    layer = Convolution(3, 4, 5, stride, bias)
    layer.way = "unfold" if unfold else "grouped"
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data.normal_(generator=generator)
    x = torch.randn(2, 3, 4, *size, generator=generator)
    got = layer(x.flatten(1, 2)).unflatten(1, (3, 5))

    def one(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.conv2d(x, weight, bias, stride, padding=1)

    biases = torch.zeros(3, 5) if layer.bias is None else layer.bias
    expected = torch.func.vmap(one, in_dims=(1, 0, 0), out_dims=1)(x, layer.weight, biases)
    np.testing.assert_allclose(got.detach(), expected.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_views_of_the_weights_in_their_order(name: str) -> None:
    """The optimizer updates the weights whole, with the gradients in the parameters' order."""
    network = build(name, seeds=SEEDS)
    for stack in (network, network.select([2, 0])):
        assert torch.equal(weights(stack), stack.weights)
        stack.weights.copy_(torch.randn_like(stack.weights))
        assert torch.equal(weights(stack), stack.weights)
        assert all(parameter.requires_grad for parameter in stack.parameters())
        images = images_of((8, 8, 1), members=stack.members)
        before = stack(images)
        assert before.isfinite().all()
        stack.weights.zero_()
        assert (stack(images) == 0).all()


@pytest.mark.parametrize("rows", [[2, 0], [1], [0, 1, 2], [0, 0]])
@pytest.mark.parametrize("name", ["mlp1", "conv2", "resnet20"])
def test_select_copies_members_that_then_go_their_own_way(name: str, rows: list[int]) -> None:
    source = shake(build(name, seeds=SEEDS), SEEDS)
    before = [tensor.clone() for tensor in (source.weights, *source.buffers())]
    chosen = source.select(rows)
    assert chosen.members == len(rows)
    assert chosen.stacking == source.stacking
    for mine, theirs in zip((chosen.weights, *chosen.buffers()), before, strict=True):
        assert torch.equal(mine, theirs[rows])
    images = images_of((8, 8, 1), members=3)
    np.testing.assert_allclose(
        chosen.eval()(images[rows]).detach(), source.eval()(images)[rows].detach(), rtol=1e-4,
        atol=1e-5,
    )  # fmt: skip
    for tensor in (chosen.weights, *chosen.buffers()):
        tensor.fill_(5)
    for now, was in zip((source.weights, *source.buffers()), before, strict=True):
        assert torch.equal(now, was)
    again = source.select(rows)
    for tensor in (source.weights, *source.buffers()):
        tensor.fill_(7)
    assert torch.equal(again.weights, before[0][rows])
    assert all(torch.equal(a, b[rows]) for a, b in zip(again.buffers(), before[1:], strict=True))


def test_a_lost_member_takes_no_other_along() -> None:
    for stacking in STACKINGS:
        network = build("resnet20", seeds=SEEDS, stacking=stacking)
        images = images_of((8, 8, 1), members=3)
        expected = network.select([0, 1, 2])(images)
        network.weights[1] = torch.nan
        got = network(images)
        assert got[1].isnan().all()
        assert torch.equal(got[[0, 2]], expected[[0, 2]])


# --- initial weights


def fans(layer: Convolution | Dense) -> tuple[int, int]:
    """Return the numbers of inputs to an output, and of outputs from an input."""
    if isinstance(layer, Dense):
        return layer.weight.shape[1], layer.weight.shape[2]
    patch = layer.weight.shape[3] ** 2
    return layer.weight.shape[2] * patch, layer.weight.shape[1] * patch


@pytest.mark.parametrize("name", NETWORKS)
def test_glorot_is_uniform_within_its_bound(name: str) -> None:
    for layer in weighted(build(name, width=1.0, init="glorot")):
        bound = math.sqrt(6 / sum(fans(layer)))
        values = layer.weight.detach().flatten()
        assert values.abs().max() <= bound * (1 + 1e-6)
        # The standard deviation of a mean of squares: five of them.
        spread = 5 * math.sqrt(4 / 45) / math.sqrt(len(values))
        assert float((values / bound).square().mean()) == pytest.approx(1 / 3, abs=spread)
        assert layer.bias is None or (layer.bias == 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_he_is_normal_with_twice_the_inverse_fan_in(name: str) -> None:
    for layer in weighted(build(name, width=1.0, init="he")):
        values = layer.weight.detach().flatten() / math.sqrt(2 / fans(layer)[0])
        assert float(values.mean()) == pytest.approx(0, abs=5 / math.sqrt(len(values)))
        spread = 5 * math.sqrt(2 / len(values))
        assert float(values.square().mean()) == pytest.approx(1, abs=spread)
        assert len(values) < 1000 or values.abs().max() > 2.5  # it has tails
        assert layer.bias is None or (layer.bias == 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_is_what_torchs_layers_do_by_themselves(name: str) -> None:
    """For every member of a stack, from its own seed."""
    model = build(name, init="torch", seeds=(11, 4))
    with torch.random.fork_rng(devices=[]):
        for k, seed in enumerate((11, 4)):
            torch.manual_seed(seed)
            for layer in weighted(model):
                weight, bias = as_torch_has_it(layer, k), layer.bias
                if isinstance(layer, Dense):
                    own: nn.Linear | nn.Conv2d = nn.Linear(weight.shape[1], weight.shape[0])
                else:
                    side = weight.shape[2]
                    own = nn.Conv2d(weight.shape[1], weight.shape[0], side, bias=bias is not None)
                assert torch.equal(weight, own.weight)
                assert (own.bias is None) is (bias is None)
                assert bias is None or torch.equal(bias[k], own.bias)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", ["mlp2", "conv2", "resnet20"])
def test_a_member_starts_as_it_does_alone(name: str, init: str) -> None:
    stack = build(name, init=init, seeds=SEEDS)
    for k, seed in enumerate(SEEDS):
        assert torch.equal(stack.weights[k], build(name, init=init, seeds=[seed]).weights[0])


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_zero_output_layer_predicts_every_class_alike(name: str, init: str) -> None:
    zero = build(name, init=init, zero_output=True)
    assert (zero(images_of((8, 8, 1))) == 0).all()
    drawn = build(name, init=init, zero_output=False)
    assert (drawn(images_of((8, 8, 1))) != 0).any()
    for mine, other in zip(weighted(zero)[:-1], weighted(drawn)[:-1], strict=True):
        assert torch.equal(mine.weight, other.weight)  # the others are as without


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", DEEP)
def test_a_generator_repeats_and_another_differs(name: str, init: str) -> None:
    one, same, other = (weights(build(name, init=init, seeds=[seed])) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", NETWORKS)
def test_torchs_global_generator_is_left_alone(name: str, init: str) -> None:
    before = torch.random.get_rng_state()
    first = weights(build(name, init=init))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(weights(build(name, init=init)), first)
    torch.random.set_rng_state(before)


@pytest.mark.parametrize("init", INITS)
def test_layers_of_one_size_start_apart(init: str) -> None:
    layers = weighted(build("resnet20", init=init))
    same_size = [(a, b) for a, b in pairwise(layers) if a.weight.shape == b.weight.shape]
    assert len(same_size) == 5 + 4 + 4
    assert not any(torch.equal(a.weight, b.weight) for a, b in same_size)
