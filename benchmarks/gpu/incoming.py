"""Takes over what came back: measurements, finished trainings, and the figure they make."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu import bundle
from stages.lib.config.params import Config
from stages.lib.config.reading import parse_config
from stages.lib.core import files, paths
from stages.lib.core.errors import UserError
from stages.lib.plots import pictures
from stages.lib.studies import grids, registry

RESULTS = Path("benchmarks/results")
COMMANDS = ("check", "results")
#: How something was computed, not what: a point of a grid may differ from it in these.
COMPUTED = ("precision", "stacking", "device")


def take_over(folder: Path) -> None:
    """Put what a folder of `check` and `results` holds where it belongs, and say so.

    Raises:
        UserError: it holds nothing, or something that is not as it was written.
    """
    reports = {name: folder / f"{name}.json" for name in COMMANDS}
    found = {name: _read(path) for name, path in reports.items() if path.exists()}
    if not found:
        wanted = " or ".join(path.name for path in reports.values())
        raise UserError(f"{folder}: holds no {wanted}, which benchmarks.gpu writes")
    sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
    if len(sizes) > bundle.MOST_FILES or max(sizes) > bundle.MOST_FILE_BYTES:
        most = f"{bundle.MOST_FILES} files of {bundle.MOST_FILE_BYTES:,} bytes"
        raise UserError(f"{folder}: holds more than what benchmarks.gpu writes, at most {most}")
    # Everything is looked at before anything is written.
    archive = folder / bundle.STORE
    rehearsed = any(content["device"] == "cpu" for content in found.values())
    keys = [key for key in registry.known() if (folder / f"{key}.json").exists()]
    figures = [] if rehearsed else [(key, *_figure(folder, key)) for key in keys]
    if archive.exists() and not rehearsed:
        points = bundle.restore(archive, paths.run_store())
        print(f"{len(points)} finished trainings are in {paths.run_store()}")
    for name, content in found.items():
        target = RESULTS / f"gpu-{name}-{content['device']}.json"
        text = files.to_json(content).encode()
        with files.replacing(target, len(text)) as scratch:
            scratch.write_bytes(text)
        print(f"{target}: {_told(content)}")
    for key, report, times in figures:
        _record(key, report, times)
    if rehearsed:
        print("a rehearsal on a CPU: no training or figure is taken")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["device"] not in ("cpu", "cuda") or not isinstance(content["steps"], dict):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is not what benchmarks.gpu writes") from None
    return dict(content)


def _told(content: dict[str, Any]) -> str:
    states = [entry["status"] for entry in content["steps"].values()]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return ", ".join(f"{count} steps {state}" for state, count in counts.items())


def _figure(folder: Path, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a figure's points and times, if they may stand for its scale's.

    Raises:
        UserError: they may not: some are of no point of its grid, or fewer than are there.
    """
    file = folder / f"{key}.json"
    report, times = files.read_json(file), files.read_json(folder / f"{key}.times.json")
    scale = report["scale"]
    known = [_comparable(point) for point in grids.read_grid(scale, key).points]
    came = [_comparable(parse_config(point["config"], file)) for point in report["points"]]
    if not all(config in known for config in came):
        raise UserError(f"{file}: has points that are not of {paths.scale_file(scale)}; not taken")
    target = paths.figure_metrics(scale, key)
    if target.exists():
        points = files.read_json(target)["points"]
        here = [_comparable(parse_config(point["config"], target)) for point in points]
        if lost := sum(config not in came for config in here):
            raise UserError(f"{target}: has {lost} points that did not come back; not replaced")
    return report, times


def _comparable(config: Config) -> dict[str, Any]:
    plain = asdict(config)
    for name in COMPUTED:
        plain["train"].pop(name)
    return plain


def _record(key: str, report: dict[str, Any], times: dict[str, Any]) -> None:
    scale = report["scale"]
    files.write_json(paths.figure_metrics(scale, key), report)
    files.write_json(paths.figure_times(scale, key), times)
    figure = pictures.draw(report)
    for suffix in ("svg", "png"):
        with files.replacing(paths.figure_picture(scale, key, suffix)) as scratch:
            pictures.save(figure, scratch)
    whole = len(grids.read_grid(scale, key).points)
    print(f"{paths.figure_metrics(scale, key)}: {len(report['points'])} of {whole} points")
    used = {point["config"]["train"]["precision"] for point in report["points"]}
    if used != {point.train.precision for point in grids.read_grid(scale, key).points}:
        print(f"  trained in {', '.join(sorted(used))}: say so in {paths.scale_file(scale)}")
