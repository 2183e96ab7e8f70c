"""Files: a log that a crash cut off, hashes that are remembered. Corpora's tests read other JSON lines."""

import hashlib
import json
from pathlib import Path

import pytest

from lacy_jax.data.files import (
    file_sha256,
    parse_json,
    read_json_lines,
    read_json_log,
    remembered_hashes,
    written_whole,
)
from lacy_jax.errors import DataError


def test_a_log_is_read_up_to_where_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_json_log(path) == []
    rows = [{"step": 1, "text": "é\u2028"}, {"step": 2}, {"step": 3, "text": "é"}]
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole) + 1):  # also within a character
        path.write_bytes(whole[:size])
        assert read_json_log(path) == rows[: sum(end <= size for end in ends)]
    path.write_bytes(whole[: ends[0]] + b"\xc3\n" + whole[ends[0] :])
    assert read_json_log(path) == rows[:1]


def test_what_is_written_whole_is_there_in_one_go_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "facts.sqlite"
    with written_whole(path) as unfinished:
        unfinished.write_text("old")
        assert not path.exists()
    assert path.read_text() == "old"

    def fail() -> None:
        with written_whole(path) as unfinished:
            unfinished.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_processes_that_hash_at_once_keep_what_each_found(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        path.write_text(path.name)
    with remembered_hashes(tmp_path / "data"):
        found = [file_sha256(paths[0])]
        with remembered_hashes(tmp_path / "data"):
            found.append(file_sha256(paths[1]))
    kept = json.loads((tmp_path / "data" / "files.json").read_text())
    assert [kept[str(path)][:3] for path in paths] == [
        [3, path.stat().st_mtime_ns, digest] for path, digest in zip(paths, found, strict=True)
    ]
    assert found == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_nothing_is_remembered_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Least of all in a local folder of its name."""
    monkeypatch.chdir(tmp_path)
    Path("one").write_text("1")
    with remembered_hashes("gs://bucket/data"):
        assert file_sha256(Path("one")) == hashlib.sha256(b"1").hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Expecting"),
        (b"\xff\xfe{", "utf-16|decode"),
        ("[" * 101 + "]" * 101, "more than 100 levels"),
        ('{"a":' * 100_000, "more than 100 levels"),
        (f'{{"a": {"9" * 5_000}}}', "a number in it has thousands of digits"),
        (f"-{'9' * 5_000}", "a number in it has thousands of digits"),
    ],
    ids=["cut", "bytes", "deep", "very_deep", "digits", "negative"],
)
def test_json_from_anybody_is_read_or_refused_in_one_line(text: str | bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + (text.encode() if isinstance(text, str) else text) + b"\n")
    with pytest.raises(DataError, match="line 2"):
        list(read_json_lines(path))
    assert read_json_log(path) == [{"a": 1}]


def test_json_is_what_it_was() -> None:
    value = {"a": [1, 2.5, None, True, "é\ud800"], "b": {"c": []}}
    for _ in range(90):
        value = {"d": value}
    assert parse_json(json.dumps(value)) == value
    assert parse_json("9" * 4_000) == int("9" * 4_000)
