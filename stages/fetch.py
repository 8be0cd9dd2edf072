"""Fetches the experiment's images."""

from stages.command import stage
from stages.lib.config.reading import read_params
from stages.lib.core import paths
from stages.lib.data import datasets, sources


@stage()
def main() -> None:
    """Fetch the data sets that the experiment's originals and noisy images come from.

    Reads params.yaml and, of data sets that are downloaded, data/downloads/ before the network;
    writes data/datasets/experiment/.
    """
    params = read_params()
    wanted = datasets.needed(
        params.data.name, params.data.path, params.data.size, params.noise.images
    )
    sources.fetch(wanted, paths.datasets(paths.EXPERIMENT))


if __name__ == "__main__":
    raise SystemExit(main())
