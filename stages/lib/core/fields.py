"""Types of parameters: what a field accepts, as pydantic's rule and in words for messages."""

import types
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from annotated_types import Interval, MinLen, Predicate
from pydantic import ConfigDict, Strict
from pydantic_core import core_schema

from stages.lib.core.text import is_plain

#: Of every section: a value has its type already, and no key is unknown.
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
MOST = 2**31 - 1  # of a whole number


@dataclass(frozen=True)
class Neutral:
    """Marks a field with the value at which it does nothing, whatever its default.

    A run's identity leaves the field out there: a parameter that is added later leaves the
    identities of the runs before it as they are. Never change it.
    """

    value: Any


@dataclass(frozen=True, eq=False)
class OneOf:
    """Marks a field as one of some names, such as a registry's keys."""

    names: Collection[str]

    def __get_pydantic_core_schema__(self, *_: Any) -> core_schema.CoreSchema:
        """Return pydantic's rule."""
        return core_schema.literal_schema(list(self.names))


_DISTINCT = (Strict(False), MinLen(1), Predicate(lambda values: len(set(values)) == len(values)))
Fraction = Annotated[float, Interval(ge=0, le=1)]
BelowOne = Annotated[float, Interval(ge=0, lt=1)]
Positive = Annotated[float, Interval(ge=1e-30, le=1e6)]  # neither 0 nor infinite as float32
Width = Annotated[float, Interval(gt=0, le=64)]
Count = Annotated[int, Interval(ge=0, le=MOST)]
PositiveCount = Annotated[int, Interval(ge=1, le=MOST)]
Text = Annotated[str, MinLen(1), Predicate(is_plain)]
Rates = Annotated[tuple[Positive, ...], *_DISTINCT]
Seeds = Annotated[tuple[Count, ...], *_DISTINCT]


def types_of(section: type) -> dict[str, Any]:
    """Return the annotated types of a section's fields."""
    return get_type_hints(section, include_extras=True)


def neutral_values(section: type) -> dict[str, Any]:
    """Return the fields of a section that have a neutral value, with it."""
    return {
        name: mark.value
        for name, kind in types_of(section).items()
        for mark in getattr(kind, "__metadata__", ())
        if isinstance(mark, Neutral)
    }


def accepts(kind: Any) -> str:
    """Return in words what a field of some annotated type accepts."""
    if get_origin(kind) is Annotated:
        base, *marks = get_args(kind)
        for mark in marks:
            if isinstance(mark, OneOf):
                return "one of " + ", ".join(mark.names)
            if isinstance(mark, Interval):
                return _bounds(base, mark)
        return accepts(base)
    if get_origin(kind) in (Union, types.UnionType):
        return f"null or {accepts(get_args(kind)[0])}"
    if get_origin(kind) is tuple:
        return f"a list without repeats of one or more, each {accepts(get_args(kind)[0])}"
    return "true or false" if kind is bool else "a non-empty text without control characters"


def _bounds(base: type, bounds: Any) -> str:
    if base is int:
        return f"a whole number from {bounds.ge} to {bounds.le}"
    low = f"at least {bounds.ge:g}" if bounds.gt is None else f"above {bounds.gt:g}"
    high = f"at most {bounds.le:g}" if bounds.lt is None else f"below {bounds.lt:g}"
    return f"a number {low}, {high}"
