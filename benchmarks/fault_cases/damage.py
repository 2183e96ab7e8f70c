"""Flipped bits and cut files, of a checkpoint, an export and prepared data.

What a door reads is read here in this process, by the functions that doors call: a thousand faults in minutes. Some go
through the doors themselves.
"""

import dataclasses
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from benchmarks.fault_cases.common import Ended, Outcome, Row, Scene, Sizes, result
from lacy_jax import config_file
from lacy_jax.checkpoints.format import read_config, read_meta, read_tokenizer
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.config import Config
from lacy_jax.data.prepare import prepare
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import LacyError
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.training.checkpoints import restore_step
from lacy_jax.training.state import state_shardings

Read = Callable[[Path], Any]
"""What a door makes of a folder, as plain values that can be compared."""

Damage = Callable[[bytes, random.Random], bytes]
"""The content of a file -> another one."""


def flips(scene: Scene, sizes: Sizes) -> Iterator[Row]:
    """One bit, at random, of one file after the other."""
    yield from _both(scene, "flipped bit", faults=sizes.flips, damage=_flip)
    yield from _doors(scene, sizes.doors)


def cuts(scene: Scene, sizes: Sizes) -> Iterator[Row]:
    """One file after the other, cut at a random place."""
    yield from _both(scene, "cut file", faults=sizes.cuts, damage=_cut)


def _both(scene: Scene, name: str, *, faults: int, damage: Damage) -> Iterator[Row]:
    config = config_file.read_config(str(scene.folder / "tiny.py"))
    step = scene.run / "checkpoints" / "12"
    for what, source, read, number in (
        ("checkpoint", step, read_checkpoint, faults),
        ("export", scene.export, read_model, faults // 5),
        ("prepared data", scene.data, read_data(config), faults),
    ):
        target = scene.folder / "damaged" / source.name
        yield Row(f"{name}, {what}", _damaged(source, target, read=read, faults=number, damage=damage))


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def _damaged(source: Path, target: Path, *, read: Read, faults: int, damage: Damage) -> list[Outcome]:
    """Damages one file after the other in a copy of `source`, and reads the copy each time."""
    shutil.copytree(source, target)
    whole = read(target)
    files = sorted(file for file in target.rglob("*") if file.is_file() and file.stat().st_size)
    files = [file for file in files if file.name != ".lock"]
    rng, outcomes = random.Random(0), list[Outcome]()
    for number in range(faults):
        file = files[number % len(files)]
        content, times = file.read_bytes(), file.stat()
        file.write_bytes(damage(content, rng))
        outcomes.append(_outcome(read, target, whole=whole))
        file.write_bytes(content)
        _reset(file, times)
    shutil.rmtree(target)
    return outcomes


def _reset(file: Path, times: os.stat_result) -> None:
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def _outcome(read: Read, folder: Path, *, whole: Any) -> Outcome:
    try:
        return "survived" if read(folder) == whole else "silent"
    except LacyError as error:
        return "traceback" if "\n" in str(error) else "clear"
    except Exception:
        return "traceback"


def read_model(folder: Path) -> Any:
    """What `generate`, `serve` and `evaluate` have of a checkpoint or an export."""
    model = load_model(str(folder))
    about = [
        model.config,
        model.tokenizer.fingerprint,
        model.step,
        model.call_scores,
        model.probes.tobytes(),
        model.data,
    ]
    return [_bytes(model.params), *about]


def read_checkpoint(folder: Path) -> Any:
    """What a run that goes on has of a checkpoint."""
    step = epath.Path(folder)
    meta = read_meta(step)
    config, vocab = read_config(meta, folder=step), decoder.padded_vocab(read_tokenizer(meta, folder=step).vocab_size)
    mesh = sharding.make_mesh(config.mesh, batch_size=config.data.batch_size, microbatches=1)
    with jax.set_mesh(mesh):
        placed = state_shardings(config, vocab=vocab, mesh=mesh)
        state = restore_step(step, meta, config, vocab=vocab, shardings=placed)
    return [_bytes(state), config, meta["tokenizer"], meta["call_scores"], meta["data"], meta["step"]]


def read_data(config: Config) -> Read:
    """A function that gives all that a run has of prepared data."""

    def read(folder: Path) -> Any:
        return _content(
            prepare(dataclasses.replace(config, data=dataclasses.replace(config.data, directory=str(folder))))
        )

    return read


def _content(prepared: Prepared) -> Any:
    digest = hashlib.sha256()
    for split in (prepared.train, prepared.validation):
        for window in (split[index] for index in range(len(split))):
            digest.update(window["tokens"].tobytes() + window["factual"].tobytes() + b"%d" % window["length"])
    for document, spans in prepared.validation_documents():
        digest.update(json.dumps([document.id, spans.starts.tolist(), spans.ends.tolist(), spans.kinds]).encode())
    for document in prepared.documents():
        digest.update(json.dumps([document.id, document.title, document.text]).encode())
    return [digest.hexdigest(), prepared.fingerprint, prepared.packed.statistics, prepared.tokenizer.fingerprint]


def _bytes(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def _doors(scene: Scene, faults: int) -> Iterator[Row]:
    """Flips through the doors: of the newest checkpoint of two, which a run resumes from and `generate` reads."""
    rng, resumed, written = random.Random(1), list[Outcome](), list[Outcome]()
    seconds = list[float]()
    words = ["--prompt=Who?", "--partner=none", "--max_new_tokens=4"]
    for number in range(faults):
        workdir = scene.folder / f"flipped{number}"
        shutil.copytree(scene.run, workdir)
        newest = workdir / "checkpoints" / "12"
        files = sorted(file for file in newest.rglob("*") if file.is_file() and file.stat().st_size)
        file = rng.choice(files)
        file.write_bytes(_flip(file.read_bytes(), rng))
        ended = scene.door("generate", f"--checkpoint={workdir}", *words)
        written.append(_judged(ended, right=not ended.status))  # by this one, or the one before
        ended = scene.door("main", *scene.training(workdir=workdir))
        seconds.append(ended.seconds)
        resumed.append(_judged(ended, right=result(workdir) == result(scene.run)))
        shutil.rmtree(workdir)
    yield Row("flipped bit, newest of two checkpoints, generate", written)
    yield Row("flipped bit, newest of two checkpoints, main", resumed, seconds, "the whole command")


def _judged(ended: Ended, *, right: bool) -> Outcome:
    if ended.broken:
        return "traceback"
    if ended.refused:
        return "clear"
    return "survived" if right else "silent"
