"""The paper's figures: what each varies and shows, and what the paper states."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stages.lib.config.params import Config
from stages.lib.core.errors import UserError

#: How data sets are called in titles.
DISPLAY = {
    "mnist5k": "5,000 MNIST images",
    "digits": "scikit-learn's digits",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "folder": "a folder of images",
    "imagenet": "ImageNet",
}

ALPHA = "noisy labels per clean label, α"

ACCURACY = "test accuracy"


@dataclass(frozen=True)
class Stated:
    """A value that the paper states for a series: where it stands and in which words."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Figure:
    """What a figure shows.

    Attributes:
        number: its number in the paper.
        topic: its title, before the data set.
        dataset: the paper's data set, as `DISPLAY` calls it.
        claim: what the paper states, in a sentence.
        series: label of the curve that a config belongs to.
        series_title: what the labels are.
        x: key of a point that is the abscissa.
        x_title: its axis title.
        x_scale: ``linear`` or ``symlog``.
        y: key of a point that is the ordinate.
        y_title: its axis title.
        kind: ``trained`` points, ``transitions`` (figure 4) or ``thresholds`` (figure 9).
        top5: whether top-5 accuracy is shown beside top-1, as a series of its own.
        stated: series -> the paper's values.
    """

    number: int
    topic: str
    dataset: str
    claim: str
    series: Callable[[Config], str]
    series_title: str
    x: str = "alpha"
    x_title: str = ALPHA
    x_scale: str = "symlog"
    y: str = "test_accuracy"
    y_title: str = ACCURACY
    kind: str = "trained"
    top5: bool = False
    stated: Mapping[str, tuple[Stated, ...]] = field(default_factory=dict)


def _network(config: Config) -> str:
    return config.model.name


def _alpha(config: Config) -> str:
    return f"α = {config.noise.alpha:g}"


def _noise_model(config: Config) -> str:
    if config.noise.kind == "uniform":
        return "uniform"
    return f"{config.noise.order}, δ = {config.noise.delta:g}"


def _order(config: Config) -> str:
    return config.noise.order


def _source(config: Config) -> str:
    images = config.noise.images
    if images == "same":
        return f"{DISPLAY[config.data.name]}, mislabeled"
    return "white noise" if images == "white" else DISPLAY.get(images, f"{images} images")


def _repetition(config: Config) -> str:
    return {"same": "repeated images"}.get(config.noise.images, f"{config.noise.images} images")


def _batch(config: Config) -> str:
    if config.train.loss == "expected_noisy_cross_entropy":
        return "H_α (infinite batch)"
    return f"batch {config.train.batch_size}"


def _rate(config: Config) -> str:
    return ", ".join(f"{rate:g}" for rate in config.train.learning_rates)


FIGURES: dict[str, Figure] = {
    "fig1_uniform_mnist": Figure(
        1,
        "uniform label noise",
        "MNIST",
        "At α = 100 the ConvNet stays above 0.90 and the perceptron reaches 0.40; "
        "perceptron < MLP < ConvNet.",
        _network,
        "network",
        stated={
            "conv4": (Stated(100, 0.90, "paper: > 0.90 at α = 100"),),
            "perceptron": (Stated(100, 0.40, "paper: 0.40 at α = 100"),),
        },
    ),
    "fig2_uniform_cifar10": Figure(
        2,
        "uniform label noise",
        "CIFAR-10",
        "The best network stays above 0.85 at α = 10; the ResNet's accuracy drops more slowly.",
        _network,
        "network",
        stated={"resnet20": (Stated(10, 0.85, "paper: best > 0.85 at α = 10"),)},
    ),
    "fig3_uniform_imagenet": Figure(
        3,
        "uniform label noise",
        "ImageNet",
        "At α = 5 top-5 accuracy stays above 0.70.",
        _network,
        "network",
        y_title="test accuracy, top-1 and top-5",
        top5=True,
        stated={"resnet50, top-5": (Stated(5, 0.70, "paper: top-5 > 0.70 at α = 5"),)},
    ),
    "fig4_noise_models": Figure(
        4,
        "noise models",
        "MNIST",
        "Uniform noise, and noise in which δ says how much more likely than chance the second most "
        "likely class is, in three orders of the false classes.",
        _noise_model,
        "noise model",
        x="label",
        x_title="given label",
        x_scale="linear",
        y="true_class",
        y_title="true class",
        kind="transitions",
    ),
    "fig5_structured": Figure(
        5,
        "structured label noise",
        "MNIST",
        "Flat until δ is near 1; random order hurts a little more than confusing order.",
        _order,
        "order of false classes",
        x="delta",
        x_title="structure of the noise, δ",
        x_scale="linear",
    ),
    "fig6_sources": Figure(
        6,
        "sources of noisy images",
        "CIFAR-10",
        "Noisy images of another data set cost half the drop, white noise almost nothing.",
        _source,
        "images with noisy labels",
    ),
    "fig7_unique_images": Figure(
        7,
        "repeated or unique noisy images",
        "MNIST",
        "Essentially no difference between repeated and unique images.",
        _repetition,
        "noisy labels on",
    ),
    "fig8_training_size": Figure(
        8,
        "number of clean labels",
        "MNIST",
        "Every noise level is learnt from enough clean labels; noise shifts how many are needed.",
        _alpha,
        "noise level",
        x="originals",
        x_title="clean training labels, n",
    ),
    "fig9_critical_size": Figure(
        9,
        "clean labels needed for a target accuracy",
        "MNIST",
        "0.90 needs 2,000 clean labels at α = 10 and 10,000 at α = 50: slightly more than linear.",
        _alpha,
        "target accuracy",
        x_scale="linear",
        y="critical_size",
        y_title="clean training labels needed",
        kind="thresholds",
        stated={
            "0.90": (
                Stated(10, 2000, "paper: 2,000 at α = 10"),
                Stated(50, 10000, "paper: 10,000 at α = 50"),
            )
        },
    ),
    "fig10_training_size_imagenet": Figure(
        10,
        "number of clean labels",
        "ImageNet",
        "As on MNIST: every noise level is learnt from enough clean labels.",
        _alpha,
        "noise level",
        x="originals",
        x_title="clean training labels, n",
        y_title="test accuracy, top-1 and top-5",
        top5=True,
    ),
    "fig11_batch_size": Figure(
        11,
        "batch size and the noisy loss",
        "MNIST",
        "Larger batches hold up longer; H_α, an infinite batch, stays flat.",
        _batch,
        "training",
    ),
    "fig12_learning_rate": Figure(
        12,
        "learning rate",
        "CIFAR-10",
        "The best rate falls as α grows; 1 is best without noise and unstable with it.",
        _rate,
        "learning rate",
    ),
}


def coordinates(config: Config) -> dict[str, float]:
    """Return the numbers that some figure has on its axis."""
    return {
        "alpha": config.noise.alpha,
        "delta": config.noise.delta,
        "originals": config.data.originals,
        "batch_size": config.train.batch_size,
    }


def check_key(key: str) -> Figure:
    """Return a figure by its key.

    Raises:
        UserError: no figure has this key.
    """
    if key not in FIGURES:
        raise UserError(f"figures: got {key!r}; accepted: {', '.join(FIGURES)}")
    return FIGURES[key]
