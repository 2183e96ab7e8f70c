"""Compiled programs are kept between commands, unless the environment says something of the cache."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lacy_jax.runtime import distributed
from lacy_jax.runtime.programs import FOLDER, default_folder, keep_programs

COMPILES = """
from lacy_jax.runtime.programs import keep_programs
keep_programs()
import jax, jax.numpy as jnp
print(jax.jit(lambda x: jnp.linalg.qr(jnp.tanh(x) @ x)[0].sum())(jnp.eye(64)))
"""


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder, and an environment that says nothing of JAX's cache; what is set in it is gone after the test."""
    said = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "JAX_ENABLE_COMPILATION_CACHE")
    left = {name: value for name, value in os.environ.items() if not name.startswith(said)}
    monkeypatch.setattr(os, "environ", {**left, "LACY_CACHE": str(tmp_path)})
    return tmp_path


@pytest.mark.slow
def test_a_second_process_compiles_nothing_that_the_first_has_kept(own: Path) -> None:
    said = []
    for _ in range(2):
        settings = {**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_LOG_COMPILES": "1"}
        process = subprocess.run([sys.executable, "-c", COMPILES], env=settings, capture_output=True, text=True)
        said.append((process.stdout, process.stderr.count("Persistent compilation cache hit")))
    assert said[0][0]
    assert said[0][0] == said[1][0]
    assert said[0][1] == 0
    assert said[1][1] > 0
    assert [path.parent for path in own.rglob("*-cache")].count(default_folder()) == said[1][1]


@pytest.mark.parametrize("name", [FOLDER, "JAX_ENABLE_COMPILATION_CACHE"])
@pytest.mark.usefixtures("own")
def test_the_environment_decides(name: str) -> None:
    os.environ[name] = "false"
    before = dict(os.environ)
    keep_programs()
    assert dict(os.environ) == before


def test_without_a_folder_nothing_is_kept(own: Path) -> None:
    (own / "file").touch()
    os.environ["LACY_CACHE"] = str(own / "file")
    keep_programs()
    assert FOLDER not in os.environ


@pytest.mark.parametrize(("limit", "left"), [("", ["b-atime", "b-cache"]), ("-1", ["a-cache", "b-atime", "b-cache"])])
@pytest.mark.usefixtures("own")
def test_a_program_that_was_cut_off_is_removed(limit: str, left: list[str]) -> None:
    """With no limit of their sizes JAX notes nothing beside programs."""
    folder = default_folder()
    assert folder is not None
    folder.mkdir(parents=True)
    for name in ("a-cache", "b-cache", "b-atime"):
        (folder / name).write_bytes(b"")
    if limit:
        os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = limit
    keep_programs()
    assert sorted(path.name for path in folder.iterdir()) == left


@pytest.mark.usefixtures("own")
def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    del os.environ["LACY_CACHE"]
    monkeypatch.setattr(Path, "home", nobody)
    keep_programs()
    assert FOLDER not in os.environ


@pytest.mark.usefixtures("own")
def test_several_processes_keep_no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: None)
    folder = jax.config.jax_compilation_cache_dir
    try:
        for given, left in [(str(default_folder()), None), ("/of/mine", "/of/mine")]:
            os.environ[FOLDER] = given
            jax.config.update("jax_compilation_cache_dir", given)  # as JAX reads the environment when it is imported
            distributed.initialize("on")
            assert jax.config.jax_compilation_cache_dir == left
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
