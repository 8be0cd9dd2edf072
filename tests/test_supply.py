"""Other people's code and data: pins, installation, audit, and what no module of ours may do."""

import ast
import configparser
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tools import audit

REPOSITORY = Path(__file__).parents[1]
PIN_FILES = ["requirements.txt", "requirements-audit.txt", "benchmarks/requirements.txt"]
HASH = "sha256:" + "0123456789abcdef" * 4


# --- pins


def stanzas(text: str) -> dict[str, str]:
    """Return the lines of each pin by its line of name, version and marker, without comments."""
    found: dict[str, str] = {}
    for stanza in re.split(r"\n(?=[^ ])", text.strip()):
        head, *rest = stanza.split(" \\\n")
        found[head] = "\n".join(rest)
    return found


def names(text: str) -> list[str]:
    return sorted(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))


@pytest.mark.parametrize("file", PIN_FILES)
def test_every_requirement_is_one_version_with_hashes(file: str) -> None:
    found = stanzas((REPOSITORY / file).read_text())
    assert len(found) > 2
    for head, rest in found.items():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+( ; [a-z_]+ [^\\]+)?", head)
        lines = [line for line in rest.split("\n") if not re.match(r" +#", line)]
        assert lines
        assert all(re.fullmatch(r" {4}--hash=sha256:[0-9a-f]{64}", line) for line in lines)
    assert audit.check_pins([REPOSITORY / file]).wrong == ()


def test_hashes_are_those_of_many_platforms() -> None:
    found = stanzas((REPOSITORY / "requirements.txt").read_text())
    counts = {head.partition("==")[0]: rest.count("--hash") for head, rest in found.items()}
    # At the least a wheel each for Linux, macOS and Windows.
    assert all(counts[name] > 5 for name in ("torch", "torchvision", "numpy", "pillow", "scipy"))
    # Alone has no wheel, so setup builds it; see the Makefile.
    assert counts["antlr4-python3-runtime"] == 1


@pytest.mark.parametrize("file", PIN_FILES)
def test_direct_dependencies_are_pinned(file: str) -> None:
    pinned = {
        (requirement := Requirement(head)).name: requirement.specifier
        for head in stanzas((REPOSITORY / file).read_text())
    }
    wanted = (REPOSITORY / file).with_suffix(".in").read_text()
    for line in re.sub(r"#.*", "", wanted).split("\n"):
        if line.strip():
            direct = Requirement(line.strip())
            name = direct.name.replace(".", "-")
            assert name in pinned
            assert not direct.specifier or direct.specifier == pinned[name]


def test_dvc_reports_nothing() -> None:
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / ".dvc/config")
    assert settings["core"]["analytics"] == "false"


# --- installation

FAKE_PYTHON = """#!/bin/sh
if [ "$1" = -m ]; then mkdir -p "$3/bin" && cp ./pip "$3/bin/pip"; fi
"""
FAKE_PIP = """#!{python}
import json, pathlib, sys
files = [f for option, f in zip(sys.argv, sys.argv[1:]) if option == "--requirement"]
texts = [pathlib.Path(f).read_text() for f in files]
with open("log", "a") as log:
    print(json.dumps([sys.argv[1:], texts]), file=log)
"""


def write_program(file: Path, text: str) -> Path:
    file.write_text(text.replace("{python}", sys.executable))
    file.chmod(0o755)
    return file


