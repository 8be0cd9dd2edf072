"""The run store, what decides a run, and runs that are trained once, alone or in a stack."""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from copy import copy
from dataclasses import replace
from itertools import product
from multiprocessing import forkserver
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tqdm import tqdm

from stages.lib.components import averaging, losses, methods, optimizers
from stages.lib.components.averaging import AVERAGING
from stages.lib.components.optimizers import OPTIMIZERS
from stages.lib.components.schedules import SCHEDULES
from stages.lib.config.params import Config
from stages.lib.core import files, machine, processes
from stages.lib.core.errors import UserError
from stages.lib.core.fields import OneOf, neutral_values, types_of
from stages.lib.core.randomness import stream
from stages.lib.data import datasets
from stages.lib.execution import checkpoints, executors, inputs, packing, runs, store
from stages.lib.execution.executors import train_or_load
from stages.lib.execution.runs import Run, expand
from stages.lib.execution.store import LIBRARY, RunStore, code_digest, deciding
from stages.lib.labels import dilution
from stages.lib.models.architectures import ConvNet
from stages.lib.training import batches, devices, loop, replicas

MakeRuns = Callable[..., list[Run]]
EXPECTED = "expected_noisy_cross_entropy"
IDENTITY = {"learning_rate": 0.1, "labels": {"labels": "ab"}, "other_images": None}
OUTCOME = {"test_accuracy": 1 / 3, "curve": [{"val_accuracy": None}], "wall_seconds": 1.5}

# --- the store


def test_the_environment_says_where_runs_are_kept_and_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RUN_STORE", str(tmp_path / "elsewhere"))
    assert RunStore("cpu").folder == tmp_path / "elsewhere"
    monkeypatch.setenv("EXECUTOR", "cloud")
    with pytest.raises(UserError, match="EXECUTOR: got 'cloud'; accepted: processes"):
        executors._executor()


def test_an_outcome_survives_the_store_and_the_first_stays(tmp_path: Path) -> None:
    """Two processes may train the same: the second finds it there."""
    store = RunStore("cpu", tmp_path / "new")
    assert store.get(IDENTITY) is None
    assert not (tmp_path / "new").exists()
    store.put(IDENTITY, OUTCOME)
    store.put(IDENTITY, {**OUTCOME, "wall_seconds": 99.0})
    assert RunStore("cpu", tmp_path / "new").get(dict(reversed(IDENTITY.items()))) == OUTCOME
    assert [path.name for path in (tmp_path / "new").iterdir()] == [store.path(IDENTITY).name]


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 0.2}, {"labels": {"labels": "ac"}}, {"other_images": "x"}, {"new": 1}],
)
def test_another_identity_is_not_found_and_a_renamed_file_is_told(
    change: dict[str, Any], tmp_path: Path
) -> None:
    store, other = RunStore("cpu", tmp_path), {**IDENTITY, **change}
    store.put(IDENTITY, OUTCOME)
    assert store.get(other) is None
    store.path(IDENTITY).rename(store.path(other))
    with pytest.raises(UserError, match="holds another training than its name says; delete it"):
        store.get(other)


VERSIONS = {"torch": "2.9.1+cpu", "numpy": "2"}
EVERYWHERE = {"cpu", "mps", "cuda"}


@pytest.mark.parametrize(
    ("place", "key", "value", "devices"),
    [
        (processes.ROUNDING, "MKL_CBWR", "COMPATIBLE", EVERYWHERE),
        (vars(store), "code_digest", lambda _: "other", EVERYWHERE),
        (vars(store), "TOP", 3, EVERYWHERE),
        (vars(store), "MOST_CONFUSED", 10, EVERYWHERE),
        (VERSIONS, "torch", "2.9.2+cpu", EVERYWHERE),
        (VERSIONS, "torch", "2.9.1", set()),  # another build
        (VERSIONS, "numpy", "3", EVERYWHERE),
        (vars(machine), "kernels", lambda: "other", {"cpu"}),
        (packing.GPU_STACKING, ConvNet, "unfold", {"cuda"}),
    ],
)
def test_each_part_of_the_environment_gives_another_file(
    place: Any, key: Any, value: Any, devices: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.metadata, "version", VERSIONS.get)
    monkeypatch.setattr(store, "code_digest", lambda _: "")
    before = {device: RunStore(device).path(IDENTITY) for device in EVERYWHERE}
    assert len({*before.values(), RunStore("cuda", accelerator="H100").path(IDENTITY)}) == 4
    monkeypatch.setitem(place, key, value)
    assert {d for d in EVERYWHERE if RunStore(d).path(IDENTITY) != before[d]} == devices


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"identity": {}, "outcome": {}}', "\udcff"])
def test_a_damaged_file_is_told_by_its_name(text: str, tmp_path: Path) -> None:
    store = RunStore("cpu", tmp_path)
    file = store.path(IDENTITY)
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=f"{file.name}: is not what was written; delete it"):
        store.get(IDENTITY)


