"""``dvc.yaml`` against the code: what a stage imports and reads, it must declare, and nothing else.

A module or key that a stage doesn't declare is the worst fault of a pipeline: results silently
stay as they were when it changes. One that it declares and doesn't use costs hours of retraining.
"""

import ast
import copy
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.lib.config import reading as params_module
from stages.lib.studies import grids, registry

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "stages/lib"
PACKAGES = sorted(path.parent.relative_to(ROOT).as_posix() for path in LIBRARY.rglob("__init__.py"))
KEY = "fig1_uniform_mnist"
SCALE_FILE = "scales/${scale}.yaml"
EXPERIMENT = ("data", "noise", "model", "train", "confusion")  # sections of params.yaml
WHOLE_SCALE, ONE_FIGURE = {"read_scale", "read_confusion"}, {"read_grid"}
FRONT = ("check", "scan")  # the first reads whole files; the second runs whenever it reads any
MOST_LINES = 125  # of the stages: each study has a plot more


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return content


PIPELINE = read("dvc.yaml")
SCALES = sorted(path.stem for path in (ROOT / "scales").glob("*.yaml"))
STAGES = list(PIPELINE["stages"])


def names_of(entries: Iterable[Any]) -> set[str]:
    """Return the paths of outs, metrics or params, with or without options."""
    return {name for entry in entries for name in ([entry] if isinstance(entry, str) else entry)}


def outs_of(stage: dict[str, Any]) -> set[str]:
    """Return what a stage makes."""
    return names_of([*stage.get("outs", []), *stage.get("metrics", [])])


def main_module(name: str) -> Path:
    """Return the file that a stage runs."""
    return ROOT / f"stages/{name}.py"


@cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def imported(file: Path) -> frozenset[Path]:
    """Return the project's files that a module imports itself, wherever the statement stands."""
    modules: set[str] = set()
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the checks know absolute imports only"
            modules |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    files = {ROOT / f"{module.replace('.', '/')}.py" for module in modules}
    return frozenset(file for file in files if file.is_file())


@cache
def needed_code(start: Path) -> frozenset[str]:
    """Return a module and what it imports, directly or not: the library's by their packages."""
    found, todo = {start}, [start]
    while todo:
        fresh = imported(todo.pop()) - found
        found |= fresh
        todo += fresh
    return frozenset(
        (file.parent if LIBRARY in file.parents else file).relative_to(ROOT).as_posix()
        for file in found
    )


@cache
def keys_read(file: Path) -> frozenset[str]:
    """Return the keys of ``params.yaml`` whose values a stage uses: attributes of ``params``."""
    nodes = [node for node in ast.walk(parse(file)) if isinstance(node, ast.Attribute)]
    below = {id(node.value) for node in nodes}
    chains = (ast.unparse(node) for node in nodes if id(node) not in below)
    return frozenset(c.removeprefix("params.") for c in chains if c.startswith("params."))


def covers(whole: str, part: str, separator: str) -> bool:
    """Tell whether a declared section or folder is, or holds, a key or a file."""
    return part == whole or part.startswith(whole + separator)


def faults_of_code(name: str, stage: dict[str, Any]) -> set[str]:
    """Return how a stage's dependencies on code differ from what it imports."""
    needed = needed_code(main_module(name))
    given = [dep for dep in stage["deps"] if covers("stages", dep, "/")]
    return {f"missing dep {n}" for n in needed if not any(covers(dep, n, "/") for dep in given)} | {
        f"needless dep {dep}" for dep in given if not any(covers(dep, n, "/") for n in needed)
    }


def faults_of_params(name: str, stage: dict[str, Any]) -> set[str]:
    """Return how a stage's params differ from what its module reads."""
    if name in FRONT:
        needed = {"params.yaml", "scales", "studies"} if name == "check" else set()
        return {f"no {dep}" for dep in needed.difference(stage["deps"])}
    file, entries = main_module(name), stage.get("params", [])
    wanted, keys = keys_read(file), [entry for entry in entries if isinstance(entry, str)]
    calls = {
        ast.unparse(n.func).rpartition(".")[2]
        for n in ast.walk(parse(file))
        if isinstance(n, ast.Call)
    }
    expected: list[dict[str, Any]] = []
    loops = "for key in params.figures" in file.read_text(encoding="utf-8")
    if calls & WHOLE_SCALE or loops:
        expected = [{SCALE_FILE: None}]
    elif calls & ONE_FIGURE:
        expected = [{SCALE_FILE: ["${item.key}", "defaults"]}]
    studies: set[str] = set()
    if calls & ONE_FIGURE:
        studies = {"studies" if loops else "studies/${item.key}.yaml"}
    given = {dep for dep in stage["deps"] if dep.startswith("studies")}
    return ({f"deps {given}, must be {studies}"} if given != studies else set()) | (
        {f"missing param {k}" for k in wanted if not any(covers(key, k, ".") for key in keys)}
        | {
            f"needless param {key}"
            for key in keys
            if not any(covers(key, k, ".") or covers(k, key, ".") for k in wanted)
        }
        | {
            f"{other} for {expected}"
            for other in [[e for e in entries if e not in keys]]
            if other != expected
        }
    )


