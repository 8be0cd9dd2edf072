"""Temporary copies of this repository, in which tests run the real git and the real DVC."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # DVC brings it
import yaml
from conftest import replaced
from watching import runs, words

ROOT = Path(__file__).parents[1]
RESULTS = ("metrics/", "plots/", "dvc.lock")  # of the pipeline's runs here; a copy makes its own
TIMEOUT_SECONDS = 1800  # the whole quick pipeline on a busy machine
GRACE_SECONDS = 10  # until processes have noticed that another is gone
STAGE_OF_FIGURES = "stages.train_figure"


@dataclass(frozen=True)
class Answer:
    """How a command ended: its exit status, and what it wrote to stdout and stderr."""

    status: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """Both streams."""
        return self.stdout + self.stderr

    @property
    def ran(self) -> list[str]:
        """The stages that DVC ran, in order."""
        return re.findall(r"Running stage '([^']+)'", self.text)

    @property
    def errors(self) -> list[str]:
        """The lines in which a stage says what is wrong."""
        return [line for line in self.text.splitlines() if line.startswith("error:")]


@dataclass(frozen=True)
class Repository:
    """A copy of this repository.

    Attributes:
        root: its working tree.
        around: the folder that holds it, and what git and DVC keep for a user.
    """

    root: Path
    around: Path

    @property
    def runs(self) -> Path:
        """The run store."""
        return self.root / ".runs"

    def environment(self) -> dict[str, str]:
        """Return the variables of commands: this Python first, nobody's settings, no network."""
        ours = ("DVC_", "GIT_", "PYTEST_", "DATA_MIRROR")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        away = "http://127.0.0.1:9"  # the discard port: nobody listens, so a request fails at once
        folders = ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE")
        return (
            kept
            | {f"DVC_{name}_DIR": str(self.around / name) for name in folders}
            | {
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")]),
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_CONFIG_NOSYSTEM": "1",
                "DVC_NO_ANALYTICS": "1",
                "NO_COLOR": "1",
                "COLUMNS": "1000",
                "http_proxy": away,
                "https_proxy": away,
                "no_proxy": "",
            }
        )

    def run(self, *command: str, variables: Mapping[str, str] | None = None) -> Answer:
        """Run a command to its end in the working tree."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment() | dict(variables or {}),
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def dvc(self, *arguments: str, variables: Mapping[str, str] | None = None) -> Answer:
        """Run DVC to its end."""
        return self.run(sys.executable, "-m", "dvc", *arguments, variables=variables)

    def succeed(self, *arguments: str, variables: Mapping[str, str] | None = None) -> Answer:
        """Run DVC and require that it ends well."""
        answer = self.dvc(*arguments, variables=variables)
        assert answer.status == 0, answer.text
        return answer

    def git(self, *arguments: str) -> str:
        """Run git, require that it ends well, and return what it said."""
        answer = self.run("git", *arguments)
        assert answer.status == 0, answer.text
        return answer.stdout

    def of_experiment(self, experiment: str, file: str) -> str:
        """Return a file's content in an experiment's commit."""
        listed = self.git("for-each-ref", "--format", "%(refname)", "refs/exps")
        (name,) = [line for line in listed.split() if line.endswith(f"/{experiment}")]
        return self.git("show", f"{name}:{file}")

    def commit(self, message: str) -> None:
        """Commit everything that is not ignored."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def write_yaml(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a YAML file, keys in the order given, equal parts each in full."""
        text = yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False)
        (self.root / name).write_text(text, encoding="utf-8")

    def snapshot(self, *names: str) -> dict[str, tuple[int, bytes]]:
        """Return time of change and content of every file below the named files and folders."""
        found = {}
        for name in names:
            for path in sorted([self.root / name, *(self.root / name).rglob("*")]):
                if path.is_file():
                    with suppress(FileNotFoundError):  # a scratch file or a checkpoint, just now
                        content = path.stat().st_mtime_ns, path.read_bytes()
                        found[path.relative_to(self.root).as_posix()] = content
        return found

    def kill_when(self, ready: Callable[[], bool], *arguments: str) -> None:
        """Start DVC and kill it and all that it started once ``ready()``, which must come first."""
        with self._started(ready, *arguments):
            pass

    def kill_stage_when(self, ready: Callable[[], bool], *arguments: str) -> list[str]:
        """Start DVC, kill its stage's process alone once ``ready()``, and wait for DVC's end.

        Returns:
            The commands of the processes that are there `GRACE_SECONDS` later.
        """
        with self._started(ready, *arguments) as process:
            family = psutil.Process(process.pid).children(recursive=True)
            next(p for p in family if words(p)[1:3] == ["-m", STAGE_OF_FIGURES]).kill()
            assert process.wait(TIMEOUT_SECONDS) != 0
            psutil.wait_procs(family, timeout=GRACE_SECONDS)
            return [" ".join(words(member)) for member in family if runs(member)]

    @contextmanager
    def _started(
        self, ready: Callable[[], bool], *arguments: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start DVC, yield its process once ``ready()``, and kill what is left of its group.

        On one core, where the system can be told so, a stage trains one run after another.
        """

        def limit() -> None:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])

        log = self.around / "killed.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "dvc", *arguments],
                cwd=self.root,
                env=self.environment(),
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                preexec_fn=limit,
            )
            try:
                deadline = time.monotonic() + TIMEOUT_SECONDS
                while not ready():
                    said = log.read_text(encoding="utf-8")
                    assert process.poll() is None, f"ended before it could be killed:\n{said}"
                    assert time.monotonic() < deadline, f"never ready to be killed:\n{said}"
                    time.sleep(0.02)
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def clone(around: Path) -> Repository:
    """Copy the files that git tracks or would track, without results, to a new repository."""
    repository = Repository(around / "repository", around)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    for name in sorted(set(listed.stdout.split("\0")) - {""}):
        source, target = ROOT / name, repository.root / name
        if source.is_file() and not name.startswith(RESULTS):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    repository.git("init", "--quiet", "--initial-branch", "main")
    for setting in ("user.name Test", "user.email test@example.org", "commit.gpgsign false",
                    "core.autocrlf false"):  # fmt: skip
        repository.git("config", *setting.split())
    repository.commit("Start")
    return repository


def duplicate(original: Repository, around: Path) -> Repository:
    """Copy a whole repository with its history, cache and results, times of change included."""
    root = around / "repository"
    shutil.copytree(original.root, root, symlinks=True)
    return Repository(root, around)


def set_params(repository: Repository, values: Mapping[str, Any]) -> None:
    """Change values of ``params.yaml``, named ``SECTION.KEY`` or ``KEY``."""
    content = yaml.safe_load((repository.root / "params.yaml").read_text(encoding="utf-8"))
    repository.write_yaml("params.yaml", replaced(content, dict(values)))


TINY: dict[str, dict[str, Any]] = {
    "data": {"name": "digits", "path": None, "size": None, "originals": 200, "validation": 100},
    "noise": {
        "kind": "uniform", "alpha": 2, "delta": 0.0, "order": "confusing", "images": "same",
    },
    "model": {"name": "perceptron", "width": 1.0, "batch_norm": False},
    "train": {
        "loss": "cross_entropy", "learning_rates": [0.5, 1.0], "batch_size": 32, "rho": 0.95,
        "epsilon": 1e-6, "init": "he", "zero_output": True, "epochs": 0.0, "min_samples": 1600,
        "weight_decay": 0.0, "augmentation": "none", "average": 0.0, "early_stopping": False,
        "seeds": [0, 1], "device": "cpu", "precision": "float32", "stacking": "auto",
    },
}  # fmt: skip
TINY_CONFUSION = {
    "subset": 100, "held_out": 200, "repeats": 2, "model": "perceptron", "width": 1.0,
    "learning_rate": 1.0, "batch_size": 32, "min_samples": 640,
}  # fmt: skip


def tiny_config(**train: Any) -> dict[str, dict[str, Any]]:
    """Return the sections of an experiment on scikit-learn's digits that trains in an instant."""
    return TINY | {"train": TINY["train"] | train}


def tiny_params(figures: Sequence[str]) -> dict[str, Any]:
    """Return a whole ``params.yaml`` of the same size, for the scale ``tiny``."""
    return TINY | {"confusion": TINY_CONFUSION, "scale": "tiny", "figures": list(figures)}


def tiny_scale() -> dict[str, Any]:
    """Return ``scales/tiny.yaml``: one figure of each kind, and two that share their points."""
    one = tiny_config(learning_rates=[1.0])
    structured = one | {"noise": one["noise"] | {"kind": "structured", "alpha": 10}}
    size = one | {"grids": [{"noise.alpha": [0, 2], "data.originals": [40, 200]}]}
    whole = {
        "defaults": {},
        "confusion": TINY_CONFUSION,
        "fig1_uniform_mnist": one
        | {"grids": [{"model.name": ["perceptron", "conv2"], "noise.alpha": [0, 2]}]},
        "fig4_noise_models": structured
        | {"grids": [{"noise.order": ["confusing", "random"], "noise.delta": [0.5, 1.0]}]},
        "fig5_structured": structured
        | {"grids": [{"noise.order": ["confusing", "reverse"], "noise.delta": [0.0, 1.0]}]},
        "fig8_training_size": size,
        "fig9_critical_size": size | {"targets": [0.5, 0.7]},
    }
    scale: dict[str, Any] = json.loads(json.dumps(whole))  # no part twice: YAML has no aliases
    return scale
