"""Checks what can be checked before anything is computed."""

import sys

from stages.command import stage
from stages.lib.config.checks import check_confusion
from stages.lib.config.params import Config
from stages.lib.config.reading import read_params
from stages.lib.core import files, paths
from stages.lib.data.registry import FACTS
from stages.lib.studies import confusion, grids


@stage()
def main() -> None:
    """Check parameters and the chosen figures' grids, with each other and against the data.

    Reads params.yaml, scales/ and studies/; writes data/checked.yaml, which tells whether images of
    the user's own are wanted.
    """
    params = read_params()
    points: list[Config] = []
    for key in params.figures:
        grid = grids.read_grid(params.scale, key)
        points += grid.points
        if grids.needs_confusion(grid):
            confusion.shared_training(grid)
            data, file = grid.points[0].data, paths.scale_file(params.scale)
            facts = FACTS.get(data.name)
            wanted = grids.read_confusion(params.scale)
            check_confusion(wanted, data, facts and facts.train_size, file)
    grids.needed_datasets(points)
    own = any(data.path is not None for data in (params.data, *(point.data for point in points)))
    with files.replacing(paths.CHECKED) as scratch:
        scratch.write_text(f"own_images: {'.nan' if own else 'false'}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