@pytest.fixture
def setup(tmp_path: Path) -> Callable[..., list[tuple[list[str], str]]]:
    """Return a function that runs `make setup` with a pip that only notes how it is called."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    write_program(tmp_path / "python", FAKE_PYTHON)
    write_program(tmp_path / "pip", FAKE_PIP)

    def run(*arguments: str) -> list[tuple[list[str], str]]:
        handed_down = ("MAKE", "MFLAGS", "TORCH_INDEX")  # by an outer make
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(handed_down)
        }
        command = ["make", "setup", "PYTHON=./python", *arguments]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        calls = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        return [(arguments, "".join(texts)) for arguments, texts in calls]

    return run


def test_setup_installs_nothing_without_a_hash(setup) -> None:  # type: ignore[no-untyped-def]
    calls = setup()
    assert [names(text) for _, text in calls] == [
        ["setuptools"],
        ["antlr4-python3-runtime"],
        names((REPOSITORY / "requirements.txt").read_text()),
    ]
    for arguments, text in calls:
        assert "--require-hashes" in arguments
        assert not any("index" in argument for argument in arguments)
        assert all("--hash=sha256:" in rest for rest in stanzas(text).values())
    # Building runs a package's code, which may ask for more: only the pinned builder is there.
    source = calls[1][0]
    assert {"--no-build-isolation", "--no-deps"} <= set(source)
    for arguments, _ in (calls[0], calls[2]):
        assert arguments[arguments.index("--only-binary") + 1] == ":all:"


def test_setup_takes_two_packages_from_an_index_for_torch(setup) -> None:  # type: ignore[no-untyped-def]
    *before, (arguments, text) = setup("TORCH_INDEX=https://example.org/cpu")
    everything = names((REPOSITORY / "requirements.txt").read_text())
    hashed = names(before[-1][1])
    assert all("--require-hashes" in arguments for arguments, _ in before)
    assert not any("example.org" in str(arguments) for arguments, _ in before)
    left = Counter(everything) - Counter(hashed)
    only_cuda = [name for name in left if re.match("nvidia-|cuda-|triton$", name)]
    assert sorted(left.elements()) == sorted(["torch", "torchvision", *only_cuda])
    assert len(only_cuda) > 10
    for needed in (
        "filelock", "fsspec", "jinja2", "mpmath", "networkx", "sympy", "typing-extensions",
    ):  # fmt: skip
        assert needed in hashed
    assert text == ""
    assert {"--no-deps", "--only-binary"} <= set(arguments)
    assert arguments[arguments.index("--index-url") + 1] == "https://example.org/cpu"
    versions = (REPOSITORY / "requirements.txt").read_text()
    pins = [argument for argument in arguments if "==" in argument]
    assert [pin.partition("==")[0] for pin in pins] == ["torch", "torchvision"]
    assert all(f"\n{pin} \\\n" in versions for pin in pins)


# --- the audit


def write_pins(file: Path, *pins: str) -> Path:
    file.write_text("".join(f"{pin} \\\n    --hash={HASH}\n    # via us\n" for pin in pins))
    return file


def test_pins_are_read(tmp_path: Path) -> None:
    file = write_pins(tmp_path / "pins.txt", "A_b.c==1.2", "d==3 ; sys_platform == 'nowhere'")
    first, second = audit.read_pins(file)
    assert (first.name, first.version, first.hashes, first.applies) == (
        "a-b-c",
        "1.2",
        (HASH,),
        True,
    )
    assert (second.name, second.version, second.applies) == ("d", "3", False)
    check = audit.check_pins([file])
    assert check.wrong == ()
    assert "2 in pins.txt" in str(check)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a==1", "a==1 has no sha256"),
        ("a==1 --hash=md5:0123", "a==1 has no sha256"),
        ("a==1 --hash=sha256:0123", "a==1 has no sha256"),
        (f"a>=1 --hash={HASH}", "a>=1 is not pinned"),
        (f"a==1.* --hash={HASH}", "is not pinned"),
        (f"a==1,!=2 --hash={HASH}", "is not pinned"),
        (f"a --hash={HASH}", "a is not pinned"),
    ],
)
def test_loose_pins_are_told(line: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "pins.txt").write_text(f"{line}\nb==1 --hash={HASH}\n")
    (told,) = audit.check_pins([tmp_path / "pins.txt"]).wrong
    assert words in told


@pytest.mark.parametrize(
    "line", ["--extra-index-url https://example.org", "-r more.txt", "./a.whl"]
)
def test_other_lines_than_pins_are_told(line: str, tmp_path: Path) -> None:
    (tmp_path / "pins.txt").write_text(f"a==1 --hash={HASH}\n{line}\n")
    with pytest.raises(audit.WrongError, match=f"'{re.escape(line)}' is no pin"):
        audit.check_pins([tmp_path / "pins.txt"])


PINNED = [
    "torch==2.0", "torchvision==0.5", "numpy==1.0", "scipy==1.0 ; sys_platform == 'nowhere'",
    "triton==3.0", "nvidia-x==1", "cuda-y==1",
]  # fmt: skip
FITTING = {
    "torch": "2.0", "torchvision": "0.5", "numpy": "1.0", "pip": "9", "triton": "3.0",
    "nvidia-x": "1", "cuda-y": "1",
}  # fmt: skip
FROM_CPU_INDEX = {"torch": "2.0+cpu", "torchvision": "0.5+cpu", "numpy": "1.0", "pip": "9"}


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (FITTING, []),
        (FITTING | {"extra": "1"}, []),
        (FROM_CPU_INDEX, []),
        (FITTING | {"numpy": "1.1"}, ["numpy 1.1 is installed; 1.0 is pinned"]),
        (FITTING | {"numpy": "1.0+local"}, ["numpy 1.0+local is installed; 1.0 is pinned"]),
        (FROM_CPU_INDEX | {"torch": "2.1+cpu"}, ["torch 2.1+cpu is installed; 2.0 is pinned"]),
        (FITTING | {"extra": "2"}, ["extra 2 is installed; 1 is pinned"]),
        (FITTING | {"scipy": "1.0"}, ["scipy 1.0 is installed and not pinned"]),
        (FITTING | {"left-over": "2"}, ["left-over 2 is installed and not pinned"]),
        (
            {name: version for name, version in FITTING.items() if name not in ("numpy", "triton")},
            ["numpy 1.0 is not installed", "triton 3.0 is not installed"],
        ),
    ],
)  # fmt: skip
def test_what_is_installed_must_be_what_is_pinned(
    found: dict[str, str], wrong: list[str], tmp_path: Path
) -> None:
    pins = audit.read_pins(write_pins(tmp_path / "pins.txt", *PINNED))
    optional = audit.read_pins(write_pins(tmp_path / "optional.txt", "extra==1"))
    check = audit.check_installed(pins, optional, found, [])
    assert list(check.wrong) == [*wrong, *(["delete .venv and run make setup"] if wrong else [])]
    (told, _) = audit.check_installed(pins, optional, FITTING, ["a needs b"]).wrong
    assert told == "a needs b"


def test_this_environment_is_seen() -> None:
    found = audit.installed_packages()
    assert found["pytest"] == pytest.__version__
    assert "torch" in found


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[core]\n    analytics = false\n['remote \"a\"']\n    url = b%c\n", []),
        ("[core]\n    analytics = true\n", ["core.analytics is true; must be false"]),
        ("[cache]\n    analytics = false\n", ["core.analytics is not set; must be false"]),
    ],
)
def test_analytics_must_be_off(text: str, wrong: list[str], tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text)
    assert list(audit.check_analytics(tmp_path / "config").wrong) == wrong


# Answers as pip-audit does. ANSWERS maps a service to vulnerabilities and unknown packages by name.
FAKE_PIP_AUDIT = """#!{python}
import json, pathlib, re, sys
options = dict(zip(sys.argv[1:], sys.argv[2:]))
text = pathlib.Path(options["--requirement"]).read_text()
answers = json.loads(pathlib.Path(__file__).with_name("ANSWERS").read_text())
if "--dry-run" in sys.argv:
    answer, text = answers.get("dry"), ""
