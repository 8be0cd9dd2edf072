"""Diluted sets: labels, images and what noise.json says of them, recomputed from the files."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from stages.lib.config.params import ConfusionParams, DataParams, NoiseParams
from stages.lib.config.yaml_files import ParamsError
from stages.lib.core import files
from stages.lib.core.errors import UserError
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
    "same": UNIFORM,
    "same structured": STRUCTURED,
    "same reverse": replace(STRUCTURED, order="reverse"),
    "same random": replace(STRUCTURED, order="random"),
    "unique": replace(UNIFORM, images="unique"),
    "unique structured": replace(STRUCTURED, images="unique"),
    "white": replace(UNIFORM, images="white"),
    "another data set": replace(UNIFORM, images="mnist5k"),
    "fractional": replace(UNIFORM, alpha=0.3333),
    "no noise": replace(UNIFORM, alpha=0.0),
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


def read(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return arrays and facts as any other reader would find them."""
    arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in ARRAYS}
    return arrays, files.read_json(folder / "noise.json")


# --- what the files say


@pytest.mark.parametrize("case", CASES)
def test_counts_and_accuracy_are_those_of_the_labels(
    case: str, dataset: Dataset, tmp_path: Path
) -> None:
    params, n = CASES[case], DATA.originals
    dilution.save(dilute(dataset, params), tmp_path)
    arrays, facts = read(tmp_path)
    noisy = round(params.alpha * n)
    counts = np.zeros((M, M), dtype=np.int64)
    unknown = np.zeros(M, dtype=np.int64)
    right = 0
    for i, label in enumerate(arrays["labels"]):
        image = arrays["images"][i % len(arrays["images"])]
        if image < TOTAL:
            true = dataset.train_labels[image]
            counts[true, label] += 1
            right += int(true == label)
        else:  # an image of none of the classes
            unknown[label] += 1
    assert len(arrays["labels"]) == facts["examples"] == n + noisy
    assert counts.tolist() == facts["counts"]
    assert unknown.tolist() == facts["counts_of_unknown_images"]
    assert counts.sum() + unknown.sum() == n + noisy
    assert facts["label_accuracy"] == right / (n + noisy)
    assert facts["originals"] == n
    assert facts["sha256"] == {name: files.sha256_of_array(arrays[name]) for name in ARRAYS}


@pytest.mark.parametrize("case", CASES)
def test_the_originals_keep_their_true_label(case: str, dataset: Dataset) -> None:
    diluted, n = dilute(dataset, CASES[case]), DATA.originals
    assert diluted.originals == n
    originals = diluted.images[:n]
    assert len(set(originals)) == n
    np.testing.assert_array_equal(diluted.labels[:n], dataset.train_labels[originals])


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case].alpha > 1])
def test_noisy_labels_follow_the_transition_matrix(case: str, dataset: Dataset) -> None:
    diluted, n = dilute(dataset, CASES[case]), DATA.originals
    index = diluted.images[np.arange(len(diluted.labels)) % len(diluted.images)][n:]
    drawn = diluted.labels[n:]
    if (index < TOTAL).all():
        true = dataset.train_labels[index]
        counts = sampling.count_labels(true, drawn, M)
    else:
        counts = np.zeros((M, M), dtype=np.int64)
        counts[0] = np.bincount(drawn, minlength=M)
    expected = counts.sum(axis=1, keepdims=True) * np.array(diluted.facts["transition"])
    possible = expected > 1e-9
    assert not counts[~possible].any()
    rows = int((counts.sum(axis=1) > 0).sum())
    assert stats.chisquare(counts[possible], expected[possible], ddof=rows - 1).pvalue > LEVEL


@pytest.mark.parametrize("alpha", [1.0, 20.0])
def test_label_accuracy_is_as_the_paper_says(alpha: float, dataset: Dataset) -> None:
    facts = dilute(dataset, replace(UNIFORM, alpha=alpha)).facts
    q = 1 / M  # only the noisy labels vary: a binomial, compared within four standard deviations
    n, noisy = DATA.originals, round(alpha * DATA.originals)
    expected = (1 + alpha / M) / (1 + alpha)
    sd = np.sqrt(noisy * q * (1 - q)) / (n + noisy)
    assert abs(facts["label_accuracy"] - expected) < 4 * sd


