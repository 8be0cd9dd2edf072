"""Checks the supply of other people's code: ``make audit``, or ``python -m tools.audit``.

Always, also without network: every pin has hashes, what is installed is what is pinned, and DVC
reports nothing to its makers. Then pip-audit asks an advisory service for known vulnerabilities.
Where none answers, that is said, and is neither a failure nor a success: the exit status is 1 for
what is wrong, else 0.
"""

import configparser
import hashlib
import json
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
PINS = "requirements.txt"
TOOL_PINS = "requirements-audit.txt"
OPTIONAL_PINS = "benchmarks/requirements.txt"  # `make bench` installs them
TOOL_ENVIRONMENT = ".venv/audit"
STAMP = "installed.sha256"  # of the pins that an environment was made from
UNPINNED = {"pip"}  # comes with every environment
# PyTorch's own index has builds whose versions end in +cpu; they need none of CUDA's packages.
FROM_TORCH_INDEX = {"torch", "torchvision"}
ONLY_CUDA = re.compile(r"(cuda|nvidia)-.*|triton")
SERVICES = ("pypi", "osv")  # as pip-audit calls them; the first that answers is believed
KNOWN_BAD = "jinja2==2.10"  # leaves its sandbox, CVE-2019-10906; a service that answers says so
TIMEOUT_SECONDS = 900  # of a command
LONGEST = 300  # characters of another program's message


class NotMadeError(Exception):
    """The audit cannot be made here and now; nothing is known to be wrong."""


class WrongError(Exception):
    """Something is wrong, as the message says."""


@dataclass(frozen=True)
class Pin:
    """A line of a file of pins.

    Attributes:
        requirement: Name, version and environment marker.
        hashes: As written, like ``sha256:0123...``.
    """

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The canonical name."""
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str | None:
        """The one version that is accepted, None if there may be several."""
        match = re.fullmatch(r"==([^*,]+)", str(self.requirement.specifier))
        return match[1] if match else None

    @property
    def applies(self) -> bool:
        """Is it for this platform and Python?"""
        return self.requirement.marker is None or self.requirement.marker.evaluate()


@dataclass(frozen=True)
class Check:
    """What a check found: a summary for when nothing is wrong, and all that is wrong."""

    title: str
    summary: str
    wrong: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.wrong:
            return f"{self.title}: {self.summary}"
        return "\n  ".join([f"{self.title}: WRONG", *self.wrong])


def read_pins(file: Path) -> list[Pin]:
    """Return the pins of a requirements file.

    Raises:
        WrongError: a line is none, for instance an option that names an index.
    """
    pins = []
    for line in re.sub(r"\\\n", " ", file.read_text(encoding="utf-8")).splitlines():
        content = re.sub(r"(^|\s)#.*", "", line).strip()
        if not content:
            continue
        requirement, *hashes = re.split(r"\s+--hash=", content)
        try:
            pins.append(Pin(Requirement(requirement), tuple(hashes)))
        except InvalidRequirement as error:
            raise WrongError(f"{file.name}: {content!r} is no pin; run make lock") from error
    return pins


def check_pins(files: Iterable[Path]) -> Check:
    """Require of every pin one version and a SHA-256."""
    wrong, counts = [], []
    for file in files:
        pins = read_pins(file)
        counts.append(f"{len(pins)} in {file.name}")
        for pin in pins:
            if pin.version is None:
                wrong.append(f"{file.name}: {pin.requirement} is not pinned to one version")
            if not any(re.fullmatch(r"sha256:[0-9a-f]{64}", text) for text in pin.hashes):
                wrong.append(f"{file.name}: {pin.requirement} has no sha256 hash")
    return Check("pins", f"{', '.join(counts)}, every one with hashes", tuple(wrong))


def installed_packages() -> dict[str, str]:
    """Return the versions of this environment's packages by canonical name."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return {
        canonicalize_name(found.name): found.version
        for found in metadata.distributions(path=sorted(folders))
    }


