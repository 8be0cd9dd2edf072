"""Puts files aside that a kill has cut; `make repro` does this first.

DVC writes dvc.lock and its tables of locks in place. A kill at that moment leaves half of one,
and DVC then refuses to run. Without the first every stage runs again, and finds its finished
trainings; the others name processes that are gone.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml
from voluptuous import MultipleInvalid

AGAIN_SECONDS = 1.0  # a file that a living DVC writes is whole when looked at again

#: what reads each file, as DVC does
READERS: dict[str, Callable[[str], object]] = {
    "dvc.lock": lambda text: COMPILED_LOCKFILE_SCHEMA(parse_yaml(text, "dvc.lock")),
    ".dvc/tmp/rwlock": json.loads,
    ".dvc/tmp/exps/rwlock": json.loads,
}


def _is_whole(file: Path, read: Callable[[str], object]) -> bool:
    try:
        with suppress(FileNotFoundError):
            read(file.read_text(encoding="utf-8"))
    except (YAMLFileCorruptedError, MultipleInvalid, ValueError):
        return False
    return True


def mend(root: Path) -> list[str]:
    """Rename the files that DVC cannot read; return their names."""
    cut = []
    for name, read in READERS.items():
        file = root / name
        if not _is_whole(file, read):
            time.sleep(AGAIN_SECONDS)
            if not _is_whole(file, read):
                file.replace(file.with_name(f"{file.name}.cut"))
                cut.append(name)
    return cut


def main() -> None:
    """Mend the repository that this is called in."""
    argparse.ArgumentParser("python -m tools.lock", description=__doc__).parse_args()
    for name in mend(Path()):
        print(f"{name} was cut by a kill: it is {name}.cut now, and made again", file=sys.stderr)


if __name__ == "__main__":
    main()
