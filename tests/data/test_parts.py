"""Parts of a corpus: where they are cut, and the files of their documents and marks, exactly and checked."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacy_jax.data import batches, parts
from lacy_jax.data.batches import corpus_parts, document_batches
from lacy_jax.data.documents import Document, LeftOut, Spans
from lacy_jax.data.left_out import add_left_out


@given(st.lists(st.integers(0, 250)))
def test_parts_have_the_batches_of_the_corpus(lengths: list[int]) -> None:
    documents = [Document(str(number), "", "x" * length) for number, length in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "BATCH", 300)
        patch.setattr(batches, "PART_BATCHES", 3)
        whole = list(document_batches(documents))
        cut = [list(document_batches(part)) for part in corpus_parts(documents)]
    assert [batch for part in cut for batch in part] == whole
    assert [len(part) for part in cut[:-1]] == [3] * (len(cut) - 1)


def test_marks_are_stored_exactly(tmp_path: Path) -> None:
    empty = Spans(np.empty(0, np.int32), np.empty(0, np.int32), (), np.empty(0, bool), np.empty(0, bool))
    some = Spans(
        np.array([1, 5], np.int32),
        np.array([3, 2**31 - 1], np.int32),
        ("X\u2028", "Zoë"),
        np.array([1, 0], bool),
        np.array([0, 1], bool),
    )
    lost = LeftOut("reason\n", "\u0085 beginning")
    documents = [
        Document("a", "\u2028\u2029\x0b", "\r\n\x1c\0"),
        Document("b", "", ""),
        Document("\x85", "", "\U0001f600"),
    ]
    digest = parts.write_documents(str(tmp_path), 7, documents)
    parts.write_marks(str(tmp_path), 7, [empty, some, lost], sha256=digest)
    assert parts.read_documents(str(tmp_path), 7, sha256=digest) == documents
    read = parts.read_marks(str(tmp_path), 7, sha256=digest)
    assert read is not None
    assert read[2] == lost
    for marks, wanted in zip(read[:2], [empty, some], strict=True):
        assert isinstance(marks, Spans)
        for name in ("starts", "ends", "subject", "repeated"):
            np.testing.assert_array_equal(getattr(marks, name), getattr(wanted, name))
            assert getattr(marks, name).dtype == getattr(wanted, name).dtype
        assert marks.kinds == wanted.kinds
    assert parts.count_left_out(str(tmp_path), 7, sha256=digest) == 1
    assert parts.count_left_out(str(tmp_path), 7, sha256="another") is None
    assert parts.marked_parts(str(tmp_path)) == {7}


def test_a_bit_that_is_changed_is_seen(tmp_path: Path) -> None:
    lost = [LeftOut("reason", str(number)) for number in range(30)]
    parts.write_marks(str(tmp_path), 0, lost, sha256="a")
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    for place in range(60, 80):  # of the checksum, and where zstd says how much memory is needed
        for bit in range(8):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
            assert parts.read_marks(str(tmp_path), 0, sha256="a") in (None, lost)


def test_nothing_left_out_leaves_no_file(tmp_path: Path) -> None:
    dataset, lost = tmp_path / "1.0.0", ("document 'a'", LeftOut("reason", "beginning"))
    add_left_out(dataset, after=0, records=[lost])
    assert "reason" in (tmp_path / "left_out.jsonl").read_text()
    add_left_out(dataset, after=0, records=[])  # after a stop; this time it could be marked
    assert not list(tmp_path.iterdir())
