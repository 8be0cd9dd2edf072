"""ImageNet-shaped trees and archives of real JPEGs: what is listed, decoded, resumed, trained."""

import functools
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from conftest import BASE, replaced
from here import NAMES
from numpy.typing import NDArray
from PIL import Image
from repository import tiny_scale
from scipy.io import savemat
from test_sources import as_folder, encode, tar_of

from stages.lib.config import yaml_files
from stages.lib.core import files, machine, paths
from stages.lib.core.errors import DamagedError, UserError
from stages.lib.data import datasets, decoding, imagenet, imagenet_files
from stages.lib.data.datasets import DataError, Dataset
from stages.lib.execution import inputs

REPOSITORY = Path(__file__).parents[1]
SIZE = 64
COLOURS = {"n01440764": (220, 40, 40), "n02084071": (40, 200, 60), "n15075141": (50, 60, 230)}
WNIDS = tuple(COLOURS)
IDS = {"n01440764": 2, "n02084071": 3, "n15075141": 1}  # as in the devkit: another order
Tree = dict[str, bytes]
Get = Callable[..., Dataset]
Count = Callable[[int | None], list[int]]
rng_of = np.random.default_rng


def picture(wnid: str, seed: int) -> Image.Image:
    """Return a noisy picture of the class's colour, of one of several shapes."""
    rng = rng_of(seed)
    width, height = [(90, 70), (66, 130), (64, 64), (100, 81)][seed % 4]
    noise = rng.integers(-40, 40, (height, width, 3))
    return Image.fromarray(np.clip(np.array(COLOURS[wnid]) + noise, 0, 255).astype(np.uint8))


jpeg = functools.partial(encode, kind="JPEG")


@functools.cache
def make_tree(train: int = 8, val: int = 4) -> Tree:
    """Return ImageNet's files by path; one is grey and one is CMYK."""
    made = {}
    for k, wnid in enumerate(WNIDS):
        for i in range(train):
            image = picture(wnid, 100 * k + i)
            mode = {1: "L", 2: "CMYK"}.get(i, "RGB")
            made[f"train/{wnid}/{wnid}_{i}.JPEG"] = jpeg(image.convert(mode))
        for i in range(val):
            number = 1 + i * len(WNIDS) + k  # the classes take turns
            made[f"val/{wnid}/ILSVRC2012_val_{number:08}.JPEG"] = jpeg(picture(wnid, 1000 + number))
    return made


