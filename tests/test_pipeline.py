"""``dvc.yaml`` against the code: what a stage imports and reads, it must declare, and nothing else.

A module or key that a stage doesn't declare is the worst fault of a pipeline: results silently
stay as they were when it changes. One that it declares and doesn't use costs hours of retraining.
"""

import ast
import copy
import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.lib.config import reading as params_module
from stages.lib.studies import grids, registry

ROOT = Path(__file__).parents[1]
CODE = "stages/"
LIBRARY = ROOT / "stages/lib"
PACKAGES = sorted(path.parent.relative_to(ROOT).as_posix() for path in LIBRARY.rglob("__init__.py"))
KEY = "fig1_uniform_mnist"
SCALE_FILE = "scales/${scale}.yaml"
EXPERIMENT = ("data", "noise", "model", "train", "confusion")  # sections of params.yaml
WHOLE_SCALE, ONE_FIGURE = {"read_scale", "read_confusion"}, {"read_grid"}


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return content


PIPELINE = read("dvc.yaml")
SCALES = sorted(path.stem for path in (ROOT / "scales").glob("*.yaml"))
STAGES = list(PIPELINE["stages"])


def body(pipeline: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what a stage says, under ``do`` for those of ``foreach``."""
    stage = pipeline["stages"][name]
    content: dict[str, Any] = stage.get("do", stage)
    return content


def names_of(entries: list[Any]) -> set[str]:
    """Return the paths of outs or metrics, with or without options."""
    return {name for entry in entries for name in ([entry] if isinstance(entry, str) else entry)}


def main_module(stage: dict[str, Any]) -> Path:
    """Return the file that a stage's command runs."""
    found = re.match(r"python -m (stages\.\w+)(?: |$)", stage["cmd"])
    assert found, f"no command of ours: {stage['cmd']}"
    return ROOT / f"{found[1].replace('.', '/')}.py"


@cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below one, without the bodies of ``if TYPE_CHECKING``, which never run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from (other, *running(other))
        else:
            yield from (child, *running(child))


def project_file(module: str) -> Path | None:
    """Return the file of a module of this project, None for others and for packages."""
    file = ROOT / f"{module.replace('.', '/')}.py"
    return file if file.is_file() else None


@cache
def imported(tree: ast.Module) -> frozenset[Path]:
    """Return the project's files that a module imports itself, wherever the statement stands."""
    modules: set[str] = set()
    for node in running(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the checks know absolute imports only"
            modules |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(file for module in modules if (file := project_file(module)))


@cache
def needed_code(start: Path) -> frozenset[str]:
    """Return a module and what it imports, directly or not: the library's by their packages."""
    found, todo = {start}, [start]
    while todo:
        fresh = imported(parse(todo.pop())) - found
        found |= fresh
        todo += fresh
    return frozenset(
        (file.parent if LIBRARY in file.parents else file).relative_to(ROOT).as_posix()
        for file in found
    )


@cache
def keys_read(file: Path) -> frozenset[str]:
    """Return the keys of ``params.yaml`` whose values a stage uses: attributes of ``params``."""
    tree = parse(file)
    below = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    chains = (
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and id(node) not in below
    )
    return frozenset(c.removeprefix("params.") for c in chains if c.startswith("params."))


@cache
def functions_called(file: Path) -> frozenset[str]:
    return frozenset(
        node.func.attr
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    )


def declared(stage: dict[str, Any]) -> tuple[set[str], dict[str, set[str] | None]]:
    """Return the keys of ``params.yaml``, and by other file its keys (None: the whole file)."""
    keys: set[str] = set()
    others: dict[str, set[str] | None] = {}
    for entry in stage.get("params", []):
        if isinstance(entry, str):
            keys.add(entry)
        else:
            others |= {file: set(names) if names else None for file, names in entry.items()}
    return keys, others


def covers(section: str, key: str) -> bool:
    """Tell whether a declared section, or key, holds a key."""
    return key == section or key.startswith(f"{section}.")


def faults_of_code(stage: dict[str, Any]) -> list[str]:
    """Return how a stage's dependencies on code differ from what it imports."""
    needed = needed_code(main_module(stage))
    given = {dep for dep in stage["deps"] if dep.startswith(CODE)}
    return [f"missing dep {name}" for name in sorted(needed - given)] + [
        f"needless dep {name}" for name in sorted(given - needed)
    ]


def faults_of_params(stage: dict[str, Any]) -> list[str]:
    """Return how a stage's params differ from what its module reads."""
    file = main_module(stage)
    read_keys, (keys, others) = keys_read(file), declared(stage)
    faults = [
        f"missing param {key}"
        for key in sorted(read_keys)
        if not any(covers(section, key) for section in keys)
    ]
    faults += [
        f"needless param {section}"
        for section in sorted(keys)
        if not any(covers(section, key) or covers(key, section) for key in read_keys)
    ]
    calls = functions_called(file)
    loops = "for key in params.figures" in file.read_text(encoding="utf-8")
    expected: dict[str, set[str] | None] = {}
    if calls & WHOLE_SCALE or (calls & ONE_FIGURE and loops):
        expected = {SCALE_FILE: None}
    elif calls & ONE_FIGURE:
        expected = {SCALE_FILE: {"${item}", "defaults"}}
    studies = {"studies" if loops else "studies/${item}.yaml"} if calls & ONE_FIGURE else set()
    if (given := {dep for dep in stage["deps"] if dep.startswith("studies")}) != studies:
        faults.append(f"deps {given}, must be {studies}")
    if others != expected:
        faults.append(f"params of files {others}, must be {expected}")
    return faults


def faults_of_data(pipeline: dict[str, Any], name: str) -> list[str]:
    """Return the dependencies of a stage that neither a stage makes nor the repository holds."""
    made = {
        out
        for other in pipeline["stages"]
        for kind in ("outs", "metrics", "plots")
        for out in names_of(body(pipeline, other).get(kind, []))
    }
    return [
        f"dep {dep} that nothing makes"
        for dep in body(pipeline, name)["deps"]
        if dep not in made and not (ROOT / dep.replace("${item}", KEY)).exists()
    ]


def faults(pipeline: dict[str, Any]) -> list[str]:
    """Return everything that is wrong with a pipeline, a line each."""
    return [
        f"{name}: {fault}"
        for name in pipeline["stages"]
        for fault in [
            *faults_of_code(body(pipeline, name)),
            *faults_of_params(body(pipeline, name)),
            *faults_of_data(pipeline, name),
        ]
    ]


def test_stages_declare_what_they_import_and_read() -> None:
    assert faults(PIPELINE) == []


@pytest.mark.parametrize("stage", STAGES)
def test_removing_any_dependency_is_noticed(stage: str) -> None:
    for dep in [
        dep for dep in body(PIPELINE, stage)["deps"] if dep.startswith(("stages/", "studies"))
    ]:
        doctored = copy.deepcopy(PIPELINE)
        body(doctored, stage)["deps"].remove(dep)
        assert len(faults(doctored)) == 1


@pytest.mark.parametrize("stage", [name for name in STAGES if "params" in body(PIPELINE, name)])
def test_removing_any_param_is_noticed(stage: str) -> None:
    for param in body(PIPELINE, stage)["params"]:
        doctored = copy.deepcopy(PIPELINE)
        body(doctored, stage)["params"].remove(param)
        found = faults(doctored)
        assert found
        assert all(fault.startswith(f"{stage}: ") for fault in found)


@pytest.mark.parametrize(
    ("kind", "entry", "fault"),
    [
        ("deps", "stages/lib/plots", "train: needless dep stages/lib/plots"),
        ("deps", "stages/lib/gone.py", "train: needless dep stages/lib/gone.py"),
        ("deps", "data/gone", "train: dep data/gone that nothing makes"),
        ("params", "confusion.repeats", "train: needless param confusion.repeats"),
        ("params", "figures", "train: needless param figures"),
    ],
)
def test_adding_what_is_not_used_is_noticed(kind: str, entry: str, fault: str) -> None:
    doctored = copy.deepcopy(PIPELINE)
    body(doctored, "train")[kind].append(entry)
    assert fault in faults(doctored)


def test_both_forms_of_import_and_those_inside_functions_are_found() -> None:
    tree = ast.parse(
        "import stages.lib.noise.sampling\n"
        "from stages.lib.core import files as renamed\n"
        "from stages.lib.core.paths import NAME\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from stages.lib.studies import summaries\n"
        "def late():\n    from stages.lib.training import loop\n"
    )
    found = {file.stem for file in imported(tree)}
    assert found == {"sampling", "files", "paths", "loop"}


@pytest.mark.parametrize("package", ["stages", *PACKAGES])
def test_packages_hold_a_docstring_only(package: str) -> None:
    """Every import runs them, and no stage depends on the outer ones."""
    content = parse(ROOT / package / "__init__.py").body
    assert [type(node) for node in content] == [ast.Expr]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_calls_its_checked_params_params(stage: str) -> None:
    """The checks above find what is read by that name."""
    tree = parse(main_module(body(PIPELINE, stage)))
    targets = [
        dict(zip(map(ast.unparse, _items(node.targets[0])), _items(node.value), strict=True))
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and "read_params()" in ast.unparse(node.value)
    ]
    assert [ast.unparse(target["params"]) for target in targets] == ["read_params()"] * len(targets)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert len(targets) == sum(ast.unparse(call) == "read_params()" for call in calls)
    assert not any(ast.unparse(argument) == "params" for c in calls for argument in c.args)


def _items(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


@pytest.mark.parametrize(
    "stage", [name for name in STAGES if "${scale}" in str(PIPELINE["stages"][name])]
)
def test_figures_do_not_depend_on_the_experiment(stage: str) -> None:
    keys, _ = declared(body(PIPELINE, stage))
    assert not {key.partition(".")[0] for key in keys} & set(EXPERIMENT)
    assert "${data" not in str(body(PIPELINE, stage))


@pytest.mark.parametrize("stage", STAGES)
def test_commands_interpolate_only_names_that_are_checked(stage: str) -> None:
    """A shell runs them, so a value from a file could run anything."""
    command = body(PIPELINE, stage)["cmd"]
    arguments = command.replace("'${", "${").replace("}'", "}").split()
    assert arguments[:2] == ["python", "-m"]
    assert re.fullmatch(r"stages\.\w+", arguments[2])
    assert arguments[3:] in ([], ["${scale}"], ["${scale}", "${item}"])


IMAGENET = {"fig3_uniform_imagenet", "fig10_training_size_imagenet"}  # which few have
STUDIES = {key: registry.read_study(key) for key in registry.known()}
PAPERS = {key for key, study in STUDIES.items() if study.number}


def test_figures_are_all_figures_of_the_scale() -> None:
    chosen = read("params.yaml")["figures"]
    assert chosen == [key for key in STUDIES if key not in IMAGENET]


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
    """Return the plots of ImageNet's figures, which stand in comments at the end."""
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8").partition("  # With ImageNet's")[2]
    lines = [line.removeprefix("  # ") for line in text.splitlines()[1:]]
    entries = yaml.safe_load("\n".join(lines))
    return {title: plot for entry in entries for title, plot in entry.items()}


@pytest.mark.parametrize("key", STUDIES)
def test_figure_has_its_plot(key: str) -> None:
    study = STUDIES[key]
    file = f"metrics/figures/${{scale}}/{key}.json"
    offered = commented_plots() if key in IMAGENET else plots()
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
        out.replace("${item}", key)
        for name in STAGES
        for kind in ("outs", "metrics")
        for out in names_of(body(PIPELINE, name).get(kind, []))
        for key in STUDIES
    }
    assert set(plot["y"]) <= made


def digest(path: Path) -> str:
    """Return what DVC calls a file's or folder's content."""
    if path.is_file():
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    files = sorted(file for file in path.rglob("*.py"))
    entries = [{"md5": digest(f), "relpath": f.relative_to(path).as_posix()} for f in files]
    text = json.dumps(entries, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def test_recorded_results_are_of_this_code() -> None:
    """Else a fresh clone trains all figures again: ``dvc repro``, and commit ``dvc.lock``."""
    other = []
    for name, stage in read("dvc.lock")["stages"].items():
        files = [dep for dep in stage["deps"] if dep["path"].startswith(CODE)]
        assert files, name
        for dep in files:
            if digest(ROOT / dep["path"]) != dep["md5"]:
                other.append((name, dep["path"]))
    assert not other
