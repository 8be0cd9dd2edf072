"""The typed sections of ``params.yaml`` and of ``scales/*.yaml``, checked before any compute.

Every section is a frozen dataclass whose fields carry the rule for their values. A missing,
unknown, mistyped or out-of-range value raises one `ParamsError`, whose single line names file,
section, key, value and what is accepted.
"""

import math
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, ScalarNode

from stages.lib import datasets, noise, paths
from stages.lib.architectures import (
    ARCHITECTURES,
    INITS,
    ConvNet,
    TorchvisionResNet,
    is_residual,
    smallest_side,
)
from stages.lib.errors import UserError

AUGMENTATIONS = ("none", "flip_crop", "resized_crop")
LOSSES = ("cross_entropy", "noisy_loss")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("float32", "tf32", "bfloat16")
STACKINGS = ("auto", "grouped", "unfold", "loop", "batched")
NOISE_KINDS = ("uniform", "structured")

MOST_CHARACTERS = 1 << 17  # of a YAML file, aliases followed; the longest here has 6,000
MOST_LEVELS = 16  # of values within values
LONGEST = 200  # characters of a value or a key in a message
MOST_AVERAGED = 0.5  # with early stopping: a report's average may not reach back to the one before
MOST_EXAMPLES = 2**31 - 1  # the order of examples is int32
TOP = 5  # a class among so many largest logits is right for top-5 accuracy
MOST_CONFUSED = 100  # classes whose confusion is counted: of a thousand, a million numbers a run
IMAGENET_SIDES = (64, 224)  # pixels: the least and the most that ImageNet is decoded to
CONTROL = ("Cc", "Cs", "Zl", "Zp")  # Unicode's control characters, surrogates, ends of lines


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


def is_plain(text: str) -> bool:
    """Tell whether a text has no control characters, nor parts of characters."""
    return not any(unicodedata.category(character) in CONTROL for character in text)


def _one_of(*names: str) -> Rule:
    def parse(value: Any) -> str:
        _require(isinstance(value, str) and value in names)
        return str(value)

    return Rule("one of " + ", ".join(names), parse)


def _text() -> Rule:
    def parse(value: Any) -> str:
        _require(isinstance(value, str) and bool(value) and is_plain(value))
        return str(value)

    return Rule("a non-empty text without control characters", parse)


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


POSITIVE = _number(1e-30, 1e6)  # neither 0 nor infinite as float32
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
    """The network, the factor on its units and channels, and a ConvNet's batch norm."""

    name: str = _field(_one_of(*ARCHITECTURES))
    width: float = _field(WIDTH)
    batch_norm: bool = _field(_boolean())


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
    early_stopping: bool = _field(_boolean())
    weight_decay: float = _field(_number(0, 1))
    augmentation: str = _field(_one_of(*AUGMENTATIONS))
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


class _Composer(Composer):
    """Reads plain data of bounded size: what is not is refused before anything is made of it.

    Refused are tags, a key that stands twice or is no single value, values in values without end,
    and aliases of aliases, which make gigabytes of a few lines.
    """

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False  # an alias means the last one, as in DVC
        self.extents: dict[Any, tuple[int, int]] = {}  # of nodes: characters, levels

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        alias = isinstance(event, AliasEvent)
        if not alias and event.ctag is not None:
            _refuse(event, f"the tag {event.tag} has no place here")
        if self.depth == MOST_LEVELS:
            _refuse(event, f"more than {MOST_LEVELS} levels of values within values")
        node = super().compose_node(parent, index)
        if alias and node not in self.extents:
            _refuse(event, f"*{event.anchor} stands within what it names")
        if not alias:
            self.extents[node] = self._measure(node)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        # ruamel.yaml lets keys repeat beside a merge.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                _refuse(key, "a key is no single value")
            if (key.tag, key.value) in seen:
                _refuse(key, f"the key {key.value!r} stands twice")
            seen.add((key.tag, key.value))
        return node

    def _measure(self, node: Any) -> tuple[int, int]:
        if isinstance(node, ScalarNode):
            return len(node.value) + 1, 1
        pairs = isinstance(node, MappingNode)
        children = [child for pair in node.value for child in pair] if pairs else node.value
        extents = [self.extents[child] for child in children]
        characters = 1 + sum(extent[0] for extent in extents)
        levels = 1 + max((extent[1] for extent in extents), default=0)
        if characters > MOST_CHARACTERS or levels > MOST_LEVELS:
            most = f"{MOST_CHARACTERS} characters or {MOST_LEVELS} levels"
            _refuse(node, f"more than {most}, aliases followed")
        return characters, levels


