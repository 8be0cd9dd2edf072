"""What every stage's ``main`` shares: its arguments, errors in one line, and an orderly end."""

import argparse
import os
import sys
from collections.abc import Callable
from functools import wraps
from inspect import getdoc
from pathlib import Path
from typing import Any

from stages.lib.config.reading import read_params
from stages.lib.core import machine, processes
from stages.lib.core.errors import UserError
from stages.lib.core.paths import NAME

KEPT = "what was finished is kept: run again"
Argument = tuple[str, dict[str, Any]]  # what `ArgumentParser.add_argument` takes


def argument(name: str, **options: Any) -> Argument:
    """Return an argument of a stage."""
    return name, options


def _name(text: str) -> str:
    if not NAME.fullmatch(text):  # it becomes a path
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: a name, {NAME.pattern}")
    return text


SCALE = argument(
    "scale", metavar="SCALE", type=_name, nargs="?",
    help="one of scales/SCALE.yaml; if left out, that of params.yaml",
)  # fmt: skip
KEY = argument(
    "key", metavar="KEY", type=_name,
    help="a figure's name in that file; where DVC runs STAGE@KEY, it is that",
)  # fmt: skip


def stage(*arguments: Argument) -> Callable[[Callable[..., None]], Callable[[], int]]:
    """Make a stage's ``main`` a command with arguments, ``--help`` and an exit status.

    The help is the docstring of ``main``, which takes each argument by its name.
    """

    def decorate(main: Callable[..., None]) -> Callable[[], int]:
        @wraps(main)
        def command() -> int:
            given = vars(_parser(getdoc(main), arguments).parse_args())

            def body() -> None:
                if SCALE in arguments and given["scale"] is None:
                    given["scale"] = read_params().scale
                main(**given)

            return run(body)

        return command

    return decorate


def run(body: Callable[[], None]) -> int:
    """Run what a stage does; return its exit status, 1 and one line for errors of the user.

    Ctrl-C, SIGTERM and DVC's own end are answered by ending in order. Other exceptions are faults
    of the pipeline and keep their traceback.
    """
    processes.answer_signals()
    processes.end_with_dvc()
    try:
        body()
    except processes.Interrupted as interruption:
        _say(f"interrupted; {KEPT}")
        return 128 + int(interruption.args[0])
    except (UserError, OSError) as error:  # an OSError names the file
        _say(str(error))
    except (MemoryError, RuntimeError) as error:
        if not machine.is_out_of_memory(error):
            raise
        _say(f"not enough memory ({error}); ask for less, or free some; {KEPT}")
    else:
        return 0
    return 1


def _parser(description: str | None, arguments: tuple[Argument, ...]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{Path(sys.argv[0]).stem}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # DVC calls the stage STAGE@KEY in $DVC_STAGE: so no text of a file reaches a shell.
    key = os.environ.get("DVC_STAGE", "").partition("@")[2]
    for name, options in arguments:
        if name == "key" and key:
            options = options | {"nargs": "?", "default": key}
        parser.add_argument(name, **options)
    return parser


def _say(text: str) -> None:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
