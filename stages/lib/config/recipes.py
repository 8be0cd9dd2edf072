"""Recipes: values of many ``train`` keys under one name, ``train.recipe``.

A recipe says how a network is trained, not how long, from which start or by which seeds. It is
values of other parameters and nothing beside them: a run is named by what it sets, and a method
that is told the true labels, their rate or their transition matrix can be in none.
"""

from collections.abc import Mapping
from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    # Rolnick et al. 2017, section 3.4; its rates are 0.01 to 0.5: these are for short runs.
    "paper": {
        "targets": "labels",
        "loss": "cross_entropy",
        "learning_rates": [0.5, 1.0],
        "batch_size": 128,
        "optimizer": "adadelta",
        "schedule": "constant",
        "warmup": 0.0,
        "weight_decay": 0.0,
        "augmentation": "none",
        "averaging": "tail",
        "ema_decay": 0.999,
        "average": 0.0,
    },
    # Ours: what `benchmarks.recipe` chose on validation images (benchmarks/results/recipe.json).
    "massive_noise": {
        "targets": "aggregated",
        "loss": "cross_entropy",
        "learning_rates": [0.001],
        "batch_size": 64,
        "optimizer": "adamw",
        "schedule": "constant",
        "warmup": 0.0,
        "weight_decay": 0.1,
        "augmentation": "shift",
        "averaging": "ema",
        "ema_decay": 0.999,
        "average": 1.0,
    },
}

#: What any recipe sets.
KEYS = frozenset(key for values in RECIPES.values() for key in values)


def expand(*layers: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a ``train`` section's values from its layers, the most general one first.

    A recipe's values replace those of the layers before the one that names it; what stands beside
    it, or in a later layer, replaces the recipe's. An unknown name sets nothing, and stays.
    """
    values: dict[Any, Any] = {}
    for layer in layers:
        name = layer.get("recipe")
        values |= RECIPES.get(name, {}) if isinstance(name, str) else {}
        values |= layer
    return values


def without_nulls(layer: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a layer that may name all keys and leaves some to its recipe, without those.

    Null is what it leaves to the recipe. It stays where no recipe is named, or none sets the key.
    """
    named = "recipe" in layer
    return {k: v for k, v in layer.items() if not (named and v is None and k in KEYS)}
