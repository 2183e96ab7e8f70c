"""Marking by parts: what a stopped command keeps, what a damaged file costs, what becomes of documents that kill."""

import dataclasses
import itertools
import json
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lacy_jax.config import AnnotateConfig, Config, CorpusConfig, DataConfig, ModelConfig, RuleConfig, TokenizerConfig
from lacy_jax.data import batches, beam, datasets, marking, pool, speed
from lacy_jax.data.beam import Beam
from lacy_jax.data.documents import Document, Spans
from lacy_jax.data.marking import Marking
from lacy_jax.data.prepare import prepare
from lacy_jax.errors import DataError

# Marks digits. Notes each document that it marks. Dies, fails, or never ends, where a text says so.
ANNOTATOR = """
import os, pathlib, re, signal, time
import numpy as np
from lacy_jax.data.documents import Spans, text_offset
from lacy_jax.errors import DataError

HERE = pathlib.Path(__file__).parent
PARTS = (HERE / "PARTS").read_text()

def mark(documents, settings):
    if (HERE / "refuse").exists():
        raise DataError("no model", "no data")
    for document in documents:
        with open(HERE / "log", "a") as log:
            log.write(document.id + "\\\\n")
        if "KILL" in document.text or ("ONCE" in document.text and not (HERE / "once").exists()):
            (HERE / "once").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if "RAISE" in document.text:
            raise RuntimeError("of this text")
        while "HANG" in document.text:
            time.sleep(3600)
        found = [match.span() for match in re.finditer(r"[0-9]+", document.text)]
        table, no = np.array(found, np.int32).reshape(-1, 2) + text_offset(document), np.zeros(len(found), bool)
        yield document, Spans(table[:, 0], table[:, 1], ("NUM",) * len(found), no, no)

def fingerprint(settings):
    return {}
""".replace("\\\\", "\\")
# Gives `mark` other documents than it was given.
CARELESS = """
careful = mark

def mark(documents, settings):
    documents = list(documents)
    return careful(eval((HERE / "careless").read_text()), settings)
"""
TEXTS = [f"The stone of {1900 + number} lies in the river, {number} steps from Ulm." for number in range(40)]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Forty documents, two in a batch and four in a part, and an annotator of a package."""
    package = tmp_path / "package"
    (package / "digits-0.dist-info").mkdir(parents=True)
    (package / "digits-0.dist-info" / "METADATA").write_text("Name: digits\nVersion: 0\n")
    (package / "digits-0.dist-info" / "entry_points.txt").write_text("[lacy_jax.annotators]\ndigits = digits_of_test\n")
    (package / "digits_of_test.py").write_text(ANNOTATOR)
    (package / "PARTS").write_text("anywhere")
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.delitem(__import__("sys").modules, "digits_of_test", raising=False)
    monkeypatch.setattr(batches, "BATCH", 80)
    monkeypatch.setattr(batches, "PART_BATCHES", 2)
    write_corpus(tmp_path, TEXTS)
    return Config(
        corpus=CorpusConfig(name="jsonl", files=str(tmp_path / "corpus.jsonl"), validation_share=0.2),
        annotate=AnnotateConfig(annotator="digits", workers=2),
        tokenizer=TokenizerConfig(vocab_size=300),
        model=ModelConfig(context=16),
        data=DataConfig(directory=str(tmp_path / "data")),
    )


def write_corpus(folder: Path, texts: list[str]) -> None:
    rows = (json.dumps({"id": f"d{number}", "title": "T", "text": text}) for number, text in enumerate(texts))
    (folder / "corpus.jsonl").write_text("\n".join(rows))


def elsewhere(config: Config, name: str) -> Config:
    return dataclasses.replace(config, data=DataConfig(directory=str(Path(config.data.directory).parent / name)))


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of the datasets, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*/1.0.0/*"))}


def log_of(config: Config) -> list[str]:
    return (Path(config.data.directory).parent / "package" / "log").read_text().split()


def part_files(config: Config, suffix: str) -> list[Path]:
    return sorted(Path(config.data.directory).glob(f"annotated/*/parts/*.{suffix}"))


class Stopped(BaseException):
    """As a kill: nothing handles it."""


def prepare_until(config: Config, stage: str, done: int) -> None:
    def progress(now: str, count: int, _total: int | None) -> None:
        if (now, count) == (stage, done):
            raise Stopped

    with pytest.raises(Stopped):
        prepare(config, progress=progress)


@pytest.mark.parametrize("annotator_parts", ["anywhere", "in order", "whole"])
def test_a_stopped_command_goes_on_from_finished_parts(config: Config, annotator_parts: str) -> None:
    (Path(config.data.directory).parent / "package" / "PARTS").write_text(annotator_parts)
    prepare(elsewhere(config, "undisturbed"))
    undisturbed = files_of(Path(elsewhere(config, "undisturbed").data.directory))
    assert len(undisturbed) > 6
    before = len(log_of(config))
    assert before == 40
    prepare_until(config, "read corpus", 30)
    for done in (10, 21, 39):
        prepare_until(config, "annotate", done)
    assert len(part_files(config, "documents")) == 10
    assert len(part_files(config, "marks")) == 9
    prepare_until(config, "write documents", 17)
    seen: list[str] = []
    prepare(config, progress=lambda stage, _done, _total: seen.append(stage))
    assert "read corpus" not in seen
    assert files_of(Path(config.data.directory)) == undisturbed
    assert not part_files(config, "*")
    marked_again = len(log_of(config)) - before - 40
    if annotator_parts == "whole":
        assert marked_again == 10 + 21 + 39 + 40  # all of it, each time
    else:
        # Each stop costs the part it fell into, and what the processes had begun: five batches of two are ahead.
        assert 3 <= marked_again <= 3 * (4 + 5 * 2)


def test_a_part_that_is_damaged_is_made_again(config: Config) -> None:
    prepare(elsewhere(config, "undisturbed"))
    prepare_until(config, "annotate", 37)
    first, second, third, *_ = part_files(config, "marks")
    first.write_bytes(first.read_bytes()[:-1] + b"\0")
    second.write_bytes(second.read_bytes()[:70])
    third.write_bytes((first.parent / "00003.marks").read_bytes())  # good, but of other documents
    before = len(log_of(config))
    prepare(config)
    assert log_of(config)[before:][:12] != []
    assert {f"d{number}" for number in [*range(12), *range(36, 40)]} == set(log_of(config)[before:])
    assert files_of(Path(config.data.directory)) == files_of(Path(elsewhere(config, "undisturbed").data.directory))


def test_documents_that_are_damaged_are_read_again(config: Config) -> None:
    prepare(elsewhere(config, "undisturbed"))
    prepare_until(config, "annotate", 21)
    third = part_files(config, "documents")[2]
    third.write_bytes(b"")
    with pytest.raises(DataError, match=r"00002\.documents is missing or damaged; repeat the command"):
        prepare(config)
    prepare(config)
    assert files_of(Path(config.data.directory)) == files_of(Path(elsewhere(config, "undisturbed").data.directory))


def test_documents_that_kill_or_fail_are_left_out(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(config.data.directory).parent
    texts = [*TEXTS]
    texts[5], texts[20], texts[33] = "KILL " * 9, "RAISE " * 9, TEXTS[33] + " ONCE"
    write_corpus(folder, texts)
    with open(folder / "corpus.jsonl", "a") as corpus:
        corpus.write("\nno JSON")
    prepared = prepare(config)
    assert [document.id for document in prepared.documents()] == [f"d{n}" for n in range(40) if n not in (5, 20)]
    (left_out,) = Path(config.data.directory).glob("annotated/*/left_out.jsonl")
    rows = [json.loads(line) for line in left_out.read_text().splitlines()]
    assert [row["where"].rpartition("/")[2] for row in rows] == [
        "corpus.jsonl, line 41",
        "document 'd5'",
        "document 'd20'",
    ]
    assert rows[1]["reason"] == "cannot be marked: the worker process died (SIGKILL, most likely for want of memory)"
    assert rows[2]["reason"] == "cannot be marked: RuntimeError: of this text"
    assert rows[1]["beginning"].startswith("KILL KILL")
    assert caplog.messages[-1] == f"3 records left out: see {left_out}"
    # The same corpus without them gives the same documents and marks.
    write_corpus(folder, [text if number not in (5, 20) else "" for number, text in enumerate(texts)])
    rest = [line for line in (folder / "corpus.jsonl").read_text().splitlines() if '"text": ""' not in line]
    (folder / "corpus.jsonl").write_text("\n".join(rest))
    other = prepare(elsewhere(config, "without"))
    assert records(other.packed.train) == records(prepared.packed.train)


@pytest.mark.parametrize(("beam", "tries"), [(None, 2), (Beam("DirectRunner"), 1)])
def test_documents_that_never_end_are_left_out(
    config: Config, beam: Beam | None, tries: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def limit(documents: list[Document], timeout: float) -> float:  # no busy machine makes another text meet it
        return 0.01 if any("HANG" in document.text for document in documents) else 300 * timeout

    monkeypatch.setattr(pool, "time_limit", limit)
    monkeypatch.setattr(pool, "_TRIES", tries)
    monkeypatch.setattr(marking, "run_pipeline", run_here)
    write_corpus(Path(config.data.directory).parent, [*TEXTS[:5], "HANG " * 9, *TEXTS[6:]])
    prepared = prepare(config, marking=Marking(beam=beam))
    assert [document.id for document in prepared.documents()] == [f"d{n}" for n in range(40) if n != 5]
    (left_out,) = Path(config.data.directory).glob("annotated/*/left_out.jsonl")
    (row,) = [json.loads(line) for line in left_out.read_text().splitlines()]
    assert row["where"] == "document 'd5'"
    assert row["reason"] == "cannot be marked: the annotator took more than 0 seconds (config.annotate.timeout)"
    tried = [message.partition(":")[2][:30] for message in caplog.messages if "took more than" in message]
    assert tried == [" 2 documents from 'd4' on: the"] * tries + [" 1 documents from 'd5' on: the"] * tries


def test_longer_documents_have_more_time() -> None:
    def limit(*characters: int) -> float:
        return pool.time_limit([Document("", "", "x" * count) for count in characters], 300.0)

    assert limit(0) == limit(40, 50_000) == limit(100_000) == 300
    assert limit(100_000, 400_000) == 1500


def records(source: object) -> list[tuple[list[int], list[bool]]]:
    rows = (source[index] for index in range(len(source)))  # type: ignore[index, arg-type]
    return [(row["tokens"].tolist(), row["factual"].tolist()) for row in rows]


def test_where_no_document_can_be_marked_one_line_says_so(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(config.data.directory).parent
    monkeypatch.setattr(pool, "_MOST_LOST", 3)
    write_corpus(folder, [f"RAISE {text}" for text in TEXTS])
    with pytest.raises(DataError, match="3 documents in a row could not be marked; with the last, 'd"):
        prepare(config)
    (folder / "package" / "refuse").touch()
    with pytest.raises(DataError, match="no model"):
        prepare(elsewhere(config, "refused"))


@pytest.mark.parametrize("annotator_parts", ["anywhere", "in order"])
def test_an_annotator_that_loses_or_exchanges_documents_is_refused(config: Config, annotator_parts: str) -> None:
    package = Path(config.data.directory).parent / "package"
    (package / "PARTS").write_text(annotator_parts)
    with open(package / "digits_of_test.py", "a") as program:
        program.write(CARELESS)
    (package / "careless").write_text("documents[1:]")
    with pytest.raises(DataError, match="annotator digits: gave 'd1' in place of 'd0'"):
        prepare(config)
    (package / "careless").write_text("documents[:-1]")
    with pytest.raises(DataError, match=r"annotator digits: gave no marks for 'd\d+'"):
        prepare(config)


def test_an_annotator_that_gives_no_losses_against_its_word_is_refused_at_the_first_document(config: Config) -> None:
    package = Path(config.data.directory).parent / "package"
    (package / "PARTS").write_text("in order")
    with open(package / "digits_of_test.py", "a") as program:
        program.write("\ndef has_losses(settings):\n    return True\n")
    said = "annotator digits: of the document 'd0' it gave no losses, against what its has_losses says"
    with pytest.raises(DataError, match=f"^{said}$"):
        prepare(config)
    assert (package / "log").read_text().split() == ["d0"]


def test_records_do_not_depend_on_the_order_of_their_features() -> None:
    def record(names: str) -> bytes:
        entries = [b"\x0a\x01" + name.encode() + b"\x12\x02\x0a\x00" for name in names]  # name -> an empty list
        features = b"".join(b"\x0a" + bytes([len(entry)]) + entry for entry in entries)
        return b"\x0a" + bytes([len(features)]) + features

    orders = {datasets._in_order_of_names(record("".join(order))) for order in itertools.permutations("abcdef")}
    assert orders == {record("abcdef")}


def test_speed_is_said_in_documents_characters_and_words() -> None:
    units, each = speed.units_of(["In 1984 it rained.", "Twice."], None)
    assert (units, each) == ("words", 24 / 5)
    marked = speed.Marked(cores=2, units=units, characters_per_unit=each)
    document = Document("a", "", "In 1984 it rained. " * 100)
    spans = Spans(np.array([3], np.int32), np.array([193], np.int32), ("DATE",), np.zeros(1, bool), np.zeros(1, bool))
    marked = marked.add(document, spans, rule=RuleConfig(), seconds=9.0)
    marked = marked.add(document, None, rule=RuleConfig(), seconds=10.0)
    assert marked.speed() == "0.1 documents, 190 characters, 40 words/s per core, 5.0% of the characters factual"


def run_here(_beam: Beam, found: list[tuple[int, str]], **given: Any) -> None:
    """As `run_pipeline`, without Beam."""
    for part in found:
        beam.mark_part(part, folder=given["folder"], settings=given["settings"], further=())
    beam._pool(given["settings"], ()).close()
    beam._pool.cache_clear()
    beam.raise_problem(given["folder"])


def test_all_that_is_wrong_is_said_from_where_it_ran(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marking, "run_pipeline", run_here)
    (Path(config.data.directory).parent / "package" / "refuse").touch()
    with pytest.raises(DataError) as refused:
        prepare(config, marking=Marking(beam=Beam("DirectRunner")))
    assert refused.value.problems == ("no model", "no data")


def test_a_stop_does_not_wait_for_a_pipeline(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beam waits for ever for workers that Ctrl-C ended."""
    goes_on, waited = threading.Event(), threading.Event()

    def run(_beam: Beam, found: list[tuple[int, str]], **given: Any) -> None:
        run_here(_beam, found[:1], **given)
        goes_on.wait(60)
        waited.set()

    monkeypatch.setattr(marking, "run_pipeline", run)

    def stop(_marked: speed.Marked) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        prepare(config, marking=Marking(report=stop, beam=Beam("DirectRunner")))
    assert not waited.is_set()
    goes_on.set()