def test_the_facts_hold_config_seed_and_matrix(dataset: Dataset) -> None:
    facts = dilute(dataset, STRUCTURED, seed=7).facts
    order = transitions.false_class_order(CONFUSION, "confusing", rng=np.random.default_rng(0))
    expected = transitions.structured_transition(order, 5.0, 0.5)
    np.testing.assert_array_equal(np.array(facts["transition"]), expected)
    assert facts["config"] == {
        "data": {k: v for k, v in vars(DATA).items() if k != "path"},
        "noise": vars(STRUCTURED),
    }
    assert (facts["seed"], facts["num_classes"], facts["dataset"]) == (7, M, "digits")


def test_no_noise_is_the_identity(dataset: Dataset) -> None:
    facts = dilute(dataset, CASES["no noise"]).facts
    assert facts["label_accuracy"] == 1
    assert facts["examples"] == DATA.originals
    np.testing.assert_array_equal(facts["counts"], np.diag(np.diag(facts["counts"])))
    sets = [dilute(dataset, replace(UNIFORM, alpha=0.0, images=i)) for i in ("white", "unique")]
    assert all(one.facts["sha256"] == facts["sha256"] for one in sets)


@pytest.mark.parametrize(
    ("originals", "alpha"), [(400, 0.3333), (3, 0.5), (5, 0.5), (7, 2.5), (400, 0.001)]
)
def test_a_fractional_alpha_is_rounded_on_the_whole(
    originals: int, alpha: float, dataset: Dataset
) -> None:
    data = replace(DATA, originals=originals)
    diluted = dilute(dataset, replace(UNIFORM, alpha=alpha), data)
    assert len(diluted.labels) == originals + round(alpha * originals)
    assert len(diluted.validation_labels) == 100 + round(alpha * 100)


def test_more_than_256_classes_take_two_bytes(make_dataset: MakeDataset, tmp_path: Path) -> None:
    many = make_dataset(train=3000, num_classes=300)
    data = replace(DATA, originals=1000)
    confusion = np.random.default_rng(0).integers(0, 9, (300, 300))
    params = replace(STRUCTURED, alpha=3.0, delta=0.01)
    diluted = dilution.dilute(many, data, params, seed=0, confusion=confusion)
    assert diluted.labels.dtype == np.uint16
    assert diluted.labels.max() > 255
    dilution.save(diluted, tmp_path)
    arrays, facts = read(tmp_path)
    true = many.train_labels[arrays["images"][np.arange(4000) % 1000]]
    assert facts["label_accuracy"] == pytest.approx((true == arrays["labels"]).mean())
    assert (facts["transition"], facts["counts"]) == (None, None)  # 90,000 numbers each


# --- which images


def test_repeated_images_are_the_originals_in_turn(dataset: Dataset) -> None:
    assert len(dilute(dataset, UNIFORM).images) == DATA.originals


def test_unique_images_are_used_once_and_never_for_validation(dataset: Dataset) -> None:
    data = replace(DATA, originals=400)
    fullest = replace(UNIFORM, alpha=(TOTAL - 100 - 400) / 400, images="unique")
    diluted = dilute(dataset, fullest, data)
    assert len(diluted.images) == len(diluted.labels) == TOTAL - 100
    assert len(set(diluted.images)) == TOTAL - 100
    assert not set(diluted.images) & set(diluted.validation_images)


@pytest.mark.parametrize(("case", "count"), [("white", 400), ("another data set", OTHERS)])
def test_other_images_lie_in_the_bank_and_are_used_equally_often(
    case: str, count: int, dataset: Dataset
) -> None:
    index = dilute(dataset, CASES[case]).images
    noisy = index[DATA.originals :]
    assert noisy.dtype == np.uint32
    assert noisy.min() >= TOTAL
    assert noisy.max() < TOTAL + count
    uses = np.bincount(noisy - TOTAL, minlength=count)
    assert uses.max() - uses.min() <= 1


