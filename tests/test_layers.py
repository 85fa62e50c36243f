"""Imports point downwards only, and importing the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stabdask

PACKAGE = Path(stabdask.__file__).parent

# From the bottom up; a module may import from its own layer and from those before it.
LAYERS: list[set[str]] = [
    {"errors", "schema"},
    {"checks", "files", "rich", "row_blocks", "sizes"},
    {"kernels"},
    {"fields"},
    {"analysis", "atlas"},
    {"clusters", "runs"},
    {"live"},
    {"cli", "compat", "report", "plotting"},
]

# Inside the layer of orchestration, clusters know nothing of runs.
FORBIDDEN = {("clusters", "runs"), ("analysis", "atlas"), ("plotting", "cli")}

ONLY_RUNS_KNOW = {"distributed": {"clusters", "runs", "live"}}


def layer_of(part: str) -> int:
    for number, parts in enumerate(LAYERS):
        if part in parts:
            return number
    raise AssertionError(f"'{part}' has no layer: give it one in LAYERS")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Return every dotted name that a module imports, also inside functions and for type checking."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    own = part_of(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "stabdask" and len(parts) > 1 and (PACKAGE / parts[1]).with_suffix("").name:
            target = parts[1]
            if not (PACKAGE / target).is_dir() and not (PACKAGE / f"{target}.py").is_file():
                continue  # a name of the package itself, such as its version
            assert layer_of(target) <= layer_of(own), f"{own} imports upwards from {target}"
            assert (own, target) not in FORBIDDEN, f"{own} must not import {target}"
        for library, allowed in ONLY_RUNS_KNOW.items():
            if parts[0] == library:
                assert own in allowed, f"{own} imports {library}"


def test_bottom_layer_needs_numpy_alone() -> None:
    for path in (PACKAGE / "errors.py", *(PACKAGE / "schema").glob("*.py")):
        for imported in imports(path):
            root = imported.split(".")[0]
            assert root in {"numpy", "stabdask"} | sys.stdlib_module_names, f"{path.name} imports {root}"


def test_a_wrong_import_would_be_found(tmp_path: Path) -> None:
    module = tmp_path / "bad.py"
    module.write_text("def f():\n    from stabdask.runs import job\n")
    assert "stabdask.runs" in imports(module)
    assert layer_of("runs") > layer_of("kernels")


def test_modules_read_in_one_sitting() -> None:
    long = {str(p.relative_to(PACKAGE)): n for p in modules() if (n := len(p.read_text().splitlines())) > 450}
    assert not long


def test_import_is_light() -> None:
    code = (
        "import sys, stabdask; "
        "heavy = {'cupy', 'distributed', 'matplotlib', 'dask', 'anndata', 'xarray', 'pandas', 'zarr', 'obstore'}; "
        "heavy |= {'bokeh', 'tornado'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_loads() -> None:
    for name in stabdask.__all__:
        assert getattr(stabdask, name) is not None
    assert set(stabdask.__all__) <= set(dir(stabdask))
    # The function keeps its name whatever modules are loaded.
    assert callable(stabdask.run)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = stabdask.nothing
