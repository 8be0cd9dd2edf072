"""Materialises a figure's diluted label sets."""

from stages.command import KEY, SCALE, stage
from stages.lib.core import paths
from stages.lib.labels import dilution
from stages.lib.studies import grids


@stage(SCALE, KEY)
def main(scale: str, key: str) -> None:
    """Draw the noisy labels of a figure, for every noise config and seed of its grid.

    Reads scales/SCALE.yaml, data/datasets/SCALE/ and, for structured noise in the order of
    confusion, data/confusion/SCALE/; writes data/labels/SCALE/KEY/.
    """
    out = paths.figure_labels(scale, key)
    for point in grids.read_grid(scale, key).points:
        dilution.materialise(
            point.data,
            point.noise,
            point.train.seeds,
            data_folder=paths.datasets(scale),
            confusion_file=paths.figure_confusion(scale) / f"{key}.json",
            out=out / dilution.name_of(point.data, point.noise),
            file=paths.scale_file(scale),
            prefix=f"{key}.",
        )


if __name__ == "__main__":
    raise SystemExit(main())