else:
    answer = answers.get(options["--vulnerability-service"])
if answer is None:
    print("Traceback:\\nConnectionError: no way there", file=sys.stderr)
    sys.exit(1)
packages = []
for name, version in re.findall(r"^([a-z0-9-]+)==([^ ]+)", text, re.M):
    if name in answer["unknown"]:
        packages.append({"name": name, "skip_reason": "not found"})
    else:
        packages.append({"name": name, "version": version, "vulns": answer["bad"].get(name, [])})
pathlib.Path(options["--output"]).write_text(json.dumps({"dependencies": packages, "fixes": []}))
sys.exit(any(package.get("vulns") for package in packages))
"""
HOLE = {"id": "PYSEC-1", "fix_versions": ["2.0", "2.1"], "aliases": ["CVE-1"]}
KNOWING = {"bad": {"jinja2": [HOLE]}, "unknown": []}
DRY = {"dry": {"bad": {}, "unknown": []}}


@pytest.fixture
def look_up(tmp_path: Path) -> Callable[[dict[str, Any]], audit.Check]:
    """Return a function that looks up two pins where services answer as its argument says."""
    command = write_program(tmp_path / "pip-audit", FAKE_PIP_AUDIT)
    pins = write_pins(tmp_path / "pins.txt", "a==1.0", "b==1.1")

    def run(answers: dict[str, Any]) -> audit.Check:
        (tmp_path / "ANSWERS").write_text(json.dumps(answers))
        return audit.check_vulnerabilities(command, pins)

    return run


@pytest.mark.parametrize("answers", [{"pypi": KNOWING}, {"osv": KNOWING}], ids=["first", "second"])
def test_no_known_vulnerability(answers: dict[str, Any], look_up) -> None:  # type: ignore[no-untyped-def]
    check = look_up(DRY | answers)
    assert check.wrong == ()
    assert check.summary == f"none known in 2 packages (service {next(iter(answers))})"


def test_known_vulnerabilities_are_told(look_up) -> None:  # type: ignore[no-untyped-def]
    unmended = {"id": "PYSEC-2", "fix_versions": [], "aliases": []}
    bad = {"jinja2": [HOLE], "a": [HOLE, unmended]}
    check = look_up(DRY | {"pypi": {"bad": bad, "unknown": []}})
    assert check.wrong == (
        "a 1.0: PYSEC-1 (CVE-1), mended in 2.0, 2.1",
        "a 1.0: PYSEC-2, mended in no version yet",
    )
    assert str(check).startswith("vulnerabilities: WRONG\n  a 1.0")


def test_what_a_service_does_not_know_is_not_called_safe(look_up) -> None:  # type: ignore[no-untyped-def]
    check = look_up(DRY | {"pypi": KNOWING | {"unknown": ["b"]}})
    assert check.summary.startswith("none known in 1 packages")
    assert check.summary.endswith("NOT AUDITED, unknown to it: b")


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({}, "pypi: ConnectionError: no way there; osv: ConnectionError"),
        ({"pypi": {"bad": {}, "unknown": []}}, "pypi: answers, but knows of no vulnerability of"),
        (
            {"pypi": {"bad": {}, "unknown": ["jinja2", "a", "b"]}},
            "pypi: answers, but knows of no vulnerability of jinja2==2.10",
        ),
    ],
    ids=["no answer", "an answer without advisories", "a mirror without answers"],
)
def test_without_a_service_there_is_no_audit(
    answers: dict[str, Any],
    words: str,
    look_up,  # type: ignore[no-untyped-def]
) -> None:
    with pytest.raises(audit.NotMadeError, match=words):
        look_up(DRY | answers)


def test_pins_that_pip_audit_cannot_read_are_wrong(look_up) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(audit.WrongError, match=r"cannot read pins.txt: ConnectionError"):
        look_up({"pypi": KNOWING})


def make_wheel(folder: Path) -> Path:
    """Write a wheel of that name whose command only says that it is here."""
    wheel = folder / "pip_audit-1.0-py3-none-any.whl"
    info = "pip_audit-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("fake.py", "def main():\n    print('here')\n")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: pip-audit\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/entry_points.txt", "[console_scripts]\npip-audit = fake:main\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def only_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder from which alone pip installs."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_tool_is_installed_once_with_hashes(only_wheels: Path, tmp_path: Path) -> None:
    wheel = make_wheel(only_wheels)
    pins, environment = tmp_path / "pins.txt", tmp_path / "environment"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    pins.write_text(f"pip-audit==1.0 --hash=sha256:{digest}\n")
    command = audit.provide_tool(environment, pins)
    assert subprocess.check_output([command], text=True) == "here\n"
    wheel.unlink()
    assert audit.provide_tool(environment, pins) == command
    pins.write_text(f"{pins.read_text()}# changed\n")
    with pytest.raises(audit.NotMadeError, match=r"cannot be installed: .*pip-audit==1.0"):
        audit.provide_tool(environment, pins)


def test_a_tool_with_another_hash_is_refused(only_wheels: Path, tmp_path: Path) -> None:
    make_wheel(only_wheels)
    pins, environment = write_pins(tmp_path / "pins.txt", "pip-audit==1.0"), tmp_path / "made"
    with pytest.raises(audit.WrongError, match="has not the pinned hash"):
        audit.provide_tool(environment, pins)
    assert not (environment / "bin/pip-audit").exists()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], int]:
    """Return a function that audits a project of one pin where services answer as told."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (tmp_path / "benchmarks").mkdir()
    write_pins(tmp_path / "requirements.txt", "a==1.0")
    write_pins(tmp_path / "benchmarks/requirements.txt", "b==1.0")
    pins = write_pins(tmp_path / "requirements-audit.txt", "pip-audit==1.0")
    environment = tmp_path / audit.TOOL_ENVIRONMENT
    (environment / "bin").mkdir(parents=True)
    write_program(environment / "bin/pip-audit", FAKE_PIP_AUDIT)
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    (environment / audit.STAMP).write_text(digest)
    monkeypatch.setattr(audit, "installed_packages", lambda: {"a": "1.0"})
    monkeypatch.setattr(audit, "find_conflicts", list)

    def run(answers: dict[str, Any]) -> int:
        (environment / "bin/ANSWERS").write_text(json.dumps(answers))
        return audit.main(tmp_path)

    return run


