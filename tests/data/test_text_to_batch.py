"""Text to batch, by spans, tokens and records, against spaCy run by hand."""

import dataclasses
import re

import numpy as np
import pytest

from lacy_jax.config import AnnotateConfig, Config, CorpusConfig, DataConfig, ModelConfig, RuleConfig, TokenizerConfig
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import Document, full_text, split_of
from lacy_jax.data.loader import window_batch
from lacy_jax.data.prepare import prepare
from lacy_jax.data.prepared import Prepared

ARTICLES = Config(
    corpus=CorpusConfig(max_documents=200, validation_share=0.1),
    annotate=AnnotateConfig(workers=1),
    tokenizer=TokenizerConfig(vocab_size=1000),
    model=ModelConfig(context=64),
)


@pytest.fixture(scope="module")
def articles(tmp_path_factory) -> Prepared:
    directory = tmp_path_factory.mktemp("articles")
    return prepare(dataclasses.replace(ARTICLES, data=DataConfig(directory=str(directory))))


def flagged_words(nlp, document: Document) -> list[tuple[int, int]]:
    """The default rule as the paper's notes put it, word by word: (start, end) in the full text."""
    modifiers = {"compound", "nmod", "amod", "nummod", "quantmod", "appos", "det", "case", "punct"}
    subjects = {"nsubj", "nsubjpass", "csubj", "csubjpass", "poss"}
    seen = {word.text.lower() for word in nlp.make_doc(document.title)}
    offset = full_text(document).index(document.text, len(document.title))
    flagged = []
    for word in nlp(document.text):
        top = word
        while top.dep_ in modifiers and top.head is not top:
            top = top.head
        if (
            (word.ent_type_ or word.pos_ in ("PROPN", "NUM"))
            and not word.is_space
            and top.dep_ not in subjects
            and word.text.lower() not in seen
        ):
            flagged.append((offset + word.idx, offset + word.idx + len(word.text)))
        seen.add(word.text.lower())
    return flagged


def test_factual_targets_are_the_words_that_spacy_flags(articles: Prepared) -> None:
    spacy = pytest.importorskip("spacy")
    name = articles.fingerprint["annotator"]["model"]
    nlp = spacy.load(name)
    tokenizer = articles.tokenizer

    batches = [window_batch(articles.validation, i, batch_size=4) for i in range(-(-len(articles.validation) // 4))]
    inputs, targets, factual = [], [], []
    for batch in batches:
        valid = np.arange(1, batch.tokens.shape[1]) < batch.lengths[:, None]
        inputs += batch.tokens[:, :-1][valid].tolist()
        targets += batch.tokens[:, 1:][valid].tolist()
        factual += batch.factual[:, 1:][valid].tolist()
    assert inputs == [tokenizer.end_id, *targets[:-1]]  # what is read lies one token before what is asked

    held_out = [
        document
        for document in read_documents(ARTICLES.corpus)
        if split_of(document.id, validation_share=ARTICLES.corpus.validation_share) == "validation"
    ]
    assert len(held_out) >= 10
    position = 0
    for document in held_out:
        end = targets.index(tokenizer.end_id, position)
        ids, marks = targets[position:end], factual[position:end]
        position = end + 1
        assert not factual[end]
        text = full_text(document)
        assert tokenizer.decode(ids) == text
        words = flagged_words(nlp, document)
        decoded = tokenizer.decode(index for index, mark in zip(ids, marks, strict=True) if mark)
        letters = re.compile(r"[^\W_]")
        assert letters.findall(decoded) == letters.findall("".join(text[a:b] for a, b in words))
        # And token by token, in bytes: factual means to share a visible character with a flagged word.
        flagged = {i for start, end in words for i in range(start, end) if not text[i].isspace()}
        is_flagged = [i in flagged for i, character in enumerate(text) for _ in character.encode()]
        where = 0
        for index, mark in zip(ids, marks, strict=True):
            piece = tokenizer.decode_bytes([index])
            assert mark == any(is_flagged[where : where + len(piece)]), (document.title, where, piece)
            where += len(piece)
    assert position == len(targets)
    assert 0.05 < np.mean(factual) < 0.5


def test_prepared_gives_the_documents_back(articles: Prepared) -> None:
    documents = list(read_documents(ARTICLES.corpus))
    assert list(articles.documents()) == documents
    held_out = list(articles.validation_documents())
    assert [document for document, _ in held_out] == [
        document for document in documents if split_of(document.id, validation_share=0.1) == "validation"
    ]
    assert all(not spans.subject.any() and not spans.repeated.any() for _, spans in held_out)
    marked = sum(int(articles.packed.statistics[split]["factual"]) for split in ("train", "validation"))
    assert marked > sum(len(spans) for _, spans in held_out) > 0


def test_rule_defaults_are_the_fingerprint(articles: Prepared) -> None:
    assert RuleConfig(**articles.fingerprint["rule"]) == RuleConfig()