# --- the digest of the code


NAMES = [path.relative_to(LIBRARY).as_posix() for path in deciding("cuda")]


def test_code_decides_and_its_comments_and_docstrings_do_not(tmp_path: Path) -> None:
    code = Path(shutil.copytree(LIBRARY, tmp_path / "lib"))
    before = {device: code_digest(device, code) for device in ("cpu", "cuda")}
    for name in NAMES:
        text = (code / name).read_text(encoding="utf-8")
        assert text.startswith('"""')
        changed = text.replace('"""', '"""Changed. ', 1) + "\n\n# A comment.\n"
        (code / name).write_text(changed, encoding="utf-8")
    assert {device: code_digest(device, code) for device in before} == before
    for name in {Path(name).parent: name for name in NAMES}.values():
        text = (code / name).read_text(encoding="utf-8")
        (code / name).write_text(text + "\nADDED = 1\n", encoding="utf-8")
        assert code_digest("cuda", code) != before["cuda"]
        assert (code_digest("cpu", code) == before["cpu"]) is name.startswith("kernels/")
        (code / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("def f():\n    return 1\n", 'def f():\n    """Doc."""\n    return 1  # why\n', True),
        ('class A:\n    """One."""\n', "class A:\n    pass\n", True),
        ("X = 1\n", '"""Doc."""\n\n\nX = (1)\n', True),
        ("X = 'a'\n", "X = 'b'\n", False),
        ("def f():\n    return 1\n", "def f():\n    return 1.0\n", False),
        ("def f(x=1): ...\n", "def f(x=2): ...\n", False),
    ],
)
def test_what_counts_as_code(one: str, other: str, same: bool) -> None:
    assert (store._without_docstrings(one) == store._without_docstrings(other)) is same


def test_every_module_that_decides_an_outcome_is_in_the_digest() -> None:
    """White noise and conformed images come from code, not from digested files."""
    found = {"core/randomness.py", "data/images.py"}
    for package in ("components", "labels", "models", "training"):
        found |= {f"{package}/{path.name}" for path in (LIBRARY / package).glob("*.py")}
    assert found <= set(NAMES)


# --- what decides a run


@pytest.fixture
def make_runs(
    workspace: Path, make_dataset: Callable[..., Any], make_config: Callable[..., Config]
) -> MakeRuns:
    """Return a maker of runs whose data set and diluted sets lie in the workspace."""
    datasets.save(make_dataset("digits"), workspace / "data" / "digits")
    for folder in ("mnist5k", datasets.noise_folder("mnist5k")):
        datasets.save(make_dataset("mnist5k", train=150), workspace / "data" / folder)

    def make(changes: dict[str, Any] | None = None, name: str = "point") -> list[Run]:
        config = make_config(changes)
        labels = workspace / "labels" / dilution.name_of(config.data, config.noise)
        dilution.materialise(
            config.data, config.noise, config.train.seeds,
            data_folder=workspace / "data", out=labels,
        )  # fmt: skip
        return expand(name, config, workspace / "data", labels)

    return make


def test_a_point_has_a_run_for_every_rate_within_every_seed(make_runs: MakeRuns) -> None:
    todo = make_runs({"train.learning_rates": [0.1, 1], "train.seeds": [0, 5]}, "α = 2")
    assert [(run.seed, run.learning_rate) for run in todo] == [(0, 0.1), (0, 1), (5, 0.1), (5, 1)]
    assert todo[2].name == "α = 2 lr=0.1 seed=5"
    assert todo[2].labels.name == "seed-5"


@pytest.mark.parametrize(
    ("epochs", "min_samples", "alpha", "batch_size", "steps"),
    [
        (0, 320, 2, 16, 20), (0, 321, 2, 16, 21), (1, 0, 2, 16, 12), (1, 0, 2, 60, 3),
        (2.5, 320, 2, 16, 29), (0.01, 0, 2, 16, 1), (1, 320, 0.5, 10, 32), (10, 320, 0.5, 10, 90),
    ],
)  # of 60 originals  # fmt: skip
@pytest.mark.parametrize("loss", ["cross_entropy", EXPECTED])  # trained for as long
def test_steps(
    epochs: float, min_samples: int, alpha: float, batch_size: int, steps: int, loss: str,
    make_config: Any,
) -> None:  # fmt: skip
    config = make_config({
        "train.epochs": epochs, "train.min_samples": min_samples, "noise.alpha": alpha,
        "train.batch_size": batch_size, "train.loss": loss,
    })  # fmt: skip
    assert expand("x", config, Path("d"), Path("l"))[0].steps == steps


