"""Bad data: what is broken, hostile or edited by hand ends in one line, whatever its form.

`tests/test_sources.py` has the ordinary cases: what is missing, too much or at the wrong place.
"""

import io
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from test_sources import MAKERS, as_folder, as_tar, as_zip, encode, load_images, make_files

from stages.lib.data import archives
from stages.lib.data.datasets import ARRAYS, DataError
from stages.lib.data.folder import make_plan

PLACE = "train/red/9.png"


def error_of(path: Path, words: str) -> str:
    """Return the message that loading raises: a line that a terminal shows, with these words."""
    with pytest.raises(DataError) as caught:
        load_images(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1500
    assert words in message
    return message


# --- images


def png_of(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """Return a grey PNG whose header promises a size, and which holds a few black pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), *more, (b"IDAT", zlib.compress(bytes(60))), (b"IEND", b"")]
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in chunks:
        crc = zlib.crc32(kind + content)
        parts.append(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc))
    return b"".join(parts)


def jpeg_of(width: int, height: int) -> bytes:
    """Return a JPEG whose header promises a size."""
    content = bytearray(encode(Image.new("L", (8, 8)), "JPEG"))
    start = content.index(b"\xff\xc0")
    content[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(content)


BOMB = zlib.compress(bytes(100_000_000), 9)  # a thousandth of its size

BROKEN = {
    "empty": (b"", "no JPEG or PNG"),
    "text": (b"%PDF-1.4", "no JPEG or PNG"),
    "gif": (encode(Image.new("L", (6, 6)), "GIF"), "no JPEG or PNG"),
    "a billion pixels in a PNG": (png_of(100_000, 100_000), "decompression bomb"),
    "a billion pixels in a JPEG": (jpeg_of(65_500, 65_500), "decompression bomb"),
    "no pixels": (png_of(0, 6), ""),
    "a text of 100 MB": (png_of(6, 6, (b"zTXt", b"a\0\0" + BOMB)), "Decompressed data too"),
    "a profile of 100 MB": (png_of(6, 6, (b"iCCP", b"a\0\0" + BOMB)), "Decompressed data too"),
    "a chunk longer than the file": (png_of(6, 6)[:37] + b"\x7f", ""),
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_images_are_named(case: str, kind: str, tmp_path: Path) -> None:
    content, words = BROKEN[case]
    path = MAKERS[kind](make_files() | {PLACE: content}, tmp_path / "images")
    assert f"1 of 11 images cannot be read ({PLACE} (" in error_of(path, words)


def test_images_of_any_sides_become_square(tmp_path: Path) -> None:
    sides = [(1, 1), (1, 500), (500, 1)]
    images = [encode(Image.new("RGB", each, (7, 8, 9))) for each in sides]
    made = {f"train/blue/{i}.png": image for i, image in enumerate(images)}
    dataset = load_images(as_folder(make_files() | made, tmp_path))
    assert np.all(dataset.train_images[dataset.train_labels == 0] == (7, 8, 9))


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Return EXIF data of entries: tag, type, count, value of four bytes."""
    packed = b"".join(struct.pack("<HHL4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<LH", 8, len(entries)) + packed + bytes(4)


def turned(value: int) -> tuple[int, int, int, bytes]:
    return 0x0112, 3, 1, struct.pack("<HH", value, 0)


def test_every_orientation_is_turned_as_pillow_turns_it(tmp_path: Path) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    contents = [encode(Image.fromarray(pixels), exif=exif(turned(value))) for value in range(10)]
    made = {f"train/all/{i}.png": content for i, content in enumerate(contents)}
    path = as_folder(make_files() | made | {"test/all/0.png": contents[0]}, tmp_path)
    dataset = load_images(path)
    for image, content in zip(
        dataset.train_images[dataset.train_labels == 0], contents, strict=True
    ):
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        np.testing.assert_array_equal(image, np.asarray(expected))


def test_other_properties_of_any_type_do_not_matter(tmp_path: Path) -> None:
    """Pillow's own turning keeps them, and fails at some."""
    image = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6))
    made = make_files()
    for kind in range(1, 13):
        odd = [(tag, kind, 1, b"abc\0") for tag in (0x011A, 0x013E, 0x0211)]
        made[f"train/blue/{kind}.png"] = encode(image, exif=exif(turned(3), *odd))
    made |= dict.fromkeys([f"train/blue/{i}.png" for i in range(3)], made["train/blue/12.png"])
    dataset = load_images(as_folder(made, tmp_path))
    found = dataset.train_images[dataset.train_labels == 0][..., 0]
    assert np.all(found == 35 - np.arange(36).reshape(6, 6))


# --- names


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "\u202eder", "\u2028", "x" * 500], ids=ascii)
def test_odd_names_of_misplaced_files_are_shown_in_one_line(
    kind: str, name: str, tmp_path: Path
) -> None:
    path = MAKERS[kind](make_files() | {f"{name}.txt": b""}, tmp_path / "images")
    error_of(path, "1 of 11 files are not images")


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "a\u2029b", "\udcff"], ids=ascii)
def test_classes_whose_names_cannot_be_written_are_refused(name: str, tmp_path: Path) -> None:
    image = make_files()["train/red/0.png"]
    odd = {f"{split}/{name}/0.png": image for split in ("train", "test")}
    path = as_tar(make_files() | odd, tmp_path / "images.tar", "w")
    error_of(path, "got control characters in the classes ")


