"""One image file to upright pixels of one size."""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

GREY_MODES = ("1", "L", "LA", "I", "I;16")

#: What Pillow raises at broken images.
UNREADABLE = (
    OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)  # fmt: skip

ORIENTATION = 0x0112  # EXIF's number of how to turn an image, and what that asks for
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB; transparency is dropped, as torchvision drops it."""
    if image.mode.startswith("I"):  # 16 bits; Pillow would clip them to 8
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def decode(content: bytes, size: int) -> tuple[NDArray[np.uint8], bool]:
    """Return an image as ``(size, size, 3) uint8``, and whether it was grey.

    It is turned upright as its EXIF says, its shorter side is scaled to ``size`` (bilinear,
    antialiased) and what stands out of the square is cut off on both sides.

    Raises:
        UNREADABLE: one of these errors, when Pillow cannot read it or it has too many pixels.
    """
    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
        grey = image.mode in GREY_MODES
        # A large JPEG is decoded at a half, quarter or eighth that is still twice what is needed.
        image.draft(None, (2 * size, 2 * size))
        # ImageOps.exif_transpose fails at any odd value of other EXIF properties, to keep them.
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
        upright = image if turn is None else image.transpose(turn)
        rgb = _to_rgb(upright)
    square = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(square), grey


def why_unreadable(error: BaseException) -> str:
    """Return what one of the errors `UNREADABLE` says of an image."""
    return "no JPEG or PNG" if isinstance(error, Image.UnidentifiedImageError) else str(error)


@contextmanager
def bombs_refused() -> Iterator[None]:
    """Have Pillow refuse images of far too many pixels, and be silent about odd ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # at damaged EXIF data beside whole pixels
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
