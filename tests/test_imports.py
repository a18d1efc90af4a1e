"""Import direction: paper -> {losses, trainer} -> torch; papers never import each other; entropy imports no torch."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAPERS = {"capsnet", "spectra", "similarity", "entropy"}
ALL = PAPERS | {"losses", "trainer", "benchmarks", "tests", "notebooks"}
FORBIDDEN = {
    **{paper: ALL - {paper, "losses", "trainer"} for paper in PAPERS},
    "entropy": (ALL - {"entropy"}) | {"torch", "torchvision"},
    "losses": ALL - {"losses"},
    "trainer": ALL - {"trainer"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of the absolute imports of a file, wherever in it they stand."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(p for p in FORBIDDEN if (ROOT / p).is_dir()))
def test_imports_point_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): bad for f in files if (bad := imported(f) & FORBIDDEN[package])}
    assert not wrong
