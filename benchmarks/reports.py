"""What the commands share: their options, how they sum repeats up, and how they print."""

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from stages.lib.core import files, machine


def options(doc: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser of ``--rounds``."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--rounds", type=int, default=rounds)
    return parser


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Return median and range of repeated measurements."""
    return {"median": statistics.median(values), "range": [min(values), max(values)]}


def emit(report: dict[str, Any], device: str = "cpu") -> None:
    """Print a report as JSON, with what it was measured on."""
    where = {"hardware": machine.hardware(device), "versions": machine.versions()}
    sys.stdout.write(files.to_json({**report, **where}))