def faults_of_data(pipeline: dict[str, Any], stage: dict[str, Any]) -> set[str]:
    """Return the dependencies of a stage that neither a stage makes nor the repository holds."""
    made = set().union(*map(outs_of, pipeline["stages"].values()))
    return {
        f"dep {dep} that nothing makes"
        for dep in stage["deps"]
        if not any(covers(out, dep, "/") for out in made)
        and not (ROOT / dep.replace("${item.key}", KEY)).exists()
    }


def faults(pipeline: dict[str, Any]) -> set[str]:
    """Return everything that is wrong with a pipeline."""
    return {
        f"{name}: {fault}"
        for name, stage in pipeline["stages"].items()
        for fault in faults_of_code(name, stage)
        | faults_of_params(name, stage)
        | faults_of_data(pipeline, stage)
    }


def test_stages_declare_what_they_import_and_read() -> None:
    assert faults(PIPELINE) == set()
    stages, _, _ = (ROOT / "dvc.yaml").read_text(encoding="utf-8").partition("\nplots:\n")
    assert len(stages.splitlines()) <= MOST_LINES


FILES = ("stages", "studies", "scales", "params")
DECLARED = [
    (name, kind, entry)
    for name, stage in PIPELINE["stages"].items()
    for kind in ("deps", "params")
    for entry in stage.get(kind, [])
    if (name not in FRONT if kind == "params" else entry.startswith(FILES))
]


@pytest.mark.parametrize(("name", "kind", "entry"), DECLARED)
def test_what_a_stage_does_not_declare_is_noticed(name: str, kind: str, entry: Any) -> None:
    doctored = copy.deepcopy(PIPELINE)
    doctored["stages"][name][kind].remove(entry)
    assert {fault.partition(":")[0] for fault in faults(doctored)} == {name}


@pytest.mark.parametrize(
    ("kind", "entry", "fault"),
    [
        ("deps", "stages/lib/plots", "train: needless dep stages/lib/plots"),
        ("deps", "data/gone", "train: dep data/gone that nothing makes"),
        ("params", "confusion.repeats", "train: needless param confusion.repeats"),
    ],
)
def test_what_a_stage_does_not_use_is_noticed(kind: str, entry: str, fault: str) -> None:
    doctored = copy.deepcopy(PIPELINE)
    doctored["stages"]["train"][kind].append(entry)
    assert faults(doctored) == {fault}


def test_everything_waits_for_the_check() -> None:
    """DVC runs what a stage depends on first, so bad input ends before an output is deleted."""
    behind: set[str] = set()
    todo = {"check"}
    while todo:
        behind |= todo
        made = set().union(*(outs_of(PIPELINE["stages"][name]) for name in behind))
        todo = {
            name
            for name, stage in PIPELINE["stages"].items()
            for dep in {*stage["deps"], *names_of(stage.get("params", []))}
            if any(covers(out, dep, "/") for out in made)
        } - behind
    assert behind == set(STAGES)


def test_the_check_loads_no_torch() -> None:
    code = "import sys, stages.check, stages.scan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("package", ["stages", *PACKAGES])
def test_packages_hold_a_docstring_only(package: str) -> None:
    """Every import runs them, and few stages depend on the outer ones."""
    content = parse(ROOT / package / "__init__.py").body
    assert [type(node) for node in content] == [ast.Expr]


@pytest.mark.parametrize("name", STAGES)
def test_stage_calls_its_checked_params_params(name: str) -> None:
    """The checks above find what is read by that name."""
    text = main_module(name).read_text(encoding="utf-8")
    named = re.findall(r"^    (?:\w+, )*params = (?:\S+, )*read_params\(\)$", text, re.MULTILINE)
    assert text.count("read_params()") == len(named)
    calls = [node for node in ast.walk(parse(main_module(name))) if isinstance(node, ast.Call)]
    assert not any(ast.unparse(argument) == "params" for c in calls for argument in c.args)


