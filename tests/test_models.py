"""Networks: sizes counted by hand, initial weights, wiring, and that a stack is its members."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from stages.lib.config.params import STACKINGS as PARAMETERS
from stages.lib.models import networks
from stages.lib.models.architectures import ARCHITECTURES, INITS
from stages.lib.models.layers import Convolution, Dense, Maps, Norm
from stages.lib.models.networks import Network

Shape = tuple[int, int, int]
ODD: Shape = (9, 11, 3)
IMAGENET = ["resnet18", "resnet34", "resnet50", "resnet101"]
#: One of each kind for small images.
NETWORKS = ["perceptron", "mlp2", "conv4", "resnet20", "resnet18_small"]
STACKINGS = [way for way in PARAMETERS if way not in ("auto", "batched")]  # which needs CUDA
SEEDS = (3, 1, 2)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def _float64() -> Iterator[None]:
    """Build and compute in float64, so that an error of the formula stands out from rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(
    name: str = "conv2", shape: Shape = (8, 8, 1), num_classes: int = 10,
    seeds: Sequence[int] = (0,), **others: Any,
) -> Network:  # fmt: skip
    """Return a stack with a member for every seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    usual = {"width": 0.25, "init": "he", "zero_output": False, "batch_norm": False}
    return networks.build(name, shape, num_classes, generators=generators, **usual | others)


def images_of(shape: Shape, count: int = 4, members: int = 1) -> Tensor:
    """Return other images for each member; the first member's are those of fewer members."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (members, count, *shape), dtype=np.uint8))


def weighted(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, Convolution | Dense | nn.Conv2d)]


def norms_of(model: nn.Module) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, Norm | nn.BatchNorm2d)]


def weights(model: nn.Module) -> Tensor:
    """Return a stack's parameters in their order, ``(K, P)``."""
    return torch.cat([parameter.detach().flatten(1) for parameter in model.parameters()], dim=1)


def as_torch_has_it(layer: Any, k: int = 0) -> Tensor:
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


# --- sizes