def test_more_classes_than_labels_can_tell_apart_are_refused() -> None:
    names = [f"{split}/{k}/0.png" for split in ("train", "test") for k in range((1 << 16) + 1)]
    with pytest.raises(DataError, match="got images of 65537 classes; there must be 2 to 65,536"):
        make_plan(names, Path("x"))


def test_classes_may_be_named_in_any_language(tmp_path: Path) -> None:
    names = {"猫　犬", "ä\u0308", "👩\u200d🔬", "a b", "a..", "$(true)"}
    image = make_files()["train/red/0.png"]
    made = {f"{split}/{name}/0.png": image for split in ("train", "test") for name in names}
    assert set(load_images(as_zip(made, tmp_path / "images.zip")).class_names) == names


def test_other_systems_paths_are_no_places(tmp_path: Path) -> None:
    names = ["x\\..\\..\\9.png", "C:\\9.png", "train\\red\\9.png", "~/9.png"]
    path = as_zip(make_files() | dict.fromkeys(names, b"x"), tmp_path / "images")
    error_of(path, "4 of 14 files are not images")


@pytest.mark.parametrize("path", ["nosuch", "no\u00e4such/../x", "images.zip/x", "-rf", "$(true)"])
def test_a_path_to_nothing_is_told(path: str, workspace: Path) -> None:
    as_zip(make_files(), Path("images.zip"))
    assert repr(path) in error_of(Path(path), "is not there; must be a folder")


# --- folders


@pytest.mark.parametrize("place", ["train/green", "more", PLACE, "a pipe"])
def test_links_and_pipes_in_a_folder_are_refused(place: str, tmp_path: Path) -> None:
    """A link to the whole is followed."""
    as_folder(make_files(), tmp_path / "outside")
    folder = as_folder(make_files(), tmp_path / "images")
    (tmp_path / "link").symlink_to(folder)
    assert len(load_images(tmp_path / "link").train_labels) == 6
    if place == "a pipe":  # not waited for
        os.mkfifo(folder / place)
    else:
        (folder / place).symlink_to(tmp_path / "outside/train/blue", target_is_directory=True)
    error_of(folder, f"{place!r} is a link or a special file")


# --- archives


def lie(path: Path, *changes: tuple[int, bytes]) -> Path:
    """Change the first member's entry in a zip's directory, at offsets from its start."""
    content = bytearray(path.read_bytes())
    for offset, packed in changes:
        start = content.index(b"PK\x01\x02") + offset
        content[start : start + len(packed)] = packed
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([(8, struct.pack("<H", 1))], "is encrypted"),
        ([(10, struct.pack("<H", 97))], "That compression method is not supported"),
        ([(16, struct.pack("<L", 0))], "Bad CRC-32"),
        ([(24, struct.pack("<L", (1 << 28) + 1))], "more than the 268,435,456 allowed"),
        ([(24, struct.pack("<L", 1))], "Bad CRC-32"),
        ([(42, struct.pack("<L", 7))], "Bad magic number"),
        ([(42, struct.pack("<L", 0xFFFFFFF0))], "is no whole .zip"),
        ([(9, b"\x08"), (46, b"\xff")], "is no whole .zip"),  # a name that is no UTF-8
        ([(46, b"\0")], "is a member without a name"),
    ],
)
def test_lies_in_a_zips_directory_are_told(
    changes: list[tuple[int, bytes]], words: str, tmp_path: Path
) -> None:
    error_of(lie(as_zip(make_files(), tmp_path / "images.zip"), *changes), words)


def test_a_member_that_is_the_archive_itself_is_no_image(tmp_path: Path) -> None:
    error_of(as_tar({".": b"x"}, tmp_path / "images.tar", "w"), "1 of 1 files are not images")


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, *archives.LONG_HEADERS])
def test_a_tar_header_of_gigabytes_is_refused(kind: bytes, tmp_path: Path) -> None:
    """Compressed zeros would be as long as that."""
    info = tarfile.TarInfo(PLACE)
    info.type, info.size = kind, 1 << 33
    path = tmp_path / "images.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16))
    error_of(path, "has 8,589,934,592" if kind == tarfile.REGTYPE else "a name of 8,589,934,592")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz", "tar.bz2"])
def test_a_changed_byte_of_an_archive_is_told_or_changes_nothing(kind: str, tmp_path: Path) -> None:
    """Each is checked by its format; that ``tar`` alone and a folder are not is theirs."""
    path = MAKERS[kind](make_files(), tmp_path / "images")
    whole, content = load_images(path), path.read_bytes()
    told = 0
    for place in range(0, len(content), max(1, len(content) // 80)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            found = load_images(path)
        except DataError:
            told += 1
        else:
            for name in ARRAYS:
                np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
            assert found.class_names == whole.class_names
    assert told > 40
