"""The commands for the first minutes on a GPU: what is known is kept, and they run on a CPU."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest
from gpu_steps import crashes, hangs, lacks, looks, raises, read, refuses, run, works
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from repository import ROOT

from benchmarks.gpu import __main__ as entrance
from benchmarks.gpu import bundle, fast, incoming, results, steps
from benchmarks.gpu.runner import Setup, Step
from stages.lib.core import files, paths
from stages.lib.core.errors import UserError

DATA = Path(os.environ.get("TEST_DATA", ROOT.parent / "shared" / "data"))
KEY = "fig1_uniform_mnist"
#: What a machine with PyTorch has; and some of what it may lack.
THERE = ("torch", "torchvision", "numpy", "scikit-learn", "scipy", "tqdm", "psutil", "pyyaml")
FOREIGN = ("dvc", "matplotlib", "mlxtend", "pydantic", "ruamel", "seaborn")


# --- steps


def test_a_step_that_fails_costs_itself_alone(tmp_path: Path, capfd: Any) -> None:
    todo = [
        Step("raises", raises, 60),
        Step("before", looks, 60),
        Step("crashes", crashes, 60, guards="A_VARIABLE"),
        Step("looks", looks, 60),
        Step("lacks", lacks, 60),
        Step("hangs", hangs, 1),
        Step("cuda", works, 60, cuda_only=True),
        Step("works", works, 60),
    ]
    whole, found = run(todo, tmp_path)
    assert not whole
    assert {name: entry["status"] for name, entry in found.items()} == {
        "raises": "failed", "before": "done", "crashes": "died", "looks": "done",
        "lacks": "done", "hangs": "out of time", "cuda": "not run", "works": "done",
    }  # fmt: skip
    assert found["raises"]["found"] == {"before": 1}
    assert "ZeroDivisionError: by zero" in found["raises"]["traceback"]
    assert found["crashes"]["found"] == {"before": 2}
    assert [found[name]["found"]["variable"] for name in ("before", "looks")] == ["on", "off"]
    assert found["crashes"]["why"] == f"exit code {-signal.SIGSEGV}"
    assert not psutil.pid_exists(found["hangs"]["found"]["pid"])
    assert found["lacks"]["found"] == {"smaller": 2}
    assert found["cuda"]["why"] == "needs a CUDA device"
    assert found["works"]["found"] == {"value": "inf"}  # which JSON has no number for
    assert "raises: so far" in capfd.readouterr().out


def test_what_others_need_ends_the_command_in_one_line(tmp_path: Path) -> None:
    todo = [Step("refuses", refuses, 60, needed=True), Step("works", works, 60)]
    with pytest.raises(UserError, match=r"^no data$"):
        run(todo, tmp_path)
    found = read(tmp_path / "check.json")["steps"]
    assert found["refuses"]["status"] == "failed"
    assert found["works"] == {"status": "not run", "why": "refuses was not done"}
    whole, found = run([Step("works", works, 60)], tmp_path, minutes=0.1)
    assert whole
    assert found["works"] == {"status": "not run", "why": "no minutes left"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_kill_in_the_middle_leaves_what_was_known(number: int, tmp_path: Path) -> None:
    script = (
        "import gpu_steps as t, sys; from pathlib import Path\n"
        "from stages.lib.core import processes\n"
        "processes.answer_signals()\n"
        "t.run([t.Step('works', t.works, 60), t.Step('hangs', t.hangs, 60)], Path(sys.argv[1]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        found = wait_for(lambda: read(tmp_path / "check.json")["steps"]["hangs"]["found"]["pid"])
        process.send_signal(number)
    wait_for(lambda: not psutil.pid_exists(found) or 1 / 0)
    left = read(tmp_path / "check.json")["steps"]
    assert left["works"]["status"] == "done"
    assert left["hangs"]["status"] == ("interrupted" if number == signal.SIGTERM else "running")
    assert left["hangs"]["found"] == {"pid": found}


def wait_for(ask: Callable[[], Any], seconds: float = 60) -> Any:
    """Return what a question is answered once it raises nothing."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except (OSError, ValueError, KeyError, ZeroDivisionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


# --- the commands


