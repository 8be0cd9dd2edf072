"""Fetches the images of the chosen figures."""

from stages.command import SCALE, stage
from stages.lib.config.reading import read_params
from stages.lib.core import paths
from stages.lib.data import sources
from stages.lib.studies import grids


@stage(SCALE)
def main(scale: str) -> None:
    """Fetch every data set that a chosen figure needs, and no other.

    Reads params.yaml, scales/SCALE.yaml and, of data sets that are downloaded, data/downloads/
    before the network; writes data/datasets/SCALE/.
    """
    params = read_params()
    points = [p for key in params.figures for p in grids.read_grid(scale, key).points]
    sources.fetch(grids.needed_datasets(points), paths.datasets(scale))


if __name__ == "__main__":
    raise SystemExit(main())