def changed(section: Any) -> Iterator[tuple[str, Any]]:
    """Yield a section's fields, each with the section at every other value of a pool."""
    kinds = types_of(type(section))
    marks = [mark for kind in kinds.values() for mark in getattr(kind, "__metadata__", ())]
    names = {name for mark in marks if isinstance(mark, OneOf) for name in mark.names}
    for field, value in product(kinds, (True, False, 0.25, 0.5, 3, 4, (3,), (0.25,), *names)):
        with suppress(ValidationError):
            if getattr(other := replace(section, **{field: value}), field) != getattr(
                section, field
            ):
                yield field, other


@pytest.mark.parametrize("section", ["model", "train"])
@pytest.mark.parametrize(
    "change",
    [
        *({"train.optimizer": name} for name in OPTIMIZERS),
        *({"train.averaging": name, "train.average": share}
        for name, share in (("ema", 0.0), *((name, 0.5) for name in AVERAGING))),
    ],
    ids=lambda change: " ".join(map(str, change.values())),
)  # fmt: skip
def test_a_parameter_decides_unless_it_is_neutral_or_unread(
    change: dict[str, Any], section: str, make_runs: MakeRuns
) -> None:
    """One that is added later as well, if its type has a value in the pool."""
    run = make_runs(change)[0]
    before, now = run.identity(), getattr(run.config, section)
    neutral, seen = neutral_values(type(now)), set()
    for field, other in changed(now):
        config = replace(run.config, **{section: other})
        found = replace(run, config=config).identity()
        ignored = runs.NOT_DECIDING | optimizers.unread(config.train.optimizer)
        ignored |= averaging.unread(config.train) | losses.unread(config.train.loss)
        ignored |= methods.unread(config.train.method)
        assert (found[section] == before[section]) is (field in ignored), field
        if field not in ("epochs", "min_samples"):  # of which the number of steps is taken
            assert (found == before) is (field in ignored), field
        silent = {name for name, value in neutral.items() if getattr(other, name) == value}
        assert set(found[section]) == set(vars(other)) - ignored - silent, field
        seen.add(field)
    single = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "averaging": AVERAGING}
    assert set(vars(now)) - seen <= {name for name, known in single.items() if len(known) == 1}


