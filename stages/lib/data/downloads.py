"""Files from a mirror or the network: checked before use, written whole, kept for the next run."""

import hashlib
import http.client
import os
import re
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from stages.lib.core import files
from stages.lib.data.datasets import DataError

MIRROR_VARIABLE = "DATA_MIRROR"

TIMEOUT_SECONDS = 20  # without a byte

BLOCK_BYTES = 1 << 18

MOST_BYTES = 1 << 30  # far above every known file; an endless answer must end


@dataclass(frozen=True)
class Resource:
    """A file that a data set needs.

    Attributes:
        path: Where it lies below `DATA_MIRROR` and below the folder of downloads.
        md5: The hex digest of its bytes, as torchvision has it.
        urls: Where the network has it, best first, all over https.

    Raises:
        ValueError: a URL is not one of https.
    """

    path: str
    md5: str
    urls: tuple[str, ...]

    def __post_init__(self) -> None:
        for url in self.urls:
            if not url.startswith("https://"):
                raise ValueError(
                    f"{self.path}: got {url!r}; must start with https://; name another"
                )


class HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https, and from http to http; urllib goes from https to http and ftp.

    What a user names as mirror may be http; what this project names never is, wherever it leads.
    """

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request of the new address.

        Raises:
            OSError: it is not https, and not http as the old one was.
        """
        old, new = (urllib.parse.urlsplit(url).scheme for url in (req.full_url, newurl))
        if new != "https" and (old, new) != ("http", "http"):
            fp.close()
            raise OSError(f"leads from {old} to {_shown(newurl)}; only https is followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def make_opener(*handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """Return what opens URLs as urllib does, but follows no redirect away from https."""
    return urllib.request.build_opener(HttpsRedirects(), *handlers)


OPENER = make_opener()


def _say(message: str) -> None:
    tqdm.write(message, file=sys.stderr)


def _md5(content: bytes) -> str:
    # A check against damage and mix-ups, with the digests that the data sets' authors publish.
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _shown(url: str) -> str:
    """Return a URL without the user name and password that it may hold."""
    return re.sub(r"//[^/@]*@", "//", url)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _mirror_url(resource: Resource) -> str | None:
    """Return the URL of a file below ``$DATA_MIRROR``, None where that is not set.

    Raises:
        DataError: the variable holds neither a folder nor a URL that can be read.
    """
    mirror = os.environ.get(MIRROR_VARIABLE, "")
    if not mirror:
        return None
    scheme, separator, _ = mirror.partition("://")
    if not separator:
        return (Path(mirror).expanduser().resolve() / resource.path).as_uri()
    if scheme.lower() not in ("http", "https", "file"):
        raise DataError(
            f"{MIRROR_VARIABLE} is {_shown(mirror)!r}; must be a folder or start with "
            "http://, https:// or file://; set it to one of these"
        )
    return f"{mirror.rstrip('/')}/{urllib.parse.quote(resource.path)}"


def _download(url: str, title: str) -> bytes:
    """Return the content of a URL, showing progress on stderr if that is a terminal.

    Raises:
        OSError: it cannot be reached or read, or does not end.
        http.client.HTTPException: the answer is malformed.
    """
    headers = {"User-Agent": "massive-label-noise"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310, callers know the scheme
    with OPENER.open(request, timeout=TIMEOUT_SECONDS) as answer:
        length = answer.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        content = bytearray()
        with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=None) as bar:
            while block := answer.read(BLOCK_BYTES):
                content += block
                bar.update(len(block))
                if len(content) > MOST_BYTES:
                    raise OSError(f"gave more than {MOST_BYTES:,} bytes")
        if total is not None and len(content) < total:
            raise OSError(f"ended after {len(content):,} of {total:,} bytes")
        return bytes(content)


def _try_source(url: str, resource: Resource) -> bytes:
    """Return a file's verified content.

    Raises:
        OSError: it cannot be reached or read, or its md5 is wrong.
    """
    try:
        content = _download(url, resource.path)
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{type(error).__name__} {_one_line(error)}") from error
    found = _md5(content)
    if found != resource.md5:
        raise OSError(f"has md5 {found} ({len(content):,} bytes), must have {resource.md5}")
    return content


def _is_kept(resource: Resource, file: Path) -> bool:
    """Tell whether a file is there from an earlier run, whole."""
    if not file.is_file():
        return False
    if (found := _md5(file.read_bytes())) == resource.md5:
        return True
    _say(f"{file}: has md5 {found}, must have {resource.md5}; it will be replaced")
    return False


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
    if _is_kept(resource, file):
        return file
    mirror = _mirror_url(resource)
    failures: list[str] = []
    for url in ([mirror] if mirror else []) + list(resource.urls):
        try:
            content = _try_source(url, resource)
        except OSError as error:
            origin = f"{MIRROR_VARIABLE} ({_shown(url)})" if url == mirror else url
            failures.append(f"{origin}: {_one_line(error)}")
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
