"""What is noted of a replica on the way, and what is reported of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stages.lib.config.params import MOST_CONFUSED, TOP
from stages.lib.models import networks
from stages.lib.models.operations import operations
from stages.lib.training.ensemble import Ensemble
from stages.lib.training.evaluation import most_likely, predict, ranks
from stages.lib.training.memorisation import memorised
from stages.lib.training.replicas import EVALUATIONS, Replica, TrainingData


@dataclass
class Record:
    """What is noted of a member on the way."""

    curve: list[dict[str, Any]] = field(default_factory=list)
    evaluated: int = 0
    logged: int = 0
    seconds: float = 0.0
    finite: bool = True
    report: dict[str, Any] = field(default_factory=dict)

    def should_log(self, step: int, steps: int) -> bool:
        """Tell whether it was evaluated just now, or last logged a share of its steps ago."""
        return step == self.evaluated or step - self.logged >= steps / EVALUATIONS

    def outcome(self) -> dict[str, Any]:
        """Return its outcome."""
        reported = self.report.get("stopped_at", math.inf)
        rows = [row for row in self.curve if row["examples_seen"] <= reported]
        lost = any(row["train_loss"] is None for row in rows)
        return {
            **self.report,
            "curve": self.curve,
            "diverged": lost or not self.finite,
            "wall_seconds": self.seconds,
        }


def evaluate(
    stack: Ensemble,
    evaluated: list[int],
    records: list[Record],
    on_report: Callable[[int, dict[str, Any]], None],
    on_network: Callable[[int, networks.Network], None] | None = None,
) -> None:
    """Note how members do, and report on those that are due."""
    index = torch.stack([stack.members[k].data.validation for k in evaluated])
    network = stack.snapshot(evaluated)
    predicted = predict(network, stack.bank, index, stack.config.precision)
    finite = network.weights.isfinite().all(dim=1).tolist()
    sums = stack.take_losses(evaluated)
    due = []
    for i, k in enumerate(evaluated):
        mean_loss = sums[i] / (stack.step - records[k].evaluated)
        records[k].evaluated = stack.step
        true = stack.members[k].data.validation_labels
        row: dict[str, Any] = {
            "examples_seen": stack.step * stack.config.batch_size,
            "val_accuracy": _share(predicted[i], true),
            "train_loss": mean_loss if math.isfinite(mean_loss) else None,
        }
        if stack.config.memorisation:
            row |= _memorisation(stack, stack.members[k].data, network.select([i]).eval())
        records[k].curve.append(row)
        if _is_due(stack.members[k], stack.step, records[k].curve, finite[i]):
            records[k].finite = finite[i]
            due.append(i)
    if due:
        reports = _report(
            stack, [evaluated[i] for i in due], network.select(due).eval(), predicted[due]
        )
        for i, report in zip(due, reports, strict=True):
            records[evaluated[i]].report = report
            on_report(evaluated[i], records[evaluated[i]].outcome())
            if on_network is not None:
                on_network(evaluated[i], network.select([i]).eval())


def _memorisation(
    stack: Ensemble, data: TrainingData, network: networks.Network
) -> dict[str, float | None]:
    """Return how a network of one member answers to training examples, and to test images."""
    precision = stack.config.precision
    every = torch.arange(len(data.test_images), device=stack.device).unsqueeze(0)
    test = predict(network, data.test_images, every, precision)[0]
    shares = (
        {} if data.examples is None else memorised(network, stack.bank, data.examples, precision)
    )
    return {**shares, "test_accuracy": _share(test, data.test_labels)}


def _is_due(member: Replica, step: int, curve: list[dict[str, Any]], finite: bool) -> bool:
    """Tell whether to report on a member as it is: at its end, or where it is the best so far."""
    if not member.early_stopping:
        return step == member.steps
    *before, now = (evaluation["val_accuracy"] for evaluation in curve)
    return not before or (finite and now > max(before))


def _report(
    stack: Ensemble, due: list[int], network: networks.Network, validation: Tensor
) -> list[dict[str, Any]]:
    """Return accuracies and confusion of members, from what they predict of validation images."""
    data = stack.members[0].data
    every = torch.arange(len(data.test_images), device=stack.device).expand(len(due), -1)

    def classes_and_ranks(logits: Tensor, part: Tensor) -> Tensor:
        true = data.test_labels[part]
        return torch.stack([most_likely(logits, part), ranks(logits, true)], dim=2)

    precision = stack.config.precision
    tested = predict(network, data.test_images, every, precision, classes_and_ranks)
    stopped = {"stopped_at": stack.step * stack.config.batch_size}
    return [
        _accuracies(stack.members[k].data, seen, *test)
        | {"parameters": network.weights.shape[1]}
        | _compute(stack, stack.members[k])
        | (stopped if stack.members[k].early_stopping else {})
        for k, seen, test in zip(due, validation, tested.movedim(2, 1), strict=True)
    ]


def _compute(stack: Ensemble, member: Replica) -> dict[str, int]:
    """Return a member's steps and the operations of them all, whatever is reported of it."""
    height, width, channels = stack.bank.shape[1:]
    model, m = stack.config.model, member.data.num_classes
    each = operations(
        model.name, (height, width, channels), m, width=model.width, batch_norm=model.batch_norm
    )
    return {"steps": member.steps, "operations": each * stack.config.batch_size * member.steps}


def _accuracies(
    data: TrainingData, validation: Tensor, test: Tensor, test_ranks: Tensor
) -> dict[str, Any]:
    """Return accuracies and confusion of predicted classes and ranks, ``(v,)`` and ``(t,)``."""
    m = data.num_classes
    votes = data.validation_votes
    noisy: float | None = None
    if len(validation):
        noisy = votes.gather(1, validation[:, None]).sum().item() / votes.sum().item()
    return {
        "val_accuracy": _share(validation, data.validation_labels),
        "noisy_val_accuracy": noisy,
        "test_accuracy": _share(test, data.test_labels),
        "test_top5_accuracy": (test_ranks < TOP).sum().item() / len(test) if m > TOP else None,
        "val_confusion": _confusion(data.validation_labels, validation, m),
        "test_confusion": _confusion(data.test_labels, test, m),
    }


def _share(predicted: Tensor, true: Tensor) -> float | None:
    """Return the fraction of right predictions; None where there are none to be right."""
    return (predicted == true).sum().item() / len(true) if len(true) else None


def _confusion(true: Tensor, predicted: Tensor, m: int) -> list[list[int]] | None:
    """Return ``(m, m)`` counts, true class in the rows, predicted class in the columns.

    None where they would be more than are worth keeping.
    """
    if m > MOST_CONFUSED:
        return None
    counts = torch.bincount(true.long() * m + predicted.long(), minlength=m * m)
    rows: list[list[int]] = counts.reshape(m, m).tolist()
    return rows
