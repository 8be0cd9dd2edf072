"""Trains a stack by a method: networks of a first phase, what they choose, the networks that count.

The second phase starts from the same initial weights and draws from the same streams as a training
without a method, so that the difference between both is paired.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.lib.components.methods import METHODS, Answers, Examples
from stages.lib.core.randomness import stream
from stages.lib.models.networks import Network
from stages.lib.training import loop
from stages.lib.training.devices import Precision
from stages.lib.training.ensemble import State
from stages.lib.training.evaluation import predict
from stages.lib.training.replicas import Replica, TrainConfig, TrainingData

Evaluated = Callable[[int, int, float | None], None]


def train(
    config: TrainConfig,
    members: Sequence[Replica],
    seeds: Sequence[int],
    true_labels: NDArray[np.integer],
    *,
    stacking: str = "grouped",
    states: Sequence[State] | None = None,
    checkpoint_seconds: float = math.inf,
    on_checkpoint: Callable[[int, State], None] = lambda *_: None,
    on_evaluation: Evaluated = lambda *_: None,
    on_report: Callable[[int, dict[str, Any]], None] = lambda *_: None,
    on_done: Callable[[int, dict[str, Any]], None] = lambda *_: None,
) -> list[dict[str, Any]]:
    """Train a stack by ``config.method``, and return outcomes as `loop.train` does.

    Args:
        config: what the members share.
        members: at least one.
        seeds: of the members' runs, which decide what the first phase draws.
        true_labels: of the first images of the bank; what is reported is counted with them, and
            they decide nothing.
        stacking: see `loop.train`, as of all below.
        states: the second phase goes on from them. A first phase has none: it starts anew.
        checkpoint_seconds: between two checkpoints of the second phase, at least.
        on_checkpoint: called in the second phase alone; a state holds what the first has chosen.
        on_evaluation: steps count from the beginning of the first phase.
        on_report: called in the second phase alone, or once where there is none.
        on_done: called with member and outcome.

    Returns:
        For each member the second phase's outcome, with ``wall_seconds`` of both, and ``method``:
        ``examples`` it was trained on, ``accuracy`` of their labels and ``given_accuracy`` of the
        whole set's (as far as true labels are known; None of none), ``trained_again`` (False where
        the outcome is the first phase's, for too little was chosen), ``steps_total`` of all
        trainings together, and what the method says (`Choice.found`).
    """
    if states is None:
        chosen, done = _first_phase(config, members, seeds, true_labels, stacking, on_evaluation)
    else:
        chosen, done = [state["method"] for state in states], {}

    def finished(k: int, outcome: dict[str, Any]) -> dict[str, Any]:
        seconds = outcome["wall_seconds"] + chosen[k]["seconds"]
        return {**outcome, "wall_seconds": seconds, "method": chosen[k]["found"]}

    outcomes = {}
    for k, outcome in done.items():
        outcomes[k] = finished(k, outcome)
        total = (METHODS[config.method].first(config) + 1) * members[k].steps
        on_evaluation(k, total, outcome["val_accuracy"])
        on_report(k, outcomes[k])
        on_done(k, outcomes[k])
    left = [k for k in range(len(members)) if k not in done]
    if left:
        before = METHODS[config.method].first(config)
        trained = loop.train(
            config,
            [_anew(members[k], chosen[k]) for k in left],
            stacking=stacking,
            states=states,
            checkpoint_seconds=checkpoint_seconds,
            on_checkpoint=lambda i, state: on_checkpoint(
                left[i], {**state, "method": chosen[left[i]]}
            ),
            on_evaluation=lambda i, steps, accuracy: on_evaluation(
                left[i], before * members[left[i]].steps + steps, accuracy
            ),
            on_report=lambda i, outcome: on_report(left[i], finished(left[i], outcome)),
            on_done=lambda i, outcome: on_done(left[i], finished(left[i], outcome)),
        )
        outcomes |= {k: finished(k, outcome) for k, outcome in zip(left, trained, strict=True)}
    return [outcomes[k] for k in range(len(members))]


def _anew(member: Replica, chosen: dict[str, Any]) -> Replica:
    """Return a member of the second phase."""
    device = member.data.bank.device
    images, labels = chosen["images"].to(device), chosen["labels"].to(device)
    return replace(member, data=replace(member.data, images=images, labels=labels))


def _first_phase(
    config: TrainConfig,
    members: Sequence[Replica],
    seeds: Sequence[int],
    true_labels: NDArray[np.integer],
    stacking: str,
    on_evaluation: Evaluated,
) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
    """Return what is chosen for each member, and outcomes of those for which nothing is."""
    METHODS[config.method].load()  # before the clock: that takes seconds, once in a process
    started = time.perf_counter()
    first = FirstNetworks(config, members, seeds, stacking, on_evaluation)
    choose = METHODS[config.method].choose
    if choose is None:
        raise ValueError(f"method: got {config.method!r}; accepted: one that has a first phase")
    choices = choose(first, config)
    aside = (time.perf_counter() - started - sum(first.seconds)) / len(members)
    chosen, done = [], {}
    for k, (member, choice) in enumerate(zip(members, choices, strict=True)):
        again = len(choice.labels) > 0
        if not again:
            done[k] = first.outcomes[k]
        images = torch.from_numpy(first.distinct[k][choice.images])
        labels = torch.from_numpy(np.asarray(choice.labels)).to(member.data.labels.dtype)
        found = {
            **choice.found,
            "examples": len(labels),
            "accuracy": _accuracy(images.numpy(), labels.numpy(), true_labels),
            "given_accuracy": _accuracy(
                first.distinct[k][first.examples[k].shown], first.examples[k].labels, true_labels
            ),
            "trained_again": again,
            "steps_total": (first.trainings + again) * member.steps,
        }
        seconds = first.seconds[k] + aside
        chosen.append({"images": images, "labels": labels, "found": found, "seconds": seconds})
    return chosen, done


def _accuracy(
    images: NDArray[np.integer], labels: NDArray[np.integer], true: NDArray[np.integer]
) -> float | None:
    known = images < len(true)  # others are of other data sets, and of none of the classes
    return float(np.mean(true[images[known]] == labels[known])) if known.any() else None


class FirstNetworks:
    """A stack's networks of the first phase, as `stages.lib.components.methods.FirstPhase` says.

    Attributes:
        distinct: of each member the distinct images of its set, ``(n,)`` int32 in the bank.
        outcomes: of networks that were trained on the whole sets.
        trainings: how many there were, each of all members.
        seconds: that each member's took.
    """

    def __init__(
        self,
        config: TrainConfig,
        members: Sequence[Replica],
        seeds: Sequence[int],
        stacking: str,
        on_evaluation: Evaluated = lambda *_: None,
    ) -> None:
        self.config, self.members, self.seeds, self.stacking = config, members, seeds, stacking
        self.on_evaluation, self.batch_size = on_evaluation, config.batch_size
        self.distinct, self.examples = list[NDArray[np.int32]](), list[Examples]()
        for member in members:
            distinct, images = np.unique(member.data.images.cpu().numpy(), return_inverse=True)
            labels = member.data.labels.cpu().numpy()
            self.distinct.append(distinct)
            self.examples.append(Examples(labels, images.astype(np.int32)))
        self.outcomes: list[dict[str, Any]] = []
        self.trainings, self.seconds = 0, [0.0] * len(members)

    def trained(self) -> list[Answers]:
        """Train networks on their sets, as without a method, and return what they answer."""
        self.outcomes, networks = self._train(self.members)
        found = []
        for k, member in enumerate(self.members):
            held_out = member.data.validation.cpu().numpy()
            found.append(
                Answers(
                    self._ask(networks[k], self.distinct[k]),
                    self._ask(networks[k], held_out),
                    member.data.validation_labels.cpu().numpy(),
                )
            )
        return found

    def out_of_sample(self, folds: int) -> list[NDArray[np.float32]]:
        """Return what networks answer to images that they were not trained on, ``(n, m)`` each.

        Each fold's networks are trained for as many steps as the run's own.
        """
        classes = self.members[0].data.num_classes
        answers = [np.empty((len(own), classes), dtype=np.float32) for own in self.distinct]
        fold_of = [
            np.random.default_rng(stream(seed, "folds")).permutation(len(own)) % folds
            for seed, own in zip(self.seeds, self.distinct, strict=True)
        ]
        for fold in range(folds):
            members = []
            for k, (member, seed) in enumerate(zip(self.members, self.seeds, strict=True)):
                init, shuffle, augment = (
                    stream(seed, f"fold_{purpose}").spawn(folds)[fold]
                    for purpose in ("init", "shuffle", "augmentation")
                )
                kept = fold_of[k][self.examples[k].images] != fold
                data = restrict(member.data, torch.from_numpy(kept))
                members.append(
                    replace(member, data=data, init=init, shuffle=shuffle, augment=augment)
                )
            _, networks = self._train(members)
            for k, own in enumerate(self.distinct):
                held_out = fold_of[k] == fold
                answers[k][held_out] = self._ask(networks[k], own[held_out])
        return answers

    def _train(self, members: Sequence[Replica]) -> tuple[list[dict[str, Any]], dict[int, Network]]:
        networks: dict[int, Network] = {}
        before = self.trainings
        outcomes = loop.train(
            self.config,
            members,
            stacking=self.stacking,
            on_evaluation=lambda k, steps, accuracy: self.on_evaluation(
                k, before * members[k].steps + steps, accuracy
            ),
            on_network=networks.__setitem__,
        )
        self.trainings += 1
        for k, outcome in enumerate(outcomes):
            self.seconds[k] += outcome["wall_seconds"]
        return outcomes, networks

    def _ask(self, network: Network, images: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the probabilities of classes, ``(n, m)``, of images in the bank."""
        bank = self.members[0].data.bank
        index = torch.from_numpy(images.astype(np.int64)).to(bank.device).unsqueeze(0)
        with Precision(self.config.precision):
            found = predict(network, bank, index, self.config.precision, _probabilities)
        answers: NDArray[np.float32] = found[0].cpu().numpy()
        return answers


def _probabilities(logits: Tensor, _: Tensor) -> Tensor:
    return logits.softmax(dim=2)


def restrict(data: TrainingData, kept: Tensor) -> TrainingData:
    """Return a set without some of its images, and without every example that shows one.

    Args:
        data: the set.
        kept: bool, as long as ``data.images``: which of its entries stay.
    """
    kept = kept.to(data.labels.device)
    repeats = math.ceil(len(data.labels) / len(kept))
    examples = kept.repeat(repeats)[: len(data.labels)]
    # What is left of a list that repeats is one that repeats as well.
    return replace(data, labels=data.labels[examples], images=data.images[kept])
