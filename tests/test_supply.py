"""Other people's code and data: pins, installation, audit, and what no module of ours may do."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement

from tools import audit

ROOT = Path(__file__).parents[1]
PIN_FILES = ["requirements.txt", "requirements-audit.txt", "benchmarks/requirements.txt"]

# --- pins


def read_pins(text: str) -> dict[str, tuple[Requirement, int]]:
    """Return each pin by its name, with how many hashes it has."""
    found = {}
    for pin in re.split(r"\n(?=\w)", text.strip()):
        head, *rest = re.sub(r"\n +#.*", "", pin).split(" \\\n")
        assert rest
        assert all(re.fullmatch(r" {4}--hash=sha256:[0-9a-f]{64}", line) for line in rest), head
        requirement = Requirement(head)
        assert re.fullmatch(r"==[0-9a-z.]+", str(requirement.specifier)), head
        found[requirement.name] = requirement, len(rest)
    return found


PINS = (ROOT / "requirements.txt").read_text()


@pytest.mark.parametrize("file", PIN_FILES)
def test_every_direct_dependency_is_one_version_with_hashes(file: str) -> None:
    pinned = read_pins((ROOT / file).read_text())
    wanted = re.sub(r"#.*", "", (ROOT / file).with_suffix(".in").read_text())
    for direct in map(Requirement, filter(None, map(str.strip, wanted.split("\n")))):
        requirement, _ = pinned[direct.name.replace(".", "-")]
        assert direct.specifier in ("", requirement.specifier)


def test_hashes_are_those_of_many_platforms() -> None:
    counts = {name: count for name, (_, count) in read_pins(PINS).items()}
    # At the least a wheel each for Linux, macOS and Windows.
    assert all(counts[name] > 5 for name in ("torch", "torchvision", "numpy", "pillow", "scipy"))
    # Alone has no wheel, so setup builds it; see the Makefile.
    assert counts["antlr4-python3-runtime"] == 1


# --- installation

FROM_INDEX = {"torch", "torchvision"}
PROGRAMS = {
    "python": '#!/bin/sh\nif [ "$1" = -m ]; then mkdir -p "$3/bin" && cp ./pip "$3/bin/pip"; fi\n',
    "pip": f"#!{sys.executable}\nimport json, pathlib, sys\n"
    "files = [f for option, f in zip(sys.argv, sys.argv[1:]) if option == '--requirement']\n"
    "texts = [pathlib.Path(f).read_text() for f in files]\n"
    "print(json.dumps([sys.argv[1:], ''.join(texts)]), file=open('log', 'a'))\n",
}


@pytest.fixture
def setup(tmp_path: Path) -> Callable[..., list[tuple[list[str], str]]]:
    """Return how to run `make setup` with a pip that only notes its arguments and pins."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(*arguments: str) -> list[tuple[list[str], str]]:
        handed_down = ("MAKE", "MFLAGS", "TORCH_INDEX")  # by an outer make
        environment = {k: v for k, v in os.environ.items() if not k.startswith(handed_down)}
        command = ["make", "setup", "PYTHON=./python", *arguments]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]

    return run


def test_setup_installs_nothing_without_a_hash(setup: Any) -> None:
    builder, source, wheels = calls = setup()
    assert [read_pins(text).keys() for _, text in calls] == [
        {"setuptools"}, {"antlr4-python3-runtime"}, read_pins(PINS).keys(),
    ]  # fmt: skip
    for arguments, _ in calls:
        assert "--require-hashes" in arguments
        assert "index" not in str(arguments)
    # Building runs a package's code, which may ask for more: only the pinned builder is there.
    assert {"--no-build-isolation", "--no-deps"} <= set(source[0])
    assert "--only-binary :all:" in " ".join(builder[0])
    assert "--only-binary :all:" in " ".join(wheels[0])


