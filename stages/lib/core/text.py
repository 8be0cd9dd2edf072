"""Texts of strangers in messages: one line, not too long, no control characters."""

import unicodedata
from typing import Any

LONGEST = 200  # characters of a value or a key in a message
CONTROL = ("Cc", "Cs", "Zl", "Zp")  # Unicode's control characters, surrogates, ends of lines


def is_plain(text: str) -> bool:
    """Tell whether a text has no control characters, nor parts of characters."""
    return not any(unicodedata.category(character) in CONTROL for character in text)


def shorten(text: str) -> str:
    """Return a text cut to what a message can hold."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def one_line(text: str) -> str:
    """Return a text as one short line; control characters, which terminals obey, are escaped."""
    line = " ".join(text[: 2 * LONGEST].split())
    return shorten("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))


def show(value: Any) -> str:
    """Return a value for a message: in one line that is not too long."""
    try:
        return shorten(repr(value))
    except ValueError:  # Python prints 4,300 digits at most
        return "a number of thousands of digits"


def show_key(key: Any) -> str:
    """Return a key for a message: as it is where that is a text to be shown, see `show`."""
    return one_line(key) if isinstance(key, str) and key.strip() else show(key)
