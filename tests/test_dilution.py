"""Diluted sets: their draws, what decides them, and their files; test_properties has the rest."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from stages.lib.config.params import ConfusionParams, DataParams, NoiseParams
from stages.lib.config.yaml_files import ParamsError
from stages.lib.core import files
from stages.lib.core.errors import DamagedError, UserError
from stages.lib.data import datasets
from stages.lib.data.datasets import Dataset
from stages.lib.labels import dilution
from stages.lib.labels.dilution import ARRAYS, Dilution
from stages.lib.noise import sampling, transitions
from stages.lib.studies import confusion

MakeDataset = Callable[..., Dataset]
M, TOTAL, OTHERS = 10, 3000, 500
LEVEL = 1e-3  # of the chi-square tests; seeds are fixed
CONFUSION = np.random.default_rng(0).integers(0, 50, (M, M))
DATA = DataParams("digits", None, None, 400, 100)
UNIFORM = NoiseParams("uniform", 5.0, 0.0, "confusing", "same")
STRUCTURED = NoiseParams("structured", 5.0, 0.5, "confusing", "same")
CASES = {
    "same": STRUCTURED,
    "unique": replace(STRUCTURED, order="random", images="unique"),
    "white": replace(UNIFORM, images="white"),
    "another data set": replace(UNIFORM, images="mnist5k"),
}


@pytest.fixture
def dataset(make_dataset: MakeDataset) -> Dataset:
    return make_dataset(train=TOTAL)


def dilute(
    dataset: Dataset, params: NoiseParams, data: DataParams = DATA, seed: int = 3
) -> Dilution:
    others = {"white": data.originals, "mnist5k": OTHERS}.get(params.images, 0)
    return dilution.dilute(
        dataset, data, params, seed=seed, confusion=CONFUSION, other_images=others
    )


@pytest.mark.parametrize("case", CASES)
def test_noisy_labels_follow_the_transition_matrix(case: str, dataset: Dataset) -> None:
    """Those of training and, diluted in the same way, of validation."""
    diluted = dilute(dataset, CASES[case], replace(DATA, validation=1000 if case == "same" else 99))
    counted = np.sum(diluted.facts["counts"]) + sum(diluted.facts["counts_of_unknown_images"])
    assert counted == len(diluted.labels)
    for labels, images, clean in (
        (diluted.labels, diluted.images, diluted.originals),
        (diluted.validation_labels, diluted.validation_images, len(diluted.validation_images)),
    ):
        index = images[np.arange(len(labels)) % len(images)][clean:]
        true = dataset.train_labels[np.where(index < TOTAL, index, 0)]
        counts = sampling.count_labels(true, labels[clean:], M)
        expected = counts.sum(axis=1, keepdims=True) * np.array(diluted.facts["transition"])
        possible = expected > 1e-9
        assert not counts[~possible].any()
        rows = int((counts.sum(axis=1) > 0).sum())
        assert stats.chisquare(counts[possible], expected[possible], ddof=rows - 1).pvalue > LEVEL


def test_the_facts_hold_config_seed_and_matrix(dataset: Dataset) -> None:
    facts = dilute(dataset, STRUCTURED, seed=7).facts
    order = transitions.false_class_order(CONFUSION, "confusing")
    expected = transitions.structured_transition(order, 5.0, 0.5)
    np.testing.assert_array_equal(np.array(facts["transition"]), expected)
    assert facts["config"] == {
        "data": {k: v for k, v in vars(DATA).items() if k != "path"},
        "noise": vars(STRUCTURED),
    }
    assert (facts["seed"], facts["num_classes"], facts["dataset"]) == (7, M, "digits")


def test_without_noise_the_kind_of_images_is_nothing(dataset: Dataset) -> None:
    sets = [
        dilute(dataset, replace(UNIFORM, alpha=0.0, images=images)).facts
        for images in ("same", "white", "unique")
    ]
    assert all(one["label_accuracy"] == 1 for one in sets)
    assert all(one["sha256"] == sets[0]["sha256"] for one in sets)


@pytest.mark.parametrize(("m", "dtype"), [(100, np.uint8), (300, np.uint16)])
def test_many_classes_take_two_bytes_and_no_matrix(
    m: int, dtype: Any, make_dataset: MakeDataset
) -> None:
    many = make_dataset(train=3000, num_classes=m)
    order = np.random.default_rng(0).integers(0, 9, (m, m))
    params = replace(STRUCTURED, alpha=3.0, delta=0.01)
    diluted = dilution.dilute(many, replace(DATA, originals=1000), params, seed=0, confusion=order)
    assert diluted.labels.dtype == dtype
    assert diluted.labels.max() == m - 1
    true = many.train_labels[diluted.images[np.arange(4000) % 1000]]
    assert diluted.facts["label_accuracy"] == pytest.approx((true == diluted.labels).mean())
    for name in ("transition", "counts"):  # 90,000 numbers each
        assert (diluted.facts[name] is None) is (m > 100)


def test_the_bank_ends_with_the_other_images(dataset: Dataset, make_dataset: MakeDataset) -> None:
    other = replace(make_dataset("cifar10"), train_images=np.zeros((7, 4, 4, 3), np.uint8))
    one = dilution.other_images("cifar10", dataset, 400, other, 0)
    assert one.shape == (7, 8, 8, 1)
    assert dilution.other_images("same", dataset, 400, None, 0) is None
    white, same, fresh = (
        dilution.other_images("white", dataset, 400, None, seed) for seed in (1, 1, 2)
    )
    assert white.shape == (400, 8, 8, 1)
    np.testing.assert_array_equal(white, same)
    assert (white != fresh).any()


# --- randomness


@pytest.mark.parametrize("case", CASES)
def test_another_seed_draws_other_arrays(case: str, dataset: Dataset) -> None:
    one, same, other = (dilute(dataset, CASES[case], seed=seed) for seed in (1, 1, 2))
    assert one.facts == same.facts
    random = CASES[case].order == "random"
    assert (one.facts["transition"] != other.facts["transition"]) is random
    for name in ARRAYS:
        assert (getattr(one, name) != getattr(other, name)).any()


@pytest.mark.parametrize("case", CASES)
def test_noise_levels_share_split_images_and_uniform_labels(case: str, dataset: Dataset) -> None:
    """Common random numbers: the smaller set is where the larger one begins."""
    one, other = (
        dilute(dataset, replace(UNIFORM, alpha=alpha, images=CASES[case].images))
        for alpha in (2.0, 5.0)
    )
    for name in ("labels", "images", "validation_labels", "validation_images"):
        smaller = getattr(one, name)
        np.testing.assert_array_equal(getattr(other, name)[: len(smaller)], smaller)
    assert len(other.labels) == 2 * len(one.labels)
    agree = int((one.labels[400:500] == other.validation_labels[100:200]).sum())
    assert agree < 10 + 4 * 3  # a binomial of 1 in 10: those of another purpose are others


def test_structured_labels_of_two_noise_levels_part_as_their_matrices_do(dataset: Dataset) -> None:
    one, other = (dilute(dataset, replace(STRUCTURED, alpha=alpha)) for alpha in (5.0, 6.0))
    agree = (one.labels[400:] == other.labels[400 : len(one.labels)]).mean()
    rows = [np.array(each.facts["transition"]).cumsum(axis=1) for each in (one, other)]
    least = 1 - np.abs(rows[0] - rows[1]).sum(axis=1).mean()  # were they independent: 0.1
    assert 0.5 < least - 0.05 < agree < 1


@pytest.mark.parametrize(
    "params",
    [replace(STRUCTURED, delta=0.0, order="random"), replace(UNIFORM, order="random")],
)
def test_without_structure_every_config_draws_the_same(
    params: NoiseParams, dataset: Dataset
) -> None:
    assert dilute(dataset, params).facts["sha256"] == dilute(dataset, UNIFORM).facts["sha256"]


def test_the_confusion_of_many_classes_is_neither_estimated_nor_used(
    make_dataset: MakeDataset, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage before has something to write, and the noise that would need it is refused."""
    monkeypatch.setattr(confusion.executors, "train_or_load", lambda *_: pytest.fail("was trained"))
    dataset = make_dataset(train=606, num_classes=101)
    datasets.save(dataset, workspace / "digits")
    small = ConfusionParams(40, 30, 2, "perceptron", 1.0, 0.5, 16, 160)
    start = confusion.SharedTraining(0.95, 1e-6, "he", False, "cpu", "float32", "auto")
    report = confusion.estimate(small, "digits", start, workspace, Path("params.yaml"))
    assert report == {
        "dataset": "digits", "counts": None, "why": "101 classes, more than 100: none are ordered",
    }  # fmt: skip
    file, out = workspace / "confusion.json", workspace / "labels"
    files.write_json(file, report)
    with pytest.raises(UserError, match="accepted: uniform: 101 classes, more than 100: none are"):
        dilution.materialise(
            DATA, STRUCTURED, [0], data_folder=workspace, confusion_file=file, out=out
        )
    dilution.materialise(DATA, UNIFORM, [0], data_folder=workspace, confusion_file=file, out=out)


