"""Every path of the pipeline, relative to the repository's root, where stages run."""

import os
import re
from pathlib import Path

NAME = re.compile(r"[a-z0-9][a-z0-9_]*")  # of a scale or figure: it reaches paths and commands
PARAMS = Path("params.yaml")
STUDIES = Path("studies")  # what each study varies and shows, in KEY.yaml
EXPERIMENT = "experiment"  # the name of the experiment's folders, beside the scales'
EXPERIMENT_LABELS = Path("data/labels/experiment")  # its diluted sets, a folder for each seed
EXPERIMENT_METRICS = Path("metrics/experiment.json")
EXPERIMENT_TIMES = Path("metrics/times/experiment.json")
CHECKED = Path("data/checked.yaml")  # that the stage `check` passed


def scale_file(scale: str) -> Path:
    """Every figure's grid at one scale."""
    return Path("scales") / f"{scale}.yaml"


def datasets(group: str) -> Path:
    """The data sets of the experiment (``group="experiment"``) or of a scale's figures."""
    return Path("data/datasets") / group


def scans(group: str) -> Path:
    """What lay at the paths of the user's own images, of the experiment or of all figures."""
    return Path("data/scans") / f"{group}.json"


def experiment_confusion(dataset: str) -> Path:
    """The confusion counts that the experiment's structured noise is ordered by."""
    return Path("data/confusion") / f"{dataset}.json"


def figure_confusion(scale: str) -> Path:
    """The confusion counts that a scale's figures of structured noise are ordered by."""
    return Path("data/confusion") / scale


def figure_labels(scale: str, key: str) -> Path:
    """A figure's diluted label sets, one folder per noise config and seed."""
    return Path("data/labels") / scale / key


def figure_metrics(scale: str, key: str) -> Path:
    """A figure's points."""
    return Path("metrics/figures") / scale / f"{key}.json"


def figure_times(scale: str, key: str) -> Path:
    """How long a figure's points took, and on what."""
    return Path("metrics/times") / scale / f"{key}.json"


def figure_picture(scale: str, key: str, suffix: str) -> Path:
    """A figure's picture; ``suffix`` is ``svg`` or ``png``."""
    return Path("plots/figures") / scale / f"{key}.{suffix}"


def repository() -> Path:
    """The original repository, which ``DVC_ROOT`` names also in ``dvc exp run``'s workspaces."""
    return Path(os.environ.get("DVC_ROOT", "."))


def run_store() -> Path:
    """The folder of finished runs: ``$RUN_STORE``, else one for every workspace of a repository."""
    return Path(os.environ.get("RUN_STORE") or repository() / ".runs")


def downloads() -> Path:
    """The folder of verified downloads, shared likewise; no output of a stage."""
    return repository() / "data/downloads"


def maker(path: Path) -> str | None:
    """Return the stage that writes a file of the pipeline, as DVC calls it; None of other files."""
    parts = path.parts
    for i in reversed(range(len(parts) - 1)):
        match parts[i : i + 4]:
            case ("data", "datasets", group, *_):
                return "fetch" if group == EXPERIMENT else "fetch_figures"
            case ("data", "confusion", _, _):
                return "confuse_figures"
            case ("data", "confusion", _):
                return "confuse"
            case ("data", "labels", group, key):
                return "dilute" if group == EXPERIMENT else f"dilute_figure@{key}"
            case ("metrics", "figures" | "times", _, key):
                return f"train_figure@{key.removesuffix('.json')}"
            case ("metrics", "experiment.json") | ("metrics", "times", "experiment.json"):
                return "train"
    return None


def remedy(path: Path) -> str:
    """Say how to have a file made again that is not as it must be."""
    if (stage := maker(path)) is None:
        return "delete it and run again"
    again = f"run the stage again that makes it: dvc repro -f {stage}"
    return f"{again} (and should DVC bring it back, delete .dvc/cache first)"
