"""Stages reused, interrupted, wanted by two processes at once."""

import dataclasses
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from lacy_jax.config import (
    AnnotateConfig,
    Config,
    CorpusConfig,
    DataConfig,
    ModelConfig,
    TokenizerConfig,
)
from lacy_jax.config_dict import config_to_dict
from lacy_jax.data import marking
from lacy_jax.data import prepare as prepare_module
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import Document
from lacy_jax.data.prepare import prepare
from lacy_jax.data.prepared import Prepared
from lacy_jax.data.tokenizer import Tokenizer, train_tokenizer
from lacy_jax.errors import DataError

ROOT = Path(__file__).parents[2]


# --- Stages, on a small corpus with spans from a file ---------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Sixty documents of JSON lines, their digits marked, prepared into tmp_path/data."""
    rng = random.Random(0)
    with open(tmp_path / "corpus.jsonl", "w") as corpus, open(tmp_path / "spans.jsonl", "w") as spans:
        for number in range(60):
            text = " ".join(
                rng.choice(["river", "stone", "mountain", "in 1984", "Ada Lovelace", "of 7"]) for _ in range(80)
            )
            corpus.write(json.dumps({"id": f"d{number}", "title": f"No {number}", "text": text}) + "\n")
            marks = [[*match.span(), "NUM"] for match in re.finditer(r"\d+", text)]
            spans.write(json.dumps({"id": f"d{number}", "spans": marks}) + "\n")
    return Config(
        corpus=CorpusConfig(name="jsonl", files=str(tmp_path / "corpus.jsonl"), validation_share=0.2),
        annotate=AnnotateConfig(annotator="spans", spans_file=str(tmp_path / "spans.jsonl")),
        tokenizer=TokenizerConfig(vocab_size=320),
        model=ModelConfig(context=16),
        data=DataConfig(directory=str(tmp_path / "data")),
    )


def change(config: Config, part: str, **values: object) -> Config:
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **values)})


def stages(config: Config) -> list[str]:
    """The stages that ran."""
    calls: list[str] = []
    prepare(config, progress=lambda stage, _done, _total: calls.append(stage))
    return [stage for stage, _ in itertools.groupby(calls)]


def contents(prepared: Prepared) -> list:
    return [
        (record["tokens"].tolist(), record["factual"].tolist(), record["length"])
        for source in (prepared.train, prepared.validation)
        for record in (source[index] for index in range(len(source)))
    ]


ALL = ["read corpus", "annotate", "write documents", "train tokenizer", "pack", "write windows"]


def test_each_stage_runs_when_what_it_depends_on_changes(config: Config, tmp_path: Path) -> None:
    assert stages(config) == ALL
    assert stages(config) == []
    assert stages(change(config, "rule", sub_tokens="first")) == ALL[4:]
    assert stages(change(config, "model", context=32)) == ALL[4:]
    assert stages(change(config, "model", layers=1)) == []
    assert stages(change(config, "tokenizer", vocab_size=310)) == ALL[3:]
    assert stages(change(config, "corpus", validation_share=0.3)) == ALL[3:]
    assert stages(change(config, "corpus", max_documents=50)) == ALL
    model = Tokenizer(train_tokenizer(["some other text"] * 9, vocab_size=275)).definition
    (tmp_path / "other.model").write_bytes(model)
    loaded = change(config, "tokenizer", path=str(tmp_path / "other.model"))
    assert stages(loaded) == ALL[4:]
    assert prepare(loaded).tokenizer.definition == model
    assert stages(config) == []
    (tmp_path / "spans.jsonl").write_text(json.dumps({"id": "d0", "spans": [[0, 1, "X"]]}) + "\n")
    assert stages(config) == [*ALL[:3], "pack", "write windows"]
    with open(tmp_path / "corpus.jsonl", "a") as file:
        file.write(json.dumps({"id": "new", "text": "and more"}) + "\n")
    assert stages(config) == ALL


