"""What is wrong with a corpus is said before its facts are marked, all of it at once, with flags that then suffice."""

import dataclasses
import re
from pathlib import Path

import pytest

from lacy_jax import checks
from lacy_jax.config import AnnotateConfig, Config, CorpusConfig, DataConfig, ModelConfig, TokenizerConfig
from lacy_jax.data.check import data_problems
from lacy_jax.data.prepare import prepare
from lacy_jax.errors import DataError


def invented(count: int, folder: Path) -> Path:
    """A file of documents of no other than their texts."""
    path = folder / f"{count}.jsonl"
    texts = (f"Person {i} was born in the year {1700 + 7 * i} and lived in Town {i % 9}." for i in range(count))
    path.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpus": CorpusConfig(name="vital_article")}, "config.corpus.name: unknown corpus 'vital_article'"),
        ({"corpus": CorpusConfig(name="vital_article")}, "did you mean vital_articles?"),
        ({"corpus": CorpusConfig(name="jsonl", files="none/*.jsonl")}, "config.corpus.files: no such file: none/*"),
        ({"annotate": AnnotateConfig(annotator="space")}, "unknown annotator 'space'; allowed are spacy"),
        ({"annotate": AnnotateConfig(annotator="spans", spans_file="none.jsonl")}, "config.annotate.spans_file: there"),
        ({"tokenizer": TokenizerConfig(path="none.model")}, "config.tokenizer.path: there is no file none.model"),
        ({"data": DataConfig(packed="none")}, "config.data.packed: there is no folder none"),
    ],
)
def test_what_a_corpus_names_and_is_not_there_is_one_line(changes: dict, words: str) -> None:
    assert not list(data_problems(Config()))
    found = list(data_problems(dataclasses.replace(Config(), **changes)))
    assert len(found) == 1
    assert words in found[0]


def test_all_that_a_start_lacks_is_named_at_once() -> None:
    given = {"corpus": {"name": "jsonl", "files": "none.jsonl"}, "model": {"widht": 3}, "tokenizer": {"path": "none"}}
    with pytest.raises(ValueError, match="widht") as error:
        checks.parse(given, check=data_problems)
    said = str(error.value)
    assert said.count("\n") == 2
    assert "config.corpus.files" in said
    assert "config.tokenizer.path" in said


@pytest.mark.parametrize("count", [5, 20, 200])
def test_the_flags_that_a_small_corpus_is_told_to_add_are_enough(count: int, tmp_path: Path) -> None:
    """Documents of one field; the marks are others', so that nothing but the sizes can be wrong."""
    marks = tmp_path / "marks.jsonl"
    marks.write_text(f'{{"id": "{count}.jsonl:1", "spans": [[0, 6, "PROPN"]]}}\n')
    config = Config(
        corpus=CorpusConfig(name="jsonl", files=str(invented(count, tmp_path)), validation_share=1e-9),
        annotate=AnnotateConfig(annotator="spans", spans_file=str(marks)),
        tokenizer=TokenizerConfig(vocab_size=4096),
        data=DataConfig(directory=str(tmp_path / "data")),
        model=ModelConfig(context=32),
    )
    with pytest.raises(DataError) as error:
        prepare(config)
    flags = dict(re.findall(r"add --config\.(\S+)=(\S+)", str(error.value)))
    assert flags.keys() == {"tokenizer.vocab_size", "corpus.validation_share"}
    assert not (tmp_path / "data" / "packed").exists()
    enough = dataclasses.replace(
        config,
        corpus=dataclasses.replace(config.corpus, validation_share=float(flags["corpus.validation_share"])),
        tokenizer=TokenizerConfig(vocab_size=int(flags["tokenizer.vocab_size"])),
    )
    packed = prepare(enough).packed
    assert sum(packed.statistics[split]["documents"] for split in ("train", "validation")) == count


def test_one_document_is_too_few(tmp_path: Path) -> None:
    config = Config(
        corpus=CorpusConfig(name="jsonl", files=str(invented(1, tmp_path))),
        data=DataConfig(directory=str(tmp_path / "data")),
    )
    with pytest.raises(DataError, match="1 documents are too few"):
        prepare(config)
