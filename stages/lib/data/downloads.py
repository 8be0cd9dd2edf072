"""Files from a mirror or the network: checked before use, written whole, kept for the next run."""

import hashlib
import http.client
import os
import re
import sys
import urllib.parse
import urllib.request as ur
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from stages.lib.core import files
from stages.lib.data.datasets import DataError

MIRROR_VARIABLE = "DATA_MIRROR"
TIMEOUT_SECONDS = 20  # without a byte
BLOCK_BYTES = 1 << 18
MOST_BYTES = 1 << 30  # far above every known file; an endless answer must end


@dataclass(frozen=True)
class Resource:
    """A file that a data set needs; a URL that is not one of https is a `ValueError`."""

    path: str  # below `DATA_MIRROR` and below the folder of downloads
    md5: str  # the hex digest of its bytes, as torchvision has it
    urls: tuple[str, ...]  # where the network has it, best first, all over https

    def __post_init__(self) -> None:
        for url in self.urls:
            if not url.startswith("https://"):
                raise ValueError(f"{self.path}: got {url!r}; must start with https://; mend it")


class OnlyHttps(ur.UnknownHandler):
    """Says of a redirect to another scheme that it is not followed."""

    def unknown_open(self, req: ur.Request) -> NoReturn:
        """Raise an `OSError` that names the address."""
        raise OSError(f"leads to {_shown(req.full_url)}; only https is followed")


#: How answers over https are got; urllib's own opener goes from https to http and ftp.
HANDLERS = (
    ur.HTTPSHandler, ur.HTTPRedirectHandler, ur.HTTPDefaultErrorHandler, ur.HTTPErrorProcessor,
    OnlyHttps,
)  # fmt: skip

#: What a user may name as mirror beside; what this project names is https, wherever it leads.
MIRROR_HANDLERS: dict[str, tuple[type[ur.BaseHandler], ...]] = {
    "https": (), "http": (ur.HTTPHandler,), "file": (ur.FileHandler,),
}  # fmt: skip


def _say(message: str) -> None:
    tqdm.write(message, file=sys.stderr)


def _md5(content: bytes | bytearray) -> str:
    # A check against damage and mix-ups, with the digests that the data sets' authors publish.
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _shown(url: str) -> str:
    """Return a URL, or an error's text, without the user name and password that it may hold."""
    return re.sub(r"(//|')[^/@']*@", r"\1", url)


def _mirror_url(resource: Resource) -> str | None:
    """Return the URL of a file below ``$DATA_MIRROR``, None where that is not set."""
    mirror = os.environ.get(MIRROR_VARIABLE, "")
    if not mirror:
        return None
    scheme, separator, _ = mirror.partition("://")
    if not separator:
        return (Path(mirror).expanduser().resolve() / resource.path).as_uri()
    if scheme.lower() not in MIRROR_HANDLERS:
        message = f"{MIRROR_VARIABLE} is {_shown(mirror)!r}; must be a folder"
        raise DataError(f"{message} or start with http://, https:// or file://; set it to such")
    return f"{mirror.rstrip('/')}/{urllib.parse.quote(resource.path)}"


def _download(url: str, resource: Resource) -> bytes:
    """Return a file's verified content, showing progress on stderr if that is a terminal.

    Raises:
        OSError: it cannot be reached or read, does not end, or its md5 is wrong.
        http.client.HTTPException, ValueError: the answer is malformed.
    """
    opener, scheme = ur.OpenerDirector(), urllib.parse.urlsplit(url).scheme
    # A proxy of another scheme would follow a redirect there.
    proxies = {kind: at for kind, at in ur.getproxies().items() if kind in ("https", scheme)}
    opener.add_handler(ur.ProxyHandler(proxies))
    for handler in (*HANDLERS, *MIRROR_HANDLERS[scheme]):
        opener.add_handler(handler())
    opener.addheaders = [("User-Agent", "massive-label-noise")]
    with opener.open(url, timeout=TIMEOUT_SECONDS) as answer:
        length = answer.headers.get("Content-Length", "")
        total, content = int(length) if length.isdigit() else None, bytearray()
        with tqdm(total=total, desc=resource.path, unit="B", unit_scale=True, disable=None) as bar:
            while block := answer.read(BLOCK_BYTES):
                content += block
                bar.update(len(block))
                if len(content) > MOST_BYTES:
                    raise OSError(f"gave more than {MOST_BYTES:,} bytes")
    if total is not None and len(content) < total:
        raise OSError(f"ended after {len(content):,} of {total:,} bytes")
    if (found := _md5(content)) != resource.md5:
        raise OSError(f"has md5 {found} ({len(content):,} bytes), must have {resource.md5}")
    return bytes(content)


def obtain(resource: Resource, downloads: Path, *, dataset: str, layout: str) -> Path:
    """Return a file in ``downloads``, got from ``$DATA_MIRROR`` or else the network if need be.

    Nothing is returned or kept before its md5 is right. Where a source fails the next is tried;
    if that one has the file, what was wrong with the first is said on stderr.

    Args:
        resource: The file.
        downloads: The folder that keeps it.
        dataset: The data set's name, for messages.
        layout: The files that the data set needs below ``$DATA_MIRROR``, for messages.

    Raises:
        DataError: no source has it; the message names all that were tried.
        OSError: ``downloads`` cannot be written.
    """
    file = downloads / resource.path
    if file.is_file():
        if (found := _md5(file.read_bytes())) == resource.md5:
            return file
        _say(f"{file}: has md5 {found}, must have {resource.md5}; it will be replaced")
    mirror = _mirror_url(resource)
    failures: list[str] = []
    for url in ([mirror] if mirror else []) + list(resource.urls):
        try:
            content = _download(url, resource)
        except (OSError, http.client.HTTPException, ValueError) as error:
            origin = f"{MIRROR_VARIABLE} ({_shown(url)})" if url == mirror else url
            kind = "" if isinstance(error, OSError) and str(error) else type(error).__name__
            failures.append(" ".join(f"{origin}: {kind} {_shown(str(error))}".split()))
            continue
        with files.replacing(file) as scratch:
            scratch.write_bytes(content)
        for failure in failures:
            _say(f"{dataset}: got {resource.path} from {_shown(url)}, for {failure}")
        return file
    if mirror is None:
        failures.insert(0, f"{MIRROR_VARIABLE} is not set")
    raise DataError(
        f"{dataset}: found no source of {resource.path}. Tried: {'; '.join(failures)}. Set "
        f"{MIRROR_VARIABLE} to a folder or URL prefix that holds {layout}, or choose mnist5k, "
        "which needs no download"
    )
