"""The typed sections of ``params.yaml`` and of ``scales/*.yaml``, checked before any compute.

Every section is a frozen dataclass whose fields carry the rule for their values. A missing,
unknown, mistyped or out-of-range value raises one `ParamsError`, whose single line names file,
section, key, value and what is accepted.
"""

import math
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from stages.lib import datasets, noise, paths
from stages.lib.architectures import ARCHITECTURES, INITS, Perceptron
from stages.lib.errors import UserError

LOSSES = ("cross_entropy", "noisy_loss")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("float32", "tf32", "bfloat16")
STACKINGS = ("auto", "grouped", "unfold", "loop")
NOISE_KINDS = ("uniform", "structured")


class ParamsError(UserError):
    """A parameter that cannot be used; the message is one line for the user."""


@dataclass(frozen=True)
class Rule:
    """What a field accepts: in words, and as a function that returns the value or raises."""

    accepts: str
    parse: Callable[[Any], Any]


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError


def _number(low: float, high: float, *, above: bool = False) -> Rule:
    def parse(value: Any) -> float:
        _require(_is_number(value) and (low < value if above else low <= value) and value <= high)
        return float(value)

    bound = f"{'above' if above else 'at least'} {low:g}"
    return Rule(f"a number {bound}" + (f", at most {high:g}" if high < math.inf else ""), parse)


def _integer(low: int, high: int = 2**31 - 1) -> Rule:
    def parse(value: Any) -> int:
        _require(isinstance(value, int) and not isinstance(value, bool) and low <= value <= high)
        return int(value)

    return Rule(f"a whole number from {low} to {high}", parse)


def _one_of(*names: str) -> Rule:
    def parse(value: Any) -> str:
        _require(isinstance(value, str) and value in names)
        return str(value)

    return Rule("one of " + ", ".join(names), parse)


def _text() -> Rule:
    def parse(value: Any) -> str:
        _require(isinstance(value, str) and bool(value) and "\0" not in value)
        return str(value)

    return Rule("a non-empty text", parse)


def _boolean() -> Rule:
    def parse(value: Any) -> bool:
        _require(isinstance(value, bool))
        return bool(value)

    return Rule("true or false", parse)


def _optional(rule: Rule) -> Rule:
    def parse(value: Any) -> Any:
        return None if value is None else rule.parse(value)

    return Rule(f"null or {rule.accepts}", parse)


def _list_of(rule: Rule) -> Rule:
    def parse(value: Any) -> tuple[Any, ...]:
        _require(isinstance(value, list | tuple) and len(value) > 0)
        parsed = tuple(rule.parse(item) for item in value)
        _require(len(set(parsed)) == len(parsed))
        return parsed

    return Rule(f"a list without repeats of one or more, each {rule.accepts}", parse)


def _field(rule: Rule) -> Any:
    return field(metadata={"rule": rule})


POSITIVE = _number(0, 1e6, above=True)
WIDTH = _number(0, 64, above=True)


@dataclass(frozen=True)
class DataParams:
    """Which images, and how many of them keep their true label (Rolnick et al. 2017, section 3)."""

    name: str = _field(_one_of(*datasets.KNOWN))
    path: str | None = _field(_optional(_text()))
    size: int | None = _field(_optional(_integer(4, 1024)))
    originals: int = _field(_integer(1))
    validation: int = _field(_integer(0))


@dataclass(frozen=True)
class NoiseParams:
    """How the noisy labels are drawn, and on which images (sections 3.1 to 3.3)."""

    kind: str = _field(_one_of(*NOISE_KINDS))
    alpha: float = _field(_number(0, 1e6))
    delta: float = _field(_number(0, 1))
    order: str = _field(_one_of(*noise.ORDERS))
    images: str = _field(_one_of("same", "unique", "white", *datasets.NAMED))


@dataclass(frozen=True)
class ModelParams:
    """The network, and the factor on its numbers of hidden units and channels."""

    name: str = _field(_one_of(*ARCHITECTURES))
    width: float = _field(WIDTH)


@dataclass(frozen=True)
class TrainParams:
    """How a network is trained (section 3.4), and what the paper leaves open."""

    loss: str = _field(_one_of(*LOSSES))
    learning_rates: tuple[float, ...] = _field(_list_of(POSITIVE))
    batch_size: int = _field(_integer(1))
    rho: float = _field(_number(0, 1))
    epsilon: float = _field(POSITIVE)
    init: str = _field(_one_of(*INITS))
    zero_output: bool = _field(_boolean())
    passes: float = _field(_number(0, 1e6))
    min_examples: int = _field(_integer(0))
    average: float = _field(_number(0, 1))
    seeds: tuple[int, ...] = _field(_list_of(_integer(0)))
    device: str = _field(_one_of(*DEVICES))
    precision: str = _field(_one_of(*PRECISIONS))
    stacking: str = _field(_one_of(*STACKINGS))


