"""What every stage's ``main`` shares: arguments from the command line, errors in one line."""

import argparse
import sys
from collections.abc import Callable
from functools import wraps

from stages.lib.errors import UserError
from stages.lib.paths import NAME


def stage(main: Callable[[], None]) -> Callable[[], int]:
    """Make a stage's ``main`` return an exit status, and its errors for the user one line.

    Other exceptions are faults of the pipeline and keep their traceback.
    """

    @wraps(main)
    def run() -> int:
        try:
            main()
        except (UserError, OSError) as error:  # such as a full disk: it names the file
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
        return 0

    return run


def _name(text: str) -> str:
    """Return the name of a scale or a figure, once it is known to be one: it becomes a path."""
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: {NAME.pattern}")
    return text


def scale_argument() -> str:
    """Return the only argument, a scale."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scale", type=_name, help="name of a file scales/SCALE.yaml")
    return str(parser.parse_args().scale)


def figure_arguments() -> tuple[str, str]:
    """Return the two arguments, a scale and a figure's key."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scale", type=_name, help="name of a file scales/SCALE.yaml")
    parser.add_argument("key", type=_name, help="key of a figure in that file")
    arguments = parser.parse_args()
    return arguments.scale, arguments.key