def test_the_bank_ends_with_the_other_images(dataset: Dataset, make_dataset: MakeDataset) -> None:
    other = replace(make_dataset("cifar10"), train_images=np.zeros((7, 4, 4, 3), np.uint8))
    one = dilution.other_images("cifar10", dataset, 400, other, 0)
    assert one is not None
    assert one.shape == (7, 8, 8, 1)
    assert dilution.other_images("same", dataset, 400, None, 0) is None
    white, same, fresh = (
        dilution.other_images("white", dataset, 400, None, seed) for seed in (1, 1, 2)
    )
    assert white is not None
    assert white.shape == (400, 8, 8, 1)
    np.testing.assert_array_equal(white, same)
    assert fresh is not None
    assert (white != fresh).any()


@pytest.mark.parametrize("case", ["same", "same structured", "unique", "white", "another data set"])
def test_an_example_takes_at_most_five_bytes_on_disk(
    case: str, dataset: Dataset, tmp_path: Path
) -> None:
    dilution.save(dilute(dataset, CASES[case]), tmp_path)
    facts = files.read_json(tmp_path / "noise.json")
    header = 128  # of a .npy file
    size = sum((tmp_path / f"{name}.npy").stat().st_size - header for name in ("labels", "images"))
    assert size <= 5 * facts["examples"]


# --- the split


@pytest.mark.parametrize("case", CASES)
def test_validation_is_the_same_at_every_noise_level_and_apart(case: str, dataset: Dataset) -> None:
    diluted = dilute(dataset, CASES[case])
    plain = dilute(dataset, CASES["no noise"])
    np.testing.assert_array_equal(diluted.validation_images, plain.validation_images)
    np.testing.assert_array_equal(diluted.images[:400], plain.images[:400])
    assert not set(diluted.validation_images) & set(diluted.images)
    assert len(set(diluted.validation_images)) == 100


def test_smaller_sets_are_nested_in_larger_ones(dataset: Dataset) -> None:
    small, large = (
        dilute(dataset, UNIFORM, replace(DATA, originals=originals)) for originals in (50, 800)
    )
    np.testing.assert_array_equal(small.images, large.images[:50])
    np.testing.assert_array_equal(small.validation_images, large.validation_images)


@pytest.mark.parametrize("case", ["same", "same structured", "white"])
def test_validation_labels_are_diluted_in_the_same_way(case: str, dataset: Dataset) -> None:
    data = replace(DATA, validation=1000)
    diluted = dilute(dataset, CASES[case], data)
    true = dataset.train_labels[diluted.validation_images]
    np.testing.assert_array_equal(diluted.validation_labels[:1000], true)
    counts = sampling.count_labels(np.tile(true, 5), diluted.validation_labels[1000:], M)
    expected = counts.sum(axis=1, keepdims=True) * np.array(diluted.facts["transition"])
    possible = expected > 1e-9
    pvalue = stats.chisquare(counts[possible], expected[possible], ddof=M - 1).pvalue
    assert pvalue > LEVEL


def test_no_validation_is_possible(dataset: Dataset, tmp_path: Path) -> None:
    dilution.save(dilute(dataset, UNIFORM, replace(DATA, validation=0)), tmp_path)
    loaded = dilution.load(tmp_path)
    assert loaded.validation_images.size == loaded.validation_labels.size == 0


# --- randomness