@pytest.mark.parametrize("name", STAGES)
def test_commands_have_no_arguments_and_figures_no_part_in_the_experiment(name: str) -> None:
    """A shell runs them, so a value from a file could run anything."""
    stage = PIPELINE["stages"][name]
    assert stage["cmd"] == f"python -m stages.{name}"
    if "${scale}" in str(stage):
        keys = {key.partition(".")[0] for key in names_of(stage.get("params", []))}
        assert not keys & set(EXPERIMENT)
        assert "${data" not in str(stage)


IMAGENET = {"fig3_uniform_imagenet", "fig10_training_size_imagenet"}  # which few have
LONG = {
    "averaging",
    "batch_schedule",
    "memorisation",
    "methods_threshold",
    "recipe",
}  # at laptop scale alone
STUDIES = {key: registry.read_study(key) for key in registry.known()}
PAPERS = {key for key, study in STUDIES.items() if study.number}


def test_figures_are_all_figures_of_the_scale() -> None:
    chosen = read("params.yaml")["figures"]
    assert chosen == [key for key in STUDIES if key not in IMAGENET | LONG]


@pytest.mark.parametrize("scale", SCALES)
def test_scale_describes_every_figure(scale: str) -> None:
    missing = set() if scale == "paper" else IMAGENET
    described = set(read(f"scales/{scale}.yaml"))
    shared = {"confusion", "defaults"}
    assert {*shared, *PAPERS} - missing <= described <= {*shared, *STUDIES} - missing


@pytest.mark.parametrize(
    ("scale", "key"),
    [
        (scale, key)
        for scale in SCALES
        for key in read(f"scales/{scale}.yaml")
        if key not in ("confusion", "defaults")
    ],
)
def test_scale_is_valid(scale: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    grid = grids.read_grid(scale, key)
    assert len({point.train.device for point in grid.points}) == 1
    assert grids.read_confusion(scale)


def test_params_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert params_module.read_params().scale in SCALES


def plots() -> dict[str, dict[str, Any]]:
    """Return the top-level plots by title."""
    return {title: plot for entry in PIPELINE["plots"] for title, plot in entry.items()}


def commented_plots() -> dict[str, dict[str, Any]]:
    """Return the plots of what quick scale does not have, which stand in comments at the end."""
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8").partition("  # With ImageNet's")[2]
    lines = [line.removeprefix("  # ") for line in text.splitlines()[2:]]
    entries = yaml.safe_load("\n".join(lines))
    return {title: plot for entry in entries for title, plot in entry.items()}


@pytest.mark.parametrize("key", STUDIES)
def test_figure_has_its_plot(key: str) -> None:
    study = STUDIES[key]
    file = f"metrics/figures/${{scale}}/{key}.json"
    offered = commented_plots() if key in IMAGENET | LONG else plots()
    shown = {title: plot for title, plot in offered.items() if file in plot["y"]}
    assert len(shown) == 1
    (title,) = shown
    plot = shown[title]
    assert title.startswith(f"Figure {study.number}: " if study.number else study.topic)
    assert (plot["x"], plot["y"][file]) == (study.column, study.y)
    assert (plot["x_label"], plot["y_label"]) == (study.x_title, study.y_title)
    scaled = "curves" if study.x_scale == "linear" else f"curves_{study.x_scale}"
    assert plot["template"] == ("heatmap" if study.kind == "transitions" else scaled)


@pytest.mark.parametrize("title", plots())
def test_plot_has_its_template_and_its_data(title: str) -> None:
    plot = plots()[title]
    assert (ROOT / ".dvc" / "plots" / f"{plot['template']}.json").is_file()
    made = {
        out.replace("${item.key}", key)
        for stage in PIPELINE["stages"].values()
        for out in outs_of(stage)
        for key in STUDIES
    }
    assert set(plot["y"]) <= made


def digest(path: Path) -> str:
    """Return what DVC calls a file's or folder's content."""
    if path.is_file():
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    files = sorted(path.rglob("*.py"))
    entries = [{"md5": digest(f), "relpath": f.relative_to(path).as_posix()} for f in files]
    text = json.dumps(entries, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def test_recorded_results_are_of_this_code() -> None:
    """Else a fresh clone trains all figures again: ``dvc repro``, and commit ``dvc.lock``."""
    other = []
    for name, stage in read("dvc.lock")["stages"].items():
        files = [dep for dep in stage["deps"] if covers("stages", dep["path"], "/")]
        assert files, name
        for dep in files:
            if digest(ROOT / dep["path"]) != dep["md5"]:
                other.append((name, dep["path"]))
    assert not other
