"""Recipes: what they set, what stands above them, and that none is told the truth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.lib.components.losses import LOSSES
from stages.lib.config import params, recipes
from stages.lib.config.params import TrainParams
from stages.lib.config.reading import read_params
from stages.lib.config.recipes import KEYS, RECIPES
from stages.lib.config.yaml_files import ParamsError, read_yaml
from stages.lib.core import paths
from stages.lib.studies import grids, registry

ROOT = Path(__file__).parents[1]
MASSIVE = RECIPES["massive_noise"]
#: What `params.yaml` said in words before there were recipes.
BEFORE = {
    "targets": "labels", "loss": "cross_entropy", "learning_rates": (0.5, 1.0), "batch_size": 128,
    "optimizer": "adadelta", "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0,
    "augmentation": "none", "averaging": "tail", "ema_decay": 0.999, "average": 0.0,
}  # fmt: skip


def of(train: TrainParams) -> dict[str, Any]:
    """Return the values of the keys that recipes set."""
    return {key: getattr(train, key) for key in KEYS}


def as_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def is_told(train: dict[str, Any]) -> bool:
    """Tell whether a method knows true labels, their rate, or the matrix of the noise."""
    loss = LOSSES[train["loss"]]
    return loss.originals_only or (loss.corrects and train.get("transition") != "estimated")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_sets_what_all_do_and_is_no_oracle(name: str) -> None:
    """One that left a key to the others would leave something of the one before it."""
    values = RECIPES[name]
    assert of(TrainParams(**values)) == as_tuples(values)
    assert not is_told(values)


@pytest.mark.parametrize(
    "oracle",
    [
        {"loss": "expected_noisy_cross_entropy"},
        {"loss": "forward_correction", "transition": "known"},
        {"loss": "forward_correction"},  # by whatever matrix stands in params.yaml
    ],
)
def test_an_oracle_is_noticed(oracle: dict[str, Any]) -> None:
    assert is_told(MASSIVE | oracle)


def test_no_stage_reads_what_a_recipe_sets_without_all_of_the_section() -> None:
    """It would have to depend on ``train.recipe`` as well."""
    stages = read_yaml_with_aliases(ROOT / "dvc.yaml")["stages"].values()
    read = {key for stage in stages for key in stage.get("params", []) if isinstance(key, str)}
    assert {"train", "train.init"} <= read
    assert not {key.removeprefix("train.") for key in read} & KEYS


def read_yaml_with_aliases(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content


# --- layers


def test_a_recipe_replaces_the_layers_before_it_and_none_beside_or_after_it() -> None:
    general = {"targets": "labels", "rho": 0.5, "batch_size": 1}
    named = {"recipe": "massive_noise", "optimizer": "sgd"}
    special = {"schedule": "cosine"}
    found = recipes.expand(general, named, special)
    own = {"recipe": "massive_noise", "optimizer": "sgd", "schedule": "cosine", "rho": 0.5}
    assert found == {**MASSIVE, **own}
    assert recipes.expand(general, {"recipe": "nosuch"}) == {**general, "recipe": "nosuch"}


@pytest.fixture
def train_of(workspace: Path) -> Callable[..., list[TrainParams]]:
    """Return a function from a scale's layers of ``train`` to what its points train by."""
    data = {"name": "digits", "size": None, "originals": 300, "validation": 100}

    def read(defaults: Any, section: Any, block: Any) -> list[TrainParams]:
        scale = {
            "defaults": {"train": defaults, "data": data},
            "fig12_learning_rate": {"train": section, "grids": [{"noise.alpha": [2], **block}]},
        }
        (workspace / "scales").mkdir(exist_ok=True)
        (workspace / "scales" / "tiny.yaml").write_text(yaml.safe_dump(scale), encoding="utf-8")
        return [point.train for point in grids.read_grid("tiny", "fig12_learning_rate").points]

    return read


