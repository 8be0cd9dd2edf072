"""Estimates confusion for structured noise: ``python -m stages.confuse_figures SCALE``."""

import sys

from stages.lib import confusion, files, paths, studies
from stages.lib.command import scale_argument, stage
from stages.lib.params import read_params


@stage
def main() -> None:
    """Write one file per chosen figure whose grid has structured noise."""
    scale, params = scale_argument(), read_params()
    folder = paths.figure_confusion(scale)
    folder.mkdir(parents=True, exist_ok=True)  # an output, even where no figure needs it
    for key in params.figures:
        grid = studies.read_grid(scale, key)
        if studies.needs_confusion(grid):
            data, train = grid.points[0].data, grid.points[0].train
            start = confusion.Start(
                train.rho, train.epsilon, train.init, train.zero_output, train.device
            )
            report = confusion.estimate(
                studies.read_confusion(scale),
                data.name,
                start,
                paths.datasets(scale),
                paths.scale_file(scale),
            )
            files.write_json(folder / f"{key}.json", report)


if __name__ == "__main__":
    sys.exit(main())
