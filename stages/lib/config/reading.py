"""Reads sections, configs and all of ``params.yaml``, each value checked by its rule."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from stages.lib.config.checks import check_config, check_confusion, check_model
from stages.lib.config.params import SECTIONS, Config, ConfusionParams, ModelParams, Params
from stages.lib.config.rules import Rule
from stages.lib.config.yaml_files import fail, read_yaml
from stages.lib.core import paths
from stages.lib.core.text import shorten, show_key
from stages.lib.data.registry import FACTS

Section = TypeVar("Section")


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
    if config.data.name in FACTS:
        facts = FACTS[config.data.name]
        check_confusion(confusion, facts.train_size, file, "confusion")
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
