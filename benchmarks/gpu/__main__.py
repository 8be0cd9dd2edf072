"""The first minutes on a GPU: ``python -m benchmarks.gpu check|results|bundle|import``."""

import argparse
import math
import sys
from pathlib import Path

# Only what needs no package that may be missing: `bundle.use` makes those importable.
from benchmarks.gpu import bundle

BUNDLE = Path("gpu-bundle")
MOST_MINUTES = 9.0


def minutes(text: str) -> float:
    """Return minutes from an argument.

    Raises:
        ArgumentTypeError: it is no number above 0, or more than `MOST_MINUTES`.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MOST_MINUTES:
        accepted = f"a number above 0, at most {MOST_MINUTES:g}"
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: {accepted}")
    return value


def parser() -> argparse.ArgumentParser:
    """Return the parser of all four commands."""
    whole = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    commands = whole.add_subparsers(dest="command", required=True)
    for name, help_ in (
        ("check", "is the CUDA path right, and how fast is it?"),
        ("results", "figure 1 at the paper's size, alpha = 100 first"),
    ):
        one = commands.add_parser(name, help=help_)
        one.add_argument(
            "--minutes", type=minutes, default=MOST_MINUTES, help="at most (default, and most)"
        )
        one.add_argument("--out", type=Path, required=True, help="folder for what comes back")
        one.add_argument(
            "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal"
        )
        one.add_argument("--bundle", type=Path, default=BUNDLE, help="what was brought along")
    one = commands.add_parser("bundle", help="gather what must travel (make gpu-bundle)")
    one.add_argument("--out", type=Path, default=BUNDLE)
    one = commands.add_parser("import", help="take over what came back")
    one.add_argument("folder", type=Path)
    return whole


def main() -> int:
    """Run a command; errors of its user are one line."""
    arguments = parser().parse_args()
    bundle.use(getattr(arguments, "bundle", BUNDLE))
    from benchmarks.gpu import commands
    from stages import command

    return command.run(lambda: commands.COMMANDS[arguments.command](arguments))


if __name__ == "__main__":
    sys.exit(main())