def test_setup_takes_two_packages_from_an_index_for_torch(setup: Any) -> None:
    *before, (last, text) = setup("TORCH_INDEX=https://example.org/cpu")
    assert all("--require-hashes" in arguments for arguments, _ in before)
    assert "example.org" not in str(before)
    pins = read_pins(PINS)
    left = pins.keys() - read_pins(before[-1][1]).keys()
    assert {name for name in left if not re.match("nvidia-|cuda-|triton$", name)} == FROM_INDEX
    assert len(left) > 12
    assert text == ""
    assert "--only-binary :all: --no-deps --index-url https://example.org/cpu" in " ".join(last)
    assert {each for each in last if "==" in each} == {str(pins[name][0]) for name in FROM_INDEX}


# --- the audit

ANSWERS = ("returncode", "stdout", "stderr")
ABSENT = "no distribution found for pip-audit"
WOULD = json.dumps({"install": [{"metadata": {"name": "a", "version": "2.0"}}]})


def report(*bad: str, unknown: str = "") -> str:
    """Return pip-audit's report on three packages, django among them."""
    hole = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
    every = {name: {"vulns": [hole] * (name in bad)} for name in ("a", "b", "django")}
    if unknown:
        every[unknown]["skip_reason"] = "not found"
    packages = [{"name": name, "version": "2.0", **facts} for name, facts in every.items()]
    return json.dumps({"dependencies": packages})


@pytest.fixture
def audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[dict[str, Any]], tuple[int, str]]:
    """Return how to audit one pin where programs answer a status, stdout and stderr as told."""
    monkeypatch.setattr("sys.argv", ["audit"])
    for name in ("TOOL", "PINS", "OPTIONAL_PINS", "TOOL_PINS"):
        monkeypatch.setattr(audit, name, tmp_path / name)
        (tmp_path / name).write_text(f"{'b' if 'OPT' in name else 'a'}==2.0 \\\n    --hash=x\n")
    monkeypatch.setattr(audit, "TOOL", tmp_path)
    monkeypatch.setattr(audit.venv, "create", lambda path, **_: path)

    def run(answers: dict[str, Any]) -> tuple[int, str]:
        everything: dict[str, Any] = {
            "found": {"a": "2.0", "pip": "9"}, " check": (0, ""), "core.analytics": (0, "false\n"),
            "--python": (0, ""), "--dry-run": (0, '{"install": []}'),
            "service=pypi": (1, report("django")), "service=osv": (1, "", "no way there"),
        } | answers  # fmt: skip

        def answer(*command: Any, stdin: str = "") -> Any:
            key = next(key for key in everything if key in " ".join(map(str, command)))
            return SimpleNamespace(**dict(zip(ANSWERS, (*everything[key], ""), strict=False)))

        found = [SimpleNamespace(name=n, version=v) for n, v in everything["found"].items()]
        monkeypatch.setattr(audit.metadata, "distributions", lambda: found)
        monkeypatch.setattr(audit, "run", answer)
        return audit.main(), capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("answers", "status", "words"),
    [
        ({}, 0, "vulnerabilities: nothing wrong"),
        ({"found": {"a": "2.0", "b": "2.0"}}, 0, "installed: nothing wrong"),
        ({"found": {"c_d": "1"}}, 1, "c-d 1 is installed and not pinned\n  delete .venv"),
        ({" check": (1, "x needs y")}, 1, "x needs y"),
        ({"--dry-run": (0, WOULD)}, 1, "a 2.0 is pinned and not installed"),
        ({"--dry-run": (1, "", "ERROR:\nno a==2.0")}, 1, "no a==2.0"),
        ({"core.analytics": (0, "true")}, 1, "core.analytics is true; must be false"),
        ({"core.analytics": (251, "")}, 1, "core.analytics is not set"),
        ({"--python": (1, "", ABSENT)}, 0, f"pip-audit cannot be installed: {ABSENT}"),
        ({"--python": (1, "", "THESE DO NOT MATCH THE HASHES")}, 1, "DO NOT MATCH"),
        ({"service=pypi": (1, report("django", "a"))}, 1, "a==2.0: PYSEC-1, mended in ['2.0']"),
        ({"service=pypi": (1, report("django", unknown="b"))}, 0, "AUDITED, unknown to pypi: b"),
        ({"service=pypi": (1, "", "no")}, 0, "ruled out. pypi: no; osv: no way there"),
        ({"service=pypi": (0, report())}, 0, "ruled out. pypi: knows of no vulnerability of dj"),
        ({"service=pypi": (0, report(unknown="django"))}, 0, "ruled out. pypi: knows of no"),
        ({"service=pypi": (1, ""), "service=osv": (1, report("django", "a"))}, 1, "a==2.0: PY"),
    ],
)
def test_the_audit_says_what_it_knows(
    answers: dict[str, Any], status: int, words: str, audited: Any
) -> None:
    got, text = audited(answers)
    assert words in text
    assert got == status
    assert ("WRONG" in text) == bool(status)


