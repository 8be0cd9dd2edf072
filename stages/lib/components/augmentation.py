"""Changes to the images of a batch, drawn anew at every step and made on the training device.

What is done to an image is five whole numbers: the box that is cut out of it (top, left, height,
width), and whether what was cut out is flipped left to right. They are drawn ahead of their
use, from a member's own stream, so that they do not depend on what trains beside it.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic.dataclasses import dataclass

from stages.lib.core.fields import STRICT, Neutral, OneOf

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MARGIN = 4  # pixels that an image is shifted by each way, at most, where it may be flipped too
SHARE = 14  # of a side, the part that an image is shifted by, at most, where it is not flipped
AREA = (0.08, 1.0)  # of a random crop, as a share of the image's
RATIO = (3 / 4, 4 / 3)  # of its width to its height
TRIES = 10  # to find a crop within the image
BOX = 5  # numbers that say what is done to an image


class BoxSampler:
    """What is done to a member's images, one after another.

    Args:
        name: a key of `AUGMENTATIONS`.
        size: height and width of the images.
        generator: source of randomness, on the device that draws.
        device: where the images are.
    """

    def __init__(
        self,
        name: str,
        size: tuple[int, int],
        generator: "torch.Generator",
        device: "torch.device",
    ) -> None:
        self.augmentation = AUGMENTATIONS[name]
        self.size, self.generator, self.device = size, generator, device

    def draw(self, count: int) -> "Tensor":
        """Return the next boxes, ``(count, 5)`` int32."""
        import torch

        uniform = torch.rand(
            (count, self.augmentation.numbers),
            generator=self.generator,
            dtype=torch.float64,
            device=self.generator.device,
        )
        return self.augmentation.place(uniform, *self.size).to(self.device)


def augment(name: str, images: "Tensor", boxes: "Tensor") -> "Tensor":
    """Return changed images of the same shape.

    Args:
        name: a key of `AUGMENTATIONS`.
        images: ``(K, b, height, width, channels)`` uint8.
        boxes: ``(K, b, 5)`` int32, of `BoxSampler`.

    Returns:
        uint8, or float32 in [0, 255] where pixels are interpolated.
    """
    changed = AUGMENTATIONS[name].change(images.flatten(0, 1), boxes.flatten(0, 1))
    return changed.view(images.shape)


def place_shifts(uniform: "Tensor", height: int, width: int) -> "Tensor":
    """Return boxes of the image's size, moved by up to `MARGIN` pixels each way, half flipped.

    Args:
        uniform: ``(n, 3)`` in [0, 1): down, right, flipped.
        height: of the images.
        width: of the images.
    """
    import torch

    down, right, flipped = uniform.unbind(1)
    moves = ((2 * MARGIN + 1) * torch.stack([down, right], dim=1)).floor() - MARGIN
    sizes = torch.tensor([height, width], device=uniform.device).expand(len(uniform), 2)
    return torch.cat([moves, sizes, (flipped < 0.5).unsqueeze(1)], dim=1).to(torch.int32)


def place_small_shifts(uniform: "Tensor", height: int, width: int) -> "Tensor":
    """Return boxes of the image's size, moved by up to a fourteenth of each side, none flipped.

    For digits, of which flips are no digits (shifted as by Simard et al. 2003).

    Args:
        uniform: ``(n, 2)`` in [0, 1): down, right.
        height: of the images.
        width: of the images.
    """
    import torch

    most = torch.tensor([_farthest(height), _farthest(width)], device=uniform.device)
    moves = ((2 * most + 1) * uniform).floor() - most
    whole = torch.tensor([height, width, 0], device=uniform.device).expand(len(uniform), 3)
    return torch.cat([moves, whole], dim=1).to(torch.int32)


def _farthest(side: int) -> int:
    """Return how many pixels an image without flips is shifted by along a side, at most."""
    return max(1, side // SHARE)


def place_crops(uniform: "Tensor", height: int, width: int) -> "Tensor":
    """Return boxes of random area and ratio within the image, half of them flipped.

    As torchvision's ``RandomResizedCrop.get_params``: the area is uniform in `AREA`, the logarithm
    of the ratio in `RATIO`; the first of `TRIES` that fits is taken, at a random place, else the
    largest box at the centre whose ratio is in range.

    Args:
        uniform: ``(n, 2 * TRIES + 3)`` in [0, 1): areas, ratios, down, right, flipped.
        height: of the images.
        width: of the images.
    """
    import torch

    areas, ratios = uniform[:, :TRIES], uniform[:, TRIES : 2 * TRIES]
    down, right, flipped = uniform[:, 2 * TRIES :].unbind(1)
    low, high = (math.log(ratio) for ratio in RATIO)
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * areas)
    ratio = (low + (high - low) * ratios).exp()
    wide, tall = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    ends = _largest(height, width)
    tall = torch.where(found, tall.gather(1, first).squeeze(1), ends[0])
    wide = torch.where(found, wide.gather(1, first).squeeze(1), ends[1])
    top = torch.where(found, (down * (height - tall + 1)).floor(), (height - ends[0]) // 2)
    left = torch.where(found, (right * (width - wide + 1)).floor(), (width - ends[1]) // 2)
    return torch.stack([top, left, tall, wide, flipped < 0.5], dim=1).to(torch.int32)


def _largest(height: int, width: int) -> tuple[int, int]:
    """Return height and width of the largest box whose ratio is in `RATIO`."""
    if width / height < RATIO[0]:
        return round(width / RATIO[0]), width
    if width / height > RATIO[1]:
        return height, round(height * RATIO[1])
    return height, width


def shift(images: "Tensor", boxes: "Tensor") -> "Tensor":
    """Return images ``(n, height, width, channels)`` shifted, zeros moving in, and flipped."""
    import torch
    from torch.nn import functional

    height, width = images.shape[1:3]
    top, left, _, _, flipped = boxes.long().unsqueeze(2).unbind(1)  # (n, 1) each
    margin = max(MARGIN, _farthest(height), _farthest(width))  # of zeros, as any entry needs it
    padded = functional.pad(images, (0, 0, margin, margin, margin, margin))
    rows = top + margin + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = left + margin + torch.where(flipped > 0, width - 1 - columns, columns)
    each = torch.arange(len(images), device=images.device)
    return padded[each[:, None, None], rows[:, :, None], columns[:, None, :]]


def crop(images: "Tensor", boxes: "Tensor") -> "Tensor":
    """Return boxes of images ``(n, height, width, channels)``, enlarged to their size, and flipped.

    Bilinear between the centres of pixels; at the edges of a box its outermost pixels go on.
    """
    import torch
    from torch.nn import functional

    height, width = images.shape[1:3]
    top, left, tall, wide, flipped = boxes.float().unsqueeze(2).unbind(1)  # (n, 1) each
    rows = top + _centres(height, tall)
    columns = _centres(width, wide)
    columns = left + torch.where(flipped > 0, columns.flip(1), columns)
    # Pixels' centres to grid_sample's numbers: -1 and 1 are the outer edges of the image.
    x = ((2 * columns + 1) / width - 1).unsqueeze(1).expand(-1, height, -1)
    y = ((2 * rows + 1) / height - 1).unsqueeze(2).expand(-1, -1, width)
    maps = images.permute(0, 3, 1, 2).float()
    sampled = functional.grid_sample(maps, torch.stack([x, y], dim=3), align_corners=False)
    return sampled.permute(0, 2, 3, 1).contiguous()


def _centres(size: int, length: "Tensor") -> "Tensor":
    """Return where in a box of ``length`` pixels ``(n, 1)`` the ``size`` new ones are centred."""
    import torch

    centres = (torch.arange(size, device=length.device) + 0.5) * (length / size) - 0.5
    return centres.clamp(min=0).minimum(length - 1)


class Augmentation(NamedTuple):
    """How many uniform numbers an image needs, its box from them, and what boxes make of images."""

    numbers: int
    place: "Callable[[Tensor, int, int], Tensor]"
    change: "Callable[[Tensor, Tensor], Tensor]"


AUGMENTATIONS = {
    "shift": Augmentation(2, place_small_shifts, shift),
    "flip_crop": Augmentation(3, place_shifts, shift),
    "resized_crop": Augmentation(2 * TRIES + 3, place_crops, crop),
}


@dataclass(frozen=True, config=STRICT)
class AugmentationParams:
    """How images are changed at each step; the paper names nothing."""

    augmentation: Annotated[str, OneOf(("none", *AUGMENTATIONS)), Neutral("none")] = "none"
