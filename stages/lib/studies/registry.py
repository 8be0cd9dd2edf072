"""Studies: what each varies and shows, and what the paper states of it.

A study is data: ``studies/KEY.yaml`` describes it, ``scales/SCALE.yaml`` has its grid. What can be
made of a grid's points is code: `stages.lib.studies.kinds`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from string import Formatter
from typing import Any, get_origin, get_type_hints

from stages.lib.config.params import Config
from stages.lib.config.yaml_files import fail, read_yaml
from stages.lib.core import paths
from stages.lib.core.errors import UserError
from stages.lib.core.text import is_plain, show_key
from stages.lib.data.registry import DATASETS
from stages.lib.studies.kinds import KINDS

#: How data sets are called in titles.
TITLES = {name: entry.title for name, entry in DATASETS.items()}

#: ``section.key`` of a config -> its type.
KEYS: dict[str, Any] = {
    f"{section}.{key}": kind
    for section, params in get_type_hints(Config).items()
    for key, kind in get_type_hints(params).items()
}

NUMERIC = tuple(key for key, kind in KEYS.items() if kind in (int, float))

#: Columns that every point has, whatever its study's abscissa.
COLUMNS = ("noise.alpha", "noise.delta", "data.originals", "train.batch_size")

SCALES = ("linear", "symlog", "log")

FORMAT = re.compile(r",?(\.\d)?[fg%]|,|")  # of numbers, or each of several

TEMPLATE = "a text in which {section.key}, as in 'α = {noise.alpha:g}', is a value of the config"


@dataclass(frozen=True)
class Study:
    """What is varied and shown; the keys of ``studies/KEY.yaml``.

    Attributes:
        topic: its title, before the data set.
        series: label of the curve that a config belongs to: a text in which ``{section.key}`` or
            ``{section.key:format}`` is the config's value, ``{data.title}`` and ``{noise.title}``
            how the data sets of originals and of noisy images are called.
        series_title: what the labels are.
        x: the abscissa, ``section.key`` of a number in the config, or its kind's own.
        x_title: its axis title.
        x_scale: one of `SCALES`.
        kind: what is made of the grid's points, one of `KINDS`.
        y: column of a point that is the ordinate, its kind's.
        y_title: its axis title.
        series_where: ``section.key`` -> a value -> the label's text where the config has it.
        top5: whether top-5 accuracy is shown beside top-1, as a series of its own.
        number: of the paper's figure; none of a study of one's own, nor the next three.
        dataset: the paper's data set, as `TITLES` calls it.
        claim: what the paper states, in a sentence.
        stated: series -> the paper's values, each with ``x``, ``y`` and ``text``, its words.
    """

    topic: str
    series: str
    series_title: str
    x: str
    x_title: str
    x_scale: str
    kind: str = "trained"
    y: str = "test_accuracy"
    y_title: str = "test accuracy"
    series_where: Mapping[str, Mapping[Any, str]] = field(default_factory=dict)
    top5: bool = False
    number: int | None = None
    dataset: str | None = None
    claim: str | None = None
    stated: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def column(self) -> str:
        """The key of a point that holds its abscissa."""
        return self.x.rpartition(".")[2]

    def series_of(self, config: Config) -> str:
        """Return the label of the curve that a config belongs to."""
        values = flat(config)
        images = config.noise.images
        values["data.title"] = TITLES[config.data.name]
        values["noise.title"] = TITLES.get(images, f"{images} images")
        where = self.series_where.items()
        special = [cases[values[key]] for key, cases in where if values[key] in cases]
        return _Filled().vformat([*special, self.series][0], (), values)

    def place_of(self, config: Config) -> dict[str, float]:
        """Return the numbers of a config that a point has as columns."""
        values = flat(config)
        shown = dict.fromkeys([*COLUMNS, *([self.x] if self.x in values else [])])
        return {key.rpartition(".")[2]: values[key] for key in shown}


class _Filled(Formatter):
    """Fills in values by ``section.key``; several stand in a row, each in the format."""

    def get_field(self, name: str, _: Any, kwargs: Any) -> Any:
        return kwargs[name], name

    def format_field(self, value: Any, spec: str) -> str:
        return ", ".join(format(v, spec) for v in (value if isinstance(value, tuple) else [value]))


def flat(config: Config) -> dict[str, Any]:
    """Return a config's values by ``section.key``."""
    sections = asdict(config).items()
    return {f"{name}.{key}": value for name, values in sections for key, value in values.items()}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and is_plain(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < float("inf")


def _is_template(value: Any) -> bool:
    try:
        parts = list(Formatter().parse(value)) if _is_text(value) else [("", "", "", None)]
    except ValueError:  # a brace alone
        return False
    return all(name is None or _is_field(name, spec, how) for _, name, spec, how in parts)


def _is_field(name: str, spec: str | None, conversion: str | None) -> bool:
    if name not in (*KEYS, "data.title", "noise.title") or conversion:
        return False
    numbers = name in NUMERIC or get_origin(KEYS.get(name)) is tuple
    return not spec or (numbers and FORMAT.fullmatch(spec) is not None)


def _are_cases(value: Any) -> bool:
    return isinstance(value, dict) and all(
        key in KEYS and isinstance(cases, dict) and all(map(_is_template, cases.values()))
        for key, cases in value.items()
    )


def _are_stated(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_text(series) and isinstance(stated, list) and all(map(_is_stated, stated))
        for series, stated in value.items()
    )


def _is_stated(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"x", "y", "text"}
        and _is_number(value["x"])
        and _is_number(value["y"])
        and _is_text(value["text"])
    )


