"""Fetches the images of a scale's chosen figures: ``python -m stages.fetch_figures SCALE``."""

import sys

from stages.lib import paths, sources, studies
from stages.lib.command import scale_argument, stage
from stages.lib.params import read_params


@stage
def main() -> None:
    """Fetch every data set that a chosen figure needs, and no other."""
    scale, params = scale_argument(), read_params()
    points = [p for key in params.figures for p in studies.read_grid(scale, key).points]
    sources.fetch(studies.needed_datasets(points), paths.datasets(scale))


if __name__ == "__main__":
    sys.exit(main())
