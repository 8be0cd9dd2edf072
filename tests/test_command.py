"""What stages share: how they are named, how their errors look, and how they end."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from watching import runs, words

from stages import command
from stages.lib.config.yaml_files import ParamsError
from stages.lib.core.errors import DamagedError

ROOT = Path(__file__).parents[1]
SECONDS = 60  # far more than anything here takes

# --- names


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return how to set what a stage is called with."""
    monkeypatch.chdir(ROOT)

    def call(*arguments: str, dvc_stage: str | None = None) -> None:
        monkeypatch.setattr(sys, "argv", ["stage", *arguments])
        monkeypatch.delenv("DVC_STAGE", raising=False)
        if dvc_stage is not None:
            monkeypatch.setenv("DVC_STAGE", dvc_stage)

    return call


def test_a_figure_is_named_by_arguments_or_by_dvc(called: Callable[..., None]) -> None:
    called("paper", "fig5_structured")
    assert command.figure_arguments() == ("paper", "fig5_structured")
    called(dvc_stage="train_figure@fig1_uniform_mnist")
    assert command.figure_arguments() == ("quick", "fig1_uniform_mnist")
    called("paper", "fig2", dvc_stage="train_figure@fig1_uniform_mnist")
    assert command.figure_arguments() == ("paper", "fig2")


def test_a_scale_is_named_by_its_argument_or_by_params(called: Callable[..., None]) -> None:
    called("paper")
    assert command.scale_argument() == "paper"
    for stage in (None, "fetch_figures"):
        called(dvc_stage=stage)
        assert command.scale_argument() == "quick"


@pytest.mark.parametrize(
    ("arguments", "stage"),
    [((), None), (("quick",), None), (("quick", "a", "b"), "x@y"), ((), "draw"), ((), "draw@")],
)
def test_a_figure_that_is_not_named_is_told(
    arguments: tuple[str, ...], stage: str | None, called: Callable[..., None]
) -> None:
    called(*arguments, dvc_stage=stage)
    with pytest.raises(ValueError, match=rf"got {len(arguments)} arguments; accepted: SCALE KEY"):
        command.figure_arguments()


@pytest.mark.parametrize(
    "name", ["../x", "/etc", "a b", "A", "'; touch pwned; '", "$(touch pwned)", "a\n", "ä", "-v"]
)
def test_what_is_no_name_is_refused(name: str, called: Callable[..., None]) -> None:
    for arguments, stage in ((("quick", name), None), ((name, "a"), None), ((), f"draw@{name}")):
        called(*arguments, dvc_stage=stage)
        with pytest.raises(ValueError, match="accepted: a name"):
            command.figure_arguments()


# --- errors


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
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage_that_raises(error)() == 1
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize("error", [RuntimeError("shapes"), KeyError("x"), AssertionError()])
def test_a_fault_of_ours_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        stage_that_raises(error)()


def stage_that_raises(error: Exception) -> Callable[[], int]:
    def main() -> None:
        raise error

    def run() -> int:
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            return command.stage(main)()
        finally:
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
                signal.signal(number, handler)

    return run


# --- ends

STAGE = """
    import sys, time
    from pathlib import Path
    from stages.lib.core import files
    from stages.command import stage

    @stage
    def main():
        with files.replacing(Path(sys.argv[1]) / "result") as scratch:
            scratch.write_text("half")
            (Path(sys.argv[1]) / "ready").touch()
            time.sleep(100)

    sys.exit(main())
"""


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return how to start a stage that writes a file for a long time, once it is at it."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(STAGE), encoding="utf-8")
    with ExitStack() as stack:

        def begin(*wrapper: str, **variables: str) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [*wrapper, sys.executable, str(script), str(tmp_path)],
                    env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
                    stderr=subprocess.PIPE, encoding="utf-8",
                )
            )  # fmt: skip
            stack.callback(process.kill)  # before it is waited for, where a test has failed
            wait_until(lambda: (tmp_path / "ready").exists())
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


def stage_below(process: subprocess.Popen[str]) -> psutil.Process:
    """Return the stage's process, below what stands for DVC and perhaps a shell."""
    (stage,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "".join(words(child)[1:2]).endswith("script.py")
    ]
    return stage


STAND_IN = "import subprocess, sys; subprocess.run(sys.argv[1:])"
SHELL = ("sh", "-c", '"$0" "$@"; true')  # it waits for its command


@pytest.mark.parametrize("shell", [(), SHELL], ids=["directly", "below a shell"])
def test_a_stage_ends_when_dvc_is_gone(
    shell: tuple[str, ...], start: Start, tmp_path: Path
) -> None:
    dvc = start(sys.executable, "-c", STAND_IN, *shell, DVC_STAGE="draw@x")
    stage = stage_below(dvc)
    dvc.kill()
    wait_until(lambda: not runs(stage))
    dvc.communicate(timeout=SECONDS)
    assert written(tmp_path) == set()  # it has cleaned up, too


@pytest.mark.parametrize("shell", [(), SHELL], ids=["directly", "below a shell"])
def test_a_stage_ends_that_dvc_has_left_before_it_looks(
    shell: tuple[str, ...], tmp_path: Path
) -> None:
    """It still imports when DVC dies: its parent, or the shell's, is one that adopts orphans."""
    late = 'import time; time.sleep(2); exec(open("script.py").read())'
    (tmp_path / "script.py").write_text(textwrap.dedent(STAGE), encoding="utf-8")
    dvc = subprocess.Popen(
        [sys.executable, "-c", STAND_IN, *shell, sys.executable, "-c", late, str(tmp_path)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "DVC_STAGE": "draw@x"},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: any("time.sleep(2)" in " ".join(words(c)) for c in below(dvc)))
    family = below(dvc)
    dvc.kill()
    dvc.wait()
    _, left = psutil.wait_procs(family, timeout=SECONDS)
    assert not [process for process in left if runs(process)]
    assert written(tmp_path) == set()


def below(process: subprocess.Popen[Any]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_a_stage_that_was_started_by_hand_goes_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    shell = start(sys.executable, "-c", STAND_IN)
    stage = stage_below(shell)
    shell.kill()
    shell.wait()
    time.sleep(2)  # four times what a stage of DVC's takes to notice
    assert runs(stage)
    stage.kill()
    shell.communicate(timeout=SECONDS)