def test_one_block_of_a_grid_compares_recipes(train_of: Any) -> None:
    paper, massive = train_of(
        {"optimizer": "sgd", "epsilon": 1e-6}, {"batch_size": 32},
        {"train.recipe": ["paper", "massive_noise"], "train.min_samples": [640]},
    )  # fmt: skip
    assert (paper.recipe, massive.recipe) == ("paper", "massive_noise")
    assert of(paper) == BEFORE
    assert of(massive) == as_tuples(MASSIVE)
    assert {(each.epsilon, each.min_samples) for each in (paper, massive)} == {(1e-6, 640)}


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_recipe_may_be_named_at_any_layer_of_a_scale(layer: int, train_of: Any) -> None:
    written = [{"optimizer": name, "targets": "labels"} for name in ("sgd", "sgd", "adadelta")]
    layers: list[dict[str, Any]] = [written[0], written[1], {}]
    layers[layer] = {"recipe": "massive_noise", "schedule": "cosine"}
    block = {f"train.{key}": [value] for key, value in layers[2].items()}
    (found,) = train_of(layers[0], layers[1], block)
    later = layers[1] if layer == 0 else {}
    assert of(found) == as_tuples({**MASSIVE, "schedule": "cosine", **later})


def test_studies_may_name_series_by_recipe(make_config: Any) -> None:
    content = read_yaml(ROOT / "studies" / "width.yaml")
    study = registry.Study(**{**content, "series": "{train.recipe}", "series_where": {}})
    assert study.series_of(make_config({"train.recipe": "massive_noise"})) == "massive_noise"


# --- params.yaml


@pytest.fixture
def write(workspace: Path, content: Any) -> Callable[..., Path]:
    """Return a writer of ``params.yaml``, from the small one or from that which is shipped."""
    (workspace / "scales").mkdir()
    scale = workspace / "scales" / "tiny.yaml"
    scale.write_text("fig1_uniform_mnist: {}\n", encoding="utf-8")

    def write(changes: dict[str, Any], *, shipped: bool = False) -> Path:
        whole = content()
        if shipped:
            whole |= {name: read_yaml(ROOT / "params.yaml")[name] for name in params.SECTIONS}
        for name, value in changes.items():
            section, key = name.split(".")
            whole[section][key] = value
        paths.PARAMS.write_text(yaml.safe_dump(whole), encoding="utf-8")
        return paths.PARAMS

    return write


def test_the_shipped_experiment_is_what_it_was_and_leaves_to_its_recipe_what_recipes_set(
    write: Any,
) -> None:
    written = read_yaml(ROOT / "params.yaml")["train"]
    assert {key for key, value in written.items() if value is None} == KEYS
    assert of(read_params(write({}, shipped=True)).train) == BEFORE


def test_one_switch_changes_all_and_what_is_set_beside_it_stays(write: Any) -> None:
    """As ``dvc exp run -S train.recipe=massive_noise -S train.targets=labels``."""
    switched = read_params(write({"train.recipe": "massive_noise"}, shipped=True)).train
    assert of(switched) == as_tuples(MASSIVE)
    both = {"train.recipe": "massive_noise", "train.targets": "labels"}
    found = read_params(write(both, shipped=True)).train
    assert of(found) == as_tuples({**MASSIVE, "targets": "labels"})


NULL = dict.fromkeys(f"train.{key}" for key in ("targets", "learning_rates", "average"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (NULL, r"train\.\w+: got None; accepted: "),  # no recipe is named
        ({"train.recipe": "paper", "train.rho": None}, "train.rho: got None; accepted: a number"),
        ({"train.recipe": "paper", "noise.alpha": None}, "noise.alpha: got None; accepted: "),
        ({"train.recipe": "papers", **NULL}, "train.recipe: got 'papers'; accepted: one of paper"),
        ({"train.recipe": None, **NULL}, "train.recipe: got None; accepted: one of paper"),
        ({"train.recipe": ["paper"]}, r"train.recipe: got \['paper'\]; accepted: one of paper"),
    ],
)
def test_null_elsewhere_and_an_unknown_recipe_are_told(
    changes: dict[str, Any], told: str, write: Any
) -> None:
    with pytest.raises(ParamsError, match=f"^params.yaml: {told}") as caught:
        read_params(write(changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_null_in_a_scale_is_told(layer: int, train_of: Any) -> None:
    layers: list[Any] = [{}, {"recipe": "paper"}, {}]
    layers[layer] = {**layers[layer], "targets": None}
    block = {f"train.{key}": [value] for key, value in layers[2].items()}
    if layer == 0:  # what a more special layer replaces is not looked at
        assert train_of(layers[0], layers[1], block)
        return
    with pytest.raises(ParamsError, match=r"fig12_learning_rate.train.targets: got None; acc"):
        train_of(layers[0], layers[1], block)
