"""What every stage's ``main`` shares: its arguments, errors in one line, and an orderly end."""

import os
import sys
from collections.abc import Callable
from functools import wraps

from stages.lib.config.reading import read_params
from stages.lib.core import machine, processes
from stages.lib.core.errors import UserError
from stages.lib.core.paths import NAME

KEPT = "what was finished is kept: run again"


def stage(main: Callable[[], None]) -> Callable[[], int]:
    """Make a stage's ``main`` return an exit status, and its errors for the user one line.

    Ctrl-C, SIGTERM and DVC's own end are answered by ending in order. Other exceptions are faults
    of the pipeline and keep their traceback.
    """

    @wraps(main)
    def run() -> int:
        processes.answer_signals()
        processes.end_with_dvc()
        try:
            main()
        except processes.Interrupted as interruption:
            _say(f"interrupted; {KEPT}")
            return 128 + int(interruption.args[0])
        except (UserError, OSError) as error:  # an OSError names the file
            _say(str(error))
            return 1
        except (MemoryError, RuntimeError) as error:
            if not machine.is_out_of_memory(error):
                raise
            _say(f"not enough memory ({error}); ask for less, or free some; {KEPT}")
            return 1
        return 0

    return run


def _say(text: str) -> None:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)


def scale_argument() -> str:
    """Return the scale: the only argument, or that of ``params.yaml``.

    Raises:
        UserError: it is no name.
    """
    (scale,) = _arguments("SCALE")
    return scale


def figure_arguments() -> tuple[str, str]:
    """Return a scale and a figure's key: both arguments, or none where DVC runs the stage.

    DVC calls the stage ``STAGE@KEY`` in ``$DVC_STAGE``. So no text of a file reaches a shell.

    Raises:
        UserError: they are no names.
    """
    scale, key = _arguments("SCALE", "KEY")
    return scale, key


def plan_arguments() -> tuple[str, str] | None:
    """Return the scale, of the arguments or of ``params.yaml``, and the key after ``--plan``.

    Returns:
        None where the first argument is another: then nothing is only planned.

    Raises:
        UserError: they are no names.
    """
    if sys.argv[1:2] != ["--plan"]:
        return None
    given = sys.argv[2:]
    if len(given) == 1:
        given = [read_params().scale, *given]
    scale, key = _names(given, "--plan KEY", "--plan SCALE KEY")
    return scale, key


def _arguments(*wanted: str) -> list[str]:
    given = sys.argv[1:]
    key = os.environ.get("DVC_STAGE", "").partition("@")[2]
    if not given and (key or "KEY" not in wanted):
        given = [read_params().scale, key][: len(wanted)]
    return _names(given, " ".join(wanted))


def _names(given: list[str], *accepted: str) -> list[str]:
    """Return arguments if they are names, as many as the last form that is accepted."""
    if len(given) != sum(word.isupper() for word in accepted[-1].split()):
        raise UserError(f"got {len(given)} arguments; accepted: {' or '.join(accepted)}")
    for name in given:  # it becomes a path
        if not NAME.fullmatch(name):
            raise UserError(f"got {name!r}; accepted: a name, {NAME.pattern}")
    return given
