"""Embedded, downloaded and folder data sets, with real files, servers and archives."""

import functools
import gzip
import hashlib
import http.client
import http.server
import io
import os
import pickle
import re
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from numpy.typing import NDArray
from PIL import Image

from stages.lib.core import files, paths
from stages.lib.data import archives, datasets, downloads, embedded, images, sources
from stages.lib.data import torchvision_sets as sets
from stages.lib.data.datasets import DataError, Dataset
from stages.lib.data.downloads import Resource, obtain
from stages.lib.data.registry import FACTS, DatasetRequest

Patch = pytest.MonkeyPatch
Captured = pytest.CaptureFixture[str]
REPOSITORY = Path(__file__).parents[1]
DOWNLOADED = {
    "mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST",
    "cifar10": "CIFAR10", "cifar100": "CIFAR100",
}  # fmt: skip


def load(name: str, folder: Path, *, path: str | None = None, size: int | None = None) -> Dataset:
    dataset = sources.load_source(name, path=path, size=size, downloads=folder)
    dataset.check()
    return dataset


class OnlyHere(urllib.request.HTTPSHandler):
    """Lets no request through to another machine, and has https spoken here without TLS."""

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        if not (request.host or "").rpartition("@")[2].startswith("127.0.0.1"):
            raise urllib.error.URLError("blocked in tests")
        return request

    https_request = ftp_request = http_request

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(http.client.HTTPConnection, request)


@pytest.fixture(autouse=True)
def here_alone(tmp_path: Path, monkeypatch: Patch) -> None:
    """Let no test reach beyond files and this machine, whatever network or proxy there is."""
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(downloads, "HANDLERS", (OnlyHere, *downloads.HANDLERS[1:]))
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))


# --- the registry


