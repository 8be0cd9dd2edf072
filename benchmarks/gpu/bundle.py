"""What travels to a machine without network: `gather` puts it into a folder, which `use` uses.

The folder has ``packages/VERSION/`` that a Python may lack, ``mirror/`` with MNIST's archives in
torchvision's layout, and ``store.tar.gz``: finished trainings, which the next ones go on from.
Until `use` has been called nothing here needs any of these packages.
"""

import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

MOST_BYTES = 60 << 20  # of what travels
MOST_FILES, MOST_FILE_BYTES = 8, 16 << 20  # of what comes back
PINS = Path(__file__).parents[2] / "requirements.txt"
STORE = "store.tar.gz"
#: By the stages, besides what comes with PyTorch and scikit-learn: as requirements.txt pins
#: them. One is compiled, for a version of Python and a kind of machine.
NEEDED = (
    "annotated-types", "pydantic", "pydantic-core", "ruamel.yaml", "typing-extensions",
    "typing-inspection",
)  # fmt: skip
PYTHONS = ("3.11", "3.12")
PLATFORM = "manylinux_2_17_x86_64"
RUN = re.compile(r"[0-9a-f]{32}\.json")
MOST_RUN_BYTES = 1 << 20


def use(folder: Path) -> None:
    """Make the packages of a bundle importable, after what is installed."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = str((folder / "packages" / version).resolve())
    sys.path.append(packages)
    paths = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), packages]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # of its processes


def gather(folder: Path) -> None:
    """Put what must travel into a folder.

    Raises:
        UserError: a package or MNIST cannot be had, or it is more than may travel.
    """
    from stages.lib.core.errors import UserError
    from stages.lib.data import sources
    from stages.lib.execution.store import RunStore

    _install(folder / "packages")
    sources.load_source("mnist", path=None, size=None, downloads=folder / "mirror")
    store = RunStore("cuda")
    pack(store.finished(), folder / STORE)
    parts = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    if (whole := sum(parts.values())) > MOST_BYTES:
        raise UserError(f"{folder}: {whole:,} bytes; accepted: at most {MOST_BYTES:,}")
    for part in sorted(folder.iterdir()):
        print(
            f"{sum(size for path, size in parts.items() if path.is_relative_to(part)):12,} {part}"
        )
    print(f"{whole:12,} bytes to carry, besides the files that git tracks")


def _install(packages: Path) -> None:
    """Have pip put the pinned packages into a folder; they must have the pins' hashes."""
    from stages.lib.core.errors import UserError

    names = "|".join(re.escape(name.replace(".", "-")) for name in NEEDED)
    pins = re.findall(rf"^(?:{names})==.*\n(?:[ #].*\n)*", PINS.read_text(encoding="utf-8"), re.M)
    if len(pins) != len(NEEDED):
        raise UserError(f"{PINS}: must pin {', '.join(NEEDED)}")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.writelines(pins)
        file.flush()
        options = [
            "--quiet",
            "--upgrade",
            "--require-hashes",
            "--only-binary",
            ":all:",
            "--no-deps",
        ]
        for version in PYTHONS:
            kind = ["--python-version", version, "--implementation", "cp", "--platform", PLATFORM]
            target = ["--target", str(packages / version), "--requirement", file.name]
            command = [sys.executable, "-m", "pip", "install", *options, *kind, *target]
            if subprocess.run(command).returncode:
                raise UserError(f"{', '.join(NEEDED)}: pip could not install it")


def pack(points: Iterable[Path], archive: Path) -> int:
    """Write finished trainings into an archive, atomically; return how many."""
    from stages.lib.core import files

    stream, count = io.BytesIO(), 0
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for path in sorted(points):
            tar.add(path, arcname=path.name, recursive=False)
            count += 1
    with files.replacing(archive, len(stream.getvalue())) as scratch:
        scratch.write_bytes(stream.getvalue())
    return count


def restore(archive: Path, folder: Path) -> list[Path]:
    """Put the finished trainings of an archive into a run store; return their files.

    Those that are there already stay.

    Raises:
        UserError: the archive holds anything else, or is damaged.
    """
    from stages.lib.core import files
    from stages.lib.core.errors import UserError

    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() else None
                whole = member.size <= MOST_RUN_BYTES and RUN.fullmatch(member.name)
                if content is None or not whole:
                    raise UserError(f"{archive}: holds {member.name!r}; accepted: trainings")
                contents[member.name] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{archive}: cannot be read: {error}") from None
    with tempfile.TemporaryDirectory() as scratch:  # all are looked at before any is kept
        for name, data in contents.items():
            (Path(scratch) / name).write_bytes(data)
            files.read_json(Path(scratch) / name)
    for name, data in contents.items():
        if not (folder / name).exists():
            with files.replacing(folder / name, len(data)) as path:
                path.write_bytes(data)
    return [folder / name for name in contents]