#: key of a study -> whether a value can be its, and which can, in words.
CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("topic", "series_title", "x", "x_title", "y", "y_title", "dataset", "claim"),
        (_is_text, "a text in one line"),
    ),
    "series": (_is_template, TEMPLATE),
    "series_where": (_are_cases, f"section.key: {{value: text, ...}}, each {TEMPLATE}"),
    "x_scale": (lambda value: value in SCALES, ", ".join(SCALES)),
    "kind": (lambda value: value in list(KINDS), ", ".join(KINDS)),
    "top5": (lambda value: isinstance(value, bool), "true or false"),
    "number": (lambda value: type(value) is int and value > 0, "a whole number above 0"),
    "stated": (_are_stated, "series: [{x: number, y: number, text: the paper's words}, ...]"),
}


def known() -> list[str]:
    """Return the keys of the studies that there are, the paper's by their numbers."""
    stems = [file.stem for file in paths.STUDIES.glob("*.yaml")]

    def order(stem: str) -> list[str | int]:
        return [int(part) if part.isdigit() else part for part in re.split("([0-9]+)", stem)]

    return sorted(filter(paths.NAME.fullmatch, stems), key=order)


def read_study(key: str) -> Study:
    """Return a study by its key.

    Raises:
        UserError: there is none of this key.
        ParamsError: its file lacks a key, has an unknown one, or a value that cannot be used.
    """
    if key not in known():
        raise UserError(f"figures: got {key!r}; accepted: {', '.join(known())}")
    file = paths.STUDIES / f"{key}.yaml"
    content = read_yaml(file)
    for name, value in content.items():
        if name not in CHECKS:
            fail(file, "", show_key(name), value, f"only the keys {', '.join(CHECKS)}")
        fits, accepted = CHECKS[name]
        if not fits(value):
            fail(file, "", name, value, accepted)
    for one in fields(Study):
        if one.name not in content and one.default is one.default_factory is MISSING:
            fail(file, "", one.name, "nothing", CHECKS[one.name][1])
    study = Study(**content)
    kind = KINDS[study.kind]
    xs = [kind.x] if kind.x else [key for key in NUMERIC if key != kind.swept]
    if study.x not in xs:
        fail(file, "", "x", study.x, f"one of {', '.join(xs)}")
    if study.y != kind.y:
        fail(file, "", "y", study.y, f"{kind.y} where kind is {study.kind}")
    return study
