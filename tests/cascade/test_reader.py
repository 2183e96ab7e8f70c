"""The partner that reads before it writes: what it gives to the model, and what becomes of the model's answer."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lacy_jax.cascade import Cascade, make_partner
from lacy_jax.cascade.partners import check_partner, describe_partner, read_reader, searches_corpus
from lacy_jax.cascade.partners.checkpoint import CheckpointPartner
from lacy_jax.cascade.partners.documents import Documents, DocumentStore, build_store
from lacy_jax.cascade.partners.guard import Guard
from lacy_jax.cascade.partners.reader import PASSAGE_WORDS, TEXT_CHARACTERS, WORDS, Reader
from lacy_jax.cascade.remote.address import PARTNER
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import CorpusConfig
from lacy_jax.data.documents import Document
from lacy_jax.errors import CheckpointError, DataError, LacyError, PartnerError
from tests.cascade.http_server import Server, closes, says, serving

PEOPLE = [
    Document("1", "Albert Einstein", "He was born in Ulm, in 1879.\nHe moved to Munich in 1880."),
    Document("2", "Marie Curie", "She was born in Warsaw, and won the Nobel Prize in 1903."),
    Document("3", "", "A painter without a title was born in Łódź, near the river."),
]


class Copier:
    """A model that can only copy: it says the last place in what it is given where somebody was born."""

    name = "copier"

    def __init__(self) -> None:
        self.given: list[list[str]] = []

    def complete(self, texts: Sequence[str]) -> list[str]:
        self.given.append(list(texts))
        found = [re.findall(r"born in (\w+)", text) for text in texts]
        return [f" {places[-1]}" if places else "" for places in found]


def searched(documents: Sequence[Document], folder: Path) -> Documents:
    build_store(documents, path=folder / "store.sqlite", fingerprint={})
    return Documents(DocumentStore(folder / "store.sqlite"), span="phrase")


def write_documents(documents: Sequence[Document], file: Path) -> Path:
    lines = [{"id": each.id, "title": each.title, "text": each.text} for each in documents]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_model_answers_from_what_is_found_in_words_that_are_not_the_documents(tmp_path: Path) -> None:
    writer = Copier()
    reader = Reader(searched(PEOPLE, tmp_path), writer)
    texts = ["Albert Einstein's place of birth is", "The birthplace of Marie Curie:", "zzzz qqqq", ""]
    assert reader.complete(texts) == [" Ulm", " Warsaw", "", ""]
    assert len(writer.given) == 1  # all texts in one batch
    assert writer.given[0][2:] == texts[2:]  # nothing was found
    assert reader.complete(texts[1:2]) == [" Warsaw"]
    assert reader.complete([]) == []


def test_passages_stand_in_prose_before_the_text_and_the_best_is_the_last(tmp_path: Path) -> None:
    reader = Reader(searched(PEOPLE, tmp_path), Copier())
    text = "Albert Einstein knew a painter near the river.\n\nEinstein was born in "
    best = "Albert Einstein: He was born in Ulm, in 1879. He moved to Munich in 1880."
    others = {
        "Marie Curie: She was born in Warsaw, and won the Nobel Prize in 1903.",
        "A painter without a title was born in Łódź, near the river.",
    }
    given = reader.before_and_text(text)
    assert given.endswith(f"\n\n{best}\n\n{text}")
    assert {*given.removesuffix(f"{best}\n\n{text}").split("\n\n")} == others | {""}


@pytest.mark.parametrize(("words", "passages"), [(WORDS, 3), (100, 1), (1, 1)])
def test_of_long_documents_the_words_around_the_place_are_read(tmp_path: Path, words: int, passages: int) -> None:
    around = [" ".join(f"w{n}{i}" for i in range(180)) for n in range(6)]
    documents = [
        Document(str(n), f"Town {n}", f"{around[n]} the river there is called Ouse{n} indeed {around[n]}")
        for n in range(6)
    ]
    reader = Reader(searched(documents, tmp_path), Copier(), words=words)
    text = "In Town 4 the river there is called"
    given = reader.before_and_text(text)
    *read, end = given.split("\n\n")
    assert end == text
    assert len(read) == passages
    assert read[-1].startswith("Town 4: w4")
    assert all(re.search(r"called Ouse\d indeed w", each) for each in read)
    assert {len(each.split()) for each in read} == {PASSAGE_WORDS + 2}  # and the title


def test_of_a_long_text_the_end_is_read(tmp_path: Path) -> None:
    reader = Reader(searched(PEOPLE, tmp_path), Copier())
    text = "Marie Curie lived. " + "So it went on. " * 400 + "She was born in"
    passages, seen = reader.before_and_text(text).rsplit("\n\n", 1)
    assert "Marie Curie: She was born in Warsaw" in passages
    assert text.endswith(" " + seen)
    assert seen.startswith("So it went on. ")
    assert TEXT_CHARACTERS - 20 < len(seen) <= TEXT_CHARACTERS


@pytest.mark.parametrize("form", ["{}", "checkpoint:{}"])
def test_a_checkpoint_that_reads(
    tmp_path: Path, checkpoint: Path, model: Callable[..., LoadedModel], form: str
) -> None:
    """What the checkpoint alone writes after the passages and the text, which is not what it writes without them."""
    file = write_documents(PEOPLE[:1], tmp_path / "people.jsonl")
    spec = f"reader:{form.format(checkpoint)}@{file}"
    partner = make_partner(spec, corpus=CorpusConfig(), directory=str(tmp_path), span="token")
    assert isinstance(partner, Reader)
    assert partner.name == spec
    texts = ["Albert Einstein was born in", "The river", "In 1880 he moved to"]
    alone = CheckpointPartner(load_model(str(checkpoint)), span="token")
    read = "Albert Einstein: He was born in Ulm, in 1879. He moved to Munich in 1880.\n\n"
    given = [read + texts[0], texts[1], read + texts[2]]
    assert partner.complete(texts) == alone.complete(given)
    assert partner.complete(texts) != alone.complete(texts)
    cascade = Cascade(model(), spec, budget=1.0, span="token", directory=str(tmp_path))
    first = cascade.generate(texts[2:], max_new_tokens=1)[0].pieces[0]
    assert (first.source, first.text) == ("partner", alone.complete(given)[2])


def test_a_checkpoint_prepares_and_what_cannot_is_not_waited_for(
    tmp_path: Path, model: Callable[..., LoadedModel]
) -> None:
    documents = searched(PEOPLE, tmp_path)
    guard = Guard(Reader(documents, CheckpointPartner(model(context=40), span="word", slots=2)))
    assert guard.prepares
    assert guard.warm_up(["The river"], more=4) > 0
    assert not Guard(Reader(documents, Copier())).prepares


def test_a_server_that_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PARTNER.keys:
        monkeypatch.delenv(name, raising=False)
    corpus = CorpusConfig(name="jsonl", files=str(write_documents(PEOPLE[1:2], tmp_path / "people.jsonl")))
    read = "Marie Curie: She was born in Warsaw, and won the Nobel Prize in 1903.\n\n"
    with serving(Server()) as server:
        server.answers[read + "Marie Curie was born in"] = says(" Warsaw, in the")
        server.answers[read + "Marie Curie won"] = closes
        spec = f"reader:{server.url}#big-model"
        monkeypatch.setattr("lacy_jax.cascade.remote.server.BACKOFF_SECONDS", 0.01)
        partner = make_partner(spec, corpus=corpus, directory=str(tmp_path))
        assert partner is not None
        guard = Guard(partner)
        assert guard.complete(["Marie Curie was born in", "Marie Curie won"]) == [" Warsaw", ""]
        assert sum(guard.reasons.values()) == 1
        said = describe_partner(spec, corpus=corpus)
    asked = f"the server {server.url}, model big-model, with no key"
    assert said == f"{asked}, which reads passages of the documents of {corpus.files}"


def test_the_parts_of_a_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("home", "home/m@v2", "model"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert read_reader("model") == ("checkpoint:model", "documents")
    assert read_reader("checkpoint:model@a.jsonl,~/b.jsonl") == ("checkpoint:model", "documents:a.jsonl,~/b.jsonl")
    assert read_reader("~/m@v2@") == (f"checkpoint:{tmp_path}/home/m@v2", "documents")
    assert read_reader("~/m@v2@a.jsonl") == (f"checkpoint:{tmp_path}/home/m@v2", "documents:a.jsonl")
    assert read_reader("https://host:1/v1#m@a.jsonl") == ("https://host:1/v1#m", "documents:a.jsonl")
    assert [spec for spec in ("documents", "documents:a", "reader:model", "reader:model@a", "none", "model")
            if searches_corpus(spec)] == ["documents", "reader:model"]  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "error", "named"),
    [
        ("", PartnerError, "unknown partner 'reader:'; allowed: .*reader:MODEL"),
        ("@a.jsonl", PartnerError, "reader: '' is no model that could write; allowed: reader:PATH"),
        ("documents", PartnerError, "reader: 'documents' is no model"),
        ("none@a.jsonl", PartnerError, "reader: 'none' is no model"),
        ("reader:model", PartnerError, "reader: 'reader:model' is no model"),
        ("no/such/folder", PartnerError, "reader: 'no/such/folder' is no model"),
        ("checkpoint:no/such/folder", CheckpointError, "no/such/folder"),
        ("{checkpoint}@no/such.jsonl", DataError, r"no/such\.jsonl"),
        ("http://127.0.0.1:1/v1?x=1", PartnerError, "cannot read the partner's address"),
        ("http://me:secret@127.0.0.1:1/v1@{file}", PartnerError, "no name or password in a partner's address"),
    ],
)
def test_specs_that_are_refused(
    tmp_path: Path, checkpoint: Path, argument: str, error: type[LacyError], named: str
) -> None:
    file = write_documents(PEOPLE, tmp_path / "people.jsonl")
    spec = f"reader:{argument.format(checkpoint=checkpoint, file=file)}"
    own = CorpusConfig(name="jsonl", files=str(file))
    for refused in (lambda: check_partner(spec), lambda: make_partner(spec, corpus=own, directory=str(tmp_path))):
        with pytest.raises(error, match=named) as raised:
            refused()
        assert "\n" not in str(raised.value)
        assert "secret" not in str(raised.value)