@pytest.mark.parametrize("minutes", ["10", "soon"])
def test_minutes_that_there_are_not_are_told(minutes: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        entrance.parser().parse_args(["check", "--minutes", minutes, "--out", "out"])
    said = capsys.readouterr().err
    assert f"argument --minutes: got '{minutes}'; accepted: a number above 0, at most 9" in said


def test_a_device_or_data_that_are_not_there_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast.torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^--device: got 'cuda', and PyTorch finds none"):
        fast.device(Setup("cuda", tmp_path, tmp_path, tmp_path), works)
    (tmp_path / "mirror").mkdir()
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):  # no source answers, wherever this runs
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"^mnist: not in .*, and no source can be reached; bring"):
        results.data(Setup("cpu", tmp_path, tmp_path, tmp_path), works)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the report of a rehearsal of `check` on the CPU."""
    out = tmp_path_factory.mktemp("checked")
    command = [sys.executable, "-m", "benchmarks.gpu", "check", "--device", "cpu"]
    one = {**os.environ, "OMP_NUM_THREADS": "1"}  # which other work on the machine slows less
    subprocess.run([*command, "--minutes", "3", "--out", str(out)], cwd=ROOT, env=one, check=True)
    return read(out / "check.json")


def test_the_check_goes_through_on_a_cpu(checked: dict[str, Any]) -> None:
    assert checked["rehearsal"] is True
    states = {name: entry["status"] for name, entry in checked["steps"].items()}
    wanted = {each.name: "not run" if each.cuda_only else "done" for each in steps.CHECK}
    assert states == wanted
    assert all(entry["found"] for entry in checked["steps"].values() if entry["status"] == "done")


def test_the_fastest_right_way_is_chosen(checked: dict[str, Any]) -> None:
    def row(way: str, precision: str, rate: float) -> dict[str, Any]:
        return {"stacking": way, "precision": precision, "steps_per_second": rate}

    rows = [
        row("loop", "float32", 1.0), row("loop", "tf32", 3.0), row("grouped", "tf32", 4.0),
        row("batched", "tf32", 9.0), {"error": "out of memory"},
    ]  # fmt: skip
    ways = ("loop, float32", "loop, tf32", "grouped, tf32")  # batched was never compared
    right = {f"conv2, K = {k}, {way}": {"ok": True} for k in (1, 3) for way in ways}
    found = {
        "steps conv4": {"found": dict(enumerate(rows))},
        "gradients": {"found": right},
    }
    assert fast.best(found) == {"conv4": rows[2]}
    wrong = {"K = 3, grouped, tf32, augmentation none": {"ok": False}}
    assert fast.best({**found, "captured conv2": {"found": wrong}}) == {"conv4": rows[1]}
    wrong = {**right, "conv2, K = 3, loop, tf32": {"ok": False}}
    found["gradients"]["found"] = wrong
    assert fast.best(found) == {"conv4": rows[2]}
    # The names by which they are looked up are those that are told.
    assert set(checked["best"]) == set(fast.MEASURED)


# --- what travels


def test_finished_trainings_travel(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    points = [there / f"{digit * 32}.json" for digit in "0a"]
    for k, path in enumerate(points):
        files.write_json(path, {"number": k})
    assert bundle.pack(points, tmp_path / "store.tar.gz") == 2
    files.write_json(here / points[1].name, {"number": 7})
    found = bundle.restore(tmp_path / "store.tar.gz", here)
    assert [files.read_json(path)["number"] for path in found] == [0, 7]  # what is there stays


@pytest.mark.parametrize("kind", ["name", "link", "content", "cut"])
def test_an_archive_of_anything_else_is_refused(kind: str, tmp_path: Path) -> None:
    name = "../x.json" if kind == "name" else f"{'0' * 32}.json"
    file, archive = tmp_path / "file", tmp_path / "store.tar.gz"
    files.write_json(file, {"number": 1})
    if kind == "content":
        file.write_text(file.read_text().replace("1", "2", 1))
    if kind == "link":
        (tmp_path / "link").symlink_to(file)
        file = tmp_path / "link"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(file, arcname=name)
    if kind == "cut":
        archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(UserError):
        bundle.restore(archive, tmp_path / "store")
    assert not (tmp_path / "x.json").exists()
    assert not (tmp_path / "store").exists()


# --- what comes back


@pytest.fixture
def back(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that came back, with a figure of scale quick that is recorded here."""
    folder = workspace / "back"
    for source, target in (
        (paths.figure_metrics("quick", KEY), folder / f"{KEY}.json"),
        (paths.figure_times("quick", KEY), folder / f"{KEY}.times.json"),
        (paths.scale_file("quick"), workspace / "scales/quick.yaml"),
    ):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / source).read_bytes())
    report = {"device": "cuda", "steps": {"a": {"status": "done"}, "b": {"status": "failed"}}}
    for name in incoming.COMMANDS:
        (folder / f"{name}.json").write_text(json.dumps(report), encoding="utf-8")
    return folder


