"""The library's packages: which may import which, and that no module holds several ideas."""

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[1] / "stages/lib"
#: Each imports from those before it alone.
PACKAGES = (
    "core", "noise", "kernels", "components", "data", "models", "config", "labels", "training",
    "execution",
    "studies", "plots",
)  # fmt: skip
MODULES = sorted(LIBRARY.parent.rglob("*.py"))
MOST_LINES = 350


def packages_imported(source: str) -> set[str]:
    """Return the packages of the library that a module imports from, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[2] for name in names if name.startswith("stages.lib.")}
    return found


def test_every_package_has_its_place() -> None:
    assert {path.name for path in LIBRARY.iterdir() if path.is_dir()} - {"__pycache__"} == set(
        PACKAGES
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    allowed = set(PACKAGES[: PACKAGES.index(package) + 1])
    for module in (LIBRARY / package).glob("*.py"):
        assert packages_imported(module.read_text(encoding="utf-8")) <= allowed, module.name


def test_an_import_the_other_way_is_seen() -> None:
    late = (
        "def late():\n    from stages.lib import training\n    import stages.lib.plots.pictures\n"
    )
    assert packages_imported(late) == {"training", "plots"}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: "/".join(path.parts[-3:]))
def test_a_module_is_short(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
