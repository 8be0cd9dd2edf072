"""Studies: what each varies and shows, and what the paper states of it.

A study is data: ``studies/KEY.yaml`` describes it, ``scales/SCALE.yaml`` has its grid. What can be
made of a grid's points is code: `stages.lib.studies.kinds`.
"""

import re
from dataclasses import asdict, field
from string import Formatter
from typing import Annotated, Any, get_origin, get_type_hints

from pydantic import AfterValidator, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from stages.lib.config.params import Config
from stages.lib.config.reading import check_keys
from stages.lib.config.yaml_files import fail, read_yaml
from stages.lib.core import fields, paths
from stages.lib.core.errors import UserError
from stages.lib.core.fields import STRICT, OneOf, PositiveCount, Text
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


def _check_template(text: str) -> str:
    for _, name, spec, conversion in Formatter().parse(text):  # ValueError: a brace alone
        known = name is None or (name in (*KEYS, "data.title", "noise.title") and not conversion)
        numbers = name in NUMERIC or get_origin(KEYS.get(str(name))) is tuple
        if not known or (spec and not (numbers and FORMAT.fullmatch(spec))):
            raise ValueError
    return text


Template = Annotated[Text, AfterValidator(_check_template)]


class Statement(TypedDict):
    """A value of the paper's, and its words."""

    x: int | float
    y: int | float
    text: Text


@dataclass(frozen=True, config=STRICT)
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
        baseline: label of the curve that a config's is compared to, a text like ``series``; None
            where none is.
        series_where: ``section.key`` -> a value -> the label's text where the config has it.
        top5: whether top-5 accuracy is shown beside top-1, as a series of its own.
        number: of the paper's figure; none of a study of one's own, nor the next three.
        dataset: the paper's data set, as `TITLES` calls it.
        claim: what the paper states, in a sentence.
        stated: series -> the paper's values, each with ``x``, ``y`` and ``text``, its words.
    """

    topic: Text
    series: Template
    series_title: Text
    x: Text
    x_title: Text
    x_scale: Annotated[str, OneOf(SCALES)]
    kind: Annotated[str, OneOf(KINDS)] = "trained"
    y: Text = "test_accuracy"
    y_title: Text = "test accuracy"
    series_where: dict[Annotated[str, OneOf(KEYS)], dict[Any, Template]] = field(
        default_factory=dict
    )
    baseline: Template | None = None
    top5: bool = False
    number: PositiveCount | None = None
    dataset: Text | None = None
    claim: Text | None = None
    stated: dict[Text, list[Statement]] = field(default_factory=dict)

    @property
    def column(self) -> str:
        """The key of a point that holds its abscissa."""
        return self.x.rpartition(".")[2]

    def series_of(self, config: Config) -> str:
        """Return the label of the curve that a config belongs to."""
        values = _values(config)
        where = self.series_where.items()
        special = [cases[values[key]] for key, cases in where if values[key] in cases]
        return _Filled().vformat([*special, self.series][0], (), values)

    def baseline_of(self, config: Config) -> str | None:
        """Return the label of the curve that a config's is compared to, None where there is none.

        That it is one of the study's is checked with its grid.
        """
        if self.baseline is None:
            return None
        return _Filled().vformat(self.baseline, (), _values(config))

    def place_of(self, config: Config) -> dict[str, Any]:
        """Return what a point has as columns: its series, and numbers of its config."""
        values = flat(config)
        columns = {
            key.rpartition(".")[2]: values[key] for key in (*COLUMNS, self.x) if key in values
        }
        return {"series": self.series_of(config), **columns}


class _Filled(Formatter):
    """Fills in values by ``section.key``; several stand in a row, each in the format."""

    def get_field(self, name: str, _: Any, kwargs: Any) -> Any:
        return kwargs[name], name

    def format_field(self, value: Any, spec: str) -> str:
        return ", ".join(format(v, spec) for v in (value if isinstance(value, tuple) else [value]))


def _values(config: Config) -> dict[str, Any]:
    """Return what a template may name: a config's values, and how its data sets are called."""
    images = config.noise.images
    noise = TITLES.get(images, f"{images} images")
    return {**flat(config), "data.title": TITLES[config.data.name], "noise.title": noise}


def flat(config: Config) -> dict[str, Any]:
    """Return a config's values by ``section.key``."""
    sections = asdict(config).items()
    return {f"{name}.{key}": value for name, values in sections for key, value in values.items()}


_TEMPLATE = "a text in which {section.key}, as in 'α = {noise.alpha:g}', is a value of the config"

#: What keys accept, where their type does not say it all.
ACCEPTED = {
    "series": _TEMPLATE,
    "baseline": f"{_TEMPLATE}, which is a series",
    "series_where": f"section.key: {{value: text, ...}}, each {_TEMPLATE}",
    "stated": "series: [{x: number, y: number, text: the paper's words}, ...]",
}


def known() -> list[str]:
    """Return the keys of the studies that there are, the paper's first and by their numbers."""
    stems = [file.stem for file in paths.STUDIES.glob("*.yaml")]

    def order(stem: str) -> list[str | int]:
        parts = [int(part) if part.isdigit() else part for part in re.split("([0-9]+)", stem)]
        return [int(parts[0] != "fig"), *parts]

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
    content, types = read_yaml(file), fields.types_of(Study)
    check_keys(file, "", content, types, ())
    try:
        study = Study(**content)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        accepted = ACCEPTED.get(name) or fields.accepts(types[name])
        fail(file, "", name, content.get(name, "nothing"), accepted)
    kind = KINDS[study.kind]
    xs = [kind.x] if kind.x else [key for key in NUMERIC if key != kind.swept]
    if study.x not in xs:
        fail(file, "", "x", study.x, f"one of {', '.join(xs)}")
    if study.y != kind.y:
        fail(file, "", "y", study.y, f"{kind.y} where kind is {study.kind}")
    return study
