"""Materialises the experiment's diluted label sets, one per seed: ``python -m stages.dilute``."""

import sys

from stages.command import stage
from stages.lib.config.reading import read_params
from stages.lib.core import paths
from stages.lib.labels import dilution


@stage
def main() -> None:
    """Draw the noisy labels of every seed."""
    params = read_params()
    folder = paths.datasets(paths.EXPERIMENT)
    dilution.materialise(
        params.data,
        params.noise,
        params.train.seeds,
        data_folder=folder,
        confusion_file=paths.experiment_confusion(params.data.name),
        out=paths.experiment_labels(),
    )


if __name__ == "__main__":
    sys.exit(main())
