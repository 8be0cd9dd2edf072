"""The point store: every finished training, one small JSON file, named by all that decides it.

A killed figure resumes from it; other figures and experiments reuse it. It lies outside DVC's
outputs (`paths.point_store`), because DVC clears those before a stage runs.
"""

import ast
from importlib import metadata
from pathlib import Path
from typing import Any

from stages.lib import files, paths
from stages.lib.errors import UserError

#: The modules whose code decides a training's outcome, given its labels and images.
DECIDING = (
    "adadelta",
    "architectures",
    "dilution",
    "images",
    "losses",
    "models",
    "runs",
    "streams",
    "training",
)


def code_digest(folder: Path = Path(__file__).parent) -> str:
    """Return the digest of the code that decides an outcome, comments and docstrings aside."""
    sources = [(folder / f"{name}.py").read_text(encoding="utf-8") for name in DECIDING]
    return files.sha256_of_bytes(*(_without_docstrings(source).encode() for source in sources))


def _without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        if ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


class PointStore:
    """Outcomes by identity.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``: rounding differs between them, so outcomes are apart.
        folder: where the files lie; made when first written.
    """

    def __init__(self, device: str, folder: Path | None = None) -> None:
        self.folder = paths.point_store() if folder is None else folder
        self.environment = {
            "code": code_digest(),
            "device": device,
            "torch": metadata.version("torch").split("+")[0],
        }

    def path(self, identity: dict[str, Any]) -> Path:
        """Return the file of a training."""
        whole = files.to_json([identity, self.environment], indent=None)
        return self.folder / f"{files.sha256_of_bytes(whole.encode())[:32]}.json"

    def get(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """Return the stored outcome of a training, or None where there is none.

        Raises:
            UserError: the file is there and is not what its name says.
        """
        path = self.path(identity)
        if not path.exists():
            return None
        try:
            content = files.read_json(path)
            outcome: dict[str, Any] = content["outcome"]
            if content != self._content(identity, outcome):
                raise KeyError
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: damaged; delete it, and its training runs again") from None
        return outcome

    def put(self, identity: dict[str, Any], outcome: dict[str, Any]) -> None:
        """Store the outcome of a training, atomically."""
        files.write_json(self.path(identity), self._content(identity, outcome))

    def _content(self, identity: dict[str, Any], outcome: dict[str, Any]) -> dict[str, Any]:
        return {
            "identity": identity,
            "environment": self.environment,
            "outcome": outcome,
            "sha256": files.sha256_of_bytes(files.to_json(outcome).encode()),
        }
