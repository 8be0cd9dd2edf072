"""Materialises a figure's diluted label sets: ``python -m stages.dilute_figure SCALE KEY``."""

import sys

from stages.command import figure_arguments, stage
from stages.lib.core import paths
from stages.lib.labels import dilution
from stages.lib.studies import grids


@stage
def main() -> None:
    """Draw the noisy labels of every noise config and seed of a figure's grid."""
    scale, key = figure_arguments()
    out = paths.figure_labels(scale, key)
    for point in grids.read_grid(scale, key).points:
        dilution.materialise(
            point.data,
            point.noise,
            point.train.seeds,
            data_folder=paths.datasets(scale),
            confusion_file=paths.figure_confusion(scale) / f"{key}.json",
            out=out / dilution.name_of(point.data, point.noise),
        )


if __name__ == "__main__":
    sys.exit(main())
