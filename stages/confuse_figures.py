"""Estimates which classes a network confuses, for the figures of structured noise."""

from stages.command import SCALE, stage
from stages.lib.config.reading import read_params
from stages.lib.core import files, paths
from stages.lib.studies import confusion, grids


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
            data, start = confusion.shared_training(grid)
            wanted, images = grids.read_confusion(scale), paths.datasets(scale)
            report = confusion.estimate(wanted, data, start, images, paths.scale_file(scale))
            files.write_json(folder / f"{key}.json", report)


if __name__ == "__main__":
    raise SystemExit(main())