@pytest.mark.parametrize(
    ("answers", "status", "words"),
    [
        (DRY | {"pypi": KNOWING}, 0, "vulnerabilities: none known in 1 packages"),
        (DRY, 0, "vulnerabilities: NOT AUDITED, none can be ruled out. pypi: Connection"),
        (
            DRY | {"pypi": {"bad": {"a": [HOLE], "jinja2": [HOLE]}, "unknown": []}},
            1,
            "a 1.0: PYSEC-1",
        ),
        ({}, 1, "vulnerabilities: WRONG\n  pip-audit cannot read requirements.txt"),
    ],
)
def test_the_audit_says_what_it_knows(
    answers: dict[str, Any],
    status: int,
    words: str,
    project,  # type: ignore[no-untyped-def]
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert project(answers) == status
    told = capsys.readouterr().out
    assert words in told
    assert "pins: 1 in requirements.txt, 1 in requirements-audit.txt, every one with hashes" in told
    assert "installed: 1 packages, as pinned" in told
    assert "analytics: DVC reports nothing" in told


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("requirements.txt", "a==1.0\n", "a==1.0 has no sha256 hash"),
        ("requirements.txt", f"a==2.0 --hash={HASH}\n", "a 1.0 is installed; 2.0 is pinned"),
        ("requirements.txt", "--index-url https://example.org\n", "is no pin; run make lock"),
        (".dvc/config", "", "core.analytics is not set"),
    ],
)
def test_what_is_wrong_is_told_without_network(
    file: str,
    text: str,
    words: str,
    project,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / file).write_text(text)
    assert project(DRY) == 1
    told = capsys.readouterr().out
    assert words in told
    assert "NOT AUDITED" in told


