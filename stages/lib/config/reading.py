"""Reads sections, configs and all of ``params.yaml``, each value checked by its rule."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from stages.lib.config import recipes
from stages.lib.config.checks import check_config, check_confusion
from stages.lib.config.params import SECTIONS, Config, ConfusionParams, Params
from stages.lib.config.yaml_files import fail, read_yaml
from stages.lib.core import fields, paths
from stages.lib.core.text import shorten, show_key
from stages.lib.data.registry import FACTS

Section = TypeVar("Section")


#: What parameters, and values of theirs, were called before.
RENAMED = {
    "passes": "epochs",
    "min_examples": "min_samples",
    "noisy_loss": "expected_noisy_cross_entropy",
}


def check_keys(
    file: Path, section: str, content: Any, accepted: Collection[str], needed: Iterable[str]
) -> None:
    """Require a mapping that has none but the accepted keys, and all that are needed.

    Raises:
        ParamsError: it is no mapping, or has a missing or an unknown key.
    """
    known = ", ".join(accepted)
    if not isinstance(content, dict):
        fail(file, section, "", content, f"a mapping with the keys {known}")
    for key in content:
        if key not in accepted:
            new = RENAMED.get(key) if isinstance(key, str) else None
            words = f"{new}, its new name" if new in accepted else f"only the keys {known}"
            fail(file, section, show_key(key), content[key], words)
    for key in needed:
        if key not in content:
            fail(file, section, key, "nothing", "a key of this name")


def parse_section(kind: type[Section], content: Any, file: Path, section: str) -> Section:
    """Return the typed section that a mapping describes; what it leaves out has its default.

    Raises:
        ParamsError: a key is unknown, or its value mistyped or out of range.
    """
    types = fields.types_of(kind)
    check_keys(file, section, content, types, ())
    try:
        return kind(**content)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        value = content[key]
        new = RENAMED.get(value) if isinstance(value, str) else None
        words = fields.accepts(types[key])
        if new and new in words.removeprefix("one of ").split(", "):
            words = f"{new}, its new name"
        fail(file, section, key, value, words)


def parse_config(content: Mapping[str, Any], file: Path, prefix: str = "") -> Config:
    """Return the typed config of one point and check how its sections fit each other.

    What ``train.recipe`` sets is filled in where the section does not say it.

    Raises:
        ParamsError: a section is wrong, or two of them contradict each other.
    """
    written = {name: content.get(name, {}) for name in fields.types_of(Config)}
    if isinstance(written["train"], dict):
        written["train"] = recipes.expand(written["train"])
    sections: dict[str, Any] = {
        name: parse_section(SECTIONS[name], section, file, prefix + name)
        for name, section in written.items()
    }
    config = Config(**sections)
    check_config(config, file, prefix)
    return config


def read_params(file: Path = paths.PARAMS) -> Params:
    """Return the checked content of ``params.yaml``, where null may be what the recipe sets.

    Every stage checks the whole file, so that a slip in the last section is told before the first
    stage computes; each declares to DVC only the keys whose values it uses.

    Raises:
        ParamsError: anything in the file is not as described in this module.
    """
    content = read_yaml(file)
    check_keys(file, "", content, fields.types_of(Params), ("scale", "figures"))
    if isinstance(content.get("train"), dict):
        content["train"] = recipes.without_nulls(content["train"])
    config = parse_config(content, file)
    confusion = parse_section(ConfusionParams, content.get("confusion", {}), file, "confusion")
    facts = FACTS.get(config.data.name)
    check_confusion(confusion, config.data, facts and facts.train_size, file)
    scale = content["scale"]
    known = sorted(path.stem for path in Path("scales").glob("*.yaml"))
    names = isinstance(scale, str) and paths.NAME.fullmatch(scale) and scale != paths.EXPERIMENT
    if not names or scale not in known:
        accepted = f"a file scales/SCALE.yaml; there are {shorten(', '.join(known))}"
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
