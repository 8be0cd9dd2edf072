"""Fetches the images of a scale's chosen figures: ``python -m stages.fetch_figures SCALE``."""

import sys

from stages.command import scale_argument, stage
from stages.lib.config.reading import read_params
from stages.lib.core import paths
from stages.lib.data import sources
from stages.lib.studies import grids


@stage
def main() -> None:
    """Fetch every data set that a chosen figure needs, and no other."""
    scale, params = scale_argument(), read_params()
    points = [p for key in params.figures for p in grids.read_grid(scale, key).points]
    sources.fetch(grids.needed_datasets(points), paths.datasets(scale))


if __name__ == "__main__":
    sys.exit(main())
