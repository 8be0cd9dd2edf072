"""The recipes of docs/EXTENDING.md, applied to a copy of the tree, which then trains with them."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_pipeline
import yaml
from dvc.schema import COMPILED_MULTI_STAGE_SCHEMA
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]
RECIPE = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RECIPES = RECIPE.findall((ROOT / "docs/EXTENDING.md").read_text(encoding="utf-8"))
MOST_LINES = 15  # that say something
STUDIES = "batch_norm", "spread"
#: An experiment with all entries that can be had at once, each different from its default.
PARAMS: dict[str, dict[str, Any]] = {
    "data": {"name": "scans", "path": None, "size": None, "originals": 600, "validation": 200},
    "noise": {"alpha": 1},
    "model": {"name": "mlp3", "width": 0.125},
    "train": {
        "recipe": "averaged", "loss": "mean_absolute_error", "optimizer": "signsgd",
        "schedule": "halved", "averaging": "growing", "augmentation": "flip",
        "method": "small_loss", "epochs": 0.0,
        "learning_rates": [0.001], "min_samples": 64000, "seeds": [0], "device": "cpu",
    },
    "confusion": {"subset": 200, "held_out": 200},
}  # fmt: skip
STAGES = (
    "check", "scan", "fetch", "dilute", "train", "count", "fetch_figures",
    *(f"{stage} quick {key}" for key in STUDIES
    for stage in ("dilute_figure", "train_figure", "draw")),
)  # fmt: skip
DRIVER = """
import importlib, sys
for command in sys.argv[1:]:
    stage, *arguments = command.split()
    sys.argv = [stage, *arguments]
    if status := importlib.import_module("stages." + stage).main():
        sys.exit(f"{command}: {status}")
"""


def below_registry(source: str, block: str) -> str:
    """Return a module with a block below the dictionary that it adds to."""
    (registry,) = re.findall(r"^([A-Z]+)\[", block, re.MULTILINE)
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == registry for target in targets):
            lines = source.splitlines()
            return "\n".join([*lines[: node.end_lineno], block, *lines[node.end_lineno :]]) + "\n"
    raise AssertionError(registry)


def merged(content: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return YAML with more of it: keys are added, lists made longer."""
    for key, value in more.items():
        before = content.get(key)
        if isinstance(before, dict):
            merged(before, value)
        else:
            content[key] = before + value if isinstance(before, list) else value
    return content


def write_yaml(file: Path, *more: dict[str, Any]) -> None:
    content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
    for each in more:
        merged(content, each)
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the tree in which every recipe is applied and every stage has run."""
    folder = tmp_path_factory.mktemp("extended")
    for name in ("stages", "studies", "scales"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    for name, block in RECIPES:
        file = folder / name
        if file.suffix == ".yaml":
            write_yaml(file, yaml.safe_load(block))
        elif file.exists():
            file.write_text(below_registry(file.read_text("utf-8"), block), encoding="utf-8")
        else:
            file.write_text(block, encoding="utf-8")
    scale = yaml.safe_load((folder / "scales/quick.yaml").read_text(encoding="utf-8"))
    spread = {**scale["batch_norm"], "grids": [{"noise.alpha": [0, 5]}]}
    write_yaml(folder / "scales/quick.yaml", {"spread": spread})
    write_yaml(folder / "params.yaml", PARAMS)
    content = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    content["train"] |= PARAMS["train"]  # lists are others here, not longer
    content["figures"] = [content["figures"][-1], "spread"]
    (folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    digits = load_digits()
    images = (digits.images[:1000, ..., None] * 15).astype(np.uint8)
    labels = digits.target[:1000].astype(np.uint8)
    (folder / "data/downloads").mkdir(parents=True)
    np.savez(
        folder / "data/downloads/scans.npz",
        train_images=images[:800], train_labels=labels[:800],
        test_images=images[800:], test_labels=labels[800:],
    )  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DVC_")}
    environment["EXECUTOR"] = "one_by_one"
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *STAGES],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "block"), RECIPES, ids=[name for name, _ in RECIPES])
def test_a_recipe_is_short(name: str, block: str) -> None:
    assert sum(bool(line) for line in block.splitlines()) <= MOST_LINES, name


def test_an_experiment_of_the_recipes_learns(extended: Path) -> None:
    report = read(extended / "metrics/experiment.json")
    assert report["test_accuracy"] > 0.5
    assert json.loads(report["config"][0])["train"]["average"] == 0.5  # by the recipe of training
    assert read(extended / "metrics/counts.json")["seed-0"] == 1200


def test_studies_of_the_recipes_are_drawn(extended: Path) -> None:
    figures = {key: read(extended / f"metrics/figures/quick/{key}.json") for key in STUDIES}
    series = {point["series"] for point in figures["batch_norm"]["points"]}
    assert series == {"with batch norm", "without batch norm"}
    assert all(point["spread"] >= 0 for point in figures["spread"]["points"])
    for key in figures:
        assert (extended / f"plots/figures/quick/{key}.png").stat().st_size > 1000


def test_the_pipeline_of_the_recipes_is_declared(
    extended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_pipeline, "ROOT", extended)
    monkeypatch.setattr(test_pipeline, "LIBRARY", extended / "stages/lib")
    pipeline = yaml.safe_load((extended / "dvc.yaml").read_text(encoding="utf-8"))
    COMPILED_MULTI_STAGE_SCHEMA(pipeline)
    assert test_pipeline.faults(pipeline) == set()