@pytest.mark.parametrize("case", ["same", "same random", "unique", "white", "another data set"])
def test_a_seed_repeats_to_the_byte_and_another_differs(
    case: str, dataset: Dataset, tmp_path: Path
) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        dilution.save(dilute(dataset, CASES[case], seed=seed), tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted([*(f"{name}.npy" for name in ARRAYS), "noise.json"])
    a, b, c = ([(tmp_path / f / name).read_bytes() for name in names] for f in "abc")
    assert a == b
    assert all(one != other for one, other in zip(a, c, strict=True))


def test_noise_levels_draw_independently(dataset: Dataset) -> None:
    one, other = (
        dilute(dataset, replace(UNIFORM, alpha=alpha)).labels[400:2000] for alpha in (5.0, 6.0)
    )
    agree = int((one == other).sum())  # a binomial of 1 in 10, within four standard deviations
    assert abs(agree - 160) < 4 * np.sqrt(1600 * 0.1 * 0.9)


@pytest.mark.parametrize(
    "params",
    [
        replace(STRUCTURED, delta=0.0),
        replace(STRUCTURED, delta=0.0, order="reverse"),
        replace(STRUCTURED, delta=0.0, order="random"),
        replace(UNIFORM, order="random"),
    ],
)
def test_without_structure_every_config_draws_the_same(
    params: NoiseParams, dataset: Dataset
) -> None:
    assert dilute(dataset, params).facts["sha256"] == dilute(dataset, UNIFORM).facts["sha256"]


def test_only_random_orders_depend_on_the_seed() -> None:
    def matrix(order: str, seed: int) -> transitions.Matrix:
        return dilution.transition_matrix(replace(STRUCTURED, order=order), M, CONFUSION, seed)

    np.testing.assert_array_equal(matrix("confusing", 1), matrix("confusing", 2))
    np.testing.assert_array_equal(matrix("random", 1), matrix("random", 1))
    assert (matrix("random", 1) != matrix("random", 2)).any()


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


def test_structured_noise_needs_confusion_counts() -> None:
    with pytest.raises(UserError, match="run the confuse stage first"):
        dilution.transition_matrix(STRUCTURED, M, None, 0)


@pytest.mark.parametrize(
    ("params", "arrays"),
    [
        (replace(STRUCTURED, alpha=5000.0, delta=1.0), 10_500_000 + 2000 * 4),
        (replace(UNIFORM, alpha=5000.0, images="white"), 10_500_000 + 10_002_000 * 4),
    ],
    ids=["same", "white"],
)
def test_a_large_set_takes_little_memory_beside_its_arrays(
    params: NoiseParams, arrays: int, make_dataset: MakeDataset
) -> None:
    """Ten million labels, and half a million of the validation images."""
    dataset, data = make_dataset(train=TOTAL), replace(DATA, originals=2000)
    tracemalloc.start()
    try:
        dilute(dataset, params, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < arrays + 32 * 2**20


# --- on disk


def test_load_returns_what_save_wrote(dataset: Dataset, tmp_path: Path) -> None:
    diluted = dilute(dataset, CASES["white"])
    dilution.save(diluted, tmp_path / "new" / "folder")
    loaded = dilution.load(tmp_path / "new" / "folder")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(diluted, name))
        assert getattr(loaded, name).dtype == getattr(diluted, name).dtype
    assert loaded.facts == diluted.facts


HEADER = 128  # bytes of a .npy file before its content
SMALL = (replace(UNIFORM, alpha=2.0, images="white"), replace(DATA, originals=8, validation=3))


@pytest.fixture
def saved(dataset: Dataset, tmp_path: Path) -> Path:
    dilution.save(dilute(dataset, *SMALL), tmp_path)
    return tmp_path


def damage(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.parametrize("name", ARRAYS)
def test_any_damaged_byte_of_the_content_is_noticed(name: str, saved: Path) -> None:
    file = saved / f"{name}.npy"
    whole = file.read_bytes()
    for place in range(HEADER, len(whole)):
        damage(file, place)
        with pytest.raises(UserError, match=f"{name}.npy: has sha256"):
            dilution.load(saved)
        file.write_bytes(whole)
    dilution.load(saved)


@pytest.mark.parametrize("name", ARRAYS)
def test_any_damaged_byte_of_the_header_is_noticed(name: str, saved: Path) -> None:
    file = saved / f"{name}.npy"
    whole = file.read_bytes()
    for place in range(HEADER):
        damage(file, place)
        with pytest.raises(UserError, match=f"{name}.npy"):
            dilution.load(saved)
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_missing_or_short_array_is_noticed(name: str, saved: Path) -> None:
    file = saved / f"{name}.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{name}.npy"):
        dilution.load(saved)
    file.unlink()
    with pytest.raises(UserError, match=f"{name}.npy"):
        dilution.load(saved)


@pytest.mark.parametrize("name", ARRAYS)
def test_another_sets_array_is_noticed(name: str, saved: Path, dataset: Dataset) -> None:
    other = dilute(dataset, *SMALL, seed=99)
    files.write_array(saved / f"{name}.npy", getattr(other, name))
    with pytest.raises(UserError, match=f"{name}.npy: has sha256"):
        dilution.load(saved)


# --- from a data set on disk


@pytest.fixture
def stored(dataset: Dataset, make_dataset: MakeDataset, tmp_path: Path) -> Path:
    datasets.save(dataset, tmp_path / "data" / "digits")
    datasets.save(
        make_dataset("mnist5k", train=OTHERS), tmp_path / "data" / datasets.noise_folder("mnist5k")
    )
    files.write_json(
        tmp_path / "confusion.json", {"dataset": "digits", "counts": CONFUSION.tolist()}
    )
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_materialise_writes_a_set_for_every_seed(case: str, stored: Path, dataset: Dataset) -> None:
    dilution.materialise(
        DATA, CASES[case], (0, 5), data_folder=stored / "data", out=stored / "out",
        confusion_file=stored / "confusion.json",
    )  # fmt: skip
    assert sorted(path.name for path in (stored / "out").iterdir()) == ["seed-0", "seed-5"]
    loaded = dilution.load(stored / "out" / "seed-5")
    assert loaded.facts == dilute(dataset, CASES[case], seed=5).facts


def test_what_does_not_fit_the_data_set_is_refused(stored: Path) -> None:
    with pytest.raises(ParamsError, match=r"originals: got 2901; accepted: at most 2900"):
        dilution.materialise(
            replace(DATA, originals=2901), UNIFORM, (0,),
            data_folder=stored / "data", out=stored / "out",
        )  # fmt: skip
    assert not (stored / "out").exists()


def test_whole_sets_are_kept_and_unfinished_ones_written_again(stored: Path) -> None:
    def materialise() -> None:
        dilution.materialise(DATA, UNIFORM, (0, 1), data_folder=stored / "data", out=stored / "out")

    materialise()
    whole, unfinished = stored / "out" / "seed-0", stored / "out" / "seed-1"
    before = (whole / "labels.npy").stat().st_mtime_ns
    (unfinished / "noise.json").unlink()
    (unfinished / "labels.npy").unlink()
    materialise()
    assert (whole / "labels.npy").stat().st_mtime_ns == before
    dilution.load(unfinished)


@pytest.mark.parametrize("change", [{"alpha": 2.0}, {"images": "unique"}])
def test_a_set_of_another_config_is_not_kept(change: dict[str, Any], stored: Path) -> None:
    for params in (UNIFORM, replace(UNIFORM, **change)):
        dilution.materialise(DATA, params, (0,), data_folder=stored / "data", out=stored / "out")
    facts = dilution.load(stored / "out" / "seed-0").facts
    assert facts["config"]["noise"] == vars(replace(UNIFORM, **change))


@pytest.mark.parametrize(
    ("data", "params"),
    [
        (replace(DATA, originals=TOTAL), UNIFORM),  # would overlap the validation images
        (DATA, replace(UNIFORM, images="unique", alpha=7.0)),  # would repeat images
    ],
)
def test_dilute_refuses_what_does_not_fit(
    data: DataParams, params: NoiseParams, dataset: Dataset
) -> None:
    with pytest.raises(ParamsError):
        dilute(dataset, params, data)


def test_folders_are_named_by_all_that_decides_a_set() -> None:
    changes = [
        (replace(DATA, originals=401), UNIFORM),
        (replace(DATA, validation=99), UNIFORM),
        (replace(DATA, name="mnist5k"), UNIFORM),
        (DATA, replace(UNIFORM, alpha=4.0)),
        (DATA, replace(UNIFORM, images="unique")),
        (DATA, STRUCTURED),
        (DATA, replace(STRUCTURED, delta=0.25)),
        (DATA, replace(STRUCTURED, order="random")),
    ]
    names = {dilution.name_of(*change) for change in [(DATA, UNIFORM), *changes]}
    assert len(names) == 1 + len(changes)
    assert dilution.name_of(DATA, UNIFORM) == dilution.name_of(replace(DATA), replace(UNIFORM))