def test_progress_runs_to_its_total(config: Config) -> None:
    last: dict[str, tuple[int, int | None]] = {}

    def progress(stage: str, done: int, total: int | None) -> None:
        assert done >= last.get(stage, (0, None))[0]
        last[stage] = (done, total)

    prepared = prepare(config, progress=progress)
    assert list(last) == ALL
    assert last["read corpus"] == (60, None)
    assert all(
        done == total for stage, (done, total) in last.items() if stage not in ("read corpus", "train tokenizer")
    )
    assert last["write windows"][0] == len(prepared.train) + len(prepared.validation)


def test_files_are_hashed_once_and_the_corpus_is_read_once(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    readings = 0

    def digest(file: BinaryIO, name: str) -> Any:
        hashed.append(Path(file.name).name)
        return hashlib.new(name, file.read())

    def read(corpus: CorpusConfig, **options: Any) -> Iterator[Document]:
        nonlocal readings
        readings += 1
        return read_documents(corpus, **options)

    def counts(config: Config) -> tuple[list[str], int]:
        nonlocal readings
        hashed.clear()
        readings = 0
        prepare(config)
        return sorted(hashed), readings

    monkeypatch.setattr(hashlib, "file_digest", digest)
    monkeypatch.setattr(marking, "read_documents", read)
    assert counts(config) == (["corpus.jsonl", "spans.jsonl"], 1)
    assert counts(config) == ([], 0)
    assert counts(change(config, "model", context=32)) == ([], 0)
    # Written anew with the same words: hashed, and nothing else follows.
    first = os.stat(tmp_path / "corpus.jsonl")
    os.utime(tmp_path / "corpus.jsonl", ns=(first.st_atime_ns, first.st_mtime_ns + 1))
    assert counts(config) == (["corpus.jsonl"], 0)
    assert counts(config) == ([], 0)
    # Other words of the same length: another corpus.
    text = (tmp_path / "corpus.jsonl").read_text()
    (tmp_path / "corpus.jsonl").write_text(text.replace("river", "brook"))
    os.utime(tmp_path / "corpus.jsonl", ns=(first.st_atime_ns, first.st_mtime_ns + 2))
    assert counts(config) == (["corpus.jsonl"], 1)
    # A memory that is broken, or cannot be written, costs a reading.
    (tmp_path / "data" / "files.json").write_text("[")
    assert counts(config) == (["corpus.jsonl", "spans.jsonl"], 0)
    assert counts(config) == ([], 0)


def test_marks_that_fit_no_document_are_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "spans.jsonl").write_text(json.dumps({"id": "elsewhere", "spans": []}) + "\n")
    with pytest.raises(DataError, match="none of its ids"):
        prepare(config)
    assert not list((tmp_path / "data" / "annotated").glob("*/1.0.0"))


def test_prepared_twice_is_the_same(config: Config, tmp_path: Path) -> None:
    first = prepare(config)
    second = prepare(change(config, "data", directory=str(tmp_path / "again")))
    assert second.fingerprint == first.fingerprint
    assert contents(second) == contents(first)


