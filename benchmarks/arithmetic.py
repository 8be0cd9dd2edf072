"""Whether arithmetic changes what is learnt: final accuracies by precision and by stacking.

Every seed (at rates of 0.1, 0.5 and 1 in turn) trains once alone in float32, and once in each other
way: in a stack (grouped, unfolded, one by one), and at the other precisions of the device. Reports
each way's test accuracies and its differences from float32 alone, seed by seed.

Prints JSON. ``python -m benchmarks.arithmetic [--device cpu] [--seeds 10] [--alpha 5]``
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import rates, reports, subjects
from stages.lib.config.params import DataParams, NoiseParams
from stages.lib.data import datasets, sources
from stages.lib.labels import dilution
from stages.lib.training import loop
from stages.lib.training.replicas import TrainingData

DATA = DataParams("mnist5k", None, 14, 3500, 500)


def data(dataset: datasets.Dataset, bank: torch.Tensor, seed: int, alpha: float) -> TrainingData:
    """Return the diluted set of a seed, without validation images."""
    noise = NoiseParams("uniform", alpha, 0.0, "confusing", "same")
    diluted = dilution.dilute(dataset, DATA, noise, seed=seed)
    device, none = bank.device, torch.empty(0, dtype=torch.int64, device=bank.device)
    return TrainingData(
        bank=bank,
        labels=torch.from_numpy(diluted.labels).to(device),
        images=torch.from_numpy(diluted.images.astype(np.int32)).to(device),
        validation=none,
        validation_labels=none,
        validation_votes=torch.zeros((0, subjects.CLASSES), dtype=torch.int64, device=device),
        test_images=torch.from_numpy(dataset.test_images).to(device),
        test_labels=torch.from_numpy(dataset.test_labels.astype(np.int64)).to(device),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default=rates.default_device())
    parser.add_argument("--model", choices=list(subjects.SHAPES), default="conv4")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--alpha", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    device, seeds = arguments.device, range(arguments.seeds)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    dataset = sources.load_source("mnist5k", path=None, size=14, downloads=Path())
    bank = torch.from_numpy(dataset.train_images).to(device)
    members = [
        subjects.member(data(dataset, bank, k, arguments.alpha), k, arguments.steps, average=0.5)
        for k in seeds
    ]

    def accuracies(precision: str, stacking: str, together: bool) -> list[float]:
        config = subjects.train_config(arguments.model, width=arguments.width, precision=precision)
        stacks = [members] if together else [[member] for member in members]
        return [
            outcome["test_accuracy"]
            for stack in stacks
            for outcome in loop.train(config, stack, stacking=stacking)
        ]

    alone = accuracies("float32", "loop", False)
    ways = [("float32", stacking) for stacking in ("grouped", "unfold", "loop")]
    ways += [("bfloat16", "grouped"), *([("tf32", "grouped")] if device == "cuda" else [])]
    report: dict[str, Any] = {
        **vars(arguments),
        "float32, alone": {"accuracies": alone, **spread(alone)},
    }
    for precision, stacking in ways:
        got = accuracies(precision, stacking, True)
        differences = [mine - reference for mine, reference in zip(got, alone, strict=True)]
        report[f"{precision}, stacked: {stacking}"] = {
            "accuracies": got,
            **spread(got),
            "difference": {
                **spread(differences),
                "standard_error": statistics.stdev(differences) / len(differences) ** 0.5,
                "largest": max(map(abs, differences)),
            },
        }
        print(f"{precision}, {stacking}: done", file=sys.stderr)
    reports.emit(report, device)


def spread(values: list[float]) -> dict[str, float]:
    """Return mean and sample standard deviation."""
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values)}


if __name__ == "__main__":
    main()
