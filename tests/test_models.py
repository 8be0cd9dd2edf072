"""Networks: sizes counted by hand, shapes, initial weights, and the residual wiring."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.lib import models
from stages.lib.architectures import ARCHITECTURES, INITS

SHAPES = [(8, 8, 1), (14, 14, 1), (28, 28, 1), (32, 32, 3)]
DEEP = [name for name in ARCHITECTURES if name != "perceptron"]


def build(
    name: str = "conv2",
    shape: tuple[int, int, int] = (8, 8, 1),
    num_classes: int = 10,
    width: float = 0.25,
    init: str = "he",
    zero_output: bool = False,
    seed: int = 0,
) -> nn.Sequential:
    return models.build(
        name, shape, num_classes, width=width, init=init, zero_output=zero_output,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def images_of(shape: tuple[int, int, int], count: int = 4) -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, *shape), dtype=np.uint8))


def weighted(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


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
]


@pytest.mark.parametrize(("name", "shape", "count"), COUNTS)
def test_parameters_are_as_many_as_counted_by_hand(
    name: str, shape: tuple[int, int, int], count: int
) -> None:
    assert len(weights(build(name, shape, width=1.0))) == count


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
    assert len(weights(build(name, (28, 28, 1), width=width))) == count


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_have_a_column_for_every_class(name: str, shape: tuple[int, int, int]) -> None:
    logits = build(name, shape, num_classes=7)(images_of(shape))
    assert logits.shape == (4, 7)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["perceptron", "mlp2"])
def test_dense_networks_take_images_of_any_size(name: str) -> None:
    assert build(name, (3, 5, 1))(images_of((3, 5, 1))).shape == (4, 10)


@pytest.mark.parametrize("name", ["conv2", "conv4", "conv6", "resnet20"])
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


def test_images_are_scaled_to_one_and_channels_come_first() -> None:
    images = images_of((5, 6, 3))
    expected = images.numpy().astype(np.float32).transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(models.Scale()(images).numpy(), expected, rtol=1e-7)


@pytest.mark.parametrize("name", ["perceptron", "mlp1", "mlp2"])
def test_dense_layers_with_relu_between(name: str) -> None:
    model, images = build(name, init="torch"), images_of((8, 8, 1))
    x = images.numpy().reshape(4, -1) / 255
    *hidden, last = weighted(model)
    for layer in hidden:
        x = np.maximum(x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), 0)
    x = x @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    np.testing.assert_allclose(model(images).detach().numpy(), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "blocks"), [("conv2", [2]), ("conv4", [2, 2]), ("conv6", [2, 2, 2])]
)
def test_blocks_of_convolutions_end_in_pooling(name: str, blocks: list[int]) -> None:
    model, images = build(name, (14, 14, 3), init="torch"), images_of((14, 14, 3))
    layers = iter(weighted(model))
    x = images.permute(0, 3, 1, 2).double() / 255
    for convolutions in blocks:
        for _ in range(convolutions):
            layer = next(layers)
            x = functional.conv2d(x, layer.weight.double(), layer.bias.double(), padding=1).relu()
        x = functional.max_pool2d(x, 2)
    first, last = layers
    x = (x.flatten(1) @ first.weight.double().T + first.bias.double()).relu()
    x = x @ last.weight.double().T + last.bias.double()
    np.testing.assert_allclose(model(images).detach(), x.detach(), rtol=1e-4, atol=1e-5)


def slow_resnet(model: nn.Sequential, images: Tensor, widths: list[int]) -> Tensor:
    """Compute ResNet-20 from its list of parameters and buffers alone, in float64."""
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(convolutions) == len(norms) == 19

    def convolve(x: Tensor, i: int, stride: int) -> Tensor:
        x = functional.conv2d(x, convolutions[i].weight.double(), stride=stride, padding=1)
        norm = norms[i]
        if model.training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        else:
            mean, variance = norm.running_mean.double(), norm.running_var.double()
        x = (x - mean[:, None, None]) / (variance[:, None, None] + norm.eps).sqrt()
        return x * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None]

    x = convolve(images.permute(0, 3, 1, 2).double() / 255, 0, 1).relu()
    i = 1
    for stage, width in enumerate(widths):
        for block in range(3):
            stride = 2 if stage > 0 and block == 0 else 1
            branch = convolve(convolve(x, i, stride).relu(), i + 1, 1)
            shortcut = torch.zeros_like(branch)
            shortcut[:, : x.shape[1]] = x[:, :, ::stride, ::stride]  # new channels are zero
            assert branch.shape[1] == width
            x, i = (branch + shortcut).relu(), i + 2
    last = weighted(model)[-1]
    return x.mean((2, 3)) @ last.weight.double().T + last.bias.double()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(8, 8, 1), (14, 14, 1), (32, 32, 3)])
def test_resnet_20_is_wired_as_he_et_al_say(shape: tuple[int, int, int], training: bool) -> None:
    model, images = build("resnet20", shape), images_of(shape)
    generator = torch.Generator().manual_seed(1)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values in (norm.weight.data, norm.running_var):
                values.uniform_(0.5, 1.5, generator=generator)
            for values in (norm.bias.data, norm.running_mean):
                values.uniform_(-0.5, 0.5, generator=generator)
    model.train(training)
    expected = slow_resnet(model, images, [4, 8, 16])
    np.testing.assert_allclose(model(images).detach(), expected.detach(), rtol=1e-3, atol=1e-4)


def test_batch_norm_starts_at_the_identity() -> None:
    for norm in build("resnet20").modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert (norm.weight == 1).all()
            assert (norm.running_var == 1).all()
            assert (norm.bias == 0).all()
            assert (norm.running_mean == 0).all()
            assert norm.num_batches_tracked == 0


# --- initial weights


def fans(layer: nn.Conv2d | nn.Linear) -> tuple[int, int]:
    places = 9 if isinstance(layer, nn.Conv2d) else 1
    return layer.weight.shape[1] * places, layer.weight.shape[0] * places


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_glorot_is_uniform_within_its_bound(name: str) -> None:
    for layer in weighted(build(name, width=1.0, init="glorot")):
        bound = math.sqrt(6 / sum(fans(layer)))
        values = layer.weight.detach().flatten()
        assert values.abs().max() <= bound * (1 + 1e-6)
        # The standard deviation of a mean of squares: five of them.
        spread = 5 * math.sqrt(4 / 45) / math.sqrt(len(values))
        assert float((values / bound).square().mean()) == pytest.approx(1 / 3, abs=spread)
        assert layer.bias is None or (layer.bias == 0).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_he_is_normal_with_twice_the_inverse_fan_in(name: str) -> None:
    for layer in weighted(build(name, width=1.0, init="he")):
        values = layer.weight.detach().flatten() / math.sqrt(2 / fans(layer)[0])
        assert float(values.mean()) == pytest.approx(0, abs=5 / math.sqrt(len(values)))
        spread = 5 * math.sqrt(2 / len(values))
        assert float(values.square().mean()) == pytest.approx(1, abs=spread)
        assert len(values) < 1000 or values.abs().max() > 2.5  # it has tails
        assert layer.bias is None or (layer.bias == 0).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_torch_is_what_torchs_layers_do_by_themselves(name: str) -> None:
    model = build(name, init="torch", seed=11)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        for layer in weighted(model):
            bias = layer.bias is not None
            if isinstance(layer, nn.Linear):
                own: nn.Module = nn.Linear(layer.in_features, layer.out_features, bias)
            else:
                own = nn.Conv2d(layer.in_channels, layer.out_channels, 3, bias=bias)
            for mine, theirs in zip(layer.parameters(), own.parameters(), strict=True):
                assert torch.equal(mine, theirs)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", ARCHITECTURES)
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
    one, same, other = (weights(build(name, init=init, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", ARCHITECTURES)
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
