"""Estimates which classes a network confuses, for the experiment."""

from stages.command import stage
from stages.lib.config.reading import read_params
from stages.lib.core import files, paths
from stages.lib.studies import confusion


@stage()
def main() -> None:
    """Train on small subsets several times and count the errors on held-out training images.

    Reads params.yaml and data/datasets/experiment/; writes data/confusion/DATASET.json.
    """
    params = read_params()
    start = confusion.SharedTraining(
        rho=params.train.rho,
        epsilon=params.train.epsilon,
        init=params.train.init,
        zero_output=params.train.zero_output,
        device=params.train.device,
        precision=params.train.precision,
        stacking=params.train.stacking,
    )
    folder = paths.datasets(paths.EXPERIMENT)
    report = confusion.estimate(params.confusion, params.data.name, start, folder, paths.PARAMS)
    files.write_json(paths.experiment_confusion(params.data.name), report)


if __name__ == "__main__":
    raise SystemExit(main())