def test_broken_records_are_counted_and_kept_and_the_others_are_exact(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = [
        "",
        "\0 7 \0",
        "שלום 5 עולם",
        "e\u0301 3\u0327 x",
        "👩‍👩‍👧‍👦🏽 6 👩",
        "!" * 5_000 + " 4 " + "$" * 5_000,
        "1 " * 20_000,
        "\ufeff8\r\n",
    ]
    rows = [{"id": f"odd{n}", "title": "T\u0308" * (n % 2), "text": text} for n, text in enumerate(odd)]
    broken = [
        b'{"text": "\xff"}',
        b'{"id": "no text"}',
        b'{"id": "d1", "text": "again"}',
        b"[" * 9_999,
        b'{"text": "cut',
    ]
    with open(tmp_path / "corpus.jsonl", "ab") as corpus, open(tmp_path / "spans.jsonl", "a") as spans:
        for row in rows:
            corpus.write(json.dumps(row).encode() + b"\n")
            found = [[*match.span(), "NUM"] for match in re.finditer(r"\d+", str(row["text"]))]
            spans.write(json.dumps({"id": row["id"], "spans": found}) + "\n")
        corpus.write(b"\n".join(broken))
    prepared = prepare(change(config, "rule", first_mention_only=False, exclude_subjects=False))
    left_out = prepared.annotated_directory.parent / "left_out.jsonl"
    kept = [json.loads(line) for line in left_out.read_text().splitlines()]
    assert [row["where"].rpartition(", ")[2] for row in kept] == [f"line {n}" for n in range(69, 74)]
    assert [row["beginning"] for row in kept] == [
        '{"text": "\ufffd"}',
        '{"id": "no text"}',
        "again",
        "[" * 200,
        '{"text": "cut',
    ]
    assert caplog.messages == [f"5 records left out: see {left_out}"]
    documents = {document.id: document.text for document in prepared.documents()}
    assert [documents[f"odd{n}"] for n in range(len(odd))] == odd
    # The factual tokens are the digits of the texts, each once and no other token; those of titles are not marked.
    found = []
    for source in (prepared.train, prepared.validation):
        for record in (source[index] for index in range(len(source))):
            factual = record["factual"][1 : record["length"]]
            found += record["tokens"][1 : record["length"]][factual].tolist()
    texts = [prepared.tokenizer.decode_bytes([token]).decode().strip() for token in found]
    assert sorted(texts) == sorted(re.findall(r"\d", "".join(documents.values())))
    again = prepare(change(config, "data", directory=str(tmp_path / "again")))
    assert (again.annotated_directory.parent / "left_out.jsonl").read_bytes() == left_out.read_bytes()


# --- Interrupted, and two at once -----------------------------------------------------------------------------------

CHILD = """
import json, os, signal, sys, time
from lacy_jax.config_dict import config_from_dict
from lacy_jax.data.prepare import prepare
config, kill_at, log = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
seen = set()
def progress(stage, done, total):
    if stage not in seen:
        seen.add(stage)
        open(log, "a").write(stage + "\\n")
    if stage == kill_at and done >= 30:
        os.kill(os.getpid(), signal.SIGKILL)
    while not kill_at and stage == "annotate" and len(open(log).readlines()) < 3:
        time.sleep(0.01)  # "read corpus" and "annotate" are ours; the third line is another process's
prepared = prepare(config_from_dict(config), progress=progress)
assert "tensorflow" not in sys.modules
print(prepared.packed.directory)
"""


def start(config: Config, tmp_path: Path, *, kill_at: str = "") -> subprocess.Popen:
    """A process that prepares. It is killed within a stage, or, of "", annotates when another one has come as far."""
    fake = tmp_path / "path" / "tensorflow"  # TensorFlow would be found, if anything looked for it
    fake.mkdir(parents=True, exist_ok=True)
    (fake / "__init__.py").write_text("raise AssertionError('TensorFlow was imported')")
    paths = os.pathsep.join([str(ROOT), str(fake.parent)])
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(config_to_dict(config)), kill_at, str(tmp_path / "log")],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("stage", ["annotate", "write documents", "train tokenizer", "pack", "write windows"])
def test_a_killed_stage_leaves_nothing_that_looks_finished(config: Config, tmp_path: Path, stage: str) -> None:
    child = start(config, tmp_path, kill_at=stage)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    finished = {
        "annotate": list((tmp_path / "data").glob("annotated/*/1.0.0")),
        "train tokenizer": list((tmp_path / "data").glob("tokenizer/*/tokenizer.model")),
        "pack": list((tmp_path / "data").glob("packed/*/1.0.0")),
    }
    expected = {"annotate": 0, "write documents": 0, "train tokenizer": 1, "pack": 2, "write windows": 2}[stage]
    assert [bool(each) for each in finished.values()] == [nth < expected for nth in range(3)]

    left = {"annotate": ALL[1:], "write documents": ALL[1:], "train tokenizer": ALL[3:]}.get(stage, ALL[4:])
    assert stages(config) == left  # the annotator spans marks the whole corpus in one call
    assert not list((tmp_path / "data").rglob("incomplete*"))
    whole = prepare(change(config, "data", directory=str(tmp_path / "whole")))
    assert contents(prepare(config)) == contents(whole)


