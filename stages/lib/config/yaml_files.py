"""Reads YAML as DVC does, with bounds, and raises one-line errors that name the place."""

from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import ScalarNode

from stages.lib.core.errors import UserError
from stages.lib.core.text import one_line, show

MOST_CHARACTERS = 1 << 17  # of a YAML file; the longest here has 6,000
MOST_LEVELS = 16  # of values within values


class ParamsError(UserError):
    """A parameter that cannot be used; the message is one line for the user."""


class _Composer(Composer):
    """Reads plain data: what is not is refused before anything is made of it.

    Refused are tags, aliases (DVC's ``-S`` loses values through them, and a few lines of them make
    gigabytes), a key that stands twice or is no single value, and values in values without end.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        if isinstance(event, AliasEvent):
            _refuse(event, f"*{event.anchor} is an alias, which DVC's -S misses; write values out")
        if event.ctag is not None:
            _refuse(event, f"the tag {event.tag} has no place here")
        if self.depth == MOST_LEVELS:
            _refuse(event, f"more than {MOST_LEVELS} levels of values within values")
        return super().compose_node(parent, index)

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


def _refuse(place: Any, problem: str) -> NoReturn:
    """Raise the error for an event or node of a YAML file."""
    raise ComposerError(None, None, problem, place.start_mark)


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
        message = ", ".join(part for part in (error.context, error.problem) if part)
        raise ParamsError(f"{file}: not valid YAML: line {line}: {one_line(message)}") from None
    except (YAMLError, ValueError, OverflowError) as error:
        raise ParamsError(f"{file}: not valid YAML: {one_line(str(error))}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{file}: got {type(content).__name__}; accepted: a mapping of sections")
    return content