@pytest.mark.parametrize(
    ("same", "change"),
    [
        *((False, change) for change in (
            {"train.learning_rates": [0.4]}, {"train.min_samples": 640}, {"train.epochs": 9},
            {"train.seeds": [1]}, {"noise.alpha": 3}, {"data.originals": 59},
            {"train.recipe": "massive_noise"},
            {"data.validation": 19}, {"noise.images": "unique"}, {"noise.images": "white"},
            {"noise.images": "mnist5k"}, {"data.name": "mnist5k"},
        )),
        (True, {"train.min_samples": 319}),  # as many steps
        (True, {"train.recipe": "massive_noise", "train.targets": "labels",
                "train.optimizer": "adadelta", "train.schedule": "constant"}),  # nothing is left
        (True, {"train.averaging": "ema", "train.ema_decay": 0.9}),  # over no steps
        (True, {"train.learning_rates": [0.5, 0.1]}),
        (True, {"train.seeds": [0, 1]}),
        (True, {"noise.order": "random"}),  # which uniform noise has not
        (True, {"noise.kind": "structured", "noise.order": "reverse"}),  # with delta 0
    ],
)  # fmt: skip
def test_what_decides_a_run(
    same: bool, change: dict[str, Any], make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No confusion counts are there to order structure that has none.
    monkeypatch.setattr(dilution, "transition_matrix", lambda *_: np.full((10, 10), 0.1))
    one, other = make_runs()[0], make_runs(change, "another name")[0]
    assert (one.identity() == other.identity()) is same


def test_the_seed_decides_whatever_its_labels(
    make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = make_runs({"train.seeds": [0, 1]})
    facts = dilution.read_facts(one.labels)
    monkeypatch.setattr(
        dilution, "read_facts", lambda folder: {**facts, "seed": int(folder.name[5:])}
    )
    assert one.identity() != other.identity()


@pytest.mark.parametrize("device", sorted(EVERYWHERE))
def test_a_chosen_way_of_stacking_gives_another_file_on_cuda_alone(
    device: str, make_runs: MakeRuns, tmp_path: Path
) -> None:
    """Elsewhere no two networks with convolutions share a stack."""
    plain, chosen = (make_runs({"train.stacking": way})[0].identity() for way in ("auto", "unfold"))
    store = RunStore(device, tmp_path / "store")
    store.put(chosen, OUTCOME)
    assert store.get(chosen) == OUTCOME
    assert store.get(plain) == (None if device == "cuda" else OUTCOME)


@pytest.mark.parametrize("images", ["unique", "white", "mnist5k"])
def test_without_noise_every_source_of_images_shares_its_runs(
    images: str, make_runs: MakeRuns
) -> None:
    plain = make_runs({"noise.alpha": 0})[0]
    assert make_runs({"noise.alpha": 0, "noise.images": images})[0].identity() == plain.identity()


@pytest.mark.parametrize("name", dilution.ARRAYS)
def test_other_labels_or_indices_are_another_identity(name: str, make_runs: MakeRuns) -> None:
    run = make_runs()[0]
    before = run.identity()
    facts = files.read_json(run.labels / "noise.json")
    facts["sha256"][name] = "0" * 64
    files.write_json(run.labels / "noise.json", facts)
    assert run.identity() != before


@pytest.mark.parametrize("images", ["same", "mnist5k"])
@pytest.mark.parametrize("name", ["digits", "mnist5k-as-noise"])
def test_labels_for_other_images_are_refused_until_drawn_again(
    name: str, images: str, make_runs: MakeRuns, workspace: Path
) -> None:
    (run,) = make_runs({"noise.images": images})
    before, folder = run.identity(), workspace / "data" / name
    whole = datasets.load(folder)
    datasets.save(replace(whole, train_images=255 - whole.train_images), folder)
    dilution.digests.cache_clear()
    if name != "digits" and images == "same":
        assert run.identity() == before
        return
    with pytest.raises(UserError, match=r"noise\.json: was drawn for other images"):
        run.identity()
    (run,) = make_runs({"noise.images": images})
    assert run.identity() != before
    facts = files.read_json(run.labels / "noise.json")
    del facts["images"]  # as before such sets said what they were drawn for
    files.write_json(run.labels / "noise.json", facts)
    with pytest.raises(UserError, match=r"noise\.json: was drawn for other images"):
        run.identity()


def test_labels_of_another_run_are_told(make_runs: MakeRuns) -> None:
    """A folder that is whole, and not the one that is asked for."""
    (run,), (other,) = make_runs(), make_runs({"noise.alpha": 3})
    for stranger in (replace(run, labels=other.labels), replace(run, seed=1)):
        with pytest.raises(UserError, match=r"noise\.json: is of another config or seed"):
            stranger.identity()


def test_pillow_decides_where_it_resizes(
    make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    todo = [make_runs({"noise.images": images})[0] for images in ("same", "white", "mnist5k")]
    before = [run.identity() for run in todo]
    monkeypatch.setattr(runs.metadata, "version", lambda _: "0.0.1")
    assert [run.identity() == old for run, old in zip(todo, before, strict=True)] == [
        True, True, False,
    ]  # fmt: skip


# --- what a run trains on


@pytest.mark.parametrize("classes", [10, 1000])
def test_the_tensors_are_those_of_the_files(
    classes: int, make_runs: MakeRuns, make_dataset: Callable[..., Any], workspace: Path
) -> None:
    own = make_dataset("digits", train=1500, test=1000, num_classes=classes)
    datasets.save(own, workspace / "data" / "digits")
    run = make_runs({
        "noise.images": "mnist5k", "data.originals": 1100, "data.validation": 300, "noise.alpha": 5,
    })[0]  # fmt: skip
    data, diluted = inputs.load_data(run, "cpu"), dilution.load(run.labels)
    other = datasets.load(workspace / "data" / datasets.noise_folder("mnist5k"))
    np.testing.assert_array_equal(data.bank, [*own.train_images, *other.train_images])
    assert data.num_classes == classes > diluted.labels.max() > 0.9 * (classes - 1)
    votes = np.zeros((300, classes), dtype=int)
    np.add.at(votes, (np.arange(1800) % 300, diluted.validation_labels), 1)
    for got, expected in (
        (data.labels, diluted.labels), (data.images, diluted.images),
        (data.test_images, own.test_images), (data.test_labels, own.test_labels),
        (data.validation, diluted.validation_images), (data.validation_votes, votes),
        (data.validation_labels, own.train_labels[diluted.validation_images]),
    ):  # fmt: skip
        np.testing.assert_array_equal(got, expected)


def test_white_noise_is_that_of_size_and_seed(make_runs: MakeRuns, workspace: Path) -> None:
    own = datasets.load(workspace / "data" / "digits")
    for run in make_runs({"noise.images": "white", "train.seeds": [0, 1]}):
        expected = dilution.other_images("white", own, 60, None, run.seed)
        np.testing.assert_array_equal(inputs.load_data(run, "cpu").bank[200:], expected)


def test_the_noisy_loss_trains_on_the_originals_alone(make_runs: MakeRuns) -> None:
    (plain,), (run,) = make_runs(), make_runs({"train.loss": EXPECTED})
    assert (plain.identity()["alpha"], run.identity()["alpha"]) == (0, 2)
    data, diluted = inputs.load_data(run, "cpu"), dilution.load(plain.labels)
    np.testing.assert_array_equal(data.labels, diluted.labels[:60])
    assert len(data.images) == 60


@pytest.mark.parametrize(("images", "noisy"), [("same", 0), ("mnist5k", 150), ("white", 60)])
def test_runs_of_one_stack_key_have_the_same_images(
    images: str, noisy: int, make_runs: MakeRuns
) -> None:
    """A stack gathers every member's batches from the images of its first."""
    rates = {"train.learning_rates": [0.1, 0.5]}
    todo = make_runs({**rates, "noise.images": images})
    todo += make_runs({**rates, "noise.images": images, "noise.alpha": 1})
    if images == "same":
        todo += make_runs({**rates, "noise.images": "unique", "data.originals": 50})
    assert len({run.stack_key for run in todo}) == 1
    first, *others = (inputs.load_data(run, "cpu") for run in todo)
    assert len(first.bank) == 200 + noisy
    for data in others:
        assert data.bank is first.bank
        assert data.test_images is first.test_images
        assert data.validation.shape == first.validation.shape
    assert len({len(data.labels) for data in (first, *others)}) > 1


@pytest.mark.usefixtures("one_thread")
def test_runs_pass_their_numbers_on(make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def train(config: replicas.TrainConfig, members: list[replicas.Replica], **how: Any) -> Any:
        seen.append((config, members, how["stacking"]))
        how["on_evaluation"](1, 7, 0.5)
        how["on_done"](0, OUTCOME)
        return [dict(OUTCOME) for _ in members]

    monkeypatch.setattr(loop, "train", train)
    shared = {
        "train.loss": EXPECTED, "train.rho": 0.7, "train.epsilon": 1e-5, "train.init": "glorot",
        "train.zero_output": True, "model.width": 0.5, "train.precision": "bfloat16",
        "train.weight_decay": 0.01, "train.augmentation": "flip_crop", "train.seeds": [3],
        "model.name": "conv2", "model.batch_norm": True,
    }  # fmt: skip
    stack = make_runs(shared) + make_runs(
        {**shared, "noise.alpha": 1, "train.average": 0.3, "train.learning_rates": [2.0],
         "train.seeds": [4], "train.min_samples": 640, "train.early_stopping": True}
    )  # fmt: skip
    told: list[Any] = []
    outcomes = inputs.train_stack(
        stack, "cpu", "unfold", on_evaluation=lambda *event: told.append(event),
        on_done=lambda *event: told.append(event),
    )  # fmt: skip
    assert outcomes == [OUTCOME] * 2
    assert told == [(stack[1], 7, 0.5), (stack[0], OUTCOME)]
    ((config, members, stacking),) = seen
    assert stacking == "unfold"
    for run, member in zip(stack, members, strict=True):
        asked = vars(run.config.train)
        for name, value in vars(config).items():
            if name not in replicas.OWN:
                assert value == (run.config.model if name == "model" else asked[name])
        # Of seed and purpose alone: whatever the rate, the noise or the precision.
        purposes = {"init": "init", "shuffle": "shuffle", "augment": "augmentation"}
        own = {**asked, "learning_rate": run.learning_rate, "steps": run.steps, "alpha": run.alpha}
        for name, value in vars(member).items():
            if name in purposes:
                assert value.entropy == stream(run.seed, purposes[name]).entropy
            elif name == "data":
                np.testing.assert_array_equal(value.labels, inputs.load_data(run, "cpu").labels)
            else:
                assert value == own[name]
    assert (members[1].learning_rate, members[1].average, members[1].alpha) == (2.0, 0.3, 1)
    assert [member.early_stopping for member in members] == [False, True]
    assert members[1].steps == 40 != members[0].steps


def test_runs_of_one_seed_share_their_random_numbers(make_runs: MakeRuns) -> None:
    """Whatever their rate and noise level: the differences between them are paired."""
    drawn = []
    for change in ({}, {"train.learning_rates": [9.0]}, {"noise.alpha": 5}, {"train.seeds": [1]}):
        one = inputs._member(make_runs(change)[0], "cpu")
        states = [each.generate_state(4).tolist() for each in (one.init, one.shuffle, one.augment)]
        drawn.append(states)
    assert drawn[0] == drawn[1] == drawn[2]
    assert not [state for state in drawn[3] if state in drawn[0]]


# --- runs that are completed


@pytest.fixture(scope="module")
def _warm() -> None:
    """Start the server that workers are forked from where it finds torch, and finds it once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[1])
        patch.delenv("DVC_ROOT", raising=False)
        if "forkserver" in multiprocessing.get_all_start_methods():
            forkserver.set_forkserver_preload(["stages.lib.training.loop"])
            forkserver.ensure_running()


@pytest.fixture
def _one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make do with one process: each takes a second to start."""
    monkeypatch.setattr(machine, "cores", lambda: 1)


def without_time(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in outcome.items() if k != "wall_seconds"} for outcome in outcomes]


FOUR = {
    "model.name": "conv2", "model.width": 0.1, "train.learning_rates": [0.5, 1.0],
    "train.seeds": [0, 1], "train.min_samples": 160,
}  # fmt: skip


def stored(workspace: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (workspace / ".runs").iterdir()}


@pytest.mark.usefixtures("_warm", "one_thread")
def test_a_figures_runs_are_the_same_on_any_number_of_cores(
    make_runs: MakeRuns, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Perceptrons share stacks, of other sizes where there are more cores, and lengths differ."""
    rates = {"train.learning_rates": [0.1, 0.5, 1.0], "train.average": 0.25}
    todo = make_runs({**rates, "train.seeds": [0, 1, 2], "train.min_samples": 1200})
    todo += make_runs({**rates, "noise.alpha": 5, "train.epochs": 5}, "α = 5") + make_runs(FOUR)
    found, formed = {}, {}
    for cores in (1, 2):
        folder = workspace / f"cores-{cores}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setattr(machine, "cores", lambda cores=cores: cores)
        formed[cores] = [len(stack) for stack in packing.form(todo, "cpu")]
        found[cores], _ = train_or_load(todo, f"{cores} cores")
        assert len(stored(folder)) == len(todo) == 16
    assert max(formed[1]) > 1
    assert len(formed[2]) > 1
    alone = [inputs.train_stack([run], "cpu", "loop")[0] for run in todo]
    assert without_time(found[1]) == without_time(found[2]) == without_time(alone)
    assert len({outcome["curve"][-1]["train_loss"] for outcome in alone}) == 16


def test_each_outcome_is_stored_as_soon_as_its_run_is_done(
    make_runs: MakeRuns, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack that is killed keeps those of its runs that were done."""
    todo, store = make_runs({"train.learning_rates": [0.1, 0.5, 1.0]}), RunStore("cpu")
    steps: list[tuple[str, int]] = []

    def train_stack(stack: list[Run], device: str, stacking: str, **how: Any) -> None:
        assert (device, stacking) == ("cpu", packing.stacking(stack[0], "cpu"))
        how["on_evaluation"](stack[1], 2, None)
        how["on_evaluation"](stack[0], 3, 0.5)
        how["on_evaluation"](stack[1], 9, None)
        how["on_done"](stack[1], OUTCOME)
        raise KeyboardInterrupt

    monkeypatch.setattr(executors, "train_stack", train_stack)
    with pytest.raises(KeyboardInterrupt):
        executors._train_and_store(todo, store, lambda name, new, _: steps.append((name, new)))
    assert [store.get(run.identity()) for run in todo] == [None, OUTCOME, None]
    assert steps == [(todo[1].name, 2), (todo[0].name, 3), (todo[1].name, 7)]  # new ones only


@pytest.mark.usefixtures("_warm", "_one_worker")
def test_what_is_there_is_not_trained_again(make_runs: MakeRuns, workspace: Path) -> None:
    """Nor one identity twice: without noise every source of images has the same."""
    plain = {"noise.alpha": 0, "train.learning_rates": [0.5, 1.0]}
    todo = make_runs(plain) + make_runs({**plain, "noise.images": "white"}, "white")
    first, _ = train_or_load(todo, "first")
    before = stored(workspace)
    assert len(before) == 2
    assert first[:2] == first[2:]
    again, _ = train_or_load([*todo, todo[0]], "again")
    assert again == [*first, first[0]]  # wall_seconds included: read, not trained
    assert stored(workspace) == before
    gone = RunStore("cpu").path(todo[1].identity())
    gone.unlink()
    resumed, _ = train_or_load(todo, "resumed")
    assert without_time(resumed) == without_time(first)
    after = stored(workspace)
    assert [name for name in before if after[name] != before[name]] == [gone.name]


@pytest.mark.usefixtures("_warm", "_one_worker")
def test_a_failing_run_is_told_and_the_others_are_kept(
    make_runs: MakeRuns, workspace: Path
) -> None:
    todo = make_runs({**FOUR, "train.learning_rates": [0.5]})  # ConvNets, each a stack of its own
    labels = todo[0].labels / "labels.npy"  # of the second that is trained
    labels.write_bytes(labels.read_bytes()[:-1] + b"\xff")
    with pytest.raises(UserError, match=r"labels\.npy: has sha256"):
        train_or_load(todo, "failing")
    assert list(stored(workspace)) == [RunStore("cpu").path(todo[1].identity()).name]


@pytest.mark.usefixtures("_warm")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train.device": "auto"}, r"got \['auto', 'cpu'\]; accepted: one device"),
        (
            {"train.precision": "tf32"},
            "^train.precision: got 'tf32'; accepted on cpu: float32, bfloat16$",
        ),
    ],
)
def test_what_a_device_does_not_compute_is_refused_before_any_training(
    change: dict[str, Any], words: str, make_runs: MakeRuns, workspace: Path
) -> None:
    with pytest.raises(UserError, match=words):
        train_or_load(make_runs() + make_runs(change), "refused")
    assert not (workspace / ".runs").exists()


# --- interruption, and memory that does not suffice


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a checkpoint taken after every chunk of 8 steps."""
    monkeypatch.setenv(checkpoints.VARIABLE, "1e-9")
    monkeypatch.setattr(batches, "CHUNK", {"cpu": 8})
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", float("inf"))


class Stop(BaseException):
    """What nothing answers: as a kill does, it ends a training where it is."""


def train_until(todo: list[Run], store: RunStore, steps: int) -> int:
    """Train a stack in this process until so many steps were told of; return how many were."""
    told = 0

    def show(_: str, new: int, __: float | None) -> None:
        nonlocal told
        told += new
        if told >= steps:
            raise Stop

    with suppress(Stop):
        executors._train_and_store(todo, store, show)
    return told


@pytest.mark.usefixtures("often", "one_thread")
@pytest.mark.parametrize("lost", ["none", "one", "all but one"])
def test_a_killed_stack_goes_on_from_its_checkpoints(
    lost: str, make_runs: MakeRuns, workspace: Path
) -> None:
    todo = make_runs({"train.learning_rates": [0.1, 0.5, 1.0], "train.min_samples": 1600})
    store, folder = RunStore("cpu"), workspace / ".runs" / "checkpoints"
    assert todo[0].steps == 100
    train_until(todo, store, 3 * 60)  # the evaluation after 60 steps
    kept = {path.name: checkpoints.step(path) for path in folder.iterdir()}
    assert kept == {store.checkpoint(run.identity()).name: 56 for run in todo}
    if lost != "none":  # whatever is there is used or not, with the same end
        for run in todo[:1] if lost == "one" else todo[1:]:
            store.checkpoint(run.identity()).unlink()
    told = train_until(todo, store, 10**9)
    assert told == 3 * (44 if lost == "none" else 100)
    assert not list(folder.iterdir())
    whole = inputs.train_stack(todo, "cpu", "loop")
    found = [store.get(run.identity()) for run in todo]
    assert without_time([outcome for outcome in found if outcome]) == without_time(whole)


@pytest.mark.usefixtures("_warm", "_one_worker", "often")
def test_runs_at_different_steps_are_completed_apart(make_runs: MakeRuns, workspace: Path) -> None:
    todo = make_runs({"train.learning_rates": [0.1, 0.5, 1.0], "train.min_samples": 1600})
    store = RunStore("cpu")
    train_until(todo[:2], store, 2 * 60)
    started = {run: checkpoints.step(store.checkpoint(run.identity())) for run in todo}
    assert list(started.values()) == [56, 56, 0]
    stack_sizes = sorted(len(stack) for stack in packing.form(todo, "cpu", started))
    assert stack_sizes == [1, 2]
    outcomes, _ = train_or_load(todo, "resumed")
    shutil.rmtree(workspace / ".runs")
    again, _ = train_or_load(todo, "whole")
    assert without_time(outcomes) == without_time(again)


@pytest.mark.usefixtures("_warm", "_one_worker", "often")
def test_a_damaged_checkpoint_is_told(make_runs: MakeRuns) -> None:
    todo, store = make_runs({"train.min_samples": 1600}), RunStore("cpu")
    train_until(todo, store, 60)
    file = store.checkpoint(todo[0].identity())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{file.name}: is not what was written; delete it"):
        train_or_load(todo, "damaged")


def test_checkpoints_and_scraps_of_the_dead_are_swept(tmp_path: Path) -> None:
    store = RunStore("cpu", tmp_path)
    done, under_way = IDENTITY, {**IDENTITY, "learning_rate": 0.3}
    store.put(done, OUTCOME)
    for identity in (done, under_way):
        checkpoints.write(store.checkpoint(identity), {"step": 1})
    scrap = store.checkpoint(done).with_name(".x.pt.abc.pt")
    scrap.touch()
    os.utime(scrap, (0, 0))
    store.prepare()
    assert list(scrap.parent.iterdir()) == [store.checkpoint(under_way)]
    assert {path.name for path in tmp_path.iterdir()} == {
        store.path(done).name, "checkpoints",
    }  # fmt: skip


@pytest.mark.usefixtures("_warm", "_one_worker")
def test_a_store_that_cannot_be_written_is_told_before_any_training(
    make_runs: MakeRuns, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / ".runs").write_text("a file where a folder should be", encoding="utf-8")
    monkeypatch.setattr(packing, "form", lambda *_: pytest.fail("came to training"))
    with pytest.raises(OSError, match=r"\.runs"):
        train_or_load(make_runs(), "unwritable")


def _end(_: str) -> str:
    os._exit(1)


@pytest.mark.usefixtures("_warm", "_one_worker")
def test_a_worker_that_is_killed_at_once_is_told(make_runs: MakeRuns) -> None:
    with executors.Processes() as pool, pytest.raises(UserError, match="process was killed"):
        pool.call(_end, "cpu")


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_the_hosts_memory_must_hold_what_a_cpu_trains(
    device: str, make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accelerator has its sets itself."""

    def train_stack(stack: list[Run], *_: Any, on_done: Any, **__: Any) -> None:
        for run in stack:
            on_done(run, OUTCOME)

    needed = 180 * packing.EXAMPLE_BYTES
    monkeypatch.setattr(machine, "cores", lambda: 1)
    monkeypatch.setattr(machine, "available_memory", lambda: needed)
    monkeypatch.setitem(executors.EXECUTORS, "processes", _InThisProcess)
    monkeypatch.setattr(_InThisProcess, "call", lambda *_: (device, 0, ""))
    monkeypatch.setattr(executors, "train_stack", train_stack)
    assert train_or_load(make_runs(), "enough") == ([OUTCOME], device)
    todo = make_runs({"train.learning_rates": [0.1, 0.3]})
    if device == "mps":
        monkeypatch.setattr(machine, "available_memory", lambda: 0)
        assert train_or_load(todo, "elsewhere") == ([OUTCOME] * 2, "mps")
        return
    with pytest.raises(UserError, match=r"^short: needs about 0\.0 GiB of memory, 0\.0 GiB are av"):
        train_or_load(todo, "short")


LACKING = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError("Unable to allocate 3 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
]


class _InThisProcess(executors.Processes):
    """Workers whose work is done here at once; ``processes`` counts them as they come and go."""

    def _start(self, count: int) -> None:
        self.processes = [*getattr(self, "processes", []), count]
        self.events = SimpleQueue[Any]()

    def _stop(self, *, at_once: bool) -> None:
        pass

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function(*arguments))
        return done


def train_here(todo: list[Run], device: str) -> tuple[RunStore, list[int]]:
    """Train one stack as on a device; return its store, and the sizes of the pools there were."""
    store = RunStore(device)
    with _InThisProcess() as pool, tqdm(disable=True) as bar:
        pool.train([todo], store, executors.Bar(bar))
    return store, pool.processes


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("error", LACKING, ids=lambda error: type(error).__name__)
def test_a_stack_that_does_not_fit_is_halved(
    error: Exception, device: str, make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One member is done before the memory runs out: it is not trained again."""
    todo = make_runs({"train.learning_rates": [0.1, 0.2, 0.3, 0.5, 1.0]})
    tried: list[list[int]] = []

    def train_stack(stack: list[Run], *_: Any, on_done: Any, **__: Any) -> None:
        tried.append([todo.index(run) for run in stack])
        if len(tried) == 1:
            on_done(stack[3], OUTCOME)
        if len(stack) > 1:
            raise error
        on_done(stack[0], OUTCOME)

    monkeypatch.setattr(executors, "train_stack", train_stack)
    monkeypatch.setattr(machine, "cores", lambda: 1)
    store, processes = train_here(todo, device)
    assert all(store.get(run.identity()) == OUTCOME for run in todo)
    if device == "cpu":  # two are handed out at a time
        assert sorted(tried) == [[0], [0, 1], [0, 1, 2, 3, 4], [1], [2], [2, 4], [4]]
        assert processes == [1, 1]
    else:  # one after another; whoever lacked memory is replaced, in whatever state it was left
        assert tried == [[0, 1, 2, 3, 4], [0, 1], [0], [1], [2, 4], [2], [4]]
        assert processes == [1] * (1 + 3)


@pytest.mark.parametrize("error", [*LACKING, RuntimeError("mat1 and mat2 cannot be multiplied")])
def test_a_single_run_that_does_not_fit_is_told_and_other_errors_are_not_taken_for_it(
    error: Exception, make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_stack(*_: Any, **__: Any) -> None:
        with devices.noted("while a step was captured"):
            raise copy(error)

    monkeypatch.setattr(executors, "train_stack", train_stack)
    kind: type[Exception] = UserError if error in LACKING else RuntimeError
    words = r"^point lr=0\.[12] seed=0: does not fit in the memory of cpu \(.*while|^mat1"
    with pytest.raises(kind, match=words):
        train_here(make_runs({"train.learning_rates": [0.1, 0.2]}), "cpu")
