"""Materialises the experiment's diluted label sets, one per seed: ``python -m stages.dilute``."""

import sys

from stages.lib import dilution, paths
from stages.lib.command import stage
from stages.lib.params import read_params


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