# --- what no module may do

NEVER = (
    # run code that data hold
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal",
    "shelve", "pandas.read_pickle", "eval", "exec", "builtins.eval", "builtins.exec", "__import__",
    "importlib.import_module", "torch.hub", "torch.jit.load", "torch.package",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load",
    "yaml.unsafe_load_all", "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader",
    # hand text to a shell
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell", "pty.spawn",
    # write what an archive's author likes where he likes
    "shutil.unpack_archive", "torchvision.datasets.utils.extract_archive",
    # reach the network otherwise than by downloads.OPENER, or without looking who is there
    "urllib.request.urlopen", "urllib.request.urlretrieve", "requests", "ftplib",
    "ssl._create_unverified_context", "ssl.CERT_NONE",
)  # fmt: skip
BUILTINS = ("eval", "exec", "__import__")
HARMLESS = ("pickle.UnpicklingError", "pickle.PickleError")
METHODS = ("extract", "extractall", "read_pickle", "to_pickle")
# Wherever one of these is said, it must have this value,
KEYWORDS = {
    "allow_pickle": False, "weights_only": True, "shell": False, "download": False, "typ": "safe",
}  # fmt: skip
# and to these functions it must be said.
REQUIRED = {"numpy.load": "allow_pickle", "torch.load": "weights_only", "ruamel.yaml.YAML": "typ"}