def damaged_tree() -> Tree:
    """Return the tree with one image cut and one that is none."""
    tree = dict(make_tree())
    cut, text = f"train/{WNIDS[0]}/{WNIDS[0]}_3.JPEG", f"train/{WNIDS[2]}/{WNIDS[2]}_0.JPEG"
    tree |= {cut: tree[cut][: len(tree[cut]) // 2], text: b"no image"}
    return tree


tar = functools.partial(tar_of, mode="w")  # the originals are not compressed


def write(folder: Path, tree: Tree) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return as_folder(tree, folder)


def devkit(tree: Tree) -> Tree:
    """Return the devkit's files: numbers of classes by image, and what the numbers mean."""
    names = sorted((Path(name).name, name.split("/")[1]) for name in tree if name.startswith("val"))
    truth = "".join(f"{IDS[wnid]}\n" for _, wnid in names)
    known = [*sorted((number, wnid) for wnid, number in IDS.items()), (1001, "n00001740")]
    kinds = [("ILSVRC2012_ID", float), ("WNID", object), ("num_children", float)]
    synsets = np.array([(float(i), wnid, float(i > 1000)) for i, wnid in known], dtype=kinds)
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets})
    top = "ILSVRC2012_devkit_t12"
    return {
        f"{top}/readme.txt": b"",
        f"{top}/data/meta.mat": buffer.getvalue(),
        f"{top}/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }


def split_of(tree: Tree, split: str) -> Tree:
    return {name: content for name, content in tree.items() if name.startswith(f"{split}/")}


def flat(tree: Tree) -> Tree:
    return {Path(name).name: content for name, content in split_of(tree, "val").items()}


def as_flat(folder: Path, tree: Tree) -> Path:
    write(folder / "val", flat(tree))
    return write(folder, split_of(tree, "train") | devkit(tree))


def as_archives(folder: Path, tree: Tree) -> Path:
    """Write the archives; members stand in no order, as in the true ones."""
    train = [(Path(name), content) for name, content in reversed(split_of(tree, "train").items())]
    inner = {
        f"{wnid}.tar": tar({name.name: image for name, image in train if name.parent.name == wnid})
        for wnid in reversed(WNIDS)
    }
    archives = {
        "ILSVRC2012_img_train.tar": tar(inner),
        "ILSVRC2012_img_val.tar": tar(flat(tree)),
        "ILSVRC2012_devkit_t12.tar.gz": tar_of(devkit(tree)),
    }
    return write(folder, archives)


LAYOUTS: dict[str, Callable[[Path, Tree], Path]] = {
    "tree": write, "flat": as_flat, "archives": as_archives,
}  # fmt: skip


@pytest.fixture
def get(tmp_path: Path) -> Get:
    """Return how to fetch a folder into ``out``, with downloads in ``kept``."""

    def fetched(path: Path, size: int = SIZE) -> Dataset:
        imagenet.fetch(path, size, tmp_path / "out", tmp_path / "kept")
        return datasets.load(tmp_path / "out")

    return fetched


def squared(content: bytes, size: int) -> NDArray[np.uint8]:
    """Return the middle of an image whose shorter side is scaled, in exact coordinates."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    side = min(image.size)
    left, top = ((each - side) / 2 for each in image.size)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


# --- what is decoded


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_images_in_the_same_order(
    layout: str, tmp_path: Path, get: Get
) -> None:
    tree = make_tree()
    dataset = get(LAYOUTS[layout](tmp_path / "images", tree))
    assert (dataset.name, dataset.class_names) == ("imagenet", WNIDS)
    for split, folder, count in (("train", "train", 8), ("test", "val", 4)):
        # One image of each class in turn, each class by name.
        expected = [
            squared(sorted((n, c) for n, c in split_of(tree, folder).items() if w in n)[i][1], SIZE)
            for i in range(count)
            for w in WNIDS
        ]
        np.testing.assert_array_equal(getattr(dataset, f"{split}_images"), expected)
        labels = getattr(dataset, f"{split}_labels")
        np.testing.assert_array_equal(labels, np.tile([0, 1, 2], count))
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_that_cannot_be_read_are_listed_and_left_out(
    layout: str, tmp_path: Path, get: Get, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = get(write(tmp_path / "whole", make_tree()))
    dataset = get(LAYOUTS[layout](tmp_path / "images", damaged_tree()))
    left_out = files.read_json(tmp_path / "out" / imagenet.UNREADABLE)
    cut, text = f"{WNIDS[0]}/{WNIDS[0]}_3.JPEG", f"{WNIDS[2]}/{WNIDS[2]}_0.JPEG"
    assert left_out["test"] == {}
    assert left_out["train"].keys() == {cut, text}
    assert left_out["train"][text] == "no JPEG or PNG"
    assert "truncated" in left_out["train"][cut]
    told = capsys.readouterr().err
    assert f"2 images cannot be read and are left out: {cut}, {text}; see" in told
    # The last two fill the gaps; the rest are where they were.
    rows = np.arange(22)
    rows[[2, 9]] = 22, 23
    np.testing.assert_array_equal(dataset.train_images, whole.train_images[rows])
    np.testing.assert_array_equal(dataset.train_labels, whole.train_labels[rows])


@pytest.mark.parametrize("rows", [(0, 1), (22, 23), (0, 23), (21, 22), tuple(range(12, 24))])
def test_gaps_anywhere_are_filled(
    rows: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "CHUNK", 3)
    monkeypatch.setattr(machine, "cores", lambda: 4)
    images = [picture(WNIDS[0], seed) for seed in range(24)]
    contents = [b"" if row in rows else jpeg(image) for row, image in enumerate(images)]
    order = rng_of(0).permutation(24)  # of reading
    listed = [encoded(tmp_path / str(row), contents[row]) for row in order]
    got, failed = decoding.decode_to(tmp_path / "a.npy", listed, order, SIZE, "test")
    array = np.load(tmp_path / "a.npy")
    assert sorted(order[list(failed)]) == sorted(rows)
    assert array.shape == (24 - len(rows), SIZE, SIZE, 3)
    assert sorted(order[got]) == [row for row in range(24) if row not in rows]
    for pixels, index in zip(array, got, strict=True):
        np.testing.assert_array_equal(pixels, squared(contents[order[index]], SIZE))
    head, digest = files.array_header(array.dtype, array.shape), files.sha256_of_array(array)
    assert (tmp_path / "a.npy").read_bytes().startswith(head)
    assert files.sha256_of_stored(tmp_path / "a.npy") == digest


def encoded(path: Path, content: bytes) -> decoding.Encoded:
    path.write_bytes(content)
    return decoding.Encoded(path.name, str(path), 0, len(content), path.stat().st_mtime_ns)


def test_a_part_of_imagenet_is_told(
    tmp_path: Path, get: Get, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "images", make_tree())
    part = "not the whole of it: 24 training images (of 1,281,167) and 12 validation images (of 50"
    assert part in get(path).source
    assert part in capsys.readouterr().err
    monkeypatch.setattr(imagenet, "IMAGENET_COUNTS", {"train": 24, "test": 12})
    monkeypatch.setattr(imagenet, "IMAGENET_CLASSES", 3)
    assert "not the whole" not in get(path).source + capsys.readouterr().err


def test_labels_of_many_classes_take_two_bytes(tmp_path: Path, get: Get) -> None:
    content = jpeg(Image.new("RGB", (8, 8)))
    names = [f"{split}/n{k:08}/{k}.JPEG" for split in ("train", "val") for k in range(300)]
    dataset = get(write(tmp_path / "images", dict.fromkeys(names, content)), 4)
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.uint16
    np.testing.assert_array_equal(dataset.train_labels, np.arange(300))


# --- what is resumed


class Stopped(Exception):  # noqa: N818
    """Stands for a kill."""


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    """Return how to count decodings, by the size of what is decoded, and to stop after some."""
    monkeypatch.setattr(decoding, "CHUNK", 2)
    monkeypatch.setattr(decoding, "RECORD_SECONDS", 0.0)
    monkeypatch.setattr(machine, "cores", lambda: 1)
    true_decode = decoding.decode

    def counting(most: int | None) -> list[int]:
        seen: list[int] = []
        lock = threading.Lock()

        def decode(content: bytes, size: int) -> Any:
            with lock:
                if most is not None and len(seen) >= most:
                    raise Stopped
                seen.append(hash(content))
            return true_decode(content, size)

        monkeypatch.setattr(decoding, "decode", decode)
        return seen

    return counting


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("where", "left"),  # the training images are 24, and a chunk that was begun is done again
    [(5, 32), (20, 16), (30, 6), ("_finish", 12), ("link_or_copy", 0), ("sha256_of_stored", 0)],
)
def test_what_was_decoded_before_a_stop_is_not_decoded_again(
    where: Any,
    left: int,
    layout: str,
    tmp_path: Path,
    get: Get,
    count: Count,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = LAYOUTS[layout](tmp_path / "images", damaged_tree())
    count(where if isinstance(where, int) else None)
    with monkeypatch.context() as patch:
        if isinstance(where, str):
            module = decoding if where == "_finish" else files
            patch.setattr(module, where, Mock(side_effect=Stopped))
        with pytest.raises(Stopped):
            get(path)
    again = count(None)
    resumed = get(path)
    assert len(again) == left
    shutil.rmtree(tmp_path / "out")
    anew = count(None)
    fresh = get(path)
    assert len(anew) == 36
    for name in datasets.ARRAYS:
        np.testing.assert_array_equal(getattr(resumed, name), getattr(fresh, name))


@pytest.mark.parametrize("damage", ["progress", "shorter", "another image"])
def test_a_damaged_part_and_that_of_other_images_are_not_used(
    damage: str, tmp_path: Path, get: Get, count: Count
) -> None:
    path = write(tmp_path / "images", make_tree())
    count(20)
    with pytest.raises(Stopped):
        get(path)
    (kept,) = (tmp_path / "kept").iterdir()
    if damage == "another image":
        os.utime(path / f"train/{WNIDS[1]}/{WNIDS[1]}_0.JPEG", ns=(1, 1))
    else:
        file = kept / ("train_images.json" if damage == "progress" else "train_images.npy")
        file.write_bytes(file.read_bytes()[:-9])
    again = count(None)
    get(path)
    assert len(again) == 36


KILLED = """
import itertools, os, sys, time
from pathlib import Path
from stages.lib.core import machine
from stages.lib.data import decoding, imagenet
decoding.CHUNK, decoding.RECORD_SECONDS, machine.cores = 1, 0.0, lambda: 1
decode, number = decoding.decode, itertools.count(1)
die = lambda: (time.sleep(0.2), os.kill(os.getpid(), 9))
decoding.decode = lambda *image: die() if next(number) == 15 else decode(*image)
imagenet.fetch(Path(sys.argv[1]), 64, Path(sys.argv[2]), Path(sys.argv[3]))
"""


def test_a_kill_in_the_middle_of_decoding_is_resumed(
    tmp_path: Path, get: Get, count: Count
) -> None:
    path = write(tmp_path / "images", make_tree())
    command = [sys.executable, "-c", KILLED, path, tmp_path / "out", tmp_path / "kept"]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == -signal.SIGKILL
    again = count(None)
    decoding.CHUNK = 1  # which `count` puts back
    dataset = get(path)
    assert 36 - 14 <= len(again) <= 36 - 10  # three wait to be taken from the queue
    assert not (dataset.train_images == 0).all((1, 2, 3)).any()


def test_two_at_once_are_refused(tmp_path: Path, get: Get) -> None:
    path = write(tmp_path / "images", make_tree())
    stamp = imagenet._stamp(imagenet_files.list_images(path), SIZE)
    with (
        imagenet._alone(tmp_path / "kept" / f"imagenet-{stamp}"),
        pytest.raises(UserError, match="another process decodes these images"),
    ):
        get(path)
    get(path)


# --- memory and disk


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """The arrays have 9 and 37 MB."""
    content = jpeg(picture(WNIDS[0], 0))
    image = encoded(tmp_path / "one.JPEG", content)

    def peak(count: int) -> int:
        tracemalloc.start()
        decoding.decode_to(tmp_path / f"{count}.npy", [image] * count, np.arange(count), 224, "x")
        files.sha256_of_stored(tmp_path / f"{count}.npy")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few, many = peak(60), peak(250)
    assert many < few + 2_000_000
    assert few < 9_000_000


@pytest.mark.filterwarnings("ignore")  # numpy's, of strange headers
def test_large_arrays_are_mapped_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = rng_of(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    file, sha256 = tmp_path / "a.npy", files.sha256_of_array(array)
    files.write_array(file, array)
    monkeypatch.setattr(files, "MAPPED_BYTES", 200)
    mapped = files.read_array(file, sha256)
    np.testing.assert_array_equal(mapped, array)
    assert isinstance(mapped.base, np.memmap)
    assert not mapped.flags.writeable
    assert inputs._to_device(mapped, "cpu").shape == (6, 4, 4, 3)
    content = file.read_bytes()
    flipped = [
        content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
        for place in range(len(content))
        for bit in (1, 128)
    ]
    for changed in (content[:-1], content + b"\0", b"PK\3\4" + content, *flipped):
        file.write_bytes(changed)
        with pytest.raises(DamagedError, match=r"a\.npy: "):
            files.read_array(file, sha256)
    file.write_bytes(content[:-1] + b"\7")
    files.read_array(file, sha256, trust_mapped=True)


def test_placing_gives_a_second_name_or_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "a", tmp_path / "new" / "b"
    first.write_bytes(b"content")
    files.link_or_copy(first, second)
    assert second.samefile(first)

    monkeypatch.setattr(Path, "hardlink_to", Mock(side_effect=OSError("another file system")))
    files.link_or_copy(first, second)
    assert not second.samefile(first)
    assert second.read_bytes() == b"content"


@pytest.mark.parametrize("known", [True, False])
def test_too_small_a_disk_is_told_before_anything_is_decoded_if_it_can_be(
    known: bool, tmp_path: Path, count: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count(None)
    if known:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=319))
    else:
        monkeypatch.setattr(os, "pwrite", Mock(side_effect=OSError(28, "No space left")))
    image = encoded(tmp_path / "one.JPEG", jpeg(picture(WNIDS[0], 0)))
    words = r"a\.npy: no space left for 320 bytes" + (", 319 are free" if known else "")
    with pytest.raises(UserError, match=words):
        decoding.decode_to(tmp_path / "a.npy", [image], np.arange(1), 8, "x")
    assert (not seen) == known
    assert (tmp_path / "a.npy").exists() != known


def test_images_that_do_not_fit_on_a_gpu_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[str] = []
    monkeypatch.setattr(machine, "forget_free_memory", forgotten.append)
    monkeypatch.setattr(machine, "free_gpu_memory", lambda: 2**30 if forgotten else 2**29)
    machine.require_gpu_memory(2**29, "images")
    assert not forgotten
    machine.require_gpu_memory(2**30, "images")
    assert forgotten == ["cuda"]
    words = r"images: 1\.5 GiB do not fit in the 1\.0 GiB that are free"
    with pytest.raises(UserError, match=words):
        machine.require_gpu_memory(3 * 2**29, "images")


# --- what is not ImageNet


def without(tree: Tree, part: str) -> Tree:
    return {name: content for name, content in tree.items() if part not in name}


def changed_devkit(name: str, content: bytes) -> Tree:
    return {key: content if key.endswith(name) else old for key, old in devkit(make_tree()).items()}


FLAT = split_of(make_tree(), "train") | {f"val/{n}": c for n, c in flat(make_tree()).items()}
LINK = tarfile.TarInfo(f"{WNIDS[0]}.tar")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "/etc/passwd"
TWICE = {f"{top}1.JPEG": b"" for top in ("", "./", "a/")}
CUT_TAR = tar({"1": b"1" * 2000})[:1500]
WHOLE_TAR = tar({f"{WNIDS[0]}.tar": tar({"1.JPEG": b"12" * 900})})


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({}, r"has neither train/ nor ILSVRC2012_img_train\.tar; data\.path must name"),
        (split_of(make_tree(), "train"), r"has neither val/ nor ILSVRC2012_img_val\.tar"),
        (make_tree() | {"train/dogs/1.JPEG": b""}, "'dogs' is no folder of a class; .* n and eig"),
        (make_tree() | {"val/valprep.sh": b""}, r"'valprep\.sh' is no folder of a class"),
        (make_tree() | {f"train/{WNIDS[0]}/more/1.JPEG": b""}, "'more' is no file"),
        (without(make_tree(), f"val/{WNIDS[1]}"), f"3 classes, val of 2 .not in both: {WNIDS[1]}"),
        (dict.fromkeys(make_tree(), b"no"), r"none of 24 images can be read \(no JPEG or PNG\)"),
        (FLAT, r"no ILSVRC2012_devkit_t12 or ILSVRC2012_devkit_t12\.tar\.gz, .* put it there"),
        (FLAT | changed_devkit("meta.mat", b"x"), r"meta\.mat cannot be read"),
        (FLAT | changed_devkit("truth.txt", b"1\nx\n"), "no number of a class"),
        (FLAT | changed_devkit("truth.txt", b"1\n2\n"), "eight digits from 1 to 2"),
        (FLAT | without(devkit(make_tree()), "meta"), r"has no meta\.mat"),
        (FLAT | devkit(make_tree()) | {"val/dog.JPEG": b""}, r"validation image 'dog\.JPEG'"),
        ({"ILSVRC2012_img_train.tar": b"text"}, r"train\.tar: is no whole"),
        ({"ILSVRC2012_img_train.tar": WHOLE_TAR[:2000]}, r"train\.tar: is no whole"),
        ({"ILSVRC2012_img_train.tar": tar({f"{WNIDS[0]}.tar": b"no"})}, r"train\.tar: is no whole"),
        ({"ILSVRC2012_img_train.tar": tar({f"{WNIDS[0]}.tar": CUT_TAR})}, "whole .*1 is cut"),
        ({"ILSVRC2012_img_train.tar": tar({"a.JPEG": b"no"})}, r"'a\.JPEG'; must hold archives"),
        (
            {"ILSVRC2012_img_train.tar": tar({f"{WNIDS[0]}.tar": tar(TWICE)})},
            rf"train holds {WNIDS[0]}/1\.JPEG, .* more than once",
        ),
        ({"ILSVRC2012_img_train.tar": LINK.tobuf() + bytes(1024)}, "is no file"),
    ],
)
def test_what_is_not_imagenet_is_told_in_one_line(
    tree: Tree, words: str, tmp_path: Path, get: Get
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        get(write(tmp_path, tree))
    assert "\n" not in str(caught.value)


def test_odd_names_are_shown_hidden_files_passed_over_and_links_followed(
    tmp_path: Path, get: Get
) -> None:
    hidden = {"train/.DS_Store": b"", f"val/{WNIDS[0]}/.x": b"", "val/.y/z": b""}
    true = write(tmp_path / "true", make_tree() | hidden)
    (true / "train" / WNIDS[0] / os.fsdecode(b"\xff.JPEG")).write_bytes(b"no")
    (tmp_path / "images").mkdir()
    for name in ("train", "val"):
        (tmp_path / "images" / name).symlink_to(true / name)
    assert len(get(tmp_path / "images").train_labels) == 24
    left_out = files.read_json(tmp_path / "out" / imagenet.UNREADABLE)
    assert list(left_out["train"]) == [f"{WNIDS[0]}/\\udcff.JPEG"]


def test_params_of_imagenet(make_config: Callable[..., Any]) -> None:
    for size in (64, 224):
        make_config({"data.name": "imagenet", "data.path": "x", "data.size": size})
    for key, value, accepted in (
        ("path", None, "the folder of ILSVRC2012 where"),
        *(("size", size, "a whole number from 64 to 224") for size in (None, 63, 225)),
    ):
        changes = {"data.name": "imagenet", "data.path": "x", "data.size": 64, f"data.{key}": value}
        with pytest.raises(
            yaml_files.ParamsError, match=f"data.{key}: got {value}; accepted: {accepted}"
        ):
            make_config(changes)


# --- the whole chain

EXPERIMENT = {
    "data.name": "imagenet", "data.path": "images", "data.size": SIZE,
    "data.originals": 15, "data.validation": 6, "noise.alpha": 0.5,
    "model.name": "conv2", "model.width": 0.125,
    "train.learning_rates": [0.5, 0.25], "train.batch_size": 10, "train.min_samples": 2000,
    "confusion.subset": 9, "confusion.held_out": 9, "confusion.batch_size": 3,
    "confusion.min_samples": 60,
}  # fmt: skip


@pytest.fixture
def through(
    workspace: Path, run: Callable[[int], int], capsys: pytest.CaptureFixture[str]
) -> Callable[..., None]:
    """Return how to run the experiment's stages on images, with some parameters changed."""

    def stages(tree: Tree, **changes: Any) -> None:
        write(workspace / "images", tree)
        content = replaced(BASE, EXPERIMENT | changes)
        for name, value in (("scales/tiny.yaml", tiny_scale()), ("params.yaml", content)):
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(yaml.safe_dump(value), encoding="utf-8")
        for stage in ("fetch", "confuse", "dilute", "train"):
            assert run(NAMES.index(stage)) == 0, capsys.readouterr().err

    return stages


def test_a_network_learns_from_a_damaged_tree(
    through: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose images are mapped, as those of the whole ImageNet are, and labels are not."""
    monkeypatch.setattr(files, "MAPPED_BYTES", 1000)
    through(damaged_tree())
    folder = paths.datasets(paths.EXPERIMENT) / "imagenet"
    assert len(files.read_json(folder / imagenet.UNREADABLE)["train"]) == 2
    assert files.read_json(paths.EXPERIMENT_METRICS)["test_accuracy"] >= 11 / 12


def test_a_residual_network_gives_top_1_and_top_5(through: Callable[..., None]) -> None:
    """Two steps of ResNet-18 with random crops, on eight classes of a damaged tree."""
    tree = damaged_tree()
    for k in range(5):  # more classes than five: the same pictures under other names
        tree |= {name.replace(WNIDS[1], f"n0300000{k}"): tree[name] for name in make_tree()
                 if WNIDS[1] in name}  # fmt: skip
    changes = {
        "model.name": "resnet18", "model.width": 1.0, "train.augmentation": "resized_crop",
        "train.batch_size": 4, "train.min_samples": 8, "train.learning_rates": [0.5],
    }  # fmt: skip
    through(tree, **changes)
    report = files.read_json(paths.EXPERIMENT_METRICS)
    assert report["examples_seen"] == 8
    tested = files.read_json(paths.datasets(paths.EXPERIMENT) / "imagenet" / "dataset.json")
    assert tested["num_classes"] == 8
    counts = [report[key] * tested["size"]["test"] for key in ("test_accuracy", "top5_accuracy")]
    assert counts == pytest.approx(np.rint(counts))
    assert 0 <= counts[0] < counts[1] <= tested["size"]["test"]