# A layer of i inputs and o outputs has i * o + o weights; a 3x3 convolution 9 * i * o + o.
COUNTS = [
    ("perceptron", (28, 28, 1), 7_850),  # 784 * 10 + 10
    ("mlp1", (28, 28, 1), 407_050),  # 784 -> 512: 401,920; 512 -> 10: 5,130
    ("mlp2", (28, 28, 1), 669_706),  # and 512 -> 512: 262,656
    # 1 -> 32: 320; 32 -> 64: 18,496; 64 * 14 * 14 -> 128: 1,605,760; 128 -> 10: 1,290
    ("conv2", (28, 28, 1), 1_625_866),
    # 3 -> 32: 896; 32 -> 32: 9,248; 18,496; 64 -> 64: 36,928; 64 * 8 * 8 -> 512: 2,097,664; 5,130
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


assert {name for name, _, _ in COUNTS} == set(ARCHITECTURES)


@pytest.mark.parametrize(("name", "shape", "count"), COUNTS)
def test_parameters_are_as_many_as_counted_by_hand(name: str, shape: Shape, count: int) -> None:
    assert networks.sizes(name, shape, 10, width=1.0, batch_norm=False)[0] == count


@pytest.mark.parametrize(
    ("name", "width", "count"),
    [
        ("conv2", 0.125, 25_610),  # 4 -> 8 channels, 8 * 14 * 14 -> 16: 40 + 296 + 25,104 + 170
        ("mlp1", 1e-6, 784 + 1 + 10 + 10),  # at least one unit
        (
            "resnet20", 0.25,  # 4, 8 and 16 channels
            36 + 8 + 6 * (144 + 8) + 288 + 5 * 576 + 6 * 16 + 1152 + 5 * 2304 + 6 * 32 + 170,
        ),
    ],
)  # fmt: skip
def test_width_scales_units_and_channels(name: str, width: float, count: int) -> None:
    assert weights(build(name, (28, 28, 1), width=width)).shape == (1, count)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_of_the_size_that_is_told(name: str) -> None:
    network = build(name, ODD, num_classes=7, seeds=(0, 1))
    counted, _ = networks.sizes(name, ODD, 7, width=0.25, batch_norm=False)
    assert weights(network).shape == (2, counted)
    logits = network(images_of(ODD, members=2))
    assert (logits.shape, logits.dtype) == ((2, 4, 7), torch.float32)


@pytest.mark.parametrize(
    ("name", "shape", "width", "outputs"),
    [
        # Pixels, then 512 units and their ReLU twice, then logits.
        ("mlp2", (28, 28, 1), 1.0, 784 + 4 * 512 + 10),
        # Maps, 4 of them and their ReLU, 8, which are pooled to 4x5, their ReLU, those in a row,
        # 16 units and their ReLU, logits.
        ("conv2", ODD, 0.125, 99 * (3 + 2 * 4 + 8) + 3 * 8 * 20 + 2 * 16 + 10),
    ],
)
def test_sizes_tells_the_outputs_of_all_layers(
    name: str, shape: Shape, width: float, outputs: int
) -> None:
    assert networks.sizes(name, shape, 10, width=width, batch_norm=False)[1] == outputs


def test_sizes_of_a_network_beyond_the_memory_are_counted() -> None:
    assert networks.sizes("mlp1", (1024, 1024, 3), 10, width=64.0, batch_norm=False)[0] > 1e11


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"shape": (7, 8, 1)}, "conv2 needs images of 8x8 or more, got 7x8"),
        ({"name": "resnet20", "shape": (8, 7, 1)}, "resnet20 needs images of 8x8 or more, got 8x7"),
        ({"name": "resnet18", "shape": (32, 64, 3)}, "resnet18 needs images of 64x64 or more"),
    ],
)
def test_what_cannot_be_built_is_told(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(**wrong)


# --- what a network computes


def dense(x: Tensor, layers: list[Dense]) -> Tensor:
    """Compute dense layers with ReLU between them, in float64."""
    for layer in layers:
        x = x.relu() @ layer.weight[0].double() + layer.bias[0].double()
    return x


@pytest.mark.parametrize("name", ["perceptron", "mlp2"])
def test_dense_layers_with_relu_between(name: str) -> None:
    """Of images of any size, whose pixels are in the order that they are stored in."""
    model, images = build(name, (3, 5, 2), init="torch"), images_of((3, 5, 2))
    expected = dense(images[0].flatten(1).double() / 255, weighted(model))
    torch.testing.assert_close(model(images)[0].double(), expected, rtol=1e-4, atol=1e-5)


def normalise(x: Tensor, norm: Norm, training: bool) -> Tensor:
    """Compute a member's batch norm from its definition, in float64."""
    mean, variance = norm.running_mean[0].double(), norm.running_var[0].double()
    if training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    return x * norm.weight[0].double()[:, None, None] + norm.bias[0].double()[:, None, None]


@pytest.mark.parametrize(
    ("name", "blocks", "batch_norm", "training"),
    [
        ("conv2", [2], False, True),
        ("conv6", [2, 2, 2], False, False),
        ("conv4", [2, 2], True, True),
        ("conv4", [2, 2], True, False),
    ],
)
def test_blocks_of_convolutions_end_in_pooling(
    name: str, blocks: list[int], batch_norm: bool, training: bool
) -> None:
    """Batch norm, if any, stands between convolution and ReLU."""
    model = shake(build(name, ODD, init="torch", batch_norm=batch_norm), [1]).train(training)
    images, layers, norms = images_of(ODD), iter(weighted(model)), norms_of(model)
    assert len(norms) == (sum(blocks) if batch_norm else 0)
    x = images[0].permute(0, 3, 1, 2).double() / 255
    for convolutions in blocks:
        for _ in range(convolutions):
            layer = next(layers)
            assert (layer.bias is None) is batch_norm
            bias = None if batch_norm else layer.bias[0].double()
            x = functional.conv2d(x, layer.weight[0].double(), bias, padding=1)
            x = (normalise(x, norms.pop(0), training) if batch_norm else x).relu()
        x = functional.max_pool2d(x, 2)
    x = dense(x.permute(0, 2, 3, 1).flatten(1), [*layers])  # channels last
    torch.testing.assert_close(model(images)[0].double(), x, rtol=1e-4, atol=1e-5)
    assert Maps()(images).is_contiguous(memory_format=torch.channels_last)  # for speed


def slow_resnet(model: Network, images: Tensor, widths: Sequence[int], blocks: int) -> Tensor:
    """Compute a residual network from its list of layers alone, in float64."""
    *convolutions, last = weighted(model)
    norms = norms_of(model)

    def convolve(x: Tensor, stride: int = 1) -> Tensor:
        weight = convolutions.pop(0).weight[0].double()
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
        return normalise(x, norms.pop(0), model.training)

    x = convolve(images[0].permute(0, 3, 1, 2).double() / 255).relu()
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            branch = convolve(convolve(x, stride).relu())
            shortcut = torch.zeros_like(branch)
            if stride == 2 and convolutions[0].weight.shape[3] == 1:  # projected
                shortcut = convolve(x, stride)
            else:  # new channels are zero
                shortcut[:, : x.shape[1]] = x[:, :, ::stride, ::stride]
            assert branch.shape[1] == width
            x = (branch + shortcut).relu()
    assert not convolutions
    return dense(x.mean((2, 3)), [last])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "shape", "widths", "blocks"),
    [
        ("resnet20", (14, 14, 1), (4, 8, 16), 3),
        ("resnet56", ODD, (4, 8, 16), 9),
        ("resnet18_small", ODD, (16, 32, 64, 128), 2),
    ],
)
def test_small_resnets_are_wired_as_he_et_al_say(
    name: str, shape: Shape, widths: Sequence[int], blocks: int, training: bool
) -> None:
    model, images = shake(build(name, shape), [1]), images_of(shape)
    model.train(training)
    expected = slow_resnet(model, images, widths, blocks)
    projections = [x for x in weighted(model) if isinstance(x, Convolution) and x.side == 1]
    assert len(projections) == (3 if name == "resnet18_small" else 0)
    torch.testing.assert_close(model(images)[0].double(), expected, rtol=1e-3, atol=1e-4)


