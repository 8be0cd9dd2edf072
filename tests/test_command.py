"""What stages share: their arguments and help, how their errors look, and how they end."""

import importlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
import yaml
from watching import runs, words

from stages import command
from stages.lib.config.yaml_files import ParamsError
from stages.lib.core.errors import DamagedError

ROOT = Path(__file__).parents[1]
SECONDS = 60  # far more than anything here takes

# --- arguments

MODULES = sorted(
    f"{path.parent.name}.{path.stem}"
    for path in [*(ROOT / "stages").glob("*.py"), *(ROOT / "tools").glob("*.py")]
    if path.stem not in ("__init__", "command")
)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str]]:
    """Return how to call a figure's stage, and what its ``main`` then gets."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "run", lambda body: body())

    def call(*arguments: str, dvc_stage: str = "") -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["stage", *arguments])
        monkeypatch.setenv("DVC_STAGE", dvc_stage)
        got: list[tuple[str, str]] = []
        command.stage(command.SCALE, command.KEY)(lambda scale, key: got.append((scale, key)))()
        return got[0]

    return call


@pytest.mark.parametrize(
    ("arguments", "dvc_stage", "expected"),
    [
        (("paper", "fig5"), "", ("paper", "fig5")),
        (("fig5",), "", ("quick", "fig5")),
        ((), "train_figure@fig1", ("quick", "fig1")),
        (("paper", "fig2"), "train_figure@fig1", ("paper", "fig2")),
    ],
)
def test_a_figure_is_named_by_arguments_or_by_dvc(
    arguments: tuple[str, ...], dvc_stage: str, expected: tuple[str, str], given: Any
) -> None:
    assert given(*arguments, dvc_stage=dvc_stage) == expected


@pytest.mark.parametrize(
    ("arguments", "dvc_stage", "error"),
    [
        ((), "", "the following arguments are required: KEY"),
        ((), "draw@", "the following arguments are required: KEY"),
        (("quick", "a", "b"), "x@y", "unrecognized arguments: b"),
        (("../x", "a"), "", "argument SCALE: got '../x'; accepted: a name, "),
        ((), "draw@../x", "argument KEY: got '../x'; accepted: a name, "),
        *(
            (("quick", name), "", f"argument KEY: got {name!r}; accepted: a name, ")
            for name in ("/etc", "a b", "A", "'; touch x; '", "$(touch x)", "a\n", "ä", "")
        ),
    ],
)
def test_what_names_no_figure_is_refused(
    arguments: tuple[str, ...], dvc_stage: str, error: str, given: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(SystemExit, match="2"):
        given(*arguments, dvc_stage=dvc_stage)
    assert f"error: {error}" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", MODULES)
def test_help_of_a_stage_names_what_it_writes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # without params.yaml
    monkeypatch.setattr(sys, "argv", [name.partition(".")[2], "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(name).main()
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m {name} [-h]")
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for body in pipeline.values():
        if body["cmd"] == f"python -m {name}":
            outs = yaml.safe_dump([body.get("outs"), body.get("metrics")])
            placeholders = {"scale": "SCALE", "item.key": "KEY", "data.name": "DATASET"}
            for variable, word in placeholders.items():
                outs = outs.replace(f"${{{variable}}}", word)
            for path in re.findall(r"(?:data|metrics|plots)/[^:\s]+", outs):
                assert path in said


def test_help_waits_for_no_torch() -> None:
    imports = "; ".join(f"import {name}" for name in MODULES)
    program = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


# --- errors


@pytest.fixture
def raised(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], int]:
    """Return how to run what raises an error; its status."""
    monkeypatch.setattr(command.processes, "answer_signals", lambda: None)
    return lambda error: command.run(Mock(side_effect=error))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ParamsError("params.yaml: x"), "error: params.yaml: x"),
        (DamagedError("a:\n  b"), "error: a: b"),
        (FileNotFoundError(2, "No such file", "x.json"), "error: [Errno 2] No such file: 'x.json'"),
        (
            MemoryError("Unable to allocate 3 GiB"),
            "error: not enough memory (Unable to allocate 3 GiB); ask for less, or free some; "
            "what was finished is kept: run again",
        ),
    ],
)
def test_an_error_of_the_users_is_one_line(
    error: Exception, line: str, raised: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raised(error) == 1
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize("error", [RuntimeError("shapes"), KeyError("x"), AssertionError()])
def test_a_fault_of_ours_keeps_its_traceback(error: Exception, raised: Any) -> None:
    with pytest.raises(type(error)):
        raised(error)


# --- ends

STAGE = """
    import os, sys, time
    from pathlib import Path
    time.sleep(float(os.environ["LATE"]))
    from stages.lib.core import files
    from stages.command import run

    def body():
        with files.replacing(Path(sys.argv[1]) / "result") as scratch:
            scratch.write_text("half")
            (Path(sys.argv[1]) / "ready").touch()
            time.sleep(100)

    sys.exit(run(body))