def test_names_and_facts_cost_no_import_of_what_loads_the_data() -> None:
    code = (
        "import sys, stages.lib.config.reading\n"
        "print({'torch', 'torchvision', 'sklearn', 'mlxtend', 'scipy', 'PIL'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, cwd=REPOSITORY, text=True) == "set()\n"


@pytest.mark.parametrize(
    ("name", "path", "size", "words"),
    [
        ("mnist6k", None, None, "choose one of mnist5k, digits, mnist"),
        ("mnist5k", "images", None, "only images of your own have one"),
        ("imagenet", "images", 64, "too large for the memory"),
        ("folder", "images", None, "size None; both are needed"),
        ("folder", None, 8, "path None"),
        ("digits", None, 0, "at least 1 pixel"),
        ("folder", ".", 0, "at least 1 pixel"),
    ],
)
def test_contradicting_arguments(
    name: str, path: str | None, size: int | None, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        load(name, tmp_path, path=path, size=size)


def test_fetch_saves_each_data_set_in_its_folder(tmp_path: Path) -> None:
    sources.fetch({"small": DatasetRequest("digits", None, 6)}, tmp_path / "sets")
    small = datasets.load(tmp_path / "sets" / "small")
    assert "Resized from 8x8 to 6x6" in small.source
    whole = load("digits", tmp_path)
    np.testing.assert_array_equal(small.test_images, images.resize(whole.test_images, 6))
    np.testing.assert_array_equal(small.train_labels, whole.train_labels)


# --- embedded data sets


@pytest.mark.parametrize("name", ["mnist5k", "digits"])
def test_embedded_data_sets_are_what_the_facts_say(name: str) -> None:
    dataset, facts = load(name, Path("unused")), FACTS[name]
    assert dataset.image_shape == (facts.height, facts.width, facts.channels)
    assert dataset.num_classes == facts.num_classes
    assert len(dataset.train_labels) == facts.train_size
    assert len(dataset.test_labels) == facts.test_size
    assert (dataset.train_images.min(), dataset.train_images.max()) == (0, 255)
    train, test = (
        {each.tobytes() for each in split} for split in (dataset.train_images, dataset.test_images)
    )
    assert len(train) == facts.train_size
    assert train.isdisjoint(test)


def test_mnist5k_is_balanced_and_its_images_fit_their_labels() -> None:
    dataset = load("mnist5k", Path("unused"))
    for prefix in (10, 100, 1000, 4000):
        assert np.bincount(dataset.train_labels[:prefix]).tolist() == [prefix // 10] * 10
    pixels = dataset.train_images.reshape(4000, -1) / 255
    means = np.stack([pixels[dataset.train_labels == label].mean(axis=0) for label in range(10)])
    test = dataset.test_images.reshape(1000, 1, -1) / 255
    nearest = np.argmin(((test - means) ** 2).sum(axis=-1), axis=1)
    # The nearest class mean is right for about 0.78; images and labels out of step give 0.1.
    assert np.mean(nearest == dataset.test_labels) > 0.7


def test_the_last_fifth_of_each_class_is_for_testing() -> None:
    train, test = embedded.split_last(np.array([0] * 10 + [1] * 5 + [0] * 5))
    assert sorted(test) == [14, 17, 18, 19]
    assert sorted([*train, *test]) == list(range(20))


def test_a_package_with_other_data_is_noticed(monkeypatch: Patch) -> None:
    monkeypatch.setattr(files, "sha256_of_array", lambda _: "another")
    with pytest.raises(DataError, match=r"scikit-learn have sha256 .*another.* must.*install"):
        embedded.load("digits")


# --- downloads

CONTENT = b"the true content"
RESOURCE = Resource("Set/raw/file.gz", hashlib.md5(CONTENT).hexdigest(), ())  # noqa: S324


def at(*urls: str) -> Resource:
    return Resource(RESOURCE.path, RESOURCE.md5, urls)


def get(resource: Resource, folder: Path) -> bytes:
    file = obtain(resource, folder, dataset="myset", layout="Set/raw/file.gz")
    assert file == folder / resource.path
    return file.read_bytes()


def put(folder: Path, content: bytes, path: str = RESOURCE.path) -> Path:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Return the folder that DATA_MIRROR names."""
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "my mirror"))
    return tmp_path / "my mirror"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and answers ``/moved?URL`` with a redirect to the URL."""

    def do_GET(self) -> None:
        if not self.path.startswith("/moved?"):
            super().do_GET()
            return
        self.send_response(302)
        self.send_header("Location", self.path.partition("?")[2])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def server(mirror: Path) -> Iterator[str]:
    """Serve the mirror's folder, which holds the true content, and yield host and port."""
    put(mirror, CONTENT)
    handler = functools.partial(QuietHandler, directory=str(mirror))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "form", ["{path}", "file://{quoted}", "file://{quoted}/", "http://{server}", "http://{server}/"]
)
def test_a_folder_or_url_is_a_mirror(
    form: str, mirror: Path, server: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    quoted = str(mirror).replace(" ", "%20")
    value = form.format(path=mirror, quoted=quoted, server=server)
    monkeypatch.setenv("DATA_MIRROR", value)
    assert get(RESOURCE, tmp_path / "kept") == CONTENT


def test_a_whole_kept_file_is_used_again_and_a_damaged_one_replaced(
    mirror: Path, tmp_path: Path, capsys: Captured
) -> None:
    file = put(tmp_path / "kept", CONTENT)
    before = file.stat().st_mtime_ns
    assert get(RESOURCE, tmp_path / "kept") == CONTENT
    assert file.stat().st_mtime_ns == before
    put(mirror, CONTENT)
    file.write_bytes(CONTENT[:-1])
    assert get(RESOURCE, tmp_path / "kept") == CONTENT
    assert "will be replaced" in capsys.readouterr().err


@pytest.mark.parametrize("found", [True, False])
def test_sources_are_tried_in_turn_and_what_is_wrong_with_each_is_told(
    found: bool, server: str, mirror: Path, tmp_path: Path, monkeypatch: Patch, capsys: Captured
) -> None:
    put(mirror, b"<html>not here</html>", "wrong.gz")
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "nothing"))
    urls = [f"https://{server}/wrong.gz", f"https://{server}/none"]
    words = ["myset", "No such file", *urls, "has md5", "404", "DATA_MIRROR"]
    if found:
        resource = at(*urls, f"https://{server}/{RESOURCE.path}")
        assert get(resource, tmp_path / "kept") == CONTENT
        told = capsys.readouterr().err
    else:
        with pytest.raises(DataError) as caught:
            get(at(*urls, "https://example.org/file.gz"), tmp_path / "kept")
        told = str(caught.value)
        words += ["example.org", "blocked in tests", "holds Set/raw/file.gz", "mnist5k"]
        assert not (tmp_path / "kept").exists()
        assert "\n" not in told
    assert all(word in told for word in words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Length: 16\r\n\r\nthe", "ended after 3 of 16 bytes"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + bytes(100), "more than 30 bytes"),
        (b"", "timed out"),
        (b"nonsense\r\n\r\n", "BadStatusLine"),
    ],
)
def test_a_server_that_answers_badly_is_no_source(
    answer: bytes, words: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(downloads, "MOST_BYTES", 30)
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.1 if words == "timed out" else 20)

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)
            time.sleep(0 if answer else 0.2)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("DATA_MIRROR", f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=serve, args=[listener])
        thread.start()
        with pytest.raises(DataError, match=words):
            get(RESOURCE, tmp_path)
        thread.join()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("http://me:secret@example.org/x", "blocked"),
        ("http://me:secret@127.0.0.1/x", "InvalidURL"),
        ("ftp://me:secret@127.0.0.1", "must be a folder"),
    ],
)
def test_a_mirrors_password_is_not_shown_and_its_scheme_checked(
    value: str, words: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("DATA_MIRROR", value)
    with pytest.raises(DataError, match=words) as caught:
        get(RESOURCE, tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://example.org/x", "ftp://example.org/x", "file:///x", "x"])
def test_the_network_is_asked_over_https_only(url: str) -> None:
    with pytest.raises(ValueError, match="must start with https://"):
        at("https://example.org/x", url)


@pytest.mark.parametrize("target", ["https", "http", "ftp"])
@pytest.mark.parametrize("start", ["https", "http"])
def test_redirects_lead_to_https_or_from_a_mirror_of_http_to_http(
    start: str, target: str, server: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    moved = f"{start}://{server}/moved?{target}://{server}"
    monkeypatch.delenv("DATA_MIRROR")
    resource = at(f"{moved}/{RESOURCE.path}") if start == "https" else RESOURCE
    if start == "http":
        monkeypatch.setenv("DATA_MIRROR", moved)
    if target in ("https", start):
        assert get(resource, tmp_path / "kept") == CONTENT
    else:
        with pytest.raises(DataError, match=f"leads to {target}://.* only https"):
            get(resource, tmp_path / "kept")


# --- torchvision's data sets


def idx(array: NDArray[np.uint8]) -> bytes:
    head = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(head + array.tobytes(), mtime=0)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()  # noqa: S324


def tar_of(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def old_pickle(pixels: bytes, labels: int) -> bytes:
    """Return a batch as Python 2 and numpy 1 pickled it.

    Byte strings, and a dtype made with 0 and 1 for False and True: ``data`` are rows of 3,072
    pixels, ``labels`` and ``fine_labels`` 0, 1, ... for each.
    """
    numbers = b"(" + b"".join(b"K" + bytes([label]) for label in range(labels)) + b"e"
    return (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01K" + bytes([labels]) + b"M\x00\x0c\x86cnumpy\ndtype\n"
        b"U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + len(pixels).to_bytes(4, "little") + pixels + b"tb"
        b"U\x06labels]" + numbers + b"U\x0bfine_labels]" + numbers + b"u."
    )


def make_mnist(mirror: Path, monkeypatch: Patch, name: str) -> Dataset:
    """Write a tiny data set in MNIST's format and layout, and return it."""
    rng = np.random.default_rng(1)
    pixels = [rng.integers(0, 256, (count, 28, 28), dtype=np.uint8) for count in (20, 10)]
    labels = [np.arange(count, dtype=np.uint8) % 10 for count in (20, 10)]
    cls, resources = getattr(torchvision.datasets, name), []
    arrays = (pixels[0], labels[0], pixels[1], labels[1])
    for (file, _), array in zip(cls.resources, arrays, strict=True):
        put(mirror, idx(array), f"{name}/raw/{file}")
        resources.append((file, md5(idx(array))))
    monkeypatch.setattr(cls, "resources", resources)
    x, y = (each[..., None] for each in pixels)
    classes = tuple("0123456789") if name == "MNIST" else tuple(cls.classes)
    return Dataset(name, x, labels[0], y, labels[1], classes, "")


def make_cifar(mirror: Path, monkeypatch: Patch, name: str) -> Dataset:
    """Write a tiny data set in CIFAR's format and layout, and return it."""
    cls, rng = getattr(torchvision.datasets, name), np.random.default_rng(2)
    count = {"CIFAR10": 10, "CIFAR100": 100}[name]
    classes = tuple(f"n{k}" for k in range(count))
    members = {cls.meta["filename"]: pickle.dumps({cls.meta["key"]: list(classes)}, protocol=2)}
    splits: dict[str, list[NDArray[np.uint8]]] = {"train_list": [], "test_list": []}
    for key, batches in splits.items():
        digests = []
        for file, _ in getattr(cls, key):
            batches.append(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))
            members[file] = old_pickle(batches[-1].tobytes(), count)
            digests.append([file, md5(members[file])])
        monkeypatch.setattr(cls, key, digests)
    monkeypatch.setattr(cls, "meta", cls.meta | {"md5": md5(members[cls.meta["filename"]])})
    archive = tar_of({f"{cls.base_folder}/{file}": content for file, content in members.items()})
    monkeypatch.setattr(cls, "tgz_md5", md5(archive))
    put(mirror, archive, cls.filename)
    x, y = (np.concatenate(batches).transpose(0, 2, 3, 1) for batches in splits.values())
    label = np.arange(count, dtype=np.uint8)
    return Dataset(name, x, np.tile(label, len(x) // count), y, label, classes, "")


@pytest.fixture
def made(name: str, mirror: Path, monkeypatch: Patch) -> tuple[Dataset, list[Resource]]:
    """Return what lies on the mirror in the place of one of torchvision's data sets, tiny."""
    make = make_cifar if name.startswith("cifar") else make_mnist
    return make(mirror, monkeypatch, DOWNLOADED[name]), sets.resources(DOWNLOADED[name])


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_data_set_of_torchvision_is_read_without_network(
    name: str, made: tuple[Dataset, list[Resource]], tmp_path: Path, monkeypatch: Patch
) -> None:
    """Also after a stop in the middle of its extraction, from the archives that are kept."""

    def stop(archive: Path, place: Path) -> None:
        (place / archive.stem).write_bytes(b"the beginning")
        raise KeyboardInterrupt

    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("the network was asked"))
    with monkeypatch.context() as patch:
        patch.setattr(sets, "extract_archive", stop)
        with pytest.raises(KeyboardInterrupt):
            load(name, tmp_path / "kept")
    monkeypatch.delenv("DATA_MIRROR")
    expected, resources = made
    found = load(name, tmp_path / "kept")
    for array in datasets.ARRAYS:
        np.testing.assert_array_equal(getattr(found, array), getattr(expected, array))
        assert getattr(found, array).flags.c_contiguous
    assert found.class_names == expected.class_names
    kept = {path.relative_to(tmp_path / "kept") for path in (tmp_path / "kept").rglob("*.*")}
    assert kept == {Path(resource.path) for resource in resources}
    assert not list(paths.run_store().iterdir())


@pytest.mark.parametrize(("name", "urls"), [*zip(DOWNLOADED, (2, 2, 1, 1, 1), strict=True)])
def test_nothing_is_extracted_or_read_before_its_md5_is_right(
    name: str, urls: int, mirror: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    path = sets.resources(DOWNLOADED[name])[0].path
    for folder in (mirror, tmp_path / "kept"):
        put(folder, b"something else", path)
    monkeypatch.setattr(sets, "extract_archive", lambda *_: pytest.fail("extracted"))
    with pytest.raises(DataError, match=f"^{name}: .*has md5.*that holds {path}") as caught:
        load(name, tmp_path / "kept")
    # Over https alone, at addresses that have it.
    tried = re.findall(r"https://\S+: .*?blocked in tests", str(caught.value))
    assert len(tried) == urls
    assert all(f"/{Path(path).name}: " in url and ".s3-website" not in url for url in tried)
    if name == "mnist":
        assert "ossci-datasets" in tried[0]  # torchvision's other one has http only


# --- folders of images

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_files(top: str = "", train: int = 3, test: int = 2) -> dict[str, bytes]:
    """Return tiny images, by their path: blue and red squares, told apart by one pixel."""
    made = {}
    for split, count in (("train", train), ("test", test)):
        for name, colour in COLOURS.items():
            for number in range(count):
                image = Image.new("RGB", (6, 6), colour)
                image.putpixel((number % 6, number // 6 % 6), (0, 255, 0))
                made[f"{top}{split}/{name}/{number}.png"] = encode(image)
    return made


def as_folder(made: dict[str, bytes], path: Path) -> Path:
    path.mkdir(exist_ok=True)
    for name, content in made.items():
        put(path, content, name)
    return path


def as_zip(made: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in made.items():
            archive.writestr(name, content)
    return path


def as_tar(made: dict[str, bytes], path: Path, mode: str = "w:gz") -> Path:
    path.write_bytes(tar_of(made, mode))
    return path


MAKERS: dict[str, Callable[[dict[str, bytes], Path], Path]] = {
    "folder": as_folder,
    "zip": as_zip,
    "tar": functools.partial(as_tar, mode="w"),
    "tar.gz": as_tar,
    "tar.xz": functools.partial(as_tar, mode="w:xz"),
    "tar.bz2": functools.partial(as_tar, mode="w:bz2"),
}
ARCHIVES = [kind for kind in MAKERS if kind != "folder"]


def load_images(path: Path, size: int = 6) -> Dataset:
    return load("folder", path / "unused", path=str(path), size=size)


@pytest.mark.parametrize("top", ["", "./", "my images/"])
@pytest.mark.parametrize("kind", MAKERS)
def test_folders_and_archives_give_the_same(
    kind: str, top: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Archives without being extracted, and wherever their members stand."""
    made = make_files(top)
    path = MAKERS[kind](dict(reversed(made.items())), tmp_path / f"images.{kind}")
    for archive in (tarfile.TarFile, zipfile.ZipFile):
        for method in ("extract", "extractall", "_extract_member"):
            monkeypatch.setattr(archive, method, lambda *_args, **_named: pytest.fail("extracted"))
    dataset = load_images(path)
    assert dataset.class_names == ("blue", "red")
    assert dataset.train_labels.tolist() == [0, 1] * 3  # interleaved, by class and name
    assert dataset.test_labels.tolist() == [0, 1] * 2
    for row, image in enumerate(dataset.train_images):
        name = f"{top}train/{('blue', 'red')[row % 2]}/{row // 2}.png"
        np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(made[name]))))
    assert path.name in dataset.source
    assert str(tmp_path) not in dataset.source
    assert list(tmp_path.iterdir()) == [path]


def test_the_shorter_side_is_scaled_and_the_middle_kept(tmp_path: Path) -> None:
    wide = np.random.default_rng(8).integers(0, 256, (4, 16, 3), dtype=np.uint8)
    made = make_files() | {"train/blue/0.png": encode(Image.fromarray(wide))}
    path = as_folder(made, tmp_path)
    np.testing.assert_array_equal(load_images(path, size=4).train_images[0], wide[:, 6:10])
    half = Image.fromarray(wide).resize((8, 2), Image.Resampling.BILINEAR)
    found = load_images(path, size=2).train_images[0]
    np.testing.assert_array_equal(found, np.asarray(half)[:, 3:5])


def test_large_jpegs_keep_their_detail(tmp_path: Path) -> None:
    stripes = np.zeros((256, 320), np.uint8)
    stripes[:, np.arange(320) % 8 < 4] = 255  # one pixel dark, one light at a quarter of the size
    made = make_files() | {"train/blue/0.png": encode(Image.fromarray(stripes), "JPEG")}
    found = load_images(as_folder(made, tmp_path), size=64).train_images[0, ..., 0].astype(int)
    assert abs(found.mean() - 127.5) < 1
    assert np.all(found[:, 2:-1:2] - found[:, 3::2] > 60)


def grey(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.full((6, 6), 200 * 256 + 7, np.uint16))
    return Image.new(mode, (6, 6), 1 if mode == "1" else 200)


@pytest.mark.parametrize(("mode", "level"), [("L", 200), ("1", 255), ("I;16", 200)])
def test_only_grey_images_make_one_channel(mode: str, level: int, tmp_path: Path) -> None:
    made = dict.fromkeys(make_files(), encode(grey(mode)))
    for channels in (1, 3):
        dataset = load_images(as_folder(made, tmp_path))
        assert dataset.image_shape == (6, 6, channels)
        assert np.all(dataset.train_images == level)
        made["test/red/0.png"] = make_files()["test/red/0.png"]


def orange(mode: str) -> bytes:
    image = Image.new("RGB", (6, 6), (250, 125, 0))
    if mode == "RGBA":
        image.putalpha(128)
    if mode.startswith("P"):
        options = {"transparency": b"\x80" * 9} if mode != "P" else {}
        return encode(image.convert("P", palette=Image.Palette.ADAPTIVE), **options)
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    return encode(image if mode == "RGBA" else image.convert(mode), kind)


def test_images_of_every_mode_make_one_data_set(tmp_path: Path) -> None:
    colour = ["RGB", "RGBA", "P", "P with transparency", "CMYK", "YCbCr"]
    contents = [orange(mode) for mode in colour]
    contents += [encode(grey(mode)) for mode in ("L", "LA", "I;16", "1")]
    made = make_files() | {f"train/all/{i}.png": content for i, content in enumerate(contents)}
    dataset = load_images(as_folder(made | {"test/all/0.png": contents[0]}, tmp_path))
    assert dataset.image_shape == (6, 6, 3)
    expected = [(250, 125, 0)] * 6 + [(200, 200, 200)] * 3 + [(255, 255, 255)]
    for image, pixel in zip(dataset.train_images[dataset.train_labels == 0], expected, strict=True):
        # Few colours and JPEG's rounding may be a little off; class 0 is "all".
        np.testing.assert_allclose(image.reshape(-1, 3), np.tile(pixel, (36, 1)), atol=6)


def test_hidden_files_are_passed_over_and_counted(tmp_path: Path) -> None:
    litter = ("top/.DS_Store", "__MACOSX/top/._x", "top/train/Thumbs.db", "top/.git/config")
    made = make_files("top/") | dict.fromkeys(litter, b"?")
    dataset = load_images(as_zip(made, tmp_path / "images.zip"))
    assert len(dataset.train_labels) == 6
    assert "4 hidden files were ignored" in dataset.source


def test_more_than_256_classes_take_two_bytes(tmp_path: Path) -> None:
    image = encode(Image.new("L", (1, 1)))
    made = {f"{split}/{i:03}/x.png": image for split in ("train", "test") for i in range(257)}
    dataset = load_images(as_tar(made, tmp_path / "images.tar.gz"), size=1)
    assert dataset.train_labels.dtype == np.uint16
    assert dataset.test_labels.tolist() == list(range(257))


def without(part: str) -> dict[str, bytes]:
    return {name: content for name, content in make_files().items() if part not in name}


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (without("test/red"), "test has no red; train and test must have images of the same"),
        (without("train/blue"), "train has no blue"),
        (without("red"), "got images of 1 classes"),
        ({}, "got images of 0 classes"),
        (
            make_files() | {"notes.txt": b"", "train/blue/x.gif": b""},
            r"2 of 12 files are not images .*notes.txt, train/blue/x.gif",
        ),
        (make_files() | {"val/red/0.png": b""}, r"1 of 11 files .*val/red/0.png"),
        (make_files() | {"train/0.png": b""}, r"train/0.png"),
        (make_files() | {"train/red/more/0.png": b""}, r"more/0.png"),
        (make_files("a/") | {"b/0.png": b""}, "11 of 11 files .* and 6 more"),
        (make_files() | {"train/red/0.png": b"text"}, r"1 of 10 images .*red/0.png \(no JPEG"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_what_is_no_data_set_is_told(
    kind: str, made: dict[str, bytes], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load_images(MAKERS[kind](made, tmp_path / f"images.{kind}"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_images_are_counted_and_named(kind: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(9).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encode(Image.fromarray(noise), kind)
    made = make_files() | {f"train/red/{i}.png": whole[: len(whole) // 2] for i in range(9)}
    with pytest.raises(DataError, match=r"9 of 16 images .*red/0.png \(.*trunc.* and 4 more"):
        load_images(as_folder(made, tmp_path))


def test_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: Patch) -> None:
    path = as_folder(make_files(), tmp_path)
    for limit, words in ((36, None), (35, "bomb"), (17, "bomb")):  # Pillow warns, fails at twice
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=words) if words else nullcontext():
            load_images(path)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_too_many_bytes_are_refused(kind: str, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 10)
    with pytest.raises(DataError, match="more than the 10 allowed"):
        load_images(MAKERS[kind](make_files(), tmp_path / "images"))


OUTSIDE = ("../train/red/9.png", "/train/red/9.png", "train/../../x.png")
LINK, PIPE = tarfile.SYMTYPE, tarfile.FIFOTYPE


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    ("name", "of", "words"),
    [
        *((name, tarfile.REGTYPE, "lies outside the archive") for name in OUTSIDE),
        *(("train/red/9.png", of, "is a link or a spec") for of in (LINK, tarfile.LNKTYPE, PIPE)),
        ("train/red/1.png", tarfile.REGTYPE, "train/red/1.png more than once"),
    ],
)
def test_members_that_have_no_place_are_refused(
    kind: str, name: str, of: bytes, words: str, tmp_path: Path
) -> None:
    path = MAKERS[kind](make_files(), tmp_path / "images")
    if kind == "zip":
        with zipfile.ZipFile(path, "a") as archive:
            member = zipfile.ZipInfo(name)
            modes = {tarfile.REGTYPE: stat.S_IFREG, PIPE: stat.S_IFIFO}
            member.external_attr = modes.get(of, stat.S_IFLNK) << 16
            archive.writestr(member, "train/red/0.png")
    else:
        with tarfile.open(path, "a") as tar:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = of, "train/red/0.png"
            tar.addfile(info)
    with pytest.raises(DataError, match=words):
        load_images(path)


@pytest.mark.parametrize(
    ("kind", "share"),
    [("tar", None), *((kind, share) for kind in ARCHIVES for share in (0.1, 0.5, 0.9))],
)
def test_cut_archives_are_told(kind: str, share: float | None, tmp_path: Path) -> None:
    path = MAKERS[kind](make_files(train=200), tmp_path / "images")
    content = path.read_bytes()
    if share is None:  # between two members, where tarfile sees nothing wrong
        with tarfile.open(path) as tar:
            end = tar.getmembers()[-1].offset
    else:
        end = int(share * len(content))
    path.write_bytes(content[:end])
    words = r"is no whole \.zip or \.tar" + (".*no end mark" if share is None else "")
    with pytest.raises(DataError, match=words):
        load_images(path)


# --- real data, where there are some


@pytest.mark.slow
def test_the_real_mnist(tmp_path: Path, monkeypatch: Patch) -> None:
    mirror = Path(os.environ.get("TEST_DATA", REPOSITORY / "../shared/data"))
    if not (mirror / "MNIST/raw").exists():
        pytest.skip("MNIST is not in TEST_DATA, nor in ../shared/data")
    monkeypatch.setenv("DATA_MIRROR", str(mirror))
    dataset = load("mnist", tmp_path)
    digests = [files.sha256_of_array(getattr(dataset, array))[:16] for array in datasets.ARRAYS]
    assert digests == [
        "d0f59fc101b64e44", "cad480d65c848fb3", "339a7cc6afff166f", "51a7d570e96222ba",
    ]  # fmt: skip
    small = load("mnist5k", tmp_path)
    known = {image.tobytes() for image in dataset.train_images}
    assert all(image.tobytes() in known for image in [*small.train_images, *small.test_images])
