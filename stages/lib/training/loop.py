"""Trains a stack of networks side by side, each on its diluted set, top to bottom.

Images stay one uint8 tensor on the device, a batch is a gather by index, and a diluted set is
labels and indices. A stack's members share images, architecture and batch size and differ in
numbers: labels, learning rate, order, smoothing and length. All that is random comes from the seed
sequences of each member, so that a result does not depend on what trains beside it: on one CPU
thread it repeats to the bit, alone or in a stack of dense networks.
"""

import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Any

from stages.lib.models.networks import Network
from stages.lib.training.devices import Precision, synchronise
from stages.lib.training.ensemble import Ensemble, State
from stages.lib.training.replicas import Replica, TrainConfig
from stages.lib.training.reports import Record, evaluate

CHECKPOINT_SHARE = 0.05  # of the time, at most, goes into checkpoints


def train(
    config: TrainConfig,
    members: Sequence[Replica],
    *,
    stacking: str = "grouped",
    states: Sequence[State] | None = None,
    checkpoint_seconds: float = math.inf,
    on_checkpoint: Callable[[int, State], None] = lambda *_: None,
    on_evaluation: Callable[[int, int, float | None], None] = lambda *_: None,
    on_report: Callable[[int, dict[str, Any]], None] = lambda *_: None,
    on_done: Callable[[int, dict[str, Any]], None] = lambda *_: None,
    on_network: Callable[[int, Network], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a stack and return what `stages.lib.execution.store` stores of each member.

    A member that has done its steps is evaluated and ignored from then on; the others go on in a
    smaller stack: on CUDA at once, elsewhere when half of them are done.

    Args:
        config: what the members share.
        members: at least one; their sets lie on the device to train on.
        stacking: how convolutions of several members are computed, see `models.Network`.
        states: of each member, after the same step, as ``on_checkpoint`` was given them: the
            training goes on from there, on a CPU to the same bits as if it had never stopped.
        checkpoint_seconds: between two checkpoints, at least.
        on_checkpoint: called with member and state for each that is not done.
        on_evaluation: called with member, steps done and the last validation accuracy: after each
            evaluation and, where these are far apart, each share of 1/`EVALUATIONS` of its steps.
        on_report: called with member and what its outcome would be, were this its end: when it has
            done its steps and, with early stopping, at every evaluation that is the best so far.
        on_done: called with member and outcome when it has done its steps.
        on_network: called with member and a copy of its network, of one, at each report.

    Returns:
        For each member: accuracies as fractions (``val_accuracy`` and ``noisy_val_accuracy`` None
        without validation images, ``test_top5_accuracy`` where there are no more than five
        classes), ``stopped_at`` with early stopping (examples seen by the weights that are
        reported), confusion counts with the true class in the rows (None for more than
        `MOST_CONFUSED` classes), the curve over examples seen, ``diverged`` when a loss was not
        finite before the report, ``steps`` and the floating-point ``operations`` of them all (see
        `models.operations`), ``wall_seconds``: its share of the time, divided at every moment among
        the members that were not done.
    """
    records = [Record() for _ in members]
    device = members[0].data.bank.device.type
    outcomes: dict[int, dict[str, Any]] = {}
    with Precision(config.precision):
        stack = Ensemble(config, members, stacking)
        if states is not None:
            stack.restore(states)
            records = [Record(**deepcopy(state["record"])) for state in states]
        saved, cost = time.perf_counter(), 0.0
        while len(outcomes) < len(members):
            started = time.perf_counter()
            active = [k for k in stack.rows if k not in outcomes]
            ahead = (step for k in active for step in members[k].evaluations if step > stack.step)
            stack.advance(min(min(ahead) - stack.step, stack.prefetched or stack.chunk))
            evaluated = [k for k in active if stack.step in members[k].evaluations]
            done = [k for k in evaluated if stack.step == members[k].steps]
            if evaluated:
                evaluate(stack, evaluated, records, on_report, on_network)
                stack.average_anew(evaluated)
            for k in active:
                records[k].seconds += (time.perf_counter() - started) / len(active)
            for k in (k for k in active if records[k].should_log(stack.step, members[k].steps)):
                on_evaluation(k, stack.step, records[k].curve[-1]["val_accuracy"])
                records[k].logged = stack.step
            for k in done:
                outcomes[k] = records[k].outcome()
                on_done(k, outcomes[k])
            left = [k for k in active if k not in outcomes]
            # Which members share a stack changes rounding on CUDA in any case, and no bit on a CPU,
            # where a smaller stack is only sometimes the faster one.
            most = len(stack.rows) - 1 if device == "cuda" else len(stack.rows) // 2
            if 0 < len(left) <= most:
                stack.keep(left)
            # Between two chunks of batches, so that none of a chunk need be kept.
            waited = time.perf_counter() - saved
            if stack.prefetched == 0 and waited > max(checkpoint_seconds, cost / CHECKPOINT_SHARE):
                synchronise(device)  # the steps that are still queued are no cost of a checkpoint
                started = time.perf_counter()
                for k in left:
                    on_checkpoint(k, {**stack.state(k), "record": asdict(records[k])})
                saved = time.perf_counter()
                cost = saved - started
    return [outcomes[k] for k in range(len(members))]