def test_what_came_back_is_recorded(back: Path, workspace: Path, capsys: Any) -> None:
    incoming.take_over(back)
    for source, target in (
        (f"{KEY}.json", paths.figure_metrics("quick", KEY)),
        (f"{KEY}.times.json", paths.figure_times("quick", KEY)),
    ):
        assert (workspace / target).read_bytes() == (back / source).read_bytes()
    for suffix in ("svg", "png"):
        assert (workspace / paths.figure_picture("quick", KEY, suffix)).stat().st_size > 1000
    for name in incoming.COMMANDS:
        recorded = read(workspace / f"benchmarks/results/gpu-{name}-cuda.json")
        assert recorded == read(back / f"{name}.json")
    said = capsys.readouterr().out
    assert "gpu-check-cuda.json: 1 steps done, 1 steps failed" in said
    assert "15 of 15 points" in said


@pytest.mark.parametrize("kind", ["another grid", "fewer points"])
def test_a_figure_that_may_not_stand_for_its_scales_changes_nothing(
    kind: str, back: Path, workspace: Path
) -> None:
    report = files.read_json(back / f"{KEY}.json")
    if kind == "fewer points":
        incoming.take_over(back)
        del report["points"][0]
    else:
        report["points"][0]["config"]["data"]["originals"] -= 1
    files.write_json(back / f"{KEY}.json", report)
    before = {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"not taken|not replaced"):
        incoming.take_over(back)
    with pytest.raises(UserError, match=r"holds no check.json or results.json"):
        incoming.take_over(workspace)
    assert before == {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file()}


# --- all of it, where little is installed


def required(names: Iterable[str]) -> set[str]:
    """Return distributions with all that they require here."""
    found, todo = set[str](), [canonicalize_name(name) for name in names]
    while todo:
        if (name := todo.pop()) in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(canonicalize_name(requirement.name))
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Python like that of a machine with PyTorch: with what `THERE` names alone."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (ours,) = (Path(p) for p in sys.path if p.endswith("site-packages"))
    (theirs,) = folder.glob("lib/python*/site-packages")
    for name in required(THERE):
        for file in metadata.files(name) or []:
            top = file.parts[0]
            if top != ".." and top != "__pycache__" and not (theirs / top).exists():
                (theirs / top).symlink_to(ours / top)
    return folder / "bin/python"


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "MNIST").is_dir(), reason=f"no MNIST in {DATA}; set TEST_DATA")
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the git repository")
def test_both_commands_run_from_the_bundle_and_the_tracked_files(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_MIRROR", str(DATA))
    tree, out = tmp_path / "tree", tmp_path / "out"
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in listed.split("\0")[:-1]:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes())
    bundle.gather(tree / entrance.BUNDLE)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    for name in FOREIGN:
        found = subprocess.run([bare, "-c", f"import {name}"], capture_output=True, check=False)
        assert b"No module named" in found.stderr
    for name in incoming.COMMANDS:
        command = [bare, "-m", "benchmarks.gpu", name, "--device", "cpu", "--minutes", "3"]
        subprocess.run([*command, "--out", out], cwd=tree, env=environment, check=True)
        states = {key: each["status"] for key, each in read(out / f"{name}.json")["steps"].items()}
        wanted = {"check": steps.CHECK, "results": steps.RESULTS}[name]
        assert states == {e.name: "not run" if e.cuda_only else "done" for e in wanted}
    sizes = {path.name: path.stat().st_size for path in out.iterdir()}
    assert set(sizes) == {
        "check.json", "results.json", bundle.STORE, f"{KEY}.json", f"{KEY}.times.json"
    }  # fmt: skip
    assert max(sizes.values()) < 16 << 20
    # The next slice goes on from what came back: nothing is trained again, and all of it is told.
    (out / bundle.STORE).replace(tree / entrance.BUNDLE / bundle.STORE)
    (tmp_path / "again").mkdir()  # with the check, whose speeds choose the precision
    (tmp_path / "again/check.json").write_bytes((out / "check.json").read_bytes())
    again = [bare, "-m", "benchmarks.gpu", "results", "--device", "cpu", "--minutes", "3"]
    subprocess.run([*again, "--out", tmp_path / "again"], cwd=tree, env=environment, check=True)
    first, second = (read(each / "results.json")["steps"] for each in (out, tmp_path / "again"))
    for name in ("perceptron", "mlp2", "others"):
        assert first[name]["found"] == second[name]["found"]  # with the seconds that they took
    assert not [*(tree / ".runs").glob("*.json")]
    monkeypatch.chdir(tree)
    incoming.take_over(out)
    assert read(tree / "benchmarks/results/gpu-check-cpu.json") == read(out / "check.json")
    assert not paths.figure_metrics("paper", KEY).exists()  # a rehearsal is no result
    assert not [*(tree / ".runs").glob("*.json")]