@dataclass(frozen=True)
class ConfusionParams:
    """How the classes' confusion is estimated (section 3.2): repeated small-subset training."""

    subset: int = _field(_integer(1))
    held_out: int = _field(_integer(1))
    repeats: int = _field(_integer(1, 1000))
    model: str = _field(_one_of(*ARCHITECTURES))
    width: float = _field(WIDTH)
    learning_rate: float = _field(POSITIVE)
    batch_size: int = _field(_integer(1))
    min_examples: int = _field(_integer(1))


@dataclass(frozen=True)
class Config:
    """Everything that decides one point: an experiment, or one place on a figure."""

    data: DataParams
    noise: NoiseParams
    model: ModelParams
    train: TrainParams


@dataclass(frozen=True)
class Params:
    """The whole of ``params.yaml``."""

    data: DataParams
    noise: NoiseParams
    model: ModelParams
    train: TrainParams
    confusion: ConfusionParams
    scale: str
    figures: tuple[str, ...]


SECTIONS: dict[str, type] = {
    "data": DataParams,
    "noise": NoiseParams,
    "model": ModelParams,
    "train": TrainParams,
    "confusion": ConfusionParams,
}
Section = TypeVar("Section")


class _Loader(yaml.SafeLoader):
    """Safe YAML whose ``1e-8`` is a number, as in YAML 1.2, and whose keys may not repeat."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def fail(file: Path | str, section: str, key: str, value: Any, accepted: str) -> NoReturn:
    """Raise the one-line error for a bad parameter."""
    place = " ".join(".".join(part for part in (section, key) if part).split())
    raise ParamsError(f"{file}: {place}: got {value!r}; accepted: {accepted}")


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping at the top of a YAML file.

    Raises:
        ParamsError: the file is missing, is no valid YAML, repeats a key, or holds no mapping.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - safe
    except FileNotFoundError:
        raise ParamsError(f"{file}: no such file") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ParamsError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{file}: got {type(content).__name__}; accepted: a mapping of sections")
    return content


def check_keys(file: Path, section: str, content: Any, accepted: Mapping[str, Any]) -> None:
    """Require that a mapping has exactly the accepted keys.

    Raises:
        ParamsError: it is no mapping, or has a missing or an unknown key.
    """
    if not isinstance(content, dict):
        fail(file, section, "", content, "a mapping with the keys " + ", ".join(accepted))
    for key in content:
        if key not in accepted:
            fail(file, section, str(key), content[key], "only the keys " + ", ".join(accepted))
    for key in accepted:
        if key not in content:
            rule = accepted[key]
            needs = rule.accepts if isinstance(rule, Rule) else "a key of this name"
            fail(file, section, key, "nothing", needs)


def parse_section(kind: type[Section], content: Any, file: Path, section: str) -> Section:
    """Return the typed section that a mapping describes.

    Raises:
        ParamsError: a key is missing, unknown, mistyped or out of range.
    """
    rules: dict[str, Rule] = {f.name: f.metadata["rule"] for f in fields(kind)}  # type: ignore[arg-type]
    check_keys(file, section, content, rules)
    values = {}
    for key, rule in rules.items():
        try:
            values[key] = rule.parse(content[key])
        except ValueError:
            fail(file, section, key, content[key], rule.accepts)
    return kind(**values)


def parse_config(content: Mapping[str, Any], file: Path, prefix: str = "") -> Config:
    """Return the typed config of one point and check how its sections fit each other.

    Raises:
        ParamsError: a section is wrong, or two of them contradict each other.
    """
    names = [f.name for f in fields(Config)]
    sections: dict[str, Any] = {
        name: parse_section(SECTIONS[name], content.get(name), file, prefix + name)
        for name in names
    }
    config = Config(**sections)
    check_config(config, file, prefix)
    return config


def read_params(file: Path = paths.PARAMS) -> Params:
    """Return the checked content of ``params.yaml``.

    Every stage checks the whole file, so that a slip in the last section is told before the first
    stage computes; each declares to DVC only the keys whose values it uses.

    Raises:
        ParamsError: anything in the file is not as described in this module.
    """
    content = read_yaml(file)
    check_keys(file, "", content, dict.fromkeys(f.name for f in fields(Params)))
    config = parse_config(content, file)
    confusion = parse_section(ConfusionParams, content["confusion"], file, "confusion")
    check_size(config.data.size, confusion.model, file, "confusion.model")
    if config.data.name in datasets.FACTS:
        facts = datasets.FACTS[config.data.name]
        check_confusion(confusion, facts.train_size, file, "confusion")
    scale = content["scale"]
    names = isinstance(scale, str) and paths.NAME.fullmatch(scale) and scale != paths.EXPERIMENT
    if not names or not paths.scale_file(scale).is_file():
        known = ", ".join(sorted(path.stem for path in Path("scales").glob("*.yaml")))
        fail(file, "", "scale", scale, f"a file scales/SCALE.yaml; there are {known}")
    figures = content["figures"]
    if not isinstance(figures, list) or not figures or len(set(map(str, figures))) < len(figures):
        fail(file, "", "figures", figures, "a list, without repeats, of one or more figures")
    described = read_yaml(paths.scale_file(scale))
    for key in figures:
        if not isinstance(key, str) or not paths.NAME.fullmatch(key) or key not in described:
            fail(file, "", "figures", key, f"figures that {paths.scale_file(scale)} describes")
    return Params(
        config.data, config.noise, config.model, config.train, confusion, scale, tuple(figures)
    )


def check_confusion(
    params: ConfusionParams, train_size: int, file: Path | str, section: str
) -> None:
    """Require that subset and held-out images fit into the training images.

    Raises:
        ParamsError: they do not, or a batch is larger than the subset.
    """
    if params.subset + params.held_out > train_size:
        limit = f"at most {train_size - params.held_out} beside {params.held_out} held-out images"
        fail(file, section, "subset", params.subset, limit)
    if params.batch_size > params.subset:
        fail(file, section, "batch_size", params.batch_size, f"at most the subset, {params.subset}")


def check_config(config: Config, file: Path | str = paths.PARAMS, prefix: str = "") -> None:
    """Check what can be known before the data are there.

    Raises:
        ParamsError: the sections contradict each other.
    """
    data, train = config.data, config.train
    _check_source(data, file, prefix + "data")
    if data.validation == 0 and len(train.learning_rates) > 1:
        accepted = "at least 1 where there is more than one learning rate to choose from"
        fail(file, prefix + "data", "validation", data.validation, accepted)
    if train.passes == 0 and train.min_examples == 0:
        fail(file, prefix + "train", "passes", train.passes, "above 0 where min_examples is 0")
    examples = data.originals
    if train.loss == "cross_entropy":
        examples += noise.count_noisy(data.originals, config.noise.alpha)
    if train.batch_size > examples:
        most = f"at most the training set, {examples} examples"
        fail(file, prefix + "train", "batch_size", train.batch_size, most)
    if train.loss == "noisy_loss" and (config.noise.kind, config.noise.images) != (
        "uniform",
        "same",
    ):
        accepted = "cross_entropy: H_alpha stands for uniform noise on the same images only"
        fail(file, prefix + "train", "loss", train.loss, accepted)
    check_size(data.size, config.model.name, file, prefix + "model.name")
    if config.noise.images == data.name:
        accepted = "same or unique for images of the originals' own data set"
        fail(file, prefix + "noise", "images", data.name, accepted)
    facts = datasets.FACTS.get(data.name)
    if facts is not None:
        check_fit(data, config.noise, facts.train_size, facts.num_classes, file, prefix)


def check_size(size: int | None, model: str, file: Path | str, section: str) -> None:
    """Require images that a network can halve: no data set is smaller than 8x8 by itself.

    Raises:
        ParamsError: the network has convolutions and images are resized to less than 8x8.
    """
    if size is not None and size < 8 and not isinstance(ARCHITECTURES[model], Perceptron):
        fail(file, section, "", model, f"a perceptron or MLP for images of {size}x{size}")


def _check_source(data: DataParams, file: Path | str, section: str) -> None:
    if data.name != "folder":
        if data.path is not None:
            fail(file, section, "path", data.path, f"null where name is {data.name}")
    elif data.path is None:
        fail(file, section, "path", None, "a folder, .zip or .tar where name is folder")
    elif data.size is None:
        fail(file, section, "size", None, "pixels of a side where name is folder")


def check_fit(
    data: DataParams,
    wanted: NoiseParams,
    train_size: int,
    num_classes: int,
    file: Path | str = paths.PARAMS,
    prefix: str = "",
) -> None:
    """Check data and noise against a data set of ``train_size`` images of ``num_classes`` classes.

    Raises:
        ParamsError: more images are asked for than there are, delta exceeds the largest allowed
            for alpha (PAPER: ``delta <= alpha/m``), or images of other classes are asked for with
            structured noise.
    """
    free = train_size - data.validation
    if data.originals > free:
        most = f"at most {max(free, 0)}: {data.validation} of {train_size} are for validation"
        fail(file, prefix + "data", "originals", data.originals, most)
    left = free - data.originals
    if wanted.images == "unique" and noise.count_noisy(data.originals, wanted.alpha) > left:
        most = f"at most {left / data.originals:g}: {left} unique images are left for noisy labels"
        fail(file, prefix + "noise", "alpha", wanted.alpha, most)
    if wanted.kind == "uniform":
        if wanted.delta != 0:
            fail(file, prefix + "noise", "delta", wanted.delta, "0 where kind is uniform")
        return
    if num_classes < 3:
        needs = f"uniform: {num_classes} classes leave no order among false classes"
        fail(file, prefix + "noise", "kind", wanted.kind, needs)
    largest = noise.largest_delta(wanted.alpha, num_classes)
    if wanted.delta > largest * noise.ROUNDING:
        shown = math.floor(largest * 1e6) / 1e6  # never rounded up
        at = f"at most {shown:.6g} at alpha {wanted.alpha:g} with {num_classes} classes"
        fail(file, prefix + "noise", "delta", wanted.delta, at)
    if wanted.images not in ("same", "unique"):
        needs = "same or unique where kind is structured: other images have no true class here"
        fail(file, prefix + "noise", "images", wanted.images, needs)