def test_two_processes_share_the_work(config: Config, tmp_path: Path) -> None:
    children = [start(config, tmp_path) for _ in range(2)]
    results = [child.communicate(timeout=300) for child in children]
    assert [child.returncode for child in children] == [0, 0], results
    assert results[0][0] == results[1][0]
    ran = (tmp_path / "log").read_text().split("\n")
    assert [ran.count(stage) for stage in ALL] == [1] * 6
    assert "wait for another process" in ran
    assert stages(config) == []


def test_a_failing_stage_leaves_nothing(config: Config, monkeypatch) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "train_tokenizer", fail)
        with pytest.raises(OSError, match="no space left"):
            prepare(config)
    assert stages(config) == ALL[3:]


# --- Prepared elsewhere ---------------------------------------------------------------------------------------------


def test_a_packed_dataset_from_elsewhere_is_enough(config: Config, tmp_path: Path) -> None:
    here = prepare(config)
    moved = tmp_path / "moved" / "1.0.0"
    moved.parent.mkdir()
    shutil.move(here.packed.directory, moved)
    (tmp_path / "model").write_bytes(here.tokenizer.definition)
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "corpus.jsonl").unlink()
    (tmp_path / "spans.jsonl").unlink()

    elsewhere = change(config, "data", packed=str(moved))
    assert stages(elsewhere) == []
    there = prepare(change(elsewhere, "tokenizer", path=str(tmp_path / "model")))
    assert there.fingerprint == here.fingerprint
    assert there.tokenizer.definition == here.tokenizer.definition
    assert len(there.train) == len(here.train)
    with pytest.raises(DataError, match="is no complete annotated dataset"):
        next(there.documents())


def test_a_packed_dataset_in_place_finds_its_documents(config: Config) -> None:
    here = prepare(config)
    there = prepare(change(config, "data", packed=str(here.packed.directory), directory="nowhere"))
    assert list(there.documents()) == list(here.documents())


def test_a_packed_dataset_that_does_not_fit_is_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(train_tokenizer(["some other text"] * 9, vocab_size=275))
    packed = change(config, "data", packed=str(prepare(config).packed.directory))
    other = change(change(packed, "rule", kinds="NUM"), "model", context=1024)
    with pytest.raises(DataError) as error:
        prepare(change(other, "tokenizer", path=str(tmp_path / "model")))
    message = str(error.value)
    assert "rule.kinds: expected 'NUM', found 'entity,PROPN,NUM'" in message
    assert "window: expected 1024, found 16" in message
    assert "tokenizer: expected" in message
    assert len(message.splitlines()) == 5
    with pytest.raises(DataError, match="is no complete packed dataset"):
        prepare(change(config, "data", packed=str(tmp_path)))


# --- The door -------------------------------------------------------------------------------------------------------


def test_door(config: Config, tmp_path: Path) -> None:
    settings = {
        "corpus": ("name", "files", "validation_share"),
        "annotate": ("annotator", "spans_file"),
        "tokenizer": ("vocab_size",),
        "model": ("context",),
        "data": ("directory",),
    }
    flags = [
        f"--config.{part}.{name}={getattr(getattr(config, part), name)}" for part in settings for name in settings[part]
    ]
    command = [sys.executable, "-m", "lacy_jax.prepare", f"--config={ROOT}/configs/slm_tiny.py"]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == prepare(config).packed.directory
    assert re.search(r"^train +\d+ documents, [\d,]+ tokens, \d+\.\d% factual, \d+ windows$", done.stderr, re.M)
    wrong = [*flags, f"--config.corpus.files={tmp_path}/none.jsonl"]
    done = subprocess.run([*command, *wrong], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: config.corpus.files: no such file")
    assert done.stderr.count("\n") == 1
