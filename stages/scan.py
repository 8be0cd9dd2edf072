"""Looks at images of the user's own, which DVC does not watch."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from stages.command import stage
from stages.lib.config.checks import check_fit
from stages.lib.config.params import Config
from stages.lib.config.reading import read_params
from stages.lib.core import files, paths
from stages.lib.core.errors import DamagedError
from stages.lib.data.archives import files_of
from stages.lib.data.folder import make_plan
from stages.lib.data.scanning import scan
from stages.lib.studies import grids

Place = tuple[Config, Path, str]  # a config, the file that it was read from, and where in it


@stage()
def main() -> None:
    """Note what lies at the user's paths, tell what changed there, and check parameters against it.

    Reads params.yaml, scales/, studies/ and the names of the images; writes data/scans/.
    """
    params = read_params()
    config = Config(params.data, params.noise, params.model, params.train)
    points = [
        (point, paths.scale_file(params.scale), f"{key}.")
        for key in params.figures
        for point in grids.read_grid(params.scale, key).points
    ]
    _write(paths.scans(paths.EXPERIMENT), [(config, paths.PARAMS, "")])
    _write(paths.scans("figures"), points)


def _write(out: Path, places: Iterable[Place]) -> None:
    """Scan each path once, and check every config that reads it."""
    before: dict[str, Any] = {}
    with suppress(DamagedError):  # the first time, nothing is there
        before = files.read_json(out)
    found: dict[str, Any] = {}
    for config, file, prefix in places:
        data = config.data
        if data.path is None:
            continue
        path = paths.repository() / data.path
        if data.path not in found:
            found[data.path] = scan(path, names_only=data.name != "folder")
            cheap = path.is_dir() or path.suffix == ".zip"  # to name its files
            if data.name == "folder" and cheap:
                plan = make_plan((name for name, _ in files_of(path)), path)
                found[data.path] |= {
                    "train": len(plan.labels["train"]),
                    "test": len(plan.labels["test"]),
                    "classes": len(plan.class_names),
                }
            was, now = before.get(data.path), found[data.path]
            if was is not None and was["digest"] != now["digest"]:
                change = f"{_counts(was)} then, {_counts(now)} now"
                print(f"{data.path}: changed since it was fetched: {change}")
        if "classes" in (now := found[data.path]):
            check_fit(data, config.noise, now["train"], now["classes"], file, prefix)
    files.write_json(out, found)


def _counts(found: dict[str, Any]) -> str:
    if "classes" in found:
        return f"{found['train']:,} training and {found['test']:,} test images"
    return f"{found['files']:,} files" if "files" in found else f"{found['bytes']:,} bytes"


if __name__ == "__main__":
    raise SystemExit(main())
