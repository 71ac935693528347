"""The package as it is installed: what an import brings in, what a wheel holds, and the rules of the house."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tinyconv

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "tinyconv").rglob("*.py"))
OPTIONAL = {
    "IPython", "PIL", "anywidget", "cupy", "matplotlib", "nibabel", "nilearn", "numba", "onnx", "safetensors", "scipy",
    "skimage", "sklearn", "tensorboardX", "threadpoolctl", "torch", "tqdm", "traitlets",
}  # fmt: skip


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_brings_in_nothing_heavy() -> None:
    assert python(f"import sys, tinyconv; print(sorted({OPTIONAL} & set(sys.modules)))") == "[]"


def test_every_module_imports_where_only_numpy_is_installed() -> None:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL}))"  # None there makes an import fail
    compiled = ROOT / "tinyconv" / "kernels" / "cpu"  # the rung that the ladder leaves out where there is no Numba
    paths = (path for path in MODULES if path.name != "__main__.py" and compiled not in path.parents)
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    imports = "\n".join(f"import {name.removesuffix('.__init__')}" for name in names)
    assert python(f"{blocked}\n{imports}\nprint('all')") == "all"


def test_wheel_is_pure_and_typed(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True
    )
    (wheel,) = tmp_path.iterdir()
    assert wheel.name == f"tinyconv-{tinyconv.__version__}-py3-none-any.whl"
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package, kinds = (ROOT / "tinyconv").rglob("*"), {".py", ".pyi", ".typed", ".cu", ".cpp", ".h", ".js", ".css"}
    assert held == {str(p.relative_to(ROOT)) for p in package if p.suffix in kinds}


def test_version_is_said_once_and_the_same_everywhere() -> None:
    version = re.escape(tinyconv.__version__)
    assert re.search(rf'^version = "{version}"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert re.search(rf"^## {version}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rules_of_the_house(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 600, "a file is at most 600 lines"
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        assert function.end_lineno is not None
        assert function.end_lineno - function.lineno < 70, f"{function.name} is longer than 70 lines"
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                imported = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported = {"a module of ours"} if node.level else {str(node.module).split(".")[0]}
            else:
                continue
            assert imported <= OPTIONAL - {"torch"}, (
                f"{function.name} imports {imported}: only heavy optional libraries inside"
            )


def test_every_array_function_of_the_portable_code_exists_in_cupy() -> None:
    """What the code takes from ``xp`` or ``array_module(x)``; importing CuPy needs no GPU."""
    cupy = pytest.importorskip("cupy")

    def is_array_module(node: ast.expr) -> bool:
        if isinstance(node, ast.Call):
            return isinstance(node.func, ast.Name) and node.func.id == "array_module"
        return isinstance(node, ast.Name) and node.id == "xp"

    nodes = [node for path in MODULES for node in ast.walk(ast.parse(path.read_text()))]
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute) and is_array_module(node.value)}
    assert {"matmul", "exp", "zeros", "broadcast_to"} <= names
    assert not {name for name in names if not hasattr(cupy, name)}