ALLOWED = {
    ("stages/lib/data/torchvision_sets.py", "torchvision.datasets.utils.extract_archive"): (
        "archives whose md5 is right, into a folder of their own"
    ),
}


def imported(tree: ast.AST) -> dict[str, str]:
    """Return what names stand for: ``np`` for ``numpy``, ``run`` for ``subprocess.run``."""
    found = {name: name for name in BUILTINS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                found[alias.asname or whole] = whole
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


class Finder(ast.NodeVisitor):
    """Collects what a module does that none may do."""

    def __init__(self, tree: ast.AST) -> None:
        self.imported = imported(tree)
        self.found: list[str] = []
        self.checked: set[int] = set()  # functions whose call is in order
        self.visit(tree)

    def name_of(self, node: ast.AST) -> str | None:
        """Return what a chain of names stands for, None of other expressions."""
        if isinstance(node, ast.Name):
            return self.imported.get(node.id)
        if isinstance(node, ast.Attribute) and (base := self.name_of(node.value)):
            return f"{base}.{node.attr}"
        return None

    def note(self, node: ast.AST, name: str) -> None:
        if name in HARMLESS:
            return
        if any(name == each or name.startswith(f"{each}.") for each in NEVER):
            self.found.append(name)
        elif name in REQUIRED and id(node) not in self.checked:
            self.found.append(f"{name} without {REQUIRED[name]}")

    def visit_Name(self, node: ast.Name) -> None:
        self.note(node, self.imported.get(node.id, ""))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in METHODS:
            self.found.append(f".{node.attr}")
        if name := self.name_of(node):
            self.note(node, name)
        else:
            self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if any(alias.name == "*" for alias in node.names):
            self.found.append(f"* from {node.module}")

    def visit_Call(self, node: ast.Call) -> None:
        name = self.name_of(node.func) or ""
        for keyword in node.keywords:
            if keyword.arg not in KEYWORDS:
                continue
            if ast.unparse(keyword.value) != repr(KEYWORDS[keyword.arg]):
                self.found.append(f"{keyword.arg}={ast.unparse(keyword.value)}")
            elif REQUIRED.get(name) == keyword.arg:
                self.checked.add(id(node.func))
        if name.startswith("subprocess.") and (
            len(node.args) > 1 or any(keyword.arg is None for keyword in node.keywords)
        ):
            self.found.append(f"{name} with arguments that may hide shell=True")
        self.generic_visit(node)


def misdeeds(source: str) -> list[str]:
    return Finder(ast.parse(source)).found


def modules() -> Iterator[Path]:
    for folder in ("stages", "tools", "benchmarks"):
        yield from sorted((REPOSITORY / folder).rglob("*.py"))


def test_no_module_runs_what_data_or_archives_hold() -> None:
    found = {
        (file.relative_to(REPOSITORY).as_posix(), what)
        for file in modules()
        for what in misdeeds(file.read_text())
    }
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle\npickle.loads(b'')", ["pickle.loads"]),
        ("import pickle as p\np.Unpickler(f).load()", ["pickle.Unpickler"]),
        ("from pickle import load as read\nread(f)", ["pickle.load"]),
        ("import pickle\ngetattr(pickle, 'loads')(b'')", ["pickle"]),
        ("def f():\n    import joblib\n    joblib.load(x)", ["joblib.load"]),
        ("import yaml\nyaml.load(x, Loader=yaml.Loader)", ["yaml.load", "yaml.Loader"]),
        ("from yaml import unsafe_load\nunsafe_load(x)", ["yaml.unsafe_load"]),
        ("eval('1')", ["eval"]),
        ("list(map(eval, x))", ["eval"]),
        ("exec('x = 1')", ["exec"]),
        ("import builtins\nbuiltins.exec('x')", ["builtins.exec"]),
        ("__import__('os').system('x')", ["__import__"]),
        ("import os\nos.system('x')", ["os.system"]),
        ("from os import popen as p\np('x')", ["os.popen"]),
        ("import subprocess\nsubprocess.run('x', shell=True)", ["shell=True"]),
        ("import subprocess as s\ns.run(x, shell=wanted)", ["shell=wanted"]),
        ("from subprocess import Popen\nPopen('x', shell=1)", ["shell=1"]),
        (
            "import subprocess\nsubprocess.run('x', **more)",
            ["subprocess.run with arguments that may hide shell=True"],
        ),
        ("import subprocess\nsubprocess.getoutput('x')", ["subprocess.getoutput"]),
        ("import torch\ntorch.load(f)", ["torch.load without weights_only"]),
        (
            "import torch\ntorch.load(f, weights_only=False)",
            ["weights_only=False", "torch.load without weights_only"],
        ),
        ("import torch as t\nread = t.load", ["torch.load without weights_only"]),
        ("import numpy as np\nnp.load(f)", ["numpy.load without allow_pickle"]),
        (
            "from numpy import load\nload(f, allow_pickle=True)",
            ["allow_pickle=True", "numpy.load without allow_pickle"],
        ),
        ("import numpy as np\nnp.load(f, None, False)", ["numpy.load without allow_pickle"]),
        ("from ruamel.yaml import YAML\nYAML(typ='unsafe')",
         ["typ='unsafe'", "ruamel.yaml.YAML without typ"]),
        ("import tarfile\ntarfile.open(f).extractall(x)", [".extractall"]),
        ("archive.extract(member)", [".extract"]),
        ("import shutil\nshutil.unpack_archive(f)", ["shutil.unpack_archive"]),
        ("import urllib.request\nurllib.request.urlopen(x)", ["urllib.request.urlopen"]),
        ("from torchvision.datasets import MNIST\nMNIST(x, download=True)", ["download=True"]),
        ("from os import *", ["* from os"]),
    ],
)  # fmt: skip
def test_every_misdeed_is_seen(source: str, found: list[str]) -> None:
    assert misdeeds(source) == found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\ntry:\n    f()\nexcept pickle.UnpicklingError:\n    pass",
        "import numpy as np\nnp.load(f, allow_pickle=False)\nnp.save(f, x, allow_pickle=False)",
        "import torch\ntorch.load(f, weights_only=True)\nnetwork.eval()",
        "import yaml\nyaml.safe_load(x)",
        "from ruamel.yaml import YAML\nYAML(typ='safe', pure=True).load(x)",
        "import subprocess\nsubprocess.run(['x'], check=True, shell=False)",
        "import os\nos.path.join('a', 'b')",
        "import re\nre.compile('x')",
        "requests = []\nrequests.append(1)",
        "tar.extractfile(member)",
        "import urllib.request\nurllib.request.build_opener()",
    ],
)
def test_good_deeds_are_let_be(source: str) -> None:
    assert misdeeds(source) == []


UNSAFE_URL = re.compile(r"(http|ftp)://[\w{%$]")


def test_no_address_is_without_https() -> None:
    others = [*PIN_FILES, "requirements.in", "requirements-audit.in", "Makefile", ".ci/run"]
    for file in [*modules(), *(REPOSITORY / name for name in others)]:
        assert not UNSAFE_URL.search(file.read_text()), file


@pytest.mark.parametrize("text", ["'http://example.org'", "f'http://{host}'", "ftp://127.0.0.1"])
def test_addresses_without_https_are_seen(text: str) -> None:
    assert UNSAFE_URL.search(text)
    assert not UNSAFE_URL.search(text.replace("http:", "https:").replace("ftp:", "https:"))
