"""What an import brings along."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lacy_jax.imports import hidden

ROOT = Path(__file__).parent.parent
DOORS = [path.stem for path in (ROOT / "lacy_jax").glob("*.py") if "\nDOOR = " in path.read_text()]


def test_a_hidden_package_is_found_again_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large_package.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with hidden("large_package"), pytest.raises(ModuleNotFoundError):
        importlib.import_module("large_package")
    found = importlib.import_module("large_package")
    with hidden("large_package"):  # it was imported before
        assert importlib.import_module("large_package") is found
    del sys.modules["large_package"]


def test_no_door_imports_pytorch(tmp_path: Path) -> None:
    """tensorboardX would, where it is installed. The doors import as late as they can, so what they need is named."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is imported')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    late = "training.loop", "evidence.run_report.report", "evidence.study.plan", "cascade", "serving.server", "start"
    code = "; ".join(f"import lacy_jax.{name}" for name in (*DOORS, *late))
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, check=False)
    assert len(DOORS) > 10
    assert done.returncode == 0
