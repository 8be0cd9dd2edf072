"""Data sets in memory and on disk; images resized, conformed, and drawn as white noise."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stages.lib.core import files
from stages.lib.core.errors import DamagedError
from stages.lib.data import datasets
from stages.lib.data import images as images_of
from stages.lib.data.datasets import Dataset
from stages.lib.noise import sampling


def make_dataset(num_classes: int = 3, channels: int = 1, side: int = 5) -> Dataset:
    rng = np.random.default_rng(1)

    def images(count: int) -> NDArray[np.uint8]:
        return rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)

    dtype = sampling.label_dtype(num_classes)
    return Dataset(
        name="mnist",
        train_images=images(3 * num_classes),
        train_labels=np.tile(np.arange(num_classes, dtype=dtype), 3),
        test_images=images(num_classes),
        test_labels=np.arange(num_classes, dtype=dtype),
        class_names=tuple(f"class {label}" for label in range(num_classes)),
        source="Random numbers.",
    )


# --- the class


@pytest.mark.parametrize(("num_classes", "dtype"), [(2, "uint8"), (256, "uint8"), (257, "uint16")])
def test_labels_take_two_bytes_above_256_classes(num_classes: int, dtype: str) -> None:
    dataset = make_dataset(num_classes)
    dataset.check()
    assert (dataset.num_classes, dataset.train_labels.dtype) == (num_classes, dtype)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_images": np.zeros((9, 5, 5), np.uint8)}, r"train_images: got uint8 .*\(9, 5, 5\)"),
        ({"train_images": np.zeros((9, 5, 5, 1))}, "got float64"),
        ({"train_images": np.zeros((9, 5, 5, 2), np.uint8)}, "1 channel or 3"),
        ({"test_images": np.zeros((3, 5, 5, 3), np.uint8)}, r"test images of \(5, 5, 3\)"),
        ({"test_images": np.zeros((0, 5, 5, 1), np.uint8)}, "not be empty"),
        ({"train_labels": np.zeros(8, np.uint8)}, r"shape \(9,\)"),
        ({"train_labels": np.zeros(9, np.int64)}, "got int64"),
        ({"test_labels": np.array([0, 1, 3], np.uint8)}, "got label 3; must be below 3"),
        ({"class_names": ("a", "b", "a")}, "must be there once"),
        ({"class_names": ("a",)}, "got 1 classes"),
    ],
)
def test_what_is_wrong_is_named_and_not_written(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        datasets.save(replace(make_dataset(), **change), tmp_path / "x")
    assert not (tmp_path / "x").exists()


# --- on disk


def test_load_returns_what_save_wrote_and_describes_it(tmp_path: Path) -> None:
    dataset = make_dataset(channels=3)
    for folder in ("a/new", "b"):
        datasets.save(dataset, tmp_path / folder)
    loaded = datasets.load(tmp_path / "b")
    for name in datasets.ARRAYS:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(dataset, name))
        assert getattr(loaded, name).dtype == getattr(dataset, name).dtype
    for name in ("name", "class_names", "source"):
        assert getattr(loaded, name) == getattr(dataset, name)
    content = files.read_json(tmp_path / "b" / "dataset.json")
    assert content["class_counts"] == {"train": [3, 3, 3], "test": [1, 1, 1]}
    assert content["size"] == {"train": 9, "test": 3}
    assert content["arrays"]["train_images"] == {
        "dtype": "uint8", "shape": [9, 5, 5, 3],
        "sha256": files.sha256_of_array(dataset.train_images),
    }  # fmt: skip
    written = {file.name: file.read_bytes() for file in (tmp_path / "a/new").iterdir()}
    assert written == {file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()}


def change_one_pixel(file: Path) -> None:
    images = np.load(file)
    images[0, 0, 0, 0] ^= 1
    files.write_array(file, images)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("test_images.npy", change_one_pixel, "sha256"),
        ("test_images.npy", Path.unlink, "is missing"),
        ("dataset.json", lambda file: file.write_text('{"arrays": {}}'), "is not what was written"),
    ],
)
def test_damage_is_named_with_the_stage_that_mends_it(
    name: str, damage: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    for group, stage in (("experiment", "fetch"), ("quick", "fetch_figures")):
        folder = tmp_path / "data/datasets" / group / "digits"
        datasets.save(make_dataset(), folder)
        damage(folder / name)
        with pytest.raises(DamagedError, match=f"{name}: .*{words}.*dvc repro -f {stage} ") as told:
            datasets.load(folder)
        assert "\n" not in str(told.value)


# --- order


@pytest.mark.parametrize("counts", [(5, 5, 5), (1, 10, 4), (3, 0, 2)])
def test_interleaved_prefixes_hold_each_class_in_proportion(counts: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    order = datasets.interleave(labels)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(labels)))
    for end in range(1, len(labels) + 1):
        seen = np.bincount(labels[order[:end]], minlength=len(counts))
        expected = end * np.array(counts) / len(labels)
        assert np.all(np.abs(seen - expected) <= 1)
    for label in range(len(counts)):
        assert np.all(np.diff(order[labels[order] == label]) > 0)  # each class in its own order


# --- resize and conform


def test_resize_averages_what_it_merges() -> None:
    images = np.zeros((2, 8, 8, 1), np.uint8)
    images[:, ::2] = 200  # stripes that plain sampling would turn all black or all white
    small = images_of.resize(images, 4)
    assert (small.shape, small.dtype) == ((2, 4, 4, 1), np.uint8)
    # Inner rows see whole stripes; the outermost lean to the stripe at the edge.
    assert np.all(np.abs(small[:, 1:-1].astype(int) - 100) <= 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_treats_every_image_and_channel_alone(channels: int) -> None:
    images = make_dataset(channels=channels, side=7).train_images
    small = images_of.resize(images, 4)
    for index, channel in np.ndindex(len(images), channels):
        alone = images_of.resize(images[index : index + 1, ..., channel : channel + 1].copy(), 4)
        np.testing.assert_array_equal(small[index, ..., channel], alone[0, ..., 0])


def test_conform_makes_grey_of_colour_as_pillow_does() -> None:
    images = make_dataset(channels=3).train_images
    grey = images_of.conform(images, 5, 5, 1)
    expected = [np.asarray(Image.fromarray(image).convert("L")) for image in images]
    np.testing.assert_array_equal(grey[..., 0], expected)


def test_conform_brings_any_image_into_shape() -> None:
    images = make_dataset(channels=1).train_images
    assert images_of.conform(images, 5, 5, 1) is images
    shaped = images_of.conform(images, 6, 8, 3)
    assert (shaped.shape, shaped.dtype) == ((9, 6, 8, 3), np.uint8)
    assert np.all(shaped == shaped[..., :1])
    np.testing.assert_array_equal(images_of.conform(shaped, 6, 8, 1), shaped[..., :1])


@pytest.mark.parametrize("shape", [(0, 5, 1), (5, 5, 2), (5, -1, 3)])
def test_conform_refuses_shapes_that_are_none(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        images_of.conform(make_dataset().train_images, *shape)


# --- white noise

COUNT = 400


def bimodal(low: int, high: int, share: float) -> NDArray[np.uint8]:
    pixels = np.random.default_rng(3).random((50, 10, 10, 1)) < share
    return np.where(pixels, np.uint8(high), np.uint8(low))


LIKE = {
    "nearly black, as MNIST": bimodal(0, 250, 0.13),
    "photographs": np.random.default_rng(4)
    .normal(120, 60, (50, 10, 10, 3))
    .clip(0, 255)
    .astype(np.uint8),
    "black or white": bimodal(0, 255, 0.3),
    "little contrast": bimodal(99, 103, 0.5),
}


def tolerances(pixels: NDArray[np.float64]) -> tuple[float, float]:
    """Return how far mean and standard deviation of pixels may be from their expectations.

    Rounding moves either by at most 0.5. The rest is five standard errors: s / sqrt(n) of a mean,
    and of a deviation, as d s = d s^2 / 2s, that of the mean of squares over 2s.
    """
    squares = (pixels - pixels.mean()) ** 2
    root = np.sqrt(pixels.size)
    return 0.5 + 5 * pixels.std() / root, 0.5 + 5 * squares.std() / (2 * pixels.std() * root)


@pytest.mark.parametrize("like", LIKE.values(), ids=LIKE.keys())
def test_white_noise_has_the_moments_of_the_pixels(like: NDArray[np.uint8]) -> None:
    noise = images_of.white_noise(like, COUNT, rng=np.random.default_rng(5))
    assert (noise.shape, noise.dtype) == ((COUNT, *like.shape[1:]), np.uint8)
    for channel in range(like.shape[-1]):
        wanted, found = like[..., channel].astype(float), noise[..., channel].astype(float)
        of_mean, of_deviation = tolerances(found)
        assert abs(found.mean() - wanted.mean()) < of_mean
        assert abs(found.std() - wanted.std()) < of_deviation


def test_white_noise_is_rounded_to_the_nearest() -> None:
    like = LIKE["little contrast"]  # smooth enough for rounding to even out
    noise = images_of.white_noise(like, COUNT, rng=np.random.default_rng(5))
    standard_error = noise.std() / np.sqrt(noise.size)
    assert abs(noise.mean() - like.mean()) < 5 * standard_error < 0.1  # cutting takes 0.5 off


def test_white_noise_pixels_are_independent() -> None:
    like = np.repeat(LIKE["photographs"][..., :1], 3, axis=-1)  # here channels are equal
    noise = images_of.white_noise(like, COUNT, rng=np.random.default_rng(6)).astype(float)
    for axis in range(4):
        a, b = np.delete(noise, 0, axis), np.delete(noise, -1, axis)
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(0.6 * noise.size)
    assert np.corrcoef(like[..., 0].ravel(), like[..., 1].ravel())[0, 1] > 0.99  # the control


def test_a_constant_channel_stays_constant() -> None:
    like = LIKE["photographs"].copy()
    like[..., 1] = 42
    noise = images_of.white_noise(like, 10, rng=np.random.default_rng(7))
    assert np.all(noise[..., 1] == 42)
    assert noise[..., 0].std() > 40


def test_white_noise_repeats_with_its_seed_and_not_with_another() -> None:
    like = LIKE["photographs"]
    first, again, other = (
        images_of.white_noise(like, 3, rng=np.random.default_rng(seed)) for seed in (8, 8, 9)
    )
    np.testing.assert_array_equal(first, again)
    assert np.mean(first == other) < 0.05
    assert images_of.white_noise(like, 0, rng=np.random.default_rng(8)).shape == (0, 10, 10, 3)
    with pytest.raises(ValueError, match="got count -1"):
        images_of.white_noise(like, -1, rng=np.random.default_rng(0))


def test_moments_are_numpys() -> None:
    like = LIKE["photographs"]
    mean, variance = images_of.pixel_moments(like)
    np.testing.assert_allclose(mean, like.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(variance, like.var((0, 1, 2)), rtol=1e-12)
