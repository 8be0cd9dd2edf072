"""What several test modules share: small data sets, configs, and an empty workspace."""

import signal
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.lib.config.params import Config
from stages.lib.config.reading import parse_config
from stages.lib.core import processes
from stages.lib.data.datasets import Dataset
from stages.lib.noise.sampling import label_dtype

pytest_plugins = ["here"]
processes.prepare()  # before anything loads torch, as workers do
# A shell's background job ignores Ctrl-C, and so would what it starts: here it never does.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that run pipelines: nobody should wait for one of them at the end."""
    items.sort(key=lambda item: item.path.name not in ("test_dvc.py", "test_faults.py"))


BASE: dict[str, Any] = {
    "data": {"name": "digits", "path": None, "size": None, "originals": 60, "validation": 20},
    "noise": {
        "kind": "uniform", "alpha": 2, "delta": 0.0, "order": "confusing", "images": "same",
    },
    "model": {"name": "perceptron", "width": 1.0, "batch_norm": False},
    "train": {
        "loss": "cross_entropy", "learning_rates": [0.5], "batch_size": 16, "rho": 0.95,
        "epsilon": 1e-6, "init": "he", "zero_output": False, "epochs": 0.0, "min_samples": 320,
        "weight_decay": 0.0, "augmentation": "none", "average": 0.0,
        "early_stopping": False, "seeds": [0], "device": "cpu",
        "precision": "float32", "stacking": "auto",
    },
    "confusion": {
        "subset": 40, "held_out": 30, "repeats": 2, "model": "perceptron", "width": 1.0,
        "learning_rate": 0.5, "batch_size": 16, "min_samples": 160,
    },
    "scale": "tiny",
    "figures": ["fig1_uniform_mnist"],
}  # fmt: skip


def replaced(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a deep copy with the values at ``SECTION.KEY`` replaced."""
    content = deepcopy(content)
    for name, value in changes.items():
        *sections, key = name.split(".")
        place = content
        for section in sections:
            place = place[section]
        place[key] = value
    return content


@pytest.fixture
def content() -> Callable[..., dict[str, Any]]:
    """Return a maker of what a small ``params.yaml`` holds, with some values replaced."""
    return lambda changes=None: replaced(BASE, changes or {})


@pytest.fixture
def make_config() -> Callable[..., Config]:
    """Return a maker of small configs: ``make_config({"noise.alpha": 5})``."""

    def make(changes: dict[str, Any] | None = None) -> Config:
        return parse_config(replaced(BASE, changes or {}), Path("test"))

    return make


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    """Return a maker of data sets that a network learns in a few steps.

    Class k is a bright pixel pair at the place k of an 8x8 image of faint noise.
    """

    def make(
        name: str = "digits", train: int = 200, test: int = 100, num_classes: int = 10
    ) -> Dataset:
        rng = np.random.default_rng(num_classes + train)

        def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
            labels = rng.permutation(np.arange(count) % num_classes)
            images = rng.integers(0, 60, (count, 64), dtype=np.uint8)
            images[np.arange(count), labels % 64] = 255
            images[np.arange(count), (labels * 7 + 3) % 64] = 255
            return images.reshape(count, 8, 8, 1), labels.astype(label_dtype(num_classes))

        train_images, train_labels = draw(train)
        test_images, test_labels = draw(test)
        names = tuple(f"class {k}" for k in range(num_classes))
        return Dataset(
            name, train_images, train_labels, test_images, test_labels, names, "Made for a test."
        )

    return make


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with nothing but the studies, as if it were the repository's root."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "studies").symlink_to(Path(__file__).parents[1] / "studies")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute as a worker does, which decides the order of sums."""
    import torch  # which takes seconds: most tests do without it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """Undo what a run sets for its process, where hypothesis and numpy want all numbers."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def clocked_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a stack take a second to be built and a tenth for a step, by the training's clock."""
    now = [0.0]

    class Stack:
        def __init__(self, *_: Any) -> None:
            now[0] += 1

        def advance(self, steps: int) -> None:
            now[0] += 0.1 * steps

    monkeypatch.setattr("stages.lib.training.ensemble.Ensemble", Stack)
    monkeypatch.setattr("stages.lib.training.loop.time.perf_counter", lambda: now[0])
