"""What lies at a path of the user's: names, sizes and times of its files, none of them opened."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.lib.data.archives import refuse_folder
from stages.lib.data.datasets import DataError
from stages.lib.data.folder import is_litter


def scan(path: Path, *, names_only: bool = False) -> dict[str, Any]:
    """Return what tells one content of a folder or archive from another.

    Links are followed; hidden files, and what file managers leave behind, do not count.

    Args:
        path: The folder or archive.
        names_only: Whether sizes and times of what lies in the folder's folders do not count, for
            asking a million files for them takes minutes.

    Returns:
        ``digest``, and for humans ``files`` or, of an archive, ``bytes``.

    Raises:
        DataError: nothing is there.
        OSError: a folder cannot be read.
    """
    if not path.exists():
        raise DataError(f"data.path: got '{path}'; accepted: a folder or an archive of images")
    whole = path.is_file()
    lines = [_state(path)] if whole else list(_files(path, names_only))
    digest = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
    return {"digest": digest} | ({"bytes": path.stat().st_size} if whole else {"files": len(lines)})


def _state(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _files(path: Path, names_only: bool) -> Iterator[str]:
    """Yield a line for each file of a folder, in the order of their names."""
    seen = set()
    for root, folders, names in os.walk(path, onerror=refuse_folder, followlinks=True):
        place, status = Path(root), Path(root).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link back or a second one
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_litter(name))
        for name in sorted(name for name in names if not is_litter(name)):
            file = place / name
            state = "" if names_only and place != path else _state(file)
            yield f"{file.relative_to(path)} {state}"