def pairs(model: Network, k: int, other: nn.Module) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Yield a member's tensors, torchvision's in the same order, and whether they are transposed.

    Parameters come as the parameters themselves, which have gradients.
    """
    mine = [layer for layer in model.modules() if list(layer.parameters(recurse=False))]
    theirs = [layer for layer in other.modules() if list(layer.parameters(recurse=False))]
    for own, copy in zip(mine, theirs, strict=True):
        for key, tensor in (*own.named_parameters(), *own.named_buffers()):
            yield tensor, getattr(copy, key), isinstance(own, Dense) and key == "weight"


@pytest.mark.usefixtures("_float64")
def test_resnet18_is_torchvisions_own_module() -> None:
    """Logits, gradients and running statistics of each member of a stack, then its evaluation."""
    shape, seeds = (64, 72, 1), (3, 1)
    model = shake(build("resnet18", shape, seeds=seeds), seeds)
    others = [torchvision.models.resnet18(num_classes=10) for _ in seeds]
    for k, other in enumerate(others):
        other.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        for mine, theirs, turned in pairs(model, k, other):
            theirs.data.copy_(mine.detach()[k].T if turned else mine.detach()[k])
    images = images_of(shape, count=2, members=len(seeds))
    weighing, got = torch.linspace(-1, 1, 10), model(images)
    (got * weighing).sum().backward()
    for k, other in enumerate(others):
        x = images[k].permute(0, 3, 1, 2) / 255
        expected = other(x)
        (expected * weighing).sum().backward()
        torch.testing.assert_close(got[k], expected, rtol=1e-8, atol=1e-9)
        for mine, theirs, turned in pairs(model, k, other):
            a, b = (mine.grad, theirs.grad) if mine.requires_grad else (mine, theirs)
            scale = 1e-9 * float(b.abs().max())
            torch.testing.assert_close(a[k].T if turned else a[k], b, rtol=1e-7, atol=scale)
        evaluated = model.select([k]).eval()(images[k : k + 1])[0]
        torch.testing.assert_close(evaluated, other.eval()(x), rtol=1e-8, atol=1e-9)


# --- a stack is its members


def computed(network: Network, images: Tensor) -> list[Tensor]:
    """Return logits, the parameters' gradients of a loss that weighs each logit, and buffers."""
    logits = network(images)
    loss = (logits * torch.arange(1, logits.shape[2] + 1) + logits.square()).sum()
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return [logits.detach(), *gradients, *network.buffers()]


def compare(name: str, shape: Shape, stacking: str, training: bool, rounding: float) -> None:
    """Compare what a stack computes with what each of its members does alone."""

    def made(seeds: Sequence[int]) -> Network:
        network = build(name, shape, init="torch", seeds=seeds, stacking=stacking)
        return shake(network, seeds).train(training)

    images = images_of(shape, count=5, members=3)
    together = computed(made(SEEDS), images)
    for k, seed in enumerate(SEEDS):
        alone = computed(made([seed]), images[k : k + 1])
        for mine, theirs in zip(together, alone, strict=True):
            scale = rounding * float(theirs.abs().max())
            torch.testing.assert_close(mine[k], theirs[0], rtol=rounding, atol=scale)
    assert not torch.allclose(together[0][0], together[0][1])  # the members are not all one


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stacking", STACKINGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_each_member_computes_what_it_does_alone(name: str, stacking: str, training: bool) -> None:
    compare(name, ODD, stacking, training, rounding=1e-9)


