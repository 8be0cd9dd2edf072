"""Materialises the experiment's diluted label sets, one per seed."""

from stages.command import stage
from stages.lib.config.reading import read_params
from stages.lib.core import paths
from stages.lib.labels import dilution


@stage()
def main() -> None:
    """Draw the noisy labels of the experiment, for every seed.

    Reads params.yaml, data/datasets/experiment/ and, for structured noise in the order of
    confusion, data/confusion/DATASET.json; writes data/labels/experiment/.
    """
    params = read_params()
    dilution.materialise(
        params.data,
        params.noise,
        params.train.seeds,
        data_folder=paths.datasets(paths.EXPERIMENT),
        confusion_file=paths.experiment_confusion(params.data.name),
        out=paths.EXPERIMENT_LABELS,
    )


if __name__ == "__main__":
    raise SystemExit(main())
