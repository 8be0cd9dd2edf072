"""Trains the experiment and reports it: ``python -m stages.train``."""

import sys

from stages.lib import files, paths, results, runs, workers
from stages.lib.command import stage
from stages.lib.params import Config, read_params


@stage
def main() -> None:
    """Train every seed at every learning rate, choose a rate, write the metrics and the times."""
    params = read_params()
    config = Config(params.data, params.noise, params.model, params.train)
    todo = runs.expand(
        "experiment", config, paths.datasets(paths.EXPERIMENT), paths.experiment_labels()
    )
    outcomes, device = workers.complete(todo, "experiment")
    report = results.report_experiment(config, todo, outcomes)
    times = results.time_experiment(todo, outcomes, device)
    files.write_json(paths.EXPERIMENT_METRICS, report)
    files.write_json(paths.EXPERIMENT_TIMES, times)


if __name__ == "__main__":
    sys.exit(main())