@pytest.mark.parametrize(
    ("name", "shape", "stacking"),
    [
        ("mlp2", ODD, "grouped"),
        ("conv4", ODD, "loop"),
        ("resnet20", ODD, "loop"),
        ("resnet18", (64, 64, 1), "grouped"),
    ],
)
def test_loops_and_dense_layers_do_it_to_the_bit(name: str, shape: Shape, stacking: str) -> None:
    compare(name, shape, stacking, training=True, rounding=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_views_of_the_weights_in_their_order(name: str) -> None:
    """The optimizer updates the weights whole, with the gradients in the parameters' order."""
    network = build(name, seeds=SEEDS)
    for stack in (network, network.select([2, 0])):
        assert torch.equal(weights(stack), stack.weights)
        stack.weights.copy_(torch.randn_like(stack.weights))
        assert torch.equal(weights(stack), stack.weights)
        assert all(parameter.requires_grad for parameter in stack.parameters())
        stack.weights.zero_()
        assert (stack(images_of((8, 8, 1), members=stack.members)) == 0).all()


@pytest.mark.parametrize("rows", [[2, 0], [0, 0]])
@pytest.mark.parametrize("name", ["mlp2", "resnet20"])
def test_select_copies_members_that_then_go_their_own_way(name: str, rows: list[int]) -> None:
    source = shake(build(name, seeds=SEEDS), SEEDS)
    before = [tensor.clone() for tensor in (source.weights, *source.buffers())]
    chosen, again = source.select(rows), source.select(rows)
    assert (chosen.members, chosen.stacking) == (len(rows), source.stacking)
    for tensor in (chosen.weights, *chosen.buffers()):
        tensor.fill_(5)
    for tensor, was in zip((source.weights, *source.buffers()), before, strict=True):
        assert torch.equal(tensor, was)
        tensor.fill_(7)
    for mine, theirs in zip((again.weights, *again.buffers()), before, strict=True):
        assert torch.equal(mine, theirs[rows])


@pytest.mark.parametrize("stacking", STACKINGS)
def test_a_lost_member_takes_no_other_along(stacking: str) -> None:
    network = build("resnet20", seeds=SEEDS, stacking=stacking)
    images = images_of((8, 8, 1), members=3)
    expected = network.select([0, 1, 2])(images)
    network.weights[1] = torch.nan
    got = network(images)
    assert got[1].isnan().all()
    assert torch.equal(got[[0, 2]], expected[[0, 2]])


# --- initial weights


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", ["mlp2", "conv4", "resnet20", "resnet18"])
def test_weights_start_with_the_variance_that_their_name_says(name: str, init: str) -> None:
    """Batch norms at the identity, biases at zero; no generator but the member's is used."""
    before = torch.random.get_rng_state()
    network = build(name, (64, 64, 1) if name == "resnet18" else (8, 8, 1), width=1.0, init=init)
    assert torch.equal(torch.random.get_rng_state(), before)
    for layer in weighted(network):
        weight = as_torch_has_it(layer)
        fan_in, fan_out = weight[0].numel(), weight.numel() // weight.shape[1]
        variance = {"he": 2 / fan_in, "glorot": 2 / (fan_in + fan_out), "torch": 1 / (3 * fan_in)}
        # Five standard deviations of a mean square; a normal's is the larger.
        spread = 5 * math.sqrt(2 / weight.numel())
        assert float(weight.square().mean()) == pytest.approx(variance[init], rel=spread)
        largest = float(weight.abs().max()) / math.sqrt(variance[init])
        if init == "he":
            assert weight.numel() < 1000 or largest > 2.5  # a normal has tails
        else:
            assert largest <= math.sqrt(3) * (1 + 1e-6)  # uniform within its bound
        assert init == "torch" or layer.bias is None or (layer.bias == 0).all()
    for norm in norms_of(network):
        assert all((one == 1).all() for one in (norm.weight, norm.running_var))
        assert all((zero == 0).all() for zero in (norm.bias, norm.running_mean))


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
def test_a_member_starts_as_it_does_alone_and_apart_from_others(name: str, init: str) -> None:
    stack = build(name, init=init, seeds=SEEDS)
    for k, seed in enumerate(SEEDS):
        assert torch.equal(stack.weights[k], build(name, init=init, seeds=[seed]).weights[0])
    assert not torch.equal(stack.weights[0], stack.weights[1])


@pytest.mark.parametrize("name", [*NETWORKS, "resnet18"])
def test_a_zero_output_layer_predicts_every_class_alike(name: str) -> None:
    shape = (64, 64, 1) if name == "resnet18" else (8, 8, 1)
    zero, drawn = (build(name, shape, zero_output=wanted) for wanted in (True, False))
    assert (zero(images_of(shape)) == 0).all()
    assert (drawn(images_of(shape)) != 0).any()
    for mine, other in zip(weighted(zero)[:-1], weighted(drawn)[:-1], strict=True):
        assert torch.equal(mine.weight, other.weight)  # the others are as without
