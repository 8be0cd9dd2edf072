"""Changed images against slow loops and torchvision, and where the boxes fall."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from stages.lib.components import augmentation
from stages.lib.components.augmentation import AUGMENTATIONS, MARGIN, TRIES, BoxSampler, augment


def draw_images(shape: tuple[int, int, int], members: int = 2, count: int = 7) -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(1, 256, (members, count, *shape), dtype=np.uint8))


def draw_boxes(name: str, size: tuple[int, int], count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return BoxSampler(name, size, generator, torch.device("cpu")).draw(count)


# --- what is made of images


def slow_shift(image: NDArray[np.uint8], box: list[int]) -> NDArray[np.uint8]:
    """Move a window over an image with zeros around it, pixel by pixel."""
    top, left, height, width, flipped = box
    got = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            y, x = top + i, left + (width - 1 - j if flipped else j)
            if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
                got[i, j] = image[y, x]
    return got


def test_shifted_images_are_those_of_a_slow_loop() -> None:
    images = draw_images((9, 12, 3), count=40)
    boxes = draw_boxes("flip_crop", (9, 12), 80).view(2, 40, 5)
    got = augment("flip_crop", images, boxes)
    assert got.dtype == torch.uint8
    for k in range(2):
        for image, box, mine in zip(images[k], boxes[k], got[k], strict=True):
            np.testing.assert_array_equal(mine, slow_shift(image.numpy(), box.tolist()))


@pytest.mark.parametrize("shape", [(64, 64, 1), (20, 31, 3)])
def test_crops_are_torchvisions(shape: tuple[int, int, int]) -> None:
    images = draw_images(shape, count=20)
    height, width, _ = shape
    boxes = draw_boxes("resized_crop", (height, width), 40).view(2, 20, 5)
    boxes[0, 0] = torch.tensor([0, 0, height, width, 0])
    boxes[0, 1] = torch.tensor([height - 1, width - 1, 1, 1, 1])  # a single pixel
    got = augment("resized_crop", images, boxes)
    assert got.dtype == torch.float32
    for k in range(2):
        for image, box, mine in zip(images[k], boxes[k], got[k], strict=True):
            *place, flipped = box.tolist()
            expected = functional.resized_crop(
                image.permute(2, 0, 1).float(), *place, [height, width], antialias=False
            )
            if flipped:
                expected = expected.flip(2)
            # Weights in float32 are of places up to 64 pixels from the edge.
            np.testing.assert_allclose(mine.permute(2, 0, 1), expected, atol=0.01)
    np.testing.assert_allclose(got[0, 0], images[0, 0], atol=0.01)
    np.testing.assert_allclose(got[0, 1], images[0, 1, -1:, -1:].expand(shape), atol=0.01)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_stacking_changes_no_bit(name: str) -> None:
    images = draw_images((16, 16, 3), members=3)
    boxes = draw_boxes(name, (16, 16), 21).view(3, 7, 5)
    together, before = augment(name, images, boxes), images.clone()
    for k in range(3):
        assert torch.equal(together[k : k + 1], augment(name, images[[k]], boxes[[k]]))
    assert torch.equal(images, before)


# --- where boxes fall


def slow_crop(u: list[float], height: int, width: int) -> list[int]:
    """Return a box by the lines of torchvision's ``RandomResizedCrop.get_params``."""
    log_ratio = math.log(3 / 4), math.log(4 / 3)
    for i in range(TRIES):
        area = height * width * (0.08 + u[i] * (1.0 - 0.08))
        ratio = math.exp(log_ratio[0] + u[TRIES + i] * (log_ratio[1] - log_ratio[0]))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = (int(u[-3] * (height - h + 1)), int(u[-2] * (width - w + 1)))
            return [top, left, h, w, int(u[-1] < 0.5)]
    h, w = height, width
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    return [(height - h) // 2, (width - w) // 2, h, w, int(u[-1] < 0.5)]


@pytest.mark.parametrize("size", [(64, 64), (8, 100), (100, 8)])
def test_crops_fall_where_a_slow_loop_has_them(size: tuple[int, int]) -> None:
    """Narrow images too, of which few tries or none fit."""
    uniform = torch.rand(
        (3000, 2 * TRIES + 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    got = augmentation.place_crops(uniform, *size)
    assert got.tolist() == [slow_crop(row, *size) for row in uniform.tolist()]


def test_crops_are_distributed_as_torchvisions() -> None:
    count, size, keys = 4000, (40, 60), ("top", "left", "height", "width")
    mine = draw_boxes("resized_crop", size, count)[:, :4].double()
    transform, image = v2.RandomResizedCrop(size, antialias=False), torch.zeros(1, *size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        params = [transform.make_params([image]) for _ in range(count)]
    theirs = torch.tensor([[p[key] for key in keys] for p in params], dtype=torch.float64)
    for a, b in ((mine, theirs), (mine**2, theirs**2)):
        spread = 5 * ((a.var(0) + b.var(0)) / count).sqrt()  # standard errors of the difference
        assert ((a.mean(0) - b.mean(0)).abs() <= spread).all()


def test_shifts_are_uniform_and_half_are_flipped() -> None:
    boxes = draw_boxes("flip_crop", (32, 30), 81_000)
    moves, counts = boxes[:, :2].unique(dim=0, return_counts=True)
    assert moves.tolist() == [
        [down, right] for down in range(-MARGIN, MARGIN + 1) for right in range(-MARGIN, MARGIN + 1)
    ]
    assert (counts - 1000).abs().max() < 5 * math.sqrt(1000)
    assert (boxes[:, 2:4] == torch.tensor([32, 30])).all()
    flipped = boxes[:, 4].double()
    assert abs(float(flipped.mean()) - 0.5) < 5 * 0.5 / math.sqrt(81_000)
    assert abs(float(torch.corrcoef(torch.stack([flipped, boxes[:, 0].double()]))[0, 1])) < 0.02


@pytest.mark.parametrize(
    ("size", "most"), [((8, 27), (1, 1)), ((14, 28), (1, 2)), ((224, 41), (16, 2))]
)
def test_shifts_without_flips_reach_a_fourteenth_of_each_side(
    size: tuple[int, int], most: tuple[int, int]
) -> None:
    """Evenly over the moves, which in numpy are cut out of images with zeros around them."""
    boxes = draw_boxes("shift", size, 20_000)
    for moves, reach in zip(boxes[:, :2].unbind(1), most, strict=True):
        found, counts = moves.unique(return_counts=True)
        assert found.tolist() == list(range(-reach, reach + 1))
        even = 20_000 / len(found)
        assert (counts - even).abs().max() < 5 * math.sqrt(even)
    assert (boxes[:, 2:] == torch.tensor([*size, 0])).all()
    extremes = boxes[[0, int(boxes[:, 0].argmax()), int(boxes[:, 1].argmin())]]
    images = draw_images((*size, 2), members=1, count=3)
    got = augment("shift", images, extremes.unsqueeze(0))[0].numpy()
    down, right = most
    padded = np.pad(images[0].numpy(), ((0, 0), (down, down), (right, right), (0, 0)))
    for image, (top, left), mine in zip(padded, extremes[:, :2].tolist(), got, strict=True):
        expected = image[down + top :, right + left :][: size[0], : size[1]]
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize(
    ("name", "size", "boxes"),
    [
        ("flip_crop", (14, 14), [[4, 2, 14, 14, 1], [4, 1, 14, 14, 0], [-3, -1, 14, 14, 0]]),
        ("resized_crop", (64, 48), [[2, 4, 52, 43, 1], [6, 5, 46, 38, 1], [18, 25, 18, 20, 1]]),
    ],
)
def test_an_entry_goes_on_drawing_the_numbers_that_it_drew(
    name: str, size: tuple[int, int], boxes: list[list[int]]
) -> None:
    """Written down before there was a third entry: recorded runs have seen these."""
    assert draw_boxes(name, size, 3).tolist() == boxes


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_how_many_are_taken_at_once_does_not_matter(name: str) -> None:
    boxes = BoxSampler(name, (32, 32), torch.Generator().manual_seed(3), torch.device("cpu"))
    parts = torch.cat([boxes.draw(count) for count in (1, 7, 64, 128)])
    assert torch.equal(parts, draw_boxes(name, (32, 32), 200, seed=3))
    assert not torch.equal(parts, draw_boxes(name, (32, 32), 200, seed=4))
