"""The corpora parquet and text: read as they are, on disks and in buckets; what is broken is left out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpus import corpus_fingerprint, corpus_of_checkpoint, read_documents
from lacy_jax.data.documents import Document, LeftOut
from lacy_jax.errors import DataError, StorageError
from lacy_jax.paths import absolute
from tests.s3 import emulated

ODD = ["", "a\r\nb", "\0", "שלום עולם", "e\u0301\u0327", "👩‍👩‍👧‍👦🏽", "!" * 5_000, "x" * 1_000_000, "\ufeffmark"]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with emulated("s3") as address:
        yield address


def corpus(name: str, files: object, **settings: Any) -> CorpusConfig:
    return CorpusConfig(name=name, files=str(files), **settings)


def read(settings: CorpusConfig) -> tuple[list[Document], list[tuple[str, LeftOut]]]:
    left_out: list[tuple[str, LeftOut]] = []
    documents = list(read_documents(settings, left_out=lambda where, record: left_out.append((where, record))))
    return documents, left_out


def table(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_rows_are_documents(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array(ODD).cast(kind)
    path = table(tmp_path / "part.parquet", {"content": texts, "n": [[1]] * len(ODD)}, row_group_size=2)
    documents, left_out = read(corpus("parquet", path, text_field="content"))
    assert documents == [Document(f"part.parquet:{row}", "", text) for row, text in enumerate(ODD, start=1)]
    assert left_out == []
    numbered = {"id": [7, 8], "title": ["T", None], "text": ["x", "y"]}
    documents, left_out = read(corpus("parquet", table(tmp_path / "b.parquet", numbered)))
    assert documents == [Document("7", "T", "x"), Document("8", "", "y")]


def test_of_a_table_only_the_broken_rows_are_left_out(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"bad \xff", None, "zoë".encode()], pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers(), null_count=1)
    path = table(tmp_path / "part.parquet", {"text": text})
    documents, left_out = read(corpus("parquet", path))
    assert documents == [Document("part.parquet:1", "", "good"), Document("part.parquet:4", "", "zoë")]
    assert [(where, record.beginning) for where, record in left_out] == [
        (f"{path}, row 2", "bad \ufffd"),
        (f"{path}, row 3", '{"text": null}'),
    ]


def test_a_damaged_row_group_is_left_out_and_the_others_are_read(tmp_path: Path) -> None:
    texts = [" ".join(map(str, range(n, 500 + n))) for n in range(9)]
    options = {
        "row_group_size": 3,
        "compression": "zstd",
        "use_dictionary": False,
        "write_statistics": False,
        "write_page_checksum": True,
    }
    path = table(tmp_path / "part.parquet", {"text": texts}, **options)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = column.data_page_offset + column.total_compressed_size // 2
    content[start : start + 20] = bytes(20)
    path.write_bytes(content)
    documents, ((where, record),) = read(corpus("parquet", path))
    assert [document.text for document in documents] == [*texts[:3], *texts[6:]]
    assert [document.id for document in documents] == [f"part.parquet:{row}" for row in (1, 2, 3, 7, 8, 9)]
    assert where == f"{path}, rows 4 to 6 (row group 1)"
    assert record.reason.startswith("cannot be read (")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(content[:-9])
    documents, left_out = read(corpus("parquet", f"{path}, {cut}"))
    assert len(documents) == 6
    assert [where for where, _ in left_out][1:] == [str(cut)]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"body": ["x"], "id": ["a"]}, "there is no column 'text' of text but 'body', 'id'; config.corpus.text_field"),
        ({"text": [1]}, "the column 'text' is no text but int64"),
        ({"text": [["x"]]}, "the column 'text' is no text but list"),
    ],
)
def test_a_wrong_column_is_refused_in_one_line(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    path = table(tmp_path / "part.parquet", columns)
    with pytest.raises(DataError) as caught:
        read(corpus("parquet", path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_are_documents(tmp_path: Path) -> None:
    for index, text in enumerate(ODD[:-1]):
        (tmp_path / f"{index}.txt").write_bytes(text.encode())
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "0.txt").write_bytes(b"\xef\xbb\xbfmarked")
    (tmp_path / "deep" / "page.md").write_text("# Page\n")
    (tmp_path / "deep" / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "deep" / "picture.png").write_bytes(b"\x89PNG")
    documents, left_out = read(corpus("text", tmp_path))
    found = {document.id: document.text for document in documents}
    top = tmp_path.name
    assert found == {
        f"{top}/0.txt": "", "er/0.txt": "marked", "page.md": "# Page\n",
        **{f"{index}.txt": text for index, text in enumerate(ODD[:-1]) if index},
    }  # fmt: skip
    reason = "not UTF-8 (byte 4); save the file as UTF-8"
    assert left_out == [(str(tmp_path / "deep" / "latin.txt"), LeftOut(reason, "caf\ufffd"))]
    documents, _ = read(corpus("text", f"{tmp_path}/deep/*.md, {tmp_path}/1.txt"))
    assert [document.id for document in documents] == ["page.md", "1.txt"]
    with pytest.raises(DataError, match=r"picture\.png: the name must end in \.txt or \.md"):
        read(corpus("text", tmp_path / "deep" / "picture.png"))


def test_in_a_bucket_they_are_what_they_are_on_a_disk(tmp_path: Path, bucket: str) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text("zoë")
    (tmp_path / "b.txt").write_text("b")
    table(tmp_path / "deep" / "part.parquet", {"text": ["x", "y", "z"]}, row_group_size=1)
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        absolute(f"{bucket}/top/{path.relative_to(tmp_path)}").write_bytes(path.read_bytes())
    for name, files in (("text", ""), ("text", "/deep/*.txt"), ("parquet", "/**/*.parquet")):
        here, there = (corpus(name, f"{top}{files}") for top in (tmp_path, f"{bucket}/top"))
        assert read(there) == read(here)
        assert corpus_fingerprint(there) == corpus_fingerprint(here)
        with pytest.raises(DataError, match="read only if you agree"):
            corpus_of_checkpoint(here, data={}, directory=str(tmp_path / "hashes"))


def test_a_bucket_out_of_reach_is_no_damaged_table(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table(tmp_path / "part.parquet", {"id": ["a"], "text": ["x" * 99]})
    absolute(f"{bucket}/part.parquet").write_bytes(path.read_bytes())
    found = read_documents(corpus("parquet", f"{bucket}/part.parquet"))

    def gone(*_args: object, **_options: object) -> bytes:
        raise OSError("Could not connect")

    monkeypatch.setattr("s3fs.core.S3File.read", gone)
    with pytest.raises(StorageError, match="Could not connect"):
        list(found)