def test_parts_may_lie_anywhere(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the dataset will be: only what was there for the marking is removed."""
    monkeypatch.setattr(marking, "run_pipeline", run_here)
    prepare(elsewhere(config, "undisturbed"))
    place = Path(config.data.directory) / "annotated"
    prepared = prepare(config, marking=Marking(beam=Beam("DirectRunner", parts=str(place))))
    assert files_of(Path(config.data.directory)) == files_of(Path(elsewhere(config, "undisturbed").data.directory))
    assert list(place.iterdir()) == [prepared.annotated_directory.parent]
    assert {path.name for path in prepared.annotated_directory.parent.iterdir()} == {"1.0.0", ".lock"}


def test_an_annotator_that_marks_here_refuses_beam_before_the_corpus_is_read(config: Config) -> None:
    (Path(config.data.directory).parent / "package" / "PARTS").write_text("in order")
    seen: list[str] = []
    with pytest.raises(DataError, match="the annotator digits marks in one process on this machine"):
        prepare(config, marking=Marking(beam=Beam("DirectRunner")), progress=lambda stage, *_: seen.append(stage))
    assert not seen


def test_what_was_marked_is_reported(config: Config) -> None:
    said: list[speed.Marked] = []
    prepare(config, marking=Marking(report=said.append))
    assert [each.documents for each in said] == list(range(1, 41))
    characters = sum(len(text) + 3 for text in TEXTS)
    digits = sum(len("".join(re.findall(r"\d+", text))) for text in TEXTS)
    assert (said[-1].characters, said[-1].factual, said[-1].cores) == (characters, digits, 2)
