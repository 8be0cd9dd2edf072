"""Draws a figure's picture: ``python -m stages.draw SCALE KEY``."""

import sys

from stages.command import figure_arguments, stage
from stages.lib.core import files, paths
from stages.lib.plots import pictures


@stage
def main() -> None:
    """Read a figure's points and write its picture in every format."""
    scale, key = figure_arguments()
    figure = pictures.draw(files.read_json(paths.figure_metrics(scale, key)))
    for suffix in ("svg", "png"):
        with files.replacing(paths.figure_picture(scale, key, suffix)) as scratch:
            pictures.save(figure, scratch)


if __name__ == "__main__":
    sys.exit(main())
