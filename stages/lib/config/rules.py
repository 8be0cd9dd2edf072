"""Rules for the values of parameters: what each accepts, in words and as a function."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stages.lib.core.text import is_plain


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


def number(low: float, high: float, *, above: bool = False) -> Rule:
    """Return the rule of a number within bounds; ``above``: the lower one excluded."""

    def parse(value: Any) -> float:
        _require(_is_number(value) and (low < value if above else low <= value) and value <= high)
        return float(value)

    bound = f"{'above' if above else 'at least'} {low:g}"
    return Rule(f"a number {bound}" + (f", at most {high:g}" if high < math.inf else ""), parse)


def integer(low: int, high: int = 2**31 - 1) -> Rule:
    """Return the rule of a whole number within bounds."""

    def parse(value: Any) -> int:
        _require(isinstance(value, int) and not isinstance(value, bool) and low <= value <= high)
        return int(value)

    return Rule(f"a whole number from {low} to {high}", parse)


def one_of(*names: str) -> Rule:
    """Return the rule of one of some names."""

    def parse(value: Any) -> str:
        _require(isinstance(value, str) and value in names)
        return str(value)

    return Rule("one of " + ", ".join(names), parse)


def text() -> Rule:
    """Return the rule of a non-empty text without control characters."""

    def parse(value: Any) -> str:
        _require(isinstance(value, str) and bool(value) and is_plain(value))
        return str(value)

    return Rule("a non-empty text without control characters", parse)


def boolean() -> Rule:
    """Return the rule of true or false."""

    def parse(value: Any) -> bool:
        _require(isinstance(value, bool))
        return bool(value)

    return Rule("true or false", parse)


def optional(rule: Rule) -> Rule:
    """Return the rule of a value that may be null."""

    def parse(value: Any) -> Any:
        return None if value is None else rule.parse(value)

    return Rule(f"null or {rule.accepts}", parse)


def list_of(rule: Rule) -> Rule:
    """Return the rule of a list without repeats, whose items have a rule."""

    def parse(value: Any) -> tuple[Any, ...]:
        _require(isinstance(value, list | tuple) and len(value) > 0)
        parsed = tuple(rule.parse(item) for item in value)
        _require(len(set(parsed)) == len(parsed))
        return parsed

    return Rule(f"a list without repeats of one or more, each {rule.accepts}", parse)


def ruled(rule: Rule) -> Any:
    """Return a dataclass's field that carries a rule."""
    return field(metadata={"rule": rule})


POSITIVE = number(1e-30, 1e6)  # neither 0 nor infinite as float32

WIDTH = number(0, 64, above=True)
