"""Puts a cut ``dvc.lock`` aside: ``python -m tools.lock``, which ``make repro`` does first.

DVC writes the file in place. A kill at that moment leaves half of it, and DVC then refuses to run.
Without it every stage runs again, and finds its finished trainings.
"""

import sys
from pathlib import Path

from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml
from voluptuous import MultipleInvalid

LOCK = Path("dvc.lock")


def is_whole(file: Path) -> bool:
    """Tell whether DVC will read a lock file."""
    try:
        COMPILED_LOCKFILE_SCHEMA(parse_yaml(file.read_text(encoding="utf-8"), str(file)))
    except (YAMLFileCorruptedError, MultipleInvalid, UnicodeDecodeError):
        return False
    return True


def main() -> None:
    """Rename a lock file that is not whole."""
    if LOCK.exists() and not is_whole(LOCK):
        aside = LOCK.with_suffix(".lock.cut")
        LOCK.replace(aside)
        print(f"{LOCK} was cut by a kill: it is {aside} now, and made again", file=sys.stderr)


if __name__ == "__main__":
    main()