def _refuse(place: Any, problem: str) -> NoReturn:
    """Raise the error for an event or node of a YAML file."""
    raise ComposerError(None, None, problem, place.start_mark)


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def one_line(text: str) -> str:
    """Return a text as one short line; control characters, which terminals obey, are escaped."""
    line = " ".join(text[: 2 * LONGEST].split())
    return _shorten("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))


def show(value: Any) -> str:
    """Return a value for a message: in one line that is not too long."""
    try:
        return _shorten(repr(value))
    except ValueError:  # Python prints 4,300 digits at most
        return "a number of thousands of digits"


def show_key(key: Any) -> str:
    """Return a key for a message: as it is where that is a text to be shown, see `show`."""
    return one_line(key) if isinstance(key, str) and key.strip() else show(key)


def fail(file: Path | str, section: str, key: str, value: Any, accepted: str) -> NoReturn:
    """Raise the one-line error for a bad parameter."""
    place = ".".join(part for part in (section, key) if part)
    raise ParamsError(f"{file}: {place}: got {show(value)}; accepted: {accepted}")


def _read_text(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(MOST_CHARACTERS + 1)
    except FileNotFoundError:
        raise ParamsError(f"{file}: no such file") from None
    except OSError as error:
        raise ParamsError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{file}: not valid YAML: no UTF-8: {error}") from None
    if len(text) > MOST_CHARACTERS:
        raise ParamsError(f"{file}: got more than {MOST_CHARACTERS} characters; accepted: fewer")
    if any(line.lstrip("\ufeff").startswith("%") for line in text.splitlines()):
        raise ParamsError(f"{file}: not valid YAML: a line starts with %, a directive; remove it")
    return text


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping at the top of a YAML file, read as DVC reads it: by YAML 1.2.

    Raises:
        ParamsError: the file cannot be read, is no valid YAML or too much of it, has a tag, repeats
            a key, or holds no mapping.
    """
    text = _read_text(file)
    reader = YAML(typ="safe", pure=True)
    reader.Composer = _Composer
    try:
        content = reader.load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        told = ", ".join(part for part in (error.context, error.problem) if part)
        raise ParamsError(f"{file}: not valid YAML: line {line}: {one_line(told)}") from None
    except (YAMLError, ValueError, OverflowError) as error:
        raise ParamsError(f"{file}: not valid YAML: {one_line(str(error))}") from None
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
            known = "only the keys " + ", ".join(accepted)
            fail(file, section, show_key(key), content[key], known)
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
    small = ModelParams(confusion.model, confusion.width, batch_norm=False)
    check_model(small, config.data, file, "confusion", key="model")
    if config.data.name in datasets.FACTS:
        facts = datasets.FACTS[config.data.name]
        check_confusion(confusion, facts.train_size, file, "confusion")
    scale = content["scale"]
    known = sorted(path.stem for path in Path("scales").glob("*.yaml"))
    names = isinstance(scale, str) and paths.NAME.fullmatch(scale) and scale != paths.EXPERIMENT
    if not names or scale not in known:
        accepted = f"a file scales/SCALE.yaml; there are {_shorten(', '.join(known))}"
        fail(file, "", "scale", scale, accepted)
    figures = content["figures"]
    accepted = "a list, without repeats, of one or more figures"
    if not isinstance(figures, list) or not figures:
        fail(file, "", "figures", figures, accepted)
    described = read_yaml(paths.scale_file(scale)).keys() - {"confusion"}
    for key in figures:
        if not isinstance(key, str) or not paths.NAME.fullmatch(key) or key not in described:
            fail(file, "", "figures", key, f"figures that {paths.scale_file(scale)} describes")
    if len(set(figures)) < len(figures):
        fail(file, "", "figures", figures, accepted)
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
    _check_length(config, file, prefix)
    largest = max(data.originals, data.validation)  # validation images are diluted as well
    if largest + noise.count_noisy(largest, config.noise.alpha) > MOST_EXAMPLES:
        highest = MOST_EXAMPLES // largest - 1
        accepted = f"at most {highest} with {largest} images: a set holds {MOST_EXAMPLES} examples"
        fail(file, prefix + "noise", "alpha", config.noise.alpha, accepted)
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
    check_model(config.model, data, file, prefix + "model")
    if train.batch_size == 1 and (config.model.batch_norm or is_residual(config.model.name)):
        accepted = f"2 or more for {config.model.name}: batch norm has no variance of one image"
        fail(file, prefix + "train", "batch_size", 1, accepted)
    if config.noise.images == data.name:
        accepted = "same or unique for images of the originals' own data set"
        fail(file, prefix + "noise", "images", data.name, accepted)
    facts = datasets.FACTS.get(data.name)
    if facts is not None:
        check_fit(data, config.noise, facts.train_size, facts.num_classes, file, prefix)


def _check_length(config: Config, file: Path | str, prefix: str) -> None:
    data, train = config.data, config.train
    if train.passes == 0 and train.min_examples == 0:
        fail(file, prefix + "train", "passes", train.passes, "above 0 where min_examples is 0")
    if train.early_stopping and data.validation == 0:
        fail(file, prefix + "data", "validation", 0, "at least 1 with train.early_stopping")
    if train.early_stopping and train.average > MOST_AVERAGED:
        accepted = f"at most {MOST_AVERAGED:g} with train.early_stopping"
        fail(file, prefix + "train", "average", train.average, accepted)


def check_model(
    model: ModelParams, data: DataParams, file: Path | str, section: str, key: str = "name"
) -> None:
    """Require images that a network can halve, and of a network only what it can be.

    Args:
        model: the network.
        data: whose images it takes.
        file: where they were read from.
        section: where the network stands there, ...
        key: ... and its name in that section.

    Raises:
        ParamsError: the images are too small, torchvision's network is to have another width, or
            what is no ConvNet is to have batch norm.
    """
    architecture, size = ARCHITECTURES[model.name], data.size
    if size is None and data.name in datasets.FACTS:
        size = min(datasets.FACTS[data.name].height, datasets.FACTS[data.name].width)
    if size is not None and size < smallest_side(model.name):
        fits = ", ".join(name for name in ARCHITECTURES if smallest_side(name) <= size)
        fail(file, section, key, model.name, f"{fits} for images of {size}x{size}")
    if isinstance(architecture, TorchvisionResNet) and model.width != 1:
        fail(file, section, "width", model.width, f"1 for {model.name}, which is torchvision's")
    if model.batch_norm and not isinstance(architecture, ConvNet):
        why = "a choice for ConvNets alone; residual networks always have it"
        fail(file, section, "batch_norm", True, f"false for {model.name}: {why}")


def _check_source(data: DataParams, file: Path | str, section: str) -> None:
    low, high = IMAGENET_SIDES
    if data.name not in ("folder", "imagenet"):
        if data.path is not None:
            fail(file, section, "path", data.path, f"null where name is {data.name}")
    elif data.path is None:
        kinds = {"folder": "a folder, .zip or .tar", "imagenet": "the folder of ILSVRC2012"}
        fail(file, section, "path", None, f"{kinds[data.name]} where name is {data.name}")
    elif data.name == "imagenet":
        if data.size is None or not low <= data.size <= high:
            needs = f"a whole number from {low} to {high}, pixels of a side, where name is imagenet"
            fail(file, section, "size", data.size, needs)
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
    # The smallest numbers are rounded up to twice what they are: the quotient alone does not do.
    over = wanted.delta * num_classes > wanted.alpha * noise.ROUNDING
    if over or wanted.delta > largest * noise.ROUNDING:
        shown = math.floor(largest * 1e6) / 1e6  # never rounded up
        at = f"at most {shown:.6g} at alpha {wanted.alpha:g} with {num_classes} classes"
        fail(file, prefix + "noise", "delta", wanted.delta, at)
    if wanted.images not in ("same", "unique"):
        needs = "same or unique where kind is structured: other images have no true class here"
        fail(file, prefix + "noise", "images", wanted.images, needs)
