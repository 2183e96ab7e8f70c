"""Files: a log that a crash cut off, hashes that are remembered. Corpora's tests read other JSON lines."""

import hashlib
import json
from pathlib import Path

import pytest

from lacy_jax.data.files import file_sha256, read_json_log, remembered_hashes, written_whole


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