# --- memory


@pytest.mark.parametrize(
    ("params", "arrays"),
    [
        (replace(STRUCTURED, alpha=5000.0, delta=1.0), 10_500_000 + 2000 * 4),
        (replace(UNIFORM, alpha=5000.0, images="white"), 10_500_000 + 10_002_000 * 4),
    ],
    ids=["same", "white"],
)
def test_a_large_set_takes_little_memory_beside_its_arrays(
    params: NoiseParams, arrays: int, make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten million labels, and half a million of the validation images."""
    asked: list[Any] = []
    monkeypatch.setattr(dilution.machine, "require_memory", lambda *given: asked.extend(given))
    dataset, data = make_dataset(train=TOTAL), replace(DATA, originals=2000)
    tracemalloc.start()
    diluted = dilute(dataset, params, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < arrays + 32 * 2**20
    each = 5 if params.images == "white" else 1
    assert asked == [each * 10_002_000, "noise.alpha 5000: 10,002,000 examples"]
    assert sum(getattr(diluted, name).nbytes for name in ARRAYS) < 1.06 * arrays


# --- on disk


@pytest.mark.parametrize("validation", [0, 100])
def test_load_returns_what_save_wrote(validation: int, dataset: Dataset, tmp_path: Path) -> None:
    diluted = dilute(dataset, CASES["white"], replace(DATA, validation=validation))
    dilution.save(diluted, tmp_path / "new" / "folder")
    loaded = dilution.load(tmp_path / "new" / "folder")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(diluted, name), strict=True)
    assert loaded.facts == diluted.facts


@pytest.mark.parametrize("name", ARRAYS)
def test_another_sets_array_and_a_missing_one_are_noticed(
    name: str, tmp_path: Path, dataset: Dataset
) -> None:
    dilution.save(dilute(dataset, CASES["white"]), tmp_path)
    files.write_array(
        tmp_path / f"{name}.npy", getattr(dilute(dataset, CASES["white"], seed=99), name)
    )
    with pytest.raises(DamagedError, match=f"{name}.npy: has sha256"):
        dilution.load(tmp_path)
    (tmp_path / f"{name}.npy").unlink()
    with pytest.raises(DamagedError, match=f"{name}.npy: is missing"):
        dilution.load(tmp_path)


@pytest.fixture
def materialise(dataset: Dataset, make_dataset: MakeDataset, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes sets of a data set on disk, and returns their folder."""
    other = make_dataset("mnist5k", train=OTHERS)
    datasets.save(dataset, tmp_path / "data/digits")
    datasets.save(other, tmp_path / "data" / datasets.noise_folder("mnist5k"))
    file = tmp_path / "confusion.json"

    def write(
        params: NoiseParams, data: DataParams = DATA, seeds: Any = (0, 5), of: str = "digits"
    ) -> Path:
        files.write_json(file, {"dataset": of, "counts": CONFUSION.tolist()})
        dilution.materialise(
            data, params, seeds,
            data_folder=tmp_path / "data", out=tmp_path / "out", confusion_file=file,
        )  # fmt: skip
        return tmp_path / "out"

    return write


@pytest.mark.parametrize("case", CASES)
def test_materialise_writes_a_set_for_every_seed(
    case: str, materialise: Callable[..., Path], dataset: Dataset
) -> None:
    out = materialise(CASES[case])
    assert sorted(path.name for path in out.iterdir()) == ["seed-0", "seed-5"]
    facts = dilution.load(out / "seed-5").facts
    assert len(facts.pop("images")) == (3 if case == "another data set" else 2)
    assert ("confusion" in facts) is (CASES[case].kind == "structured")
    facts.pop("confusion", None)
    assert facts == dilute(dataset, CASES[case], seed=5).facts


def test_confusion_of_another_data_set_is_refused(materialise: Callable[..., Path]) -> None:
    with pytest.raises(DamagedError, match=r"confusion\.json: is of mnist, not of digits"):
        materialise(STRUCTURED, of="mnist")
    with pytest.raises(UserError, match="run the confuse stage first"):
        dilution.transition_matrix(STRUCTURED, M, None, 0)


@pytest.mark.parametrize(
    ("data", "params"),
    [
        (replace(DATA, originals=TOTAL), UNIFORM),  # would overlap the validation images
        (DATA, replace(UNIFORM, images="unique", alpha=7.0)),  # would repeat images
    ],
)
def test_what_does_not_fit_the_data_set_is_refused(
    data: DataParams, params: NoiseParams, materialise: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ParamsError, match="accepted: at most"):
        materialise(params, data)
    assert not (tmp_path / "out").exists()


def test_whole_sets_are_kept_and_others_are_written_again(
    materialise: Callable[..., Path], dataset: Dataset, tmp_path: Path
) -> None:
    """Unfinished ones, those of another config, and those of other images."""
    out = materialise(UNIFORM)
    whole, unfinished = out / "seed-0", out / "seed-5"
    before = (whole / "labels.npy").stat().st_mtime_ns
    (unfinished / "noise.json").unlink()
    (unfinished / "labels.npy").unlink()
    materialise(UNIFORM)
    assert (whole / "labels.npy").stat().st_mtime_ns == before
    dilution.load(unfinished)
    for changed in (replace(UNIFORM, alpha=2.0), replace(UNIFORM, alpha=2.0, images="unique")):
        materialise(changed)
        assert dilution.load(whole).facts["config"]["noise"] == vars(changed)
    others = replace(dataset, train_images=255 - dataset.train_images)
    datasets.save(others, tmp_path / "data/digits")
    materialise(changed)
    drawn_for = dilution.load(whole).facts["images"]
    assert drawn_for["digits/train_images"] == files.sha256_of_array(others.train_images)


def test_folders_are_named_by_all_that_decides_a_set() -> None:
    other_data = [{"originals": 401}, {"validation": 99}, {"name": "mnist5k"}, {}]
    other_noise = [{"alpha": 4.0}, {"images": "unique"}, {"kind": "structured"}, {"delta": 0.2}]
    names = [dilution.name_of(replace(DATA, **change), UNIFORM) for change in other_data]
    names += [dilution.name_of(DATA, replace(UNIFORM, **change)) for change in other_noise]
    names.append(dilution.name_of(DATA, replace(UNIFORM, order="random")))
    assert len(set(names)) == 9
    assert dilution.name_of(DATA, UNIFORM) == dilution.name_of(replace(DATA), replace(UNIFORM))