def test_builds_of_pytorchs_index_need_no_cuda(
    audited: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited({"found": {"torch": "2.0+cpu"}})
    answer, asked = audit.run, []
    monkeypatch.setattr(audit, "run", lambda *c, stdin="": (asked.append(stdin), answer(*c))[1])
    assert audit.compare_installed("nvidia-x==1\ntorch==2.0 --hash=x\ntriton==3\n") == []
    assert "torch==2.0 --hash=x" in asked


def test_dvc_reports_nothing() -> None:
    assert "analytics = false" in (ROOT / ".dvc/config").read_text()


# --- what no module may do

# Wherever one of these is said, it must have this value, which is also the default of numpy.load,
# torch.load, subprocess.run, torchvision's classes and ruamel.yaml.YAML, or as safe.
VALUES = {
    "allow_pickle": "False", "weights_only": "True", "shell": "False", "download": "False",
    "typ": "'safe'",
}  # fmt: skip


def values(source: str) -> Iterator[str]:
    """Yield where arguments have other values, or may hide in ``**`` of a subprocess."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            for said in node.keywords:
                value = ast.unparse(said.value)
                if said.arg in VALUES and value != VALUES[said.arg]:
                    yield f"{said.arg}={value}"
                if said.arg is None and ast.unparse(node.func).startswith("subprocess."):
                    yield f"**{value}"
        elif isinstance(node, ast.Name) and node.id in ("eval", "exec", "__import__"):
            yield node.id


def rules(*arguments: str, source: str = "") -> list[tuple[str, int, str]]:
    """Return what ruff's rules of bandit's and pyproject.toml's list of names find, noqa or not."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--ignore-noqa"]
    chosen = ["--select=S,TID251", "--ignore=S101,S311,S603,S607", "--output-format=json"]
    done = subprocess.run(
        [*command, *chosen, *arguments], cwd=ROOT, input=source, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    return [(Path(f["filename"]).name, f["location"]["row"], f["code"]) for f in found]


def modules() -> Iterator[Path]:
    for folder in ("stages", "tools", "benchmarks"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_no_module_runs_what_data_or_archives_hold() -> None:
    for file in modules():
        assert list(values(file.read_text())) == [], file
    found = {(file, code) for file, _, code in rules("stages", "tools", "benchmarks")}
    assert found == set()


def test_misdeeds_are_seen() -> None:
    source = "import pickle, joblib\nfrom os import popen as q\npickle.loads(x)\nq('x')\n"
    found = rules("--stdin-filename=stages/x.py", "-", source=source)
    assert found == [("x.py", 1, "TID251"), ("x.py", 3, "S301"), ("x.py", 4, "S605")]
    source = (
        "torch.load(f, weights_only=False); run(x, shell=wanted); map(eval, x)\n"
        "subprocess.run('x', **more); np.load(f, allow_pickle=False); f(**more); net.eval()"
    )
    assert [*values(source)] == ["weights_only=False", "shell=wanted", "**more", "eval"]


UNSAFE_URL = re.compile(r"(http|ftp)://[\w{%$]")


def test_no_address_is_without_https() -> None:
    assert UNSAFE_URL.search("f'http://{host}'")
    others = [*PIN_FILES, "requirements.in", "requirements-audit.in", "Makefile", ".ci/run"]
    for file in [*modules(), *(ROOT / name for name in others)]:
        assert not UNSAFE_URL.search(file.read_text()), file