def check_installed(
    pins: Iterable[Pin], optional: Iterable[Pin], found: Mapping[str, str], conflicts: Iterable[str]
) -> Check:
    """Require that the packages that are installed are those that are pinned, and fit each other.

    Args:
        pins: What must be there, and nothing else.
        optional: What may be there beside it.
        found: Versions by canonical name.
        conflicts: What `pip check` says.
    """
    wanted = {pin.name: str(pin.version) for pin in pins if pin.applies}
    allowed = {pin.name: str(pin.version) for pin in optional if pin.applies} | wanted
    if "torch" in found and Version(found["torch"]).local:
        wanted = {name: version for name, version in wanted.items() if not ONLY_CUDA.match(name)}
    wrong = [f"{name} {wanted[name]} is not installed" for name in sorted(wanted.keys() - found)]
    for name in sorted(found.keys() - UNPINNED):
        version = Version(found[name])
        comparable = version.public if name in FROM_TORCH_INDEX else found[name]
        if name not in allowed:
            wrong.append(f"{name} {version} is installed and not pinned")
        elif Version(comparable) != Version(allowed[name]):
            wrong.append(f"{name} {version} is installed; {allowed[name]} is pinned")
    wrong += conflicts
    if wrong:
        wrong.append("delete .venv and run make setup")
    return Check("installed", f"{len(found)} packages, as pinned and in agreement", tuple(wrong))


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it said.

    Raises:
        NotMadeError: it cannot be started or does not end.
    """
    try:
        return subprocess.run(  # noqa: S603, no shell and nothing of a user's
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotMadeError(_last_line(str(error))) from error


def _last_line(text: str) -> str:
    lines = text.strip().splitlines() or ["no message"]
    return lines[-1].strip()[:LONGEST]


def find_conflicts() -> list[str]:
    """Return what `pip check` finds wrong."""
    done = _run(sys.executable, "-m", "pip", "check")
    return [] if done.returncode == 0 else (done.stdout + done.stderr).strip().splitlines()


def check_analytics(file: Path) -> Check:
    """Require that the repository's settings stop DVC from reporting its use."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(file, encoding="utf-8")
    found = settings.get("core", "analytics", fallback="not set").strip()
    wrong = () if found.lower() == "false" else (f"core.analytics is {found}; must be false",)
    return Check("analytics", "DVC reports nothing (core.analytics is false)", wrong)


def provide_tool(environment: Path, pins: Path) -> Path:
    """Return pip-audit's command, installed with hashes in an environment of its own.

    Raises:
        NotMadeError: it cannot be installed, for instance without network.
        WrongError: a package has another hash than the pinned one.
    """
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    stamp, command = environment / STAMP, environment / "bin/pip-audit"
    if stamp.is_file() and stamp.read_text(encoding="ascii") == digest:
        return command
    done = _run(sys.executable, "-m", "venv", "--clear", "--without-pip", environment)
    if done.returncode == 0:
        done = _run(
            sys.executable, "-m", "pip", "--python", environment / "bin/python", "install",
            "--quiet", "--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:",
            "--requirement", pins,
        )  # fmt: skip
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise WrongError(f"{pins.name}: a package has not the pinned hash\n{done.stderr.strip()}")
    if done.returncode != 0:
        raise NotMadeError(f"pip-audit cannot be installed: {_last_line(done.stderr)}")
    stamp.write_text(digest, encoding="ascii")
    return command


