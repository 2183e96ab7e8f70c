"""The corpus parquet: tables with a column of text, as hubs of datasets keep them."""

from collections.abc import Iterator
from typing import IO, Any

from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpora import file_names
from lacy_jax.data.corpora.file_names import Kind, Named
from lacy_jax.data.corpora.records import document_of
from lacy_jax.data.documents import BEGINNING, Document, LeftOut
from lacy_jax.data.files import LARGEST, beginning_of
from lacy_jax.data.opening import open_bytes
from lacy_jax.errors import DataError, LacyError

_KIND = Kind((".parquet",))
_ROWS = 64  # of a row group that are held as Python's strings at once


def problems(corpus: CorpusConfig) -> Iterator[str]:
    """One line if a file does not exist; reads none."""
    return file_names.problems(corpus, _KIND)


def documents(corpus: CorpusConfig) -> Iterator[tuple[str, Document | LeftOut]]:
    """One document per row, with its place. A title may be missing; a missing id becomes "<file>:<row>".

    If files in several folders share a name, <file> has enough folders to be unique. Row groups are read one after the
    other. One that is damaged is left out as a whole, as is a file that is cut or has no column of text.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    for where, identity, record in records(corpus):
        yield where, record if isinstance(record, LeftOut) else document_of(record, corpus, identity=identity)


def records(corpus: CorpusConfig, *, further: str = "") -> Iterator[tuple[str, str, dict[str, Any] | LeftOut]]:
    """Each row's place, the id of its document if it names none, and what its columns hold. Raises as `documents`.

    further: a column that is read, too, if it is there; its value is None where it cannot be read. Where there is no
        column "a.b", it is the column a, which may have a field b.
    """
    for file in _files(corpus):
        try:
            with open_bytes(file.path) as opened:
                yield from _rows(opened, corpus, file=file, further=further)
        except OSError as error:
            raise DataError(f"cannot read {file.path} ({error.strerror})") from None


def fingerprint(corpus: CorpusConfig) -> dict[str, Any]:
    """The columns that are read, and each file by its name (see `documents`) and sha256."""
    return file_names.record_fingerprint(corpus, _files(corpus))


def _files(corpus: CorpusConfig) -> list[Named]:
    def without_ids(path: str) -> bool:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with open_bytes(path) as file:
                return corpus.id_field not in pq.ParquetFile(file).schema_arrow.names
        except (OSError, ValueError, pa.ArrowException) as error:
            _raise_of_disk(error, path)
            return True

    return file_names.named_files(corpus, _KIND, without_ids=without_ids)


def _rows(
    opened: IO[bytes], corpus: CorpusConfig, *, file: Named, further: str
) -> Iterator[tuple[str, str, dict[str, Any] | LeftOut]]:
    import pyarrow as pa  # not quick to import
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(opened, page_checksum_verification=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        _raise_of_disk(error, file.path)
        yield file.path, "", LeftOut(f"cannot be read ({_said(error)})")
        return
    if problem := _column_problem(table.schema_arrow, corpus):
        yield file.path, "", LeftOut(problem)
        return
    names = table.schema_arrow.names
    own = further if further in names else further.partition(".")[0]
    columns = [name for name in dict.fromkeys((*_columns(corpus), own)) if name in names]
    before = 0  # rows of earlier row groups
    for group in range(table.num_row_groups):
        row = before
        before += table.metadata.row_group(group).num_rows
        try:
            for batch in table.iter_batches(_ROWS, row_groups=[group], columns=columns):
                for record in _records(batch):
                    row += 1
                    yield f"{file.path}, row {row}", f"{file.name}:{row}", _decoded(record)
        except (OSError, ValueError, pa.ArrowException) as error:
            _raise_of_disk(error, file.path)
            where = f"{file.path}, rows {row + 1} to {before} (row group {group})"
            yield where, "", LeftOut(f"cannot be read ({_said(error)})")


def _columns(corpus: CorpusConfig) -> tuple[str, ...]:
    return corpus.id_field, corpus.title_field, corpus.text_field


def _column_problem(schema: Any, corpus: CorpusConfig) -> str:
    """Why a table cannot be read; "" if it can."""
    import pyarrow as pa

    name, names = corpus.text_field, schema.names
    if name not in names:
        return (
            f"there is no column {name!r} of text but {', '.join(map(repr, names)) or 'none'}; "
            "config.corpus.text_field names it"
        )
    found = schema.field(name).type
    kind = found.value_type if pa.types.is_dictionary(found) else found
    if not _is_text(kind):
        return f"the column {name!r} is no text but {found}; config.corpus.text_field names the column of text"
    return ""


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _records(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows, with text as bytes: a column may hold what is not UTF-8, which pyarrow finds only where it is read."""
    import pyarrow as pa

    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        columns[name] = _values(plain.cast(pa.large_binary()) if _is_text(plain.type) else plain)
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _values(column: Any) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:  # of a string within a list or object
        return [None] * len(column)


def _decoded(record: dict[str, Any]) -> dict[str, Any] | LeftOut:
    """The record with its texts as strings."""
    strings = {}
    for name, value in record.items():
        if isinstance(value, bytes) and len(value) > LARGEST:
            return LeftOut(f"longer than {LARGEST >> 20} MiB", beginning_of(value))
        try:
            strings[name] = value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            reason = f"the column {name!r} is not UTF-8 (byte {error.start + 1})"
            return LeftOut(reason, beginning_of(value))
    return strings


def _raise_of_disk(error: Exception, path: str) -> None:
    """Raises what is no fault of the file's content: pyarrow's own errors about that have no number of the system."""
    if isinstance(error, LacyError):
        raise error
    if getattr(error, "errno", None) is not None:
        raise DataError(f"cannot read {path} ({error})") from None


def _said(error: Exception) -> str:
    return str(error).partition("\n")[0][:BEGINNING]
