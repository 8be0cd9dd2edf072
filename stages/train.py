"""Trains the experiment and reports it."""

from stages.command import stage
from stages.lib.config.params import Config
from stages.lib.config.reading import read_params
from stages.lib.core import files, paths
from stages.lib.execution import executors, runs
from stages.lib.studies import experiment


@stage()
def main() -> None:
    """Train the experiment, every seed at every learning rate, and choose a rate.

    Reads params.yaml, data/datasets/experiment/ and data/labels/experiment/; writes
    metrics/experiment.json and metrics/times/experiment.json. Trainings that .runs/ has are not
    repeated.
    """
    params = read_params()
    config = Config(params.data, params.noise, params.model, params.train)
    images, labels = paths.datasets(paths.EXPERIMENT), paths.EXPERIMENT_LABELS
    todo = runs.expand("experiment", config, images, labels)
    outcomes, device = executors.train_or_load(todo, "experiment")
    files.write_json(paths.EXPERIMENT_METRICS, experiment.report(config, todo, outcomes))
    files.write_json(paths.EXPERIMENT_TIMES, experiment.times(todo, outcomes, device))


if __name__ == "__main__":
    raise SystemExit(main())
