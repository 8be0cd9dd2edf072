"""The run store: every finished training, one small JSON file, named by all that decides it.

A killed figure resumes from it; other figures and experiments reuse it. It lies outside DVC's
outputs (`paths.run_store`), because DVC clears those before a stage runs. Long trainings under
way have a checkpoint of the same name.
"""

import ast
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from stages.lib.config.params import MOST_CONFUSED, TOP
from stages.lib.core import files, machine, paths, processes
from stages.lib.execution.packing import GPU_STACKING

STALE_SECONDS = 30 * 24 * 3600  # nobody goes on from a checkpoint as old as this

#: What decides a training's outcome, given its labels and images: modules, and folders of them.
DECIDING = (
    "components",
    "core/randomness.py",
    "data/images.py",
    "execution/inputs.py",
    "execution/runs.py",
    "labels",
    "models",
    "noise/transitions.py",
    "training",
)
ON_CUDA = ("kernels",)  # deciding too, where they are used
LIBRARY = Path(__file__).parents[1]


def deciding(device: str, library: Path = LIBRARY) -> list[Path]:
    """Return the modules whose code decides an outcome on a device."""
    found = []
    for name in DECIDING + (ON_CUDA if device == "cuda" else ()):
        place = library / name
        found += sorted(place.glob("*.py")) if place.is_dir() else [place]
    return found


def code_digest(device: str, library: Path = LIBRARY) -> str:
    """Return the digest of the code that decides an outcome, comments and docstrings aside."""
    sources = [file.read_text(encoding="utf-8") for file in deciding(device, library)]
    return files.sha256_of_bytes(*(_without_docstrings(source).encode() for source in sources))


def _without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        if ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


class RunStore:
    """Outcomes by identity.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``: rounding differs between them, so outcomes are apart.
        folder: where the files lie; made when first written.
        accelerator: the CUDA device's name.
    """

    def __init__(self, device: str, folder: Path | None = None, accelerator: str = "") -> None:
        self.folder = paths.run_store() if folder is None else folder
        self.environment: dict[str, Any] = {
            "accelerator": accelerator,
            "code": code_digest(device),
            "counted": {"top": TOP, "most_confused": MOST_CONFUSED},
            "device": device,
            "kernels": machine.kernels() if device == "cpu" else "",
            "numpy": metadata.version("numpy"),
            "rounding": processes.ROUNDING,
            "torch": metadata.version("torch").split("+")[0],
        }
        if device == "cuda":
            ways = {kind.__name__: way for kind, way in GPU_STACKING.items()}
            self.environment["stacking"] = ways

    def prepare(self) -> None:
        """Make sure that the store can be written, before hours are spent on what goes there.

        Raises:
            UserError: it cannot be written.
        """
        trial = self.folder / ".trial"
        with files.replacing(trial):
            pass
        trial.unlink(missing_ok=True)
        oldest = time.time() - STALE_SECONDS
        for path in self._checkpoints.glob("*.pt"):  # of what is done, or of other code or params
            with suppress(OSError):
                done = (self.folder / f"{path.stem}.json").exists()
                if done or path.stat().st_mtime < oldest:
                    path.unlink()

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def _name(self, identity: dict[str, Any]) -> str:
        whole = files.to_json([self._deciding(identity), self.environment], indent=None)
        return files.sha256_of_bytes(whole.encode())[:32]

    def _deciding(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Return an identity without the way of stacking, where every way rounds alike."""
        if self.environment["device"] == "cuda" or "stacking" not in identity.get("train", {}):
            return identity
        train = {key: value for key, value in identity["train"].items() if key != "stacking"}
        return {**identity, "train": train}

    def path(self, identity: dict[str, Any]) -> Path:
        """Return the file of a training."""
        return self.folder / f"{self._name(identity)}.json"

    def checkpoint(self, identity: dict[str, Any]) -> Path:
        """Return the file of a training's checkpoint."""
        return self._checkpoints / f"{self._name(identity)}.pt"

    def get(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """Return the stored outcome of a training, or None where there is none.

        Raises:
            DamagedError: the file is there and is not what its name says.
        """
        path = self.path(identity)
        if not path.exists():
            return None
        content = files.read_json(path)
        if (content["identity"], content["environment"]) != (
            self._deciding(identity),
            self.environment,
        ):
            raise files.damaged(path, "holds another training than its name says")
        outcome: dict[str, Any] = content["outcome"]
        return outcome

    def finished(self) -> list[Path]:
        """Return the files of all trainings that this code has finished on this kind of device.

        With whatever versions of PyTorch and numpy: theirs may be those of another machine.

        Raises:
            DamagedError: a file is not what was written.
        """
        wanted = self.environment["code"], self.environment["device"]
        found = []
        for path in sorted(self.folder.glob("[0-9a-f]*.json")):
            environment = files.read_json(path)["environment"]
            if (environment["code"], environment["device"]) == wanted:
                found.append(path)
        return found

    def put(self, identity: dict[str, Any], outcome: dict[str, Any]) -> None:
        """Store the outcome of a training, atomically; where it is stored already it stays.

        Raises:
            UserError: it cannot be written.
        """
        path = self.path(identity)
        if not path.exists():  # another process may have trained the same
            content = {"identity": self._deciding(identity), "outcome": outcome}
            files.write_json(path, {**content, "environment": self.environment})
        self.checkpoint(identity).unlink(missing_ok=True)
