"""Audits other people's code: is what is installed what is pinned, and is it known to be bad?

pip compares what is installed with the pins, DVC says whether it reports its use to its makers, and
pip-audit asks an advisory service for known vulnerabilities. Where none answers, that is said, and
is neither a failure nor a success: the exit status is 1 for what is wrong, else 0.
"""

import argparse
import json
import re
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINS, OPTIONAL_PINS = ROOT / "requirements.txt", ROOT / "benchmarks/requirements.txt"
TOOL, TOOL_PINS = ROOT / ".venv/audit", ROOT / "requirements-audit.txt"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
INSTALL = ("install", "--quiet", "--require-hashes", "--only-binary", ":all:")
CUDA = re.compile(r"(cuda|nvidia)-|triton==")  # what builds of PyTorch's CPU index do without
SERVICES = ("pypi", "osv")  # as pip-audit calls them; the first that answers is believed
KNOWN_BAD = "django==2.0"  # of an index without advisories, which would look like good news


class NotAuditedError(Exception):
    """No service answers; nothing is known to be wrong."""


def run(*command: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program and return what it said."""
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)  # noqa: S603


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def compare_installed(pins: str) -> list[str]:
    """Return how what is installed differs from the pins, and what pip finds in conflict."""
    found = {str(canonicalize_name(d.name)): d.version for d in metadata.distributions()}
    pinned = re.findall(r"^([\w-]+)==", pins + OPTIONAL_PINS.read_text("utf-8"), re.MULTILINE)
    if "+" in found.get("torch", ""):
        pins = "\n".join(pin for pin in re.split(r"\n(?=\w)", pins) if not CUDA.match(pin))
    conflicts = run(*PIP, "check")
    wrong = conflicts.stdout.splitlines() if conflicts.returncode else []
    options = ("--no-deps", "--dry-run", "--report", "-", "--requirement", "/dev/stdin")
    done = run(*PIP, *INSTALL, *options, stdin=pins)
    missing = [] if done.returncode else json.loads(done.stdout)["install"]
    wrong += [_last_line(done.stderr)] if done.returncode else []
    told = "{name} {version} is pinned and not installed"
    wrong += [told.format(**package["metadata"]) for package in missing]
    others = sorted({*found} - {*pinned, "pip"})
    wrong += [f"{name} {found[name]} is installed and not pinned" for name in others]
    return [*wrong, "delete .venv and run make setup"] if wrong else []


def check_analytics() -> list[str]:
    """Return what DVC's settings say instead of that it must not report its use."""
    said = run(sys.executable, "-m", "dvc", "config", "core.analytics").stdout.strip()
    return [] if said == "false" else [f"core.analytics is {said or 'not set'}; must be false"]


def find_vulnerabilities(pins: str) -> list[str]:
    """Return the known vulnerabilities of what is pinned, and what the service does not know.

    Its exit status is 1 for failures too, and 0 also where it could look up nothing: so the report
    must tell of a vulnerability that everybody knows.

    Raises:
        NotAuditedError: no service answers.
    """
    reasons = []
    control = f"{KNOWN_BAD} --hash=sha256:{'0' * 64}"
    for service in SERVICES:
        done = run(
            TOOL / "bin/pip-audit", "--requirement", "/dev/stdin", "--disable-pip", "--format=json",
            "--desc=off", "--progress-spinner=off", f"--vulnerability-service={service}",
            stdin=f"{pins}\n{control}\n",
        )  # fmt: skip
        try:
            packages = json.loads(done.stdout)["dependencies"]
        except ValueError:
            reasons.append(f"{service}: {_last_line(done.stderr)}")
            continue
        bad = {f"{p['name']}=={p['version']}": p["vulns"] for p in packages if p.get("vulns")}
        if not bad.pop(KNOWN_BAD, None):
            reasons.append(f"{service}: knows of no vulnerability of {KNOWN_BAD}, which has some")
            continue
        if skipped := sorted(p["name"] for p in packages if "skip_reason" in p):
            print(f"vulnerabilities: NOT AUDITED, unknown to {service}: {', '.join(skipped)}")
        found = [(name, vulnerability) for name, every in bad.items() for vulnerability in every]
        return [f"{name}: {v['id']}, mended in {v['fix_versions']}" for name, v in found]
    raise NotAuditedError("; ".join(reasons))


def provide_tool() -> list[str]:
    """Install pip-audit with hashes, in an environment of its own; return what is wrong.

    Raises:
        NotAuditedError: it cannot be installed, for instance without network.
    """
    stamp, pins = TOOL / "pins.txt", TOOL_PINS.read_text("utf-8")
    if stamp.is_file() and stamp.read_text("utf-8") == pins:
        return []
    venv.create(TOOL, clear=True)
    done = run(*PIP, "--python", TOOL / "bin/python", *INSTALL, "--requirement", TOOL_PINS)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        return done.stderr.strip().splitlines()
    if done.returncode:
        raise NotAuditedError(f"pip-audit cannot be installed: {_last_line(done.stderr)}")
    stamp.write_text(pins, "utf-8")
    return []


def main() -> int:
    """Make every check, print what is wrong, and return the exit status."""
    argparse.ArgumentParser("python -m tools.audit", description=__doc__).parse_args()
    pins = PINS.read_text("utf-8")
    wrong = {"installed": compare_installed(pins), "analytics": check_analytics()}
    try:
        wrong["vulnerabilities"] = provide_tool() or find_vulnerabilities(pins)
    except NotAuditedError as error:
        print(f"vulnerabilities: NOT AUDITED, none can be ruled out. {error}. Run make audit again")
        print("where the network reaches an advisory service")
    for check, found in wrong.items():
        print(*([f"{check}: WRONG", *found] if found else [f"{check}: nothing wrong"]), sep="\n  ")
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
