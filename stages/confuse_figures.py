"""Estimates confusion for structured noise: ``python -m stages.confuse_figures SCALE``."""

import sys

from stages.command import scale_argument, stage
from stages.lib.config.reading import read_params
from stages.lib.core import files, paths
from stages.lib.studies import confusion, grids


@stage
def main() -> None:
    """Write one file per chosen figure whose grid has structured noise."""
    scale, params = scale_argument(), read_params()
    folder = paths.figure_confusion(scale)
    folder.mkdir(parents=True, exist_ok=True)  # an output, even where no figure needs it
    for key in params.figures:
        grid = grids.read_grid(scale, key)
        if grids.needs_confusion(grid):
            data, start = confusion.shared_training(grid, key)
            report = confusion.estimate(
                grids.read_confusion(scale),
                data,
                start,
                paths.datasets(scale),
                paths.scale_file(scale),
            )
            files.write_json(folder / f"{key}.json", report)


if __name__ == "__main__":
    sys.exit(main())