"""


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return how to start a stage that writes a file for a long time, once it is at it."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(STAGE), encoding="utf-8")
    with ExitStack() as stack:

        def begin(*wrapper: str, late: int = 0, **variables: str) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [*wrapper, sys.executable, str(script), str(tmp_path)],
                    env={**os.environ, "PYTHONPATH": str(ROOT), "LATE": str(late), **variables},
                    stderr=subprocess.PIPE, encoding="utf-8",
                )
            )  # fmt: skip
            stack.callback(process.kill)  # before it is waited for, where a test has failed
            wait_until(lambda: stages_below(process) if late else (tmp_path / "ready").exists())
            return process

        yield begin


def wait_until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def written(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.iterdir()} - {"script.py", "ready"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stage_that_is_told_to_end_cleans_up(
    number: signal.Signals, start: Start, tmp_path: Path
) -> None:
    process = start()
    process.send_signal(number)
    _, said = process.communicate(timeout=SECONDS)
    assert said == "error: interrupted; what was finished is kept: run again\n"
    assert process.returncode == 128 + number
    assert written(tmp_path) == set()


def test_a_stage_under_nohup_ignores_what_nohup_ignores(start: Start) -> None:
    """A shell's background jobs ignore Ctrl-C, which is meant for the foreground."""
    process = start("sh", "-c", 'trap "" INT; exec "$0" "$@"')
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGTERM


def stages_below(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the stage's process, if it is there, below what stands for DVC and perhaps a shell."""
    below = psutil.Process(process.pid).children(recursive=True)
    return [child for child in below if "".join(words(child)[1:2]).endswith("script.py")]


STAND_IN = "import subprocess, sys; subprocess.run(sys.argv[1:])"
SHELL = ("sh", "-c", '"$0" "$@"; true')  # it waits for its command


@pytest.mark.parametrize("late", [0, 2], ids=["at work", "importing"])
@pytest.mark.parametrize("shell", [(), SHELL], ids=["directly", "below a shell"])
def test_a_stage_ends_when_dvc_is_gone(
    shell: tuple[str, ...], late: int, start: Start, tmp_path: Path
) -> None:
    """If it still imports then, its parent, or the shell's, is one that adopts orphans."""
    dvc = start(sys.executable, "-c", STAND_IN, *shell, late=late, DVC_STAGE="draw@x")
    (stage,) = stages_below(dvc)
    dvc.kill()
    wait_until(lambda: not runs(stage))
    dvc.communicate(timeout=SECONDS)
    assert written(tmp_path) == set()  # it has cleaned up, too


def test_a_stage_that_was_started_by_hand_goes_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    shell = start(sys.executable, "-c", STAND_IN)
    (stage,) = stages_below(shell)
    shell.kill()
    shell.wait()
    time.sleep(2)  # four times what a stage of DVC's takes to notice
    assert runs(stage)
    stage.kill()
    shell.communicate(timeout=SECONDS)
