"""Arrays of images, ``(n, height, width, channels) uint8``: resized, conformed, drawn as noise."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WHITE = 255  # the largest pixel
CHUNK_PIXELS = 1 << 22  # pixels held at once beside the result, as float64: 32 MiB
LUMA = np.array([19595, 38470, 7471], dtype=np.uint32)  # ITU-R 601 in 1/65536, as Pillow has it


def check_images(images: NDArray[np.uint8], name: str = "images") -> None:
    """Require ``(n, height, width, channels) uint8`` with one channel or three, none empty.

    Raises:
        ValueError: the array has another shape or dtype.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{name}: got {images.dtype} of shape {images.shape}; must be uint8 of shape "
            "(n, height, width, channels) with 1 channel or 3; convert it first"
        )
    if 0 in images.shape:
        raise ValueError(f"{name}: got shape {images.shape}; must not be empty; add images")


def _check_sides(*sides: int) -> None:
    if min(sides) < 1:
        raise ValueError(f"got sides {sides}; each must be at least 1 pixel; ask for a larger one")


def _chunks(count: int, pixels_each: int) -> Iterator[slice]:
    """Yield slices that cover ``count`` images, each of about `CHUNK_PIXELS` pixels."""
    step = max(1, CHUNK_PIXELS // max(1, pixels_each))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _scale(images: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return ``images`` scaled to ``height`` x ``width``, without keeping their proportions."""
    if images.shape[1:3] == (height, width):
        return images
    count, *_, channels = images.shape
    scaled = np.empty((count, height, width, channels), dtype=np.uint8)
    for image, place in zip(images, scaled, strict=True):
        # Pillow's filter widens when it shrinks (antialiased) and computes in integers, so that
        # every machine gets the same bytes, and with them the same hash.
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        small = picture.resize((width, height), Image.Resampling.BILINEAR)
        place[:] = np.asarray(small, dtype=np.uint8).reshape(place.shape)
    return scaled


def resize(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return ``images`` as ``(n, size, size, channels)``: bilinear, antialiased when shrinking.

    Images that are not square lose their proportions. The array itself is returned when it
    has the size already.

    Raises:
        ValueError: ``images`` are no images or ``size`` is below 1.
    """
    check_images(images)
    _check_sides(size)
    return _scale(images, size, size)


def _to_grey(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the luma of RGB images: 0.299 R + 0.587 G + 0.114 B (ITU-R 601)."""
    grey = np.empty((*images.shape[:3], 1), dtype=np.uint8)
    for part in _chunks(len(images), images[0].size):
        grey[part, ..., 0] = (images[part] @ LUMA + (1 << 15)) >> 16
    return grey


def conform(images: NDArray[np.uint8], height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Return ``images`` in the shape of another data set's, to stand in for them.

    Resized as by `resize`; RGB becomes grey by its luma, grey becomes RGB by repetition. The
    array itself is returned when it has the shape already.

    Raises:
        ValueError: ``images`` are no images, a side is below 1, or ``channels`` is not 1 or 3.
    """
    check_images(images)
    _check_sides(height, width)
    if channels not in (1, 3):
        raise ValueError(f"got {channels} channels; must be 1 (grey) or 3 (RGB); ask for either")
    if channels < images.shape[-1]:
        images = _to_grey(images)
    images = _scale(images, height, width)
    return np.repeat(images, 3, axis=-1) if channels > images.shape[-1] else images


def pixel_moments(images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance of each channel's pixels, on the scale 0 to 255.

    Exact, by counting the 256 values, however many images there are.
    """
    values, channels = np.arange(WHITE + 1), images.shape[-1]
    counts = np.zeros((channels, WHITE + 1))
    for part in _chunks(len(images), images[0].size):
        for channel in range(channels):
            pixels = images[part, ..., channel].ravel()
            counts[channel] += np.bincount(pixels, minlength=WHITE + 1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    variance = np.sum(shares * (values - mean[:, None]) ** 2, axis=1)
    return mean, variance


def _draw_pixels(
    mean: float, variance: float, shape: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw pixels of one channel from the Beta distribution on [0, 255] with these moments."""
    p, v = mean / WHITE, variance / WHITE**2
    if v == 0:
        return np.full(shape, round(mean), dtype=np.uint8)
    concentration = p * (1 - p) / v - 1  # a + b; Var = p (1-p) / (a + b + 1)
    if concentration < 1e-6:  # all pixels are black or white, the Beta distribution's limit
        return (rng.random(shape) < p).astype(np.uint8) * np.uint8(WHITE)
    draws = rng.beta(p * concentration, (1 - p) * concentration, shape)
    return np.rint(WHITE * draws).astype(np.uint8)


def white_noise(
    images: NDArray[np.uint8], count: int, *, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw ``count`` images of independent pixels with the moments of the pixels of ``images``.

    White noise to "match the mean and variance of pixels within CIFAR-10" (Rolnick et al. 2017,
    section 3.3) leaves the distribution open. Ours, per channel, is the Beta distribution on
    [0, 255] with that mean and variance, rounded to whole numbers: it can have any mean and
    variance that pixels can have, where a clipped Gaussian loses both on nearly black images such
    as MNIST's (mean 33, standard deviation 79). With p = mean/255 and v = variance/255^2 its
    parameters are a = p (p(1-p)/v - 1) and b = (1-p) (p(1-p)/v - 1). Rounding moves mean and
    standard deviation by at most half a grey level each. A constant channel stays constant.

    Args:
        images: ``(n, height, width, channels) uint8``, n at least 1.
        count: How many to draw, 0 or more.
        rng: Where the randomness comes from; the same state draws the same images.

    Returns:
        ``(count, height, width, channels) uint8``.

    Raises:
        ValueError: ``images`` are no images or ``count`` is below 0.
    """
    check_images(images)
    if count < 0:
        raise ValueError(f"got count {count}; must be at least 0; ask for 0 or more")
    mean, variance = pixel_moments(images)
    noise = np.empty((count, *images.shape[1:]), dtype=np.uint8)
    for part in _chunks(count, images[0].size):
        for channel in range(noise.shape[-1]):
            shape = noise[part, ..., channel].shape
            drawn = _draw_pixels(mean[channel], variance[channel], shape, rng)
            noise[part, ..., channel] = drawn
    return noise