def _pip_audit(command: Path, pins: Path, *options: str) -> list[dict[str, Any]]:
    """Return pip-audit's report: for each package name, version, ``vulns``, or ``skip_reason``.

    Its exit status is 1 for vulnerabilities and for failures alike, and 0 also if it could look up
    nothing. Only the report tells: where it fails it writes none.

    Raises:
        NotMadeError: it wrote no report.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        done = _run(
            command, "--requirement", pins, "--require-hashes", "--disable-pip", "--format", "json",
            "--desc", "off", "--aliases", "on", "--progress-spinner", "off", "--output", report,
            *options,
        )  # fmt: skip
        try:
            packages = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotMadeError(_last_line(done.stderr)) from error
    return list(packages)


def _ask(command: Path, pins: Path, service: str) -> list[dict[str, Any]]:
    """Return a service's report, if it knows of a vulnerability that everybody knows.

    A mirror of a registry may answer and know nothing, which would look like good news.

    Raises:
        NotMadeError: it does not answer, or not as an advisory service.
    """
    with tempfile.TemporaryDirectory() as folder:
        control = Path(folder, "control.txt")
        control.write_text(f"{KNOWN_BAD} --hash=sha256:{'0' * 64}\n", encoding="ascii")
        known = _pip_audit(command, control, "--vulnerability-service", service)
    if not any(package.get("vulns") for package in known):
        raise NotMadeError(f"answers, but knows of no vulnerability of {KNOWN_BAD}, which has some")
    return _pip_audit(command, pins, "--vulnerability-service", service)


def _describe(package: Mapping[str, Any]) -> list[str]:
    """Return a line for each of a package's vulnerabilities."""
    lines = []
    for known in package.get("vulns", ()):
        aliases = f" ({', '.join(known['aliases'])})" if known.get("aliases") else ""
        fixed = ", ".join(known.get("fix_versions") or ["no version yet"])
        lines.append(
            f"{package['name']} {package['version']}: {known['id']}{aliases}, mended in {fixed}"
        )
    return lines


def check_vulnerabilities(command: Path, pins: Path) -> Check:
    """Ask the services in turn for known vulnerabilities of what is pinned for this platform.

    Raises:
        NotMadeError: none answers.
        WrongError: pip-audit cannot even read the pins, which takes no service.
    """
    try:
        _pip_audit(command, pins, "--dry-run")
    except NotMadeError as error:
        raise WrongError(f"pip-audit cannot read {pins.name}: {error}") from error
    reasons = []
    for service in SERVICES:
        try:
            packages = _ask(command, pins, service)
        except NotMadeError as error:
            reasons.append(f"{service}: {error}")
            continue
        skipped = sorted(package["name"] for package in packages if "skip_reason" in package)
        summary = f"none known in {len(packages) - len(skipped)} packages (service {service})"
        if skipped:
            summary += f"; NOT AUDITED, unknown to it: {', '.join(skipped)}"
        wrong = [line for package in packages for line in _describe(package)]
        return Check("vulnerabilities", summary, tuple(wrong))
    raise NotMadeError("; ".join(reasons))


def audit_vulnerabilities(repository: Path) -> Check:
    """Return what pip-audit finds, or that it could not look."""
    try:
        command = provide_tool(repository / TOOL_ENVIRONMENT, repository / TOOL_PINS)
        return check_vulnerabilities(command, repository / PINS)
    except WrongError as error:
        return Check("vulnerabilities", "", (str(error),))
    except NotMadeError as error:
        return Check(
            "vulnerabilities",
            f"NOT AUDITED, none can be ruled out. {error}. Run make audit again where the network "
            "reaches an advisory service",
        )


def main(repository: Path = REPOSITORY) -> int:
    """Make every check, print what they find, and return the exit status."""
    try:
        pins, optional = (read_pins(repository / file) for file in (PINS, OPTIONAL_PINS))
        checks = [
            check_pins(repository / file for file in (PINS, TOOL_PINS)),
            check_installed(pins, optional, installed_packages(), find_conflicts()),
        ]
    except WrongError as error:
        checks = [Check("pins", "", (str(error),))]
    checks += [
        check_analytics(repository / ".dvc/config"),
        audit_vulnerabilities(repository),
    ]
    print(*checks, sep="\n")
    return int(any(check.wrong for check in checks))


if __name__ == "__main__":
    sys.exit(main())
