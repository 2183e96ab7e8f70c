"""The contracts of pyproject.toml turn red on what they forbid; CONTRIBUTING.md is right about lengths."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lint_imports(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    command = [program, "--no-cache", *options]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "lacy_jax", tmp_path / "lacy_jax", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_package_keeps_its_contracts() -> None:
    checked = lint_imports(ROOT)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("model/decoder.py", "from lacy_jax.cascade.budget import Budget", "wings"),
        ("serving/worker.py", "def late():\n    import lacy_jax.evidence.judge", "wings"),
        ("evidence/judge.py", "import lacy_jax.main", "wings"),
        ("generate.py", "import lacy_jax.serve", "wings"),
        ("objective/loss.py", "import lacy_jax.errors", "objective"),
        ("cascade/rows.py", "import lacy_jax.training.step", "cascade"),
        ("errors.py", "import lacy_jax.registry", "circles"),
    ],
)
def test_a_forbidden_import_turns_them_red(copy: Path, file: str, line: str, contract: str) -> None:
    with (copy / "lacy_jax" / file).open("a") as module:
        module.write(f"\n{line}\n")
    checked = lint_imports(copy, "--contract", contract)
    assert checked.returncode == 1
    assert "Contracts: 0 kept, 1 broken." in checked.stdout


def test_a_new_module_needs_a_place(copy: Path) -> None:
    (copy / "lacy_jax" / "helpers.py").touch()
    checked = lint_imports(copy)
    assert checked.returncode == 1
    assert "helpers" in checked.stdout


def lines_of(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Its lines without its docstring's."""
    return lines_of(function) - (lines_of(function.body[0]) if ast.get_docstring(function) is not None else 0)


def test_files_and_functions_are_short() -> None:
    """The limits of CONTRIBUTING.md; tests may be longer files."""
    long = []
    for root in ("lacy_jax", "configs", "benchmarks", "tests"):
        for file in sorted((ROOT / root).rglob("*.py")):
            text = file.read_text()
            if root != "tests" and len(text.splitlines()) > 400:
                long.append(f"{file}: {len(text.splitlines())} lines")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > 60:
                    long.append(f"{file}: {node.name} has {length(node)} lines")
    assert long == []


def test_paths_become_absolute_in_one_place() -> None:
    """`epath.Path.absolute` makes a local path of one in a bucket; `paths.absolute` does not."""
    wrong = [
        f"{file.relative_to(ROOT)}: {found[0]}"
        for file in sorted((ROOT / "lacy_jax").rglob("*.py"))
        for found in re.finditer(r"epath\.Path\(.*?\)\.(absolute|resolve)\(", file.read_text())
        if file.name != "paths.py"
    ]
    assert wrong == []
