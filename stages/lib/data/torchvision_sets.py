"""Data sets whose files and checksums torchvision names."""

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.data.datasets import DataError, Dataset
from stages.lib.data.downloads import Resource, obtain

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


DOWNLOADED: dict[str, Callable[[str, Path], Dataset]] = {
    **dict.fromkeys(MNIST_LIKE, _mnist_like),
    **dict.fromkeys(CIFAR_LIKE, _cifar_like),
}
