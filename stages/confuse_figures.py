"""Estimates which classes a network confuses, for the figures of structured noise."""

import sys
from dataclasses import fields

from stages.command import SCALE, stage
from stages.lib.config.reading import read_params
from stages.lib.core import files, paths
from stages.lib.core.errors import UserError
from stages.lib.studies import confusion, grids


def _shared(grid: grids.Grid, key: str) -> tuple[str, confusion.SharedTraining]:
    """Return the data set and the start of training that a grid's points share.

    Raises:
        UserError: they differ, and one confusion matrix cannot serve them all.
    """
    names = [field.name for field in fields(confusion.SharedTraining)]
    found = {
        (p.data.name, confusion.SharedTraining(**{name: getattr(p.train, name) for name in names}))
        for p in grid.points
    }
    if len(found) > 1:
        raise UserError(f"{key}: got several data sets or starts with structured noise; use one")
    return found.pop()


@stage(SCALE)
def main(scale: str) -> None:
    """Count the errors of small trainings, for each chosen figure with structured noise.

    Reads params.yaml, scales/SCALE.yaml and data/datasets/SCALE/; writes data/confusion/SCALE/.
    """
    params = read_params()
    folder = paths.figure_confusion(scale)
    folder.mkdir(parents=True, exist_ok=True)  # an output, even where no figure needs it
    for key in params.figures:
        grid = grids.read_grid(scale, key)
        if grids.needs_confusion(grid):
            data, start = _shared(grid, key)
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
