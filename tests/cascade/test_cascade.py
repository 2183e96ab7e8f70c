"""The cascade: batched equals one by one, text stays whole, and a partner's faults cost only its own rows."""

import copy
import dataclasses
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import pytest
import tokenizers

from lacy_jax.cascade import Cascade, Completion, Counts, Opening, Request, scheduler
from lacy_jax.cascade.decoding.engine import Engine, Step, encode_text
from lacy_jax.cascade.decoding.session import Session
from lacy_jax.cascade.partners.guard import MAX_PIECE_CHARACTERS, Guard
from lacy_jax.cascade.rows import splice
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import Score
from lacy_jax.data.hf_tokenizer import HfTokenizer
from lacy_jax.errors import ConfigError, DataError
from lacy_jax.model import decoder
from lacy_jax.model.probe import Probe

Model = Callable[..., LoadedModel]

PROMPTS = [
    "Albert Einstein was", "In 18", "The river Danube flows through ten countries:", "東", "x", "😀 and naïve",
    "died in Princeton on 18 April 1955. " * 4, "U.S. letters\n\n",
]  # fmt: skip
PIECES = [
    " Ulm",
    "79",
    " 1,234.5",
    "é",
    "東京",
    " 👩‍👩‍👧",
    "\u0301",
    "",
    " Αθήνα",
    "\n\n",
    "▁",
    "\x00",
    " <CALL>",
    "</s>",
]


def pick(text: str) -> str:
    """A piece that depends on all of the text, as a partner's does."""
    return PIECES[zlib.crc32(text.encode()) % len(PIECES)]


@dataclass
class Fake:
    """A partner of one function, which may raise; it keeps what it was asked."""

    piece_for: Callable[[str], object] = pick
    name: str = "fake"
    batches: list[list[str]] = field(default_factory=list)

    def complete(self, texts: Sequence[str]) -> list[str]:
        self.batches.append(list(texts))
        return [self.piece_for(text) for text in texts]  # type: ignore[misc]


def assert_same(rows: Sequence[Completion], others: Sequence[Completion]) -> None:
    """Token for token; scores to float32 rounding, as the shapes that were multiplied differ."""

    def content(row: Completion) -> object:
        pieces = [(piece.text, piece.source, piece.tokens) for piece in row.pieces]
        return row.prompt, row.text, row.counts, row.finish, pieces

    assert [content(row) for row in rows] == [content(row) for row in others]
    scores = [[piece.score for row in each for piece in row.pieces] for each in (rows, others)]
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("style", ["gpt2", "llama"])
@pytest.mark.parametrize("budget", [pytest.param(0.0, marks=pytest.mark.slow), 0.3, 1.0])
def test_batched_equals_one_by_one(model: Model, style: str, budget: float) -> None:
    cascade = Cascade(model(style), Fake(), budget=budget)
    together = cascade.generate(PROMPTS, max_new_tokens=40, batch_size=5)
    alone = [cascade.generate([prompt], max_new_tokens=40)[0] for prompt in PROMPTS]
    assert_same(together, alone)
    assert [row.prompt for row in together] == PROMPTS
    reversed_rows = cascade.generate(PROMPTS[::-1], max_new_tokens=40, batch_size=5)[::-1]
    assert_same(together, reversed_rows)


def test_rows_beyond_the_context_too(model: Model) -> None:
    cascade = Cascade(model(context=140), Fake(), budget=0.3)  # and across two cache lengths
    together = cascade.generate(PROMPTS[4:], max_new_tokens=150)
    alone = [cascade.generate([prompt], max_new_tokens=150)[0] for prompt in PROMPTS[4:]]
    assert_same(together, alone)


@pytest.mark.parametrize("seed", [0, 1])
def test_text_is_the_pieces_and_counts_add_up(model: Model, seed: int) -> None:
    cascade = Cascade(model(seed=seed), Fake(), budget=0.4)
    for row in cascade.generate(PROMPTS, max_new_tokens=50):
        assert row.text == "".join(piece.text for piece in row.pieces)
        (row.prompt + row.text).encode()  # valid Unicode
        delegated = sum(piece.tokens for piece in row.pieces if piece.source == "partner")
        own = sum(piece.tokens for piece in row.pieces if piece.source == "slm")
        assert row.counts.delegated == delegated
        # What is missing are bytes of a character that was not complete at the end.
        assert 0 <= row.counts.generated - delegated - own <= 3
        answered = sum(piece.source == "partner" for piece in row.pieces)
        assert row.counts.calls == answered + row.counts.fallbacks
        assert row.counts.share == delegated / row.counts.generated
        longest_piece = max((piece.tokens for piece in row.pieces), default=1)
        assert row.finish == "end" or 50 <= row.counts.generated < 50 + longest_piece


def test_budget_one_without_answers_is_the_slm_alone(model: Model) -> None:
    alone = Cascade(model(), None).generate(PROMPTS, max_new_tokens=30)
    unanswered = Cascade(model(), Fake(lambda _: ""), budget=1.0).generate(PROMPTS, max_new_tokens=30)
    assert [row.text for row in alone] == [row.text for row in unanswered]
    assert all(row.counts.calls == 0 for row in alone)
    for row in unanswered:
        assert row.counts.delegated == 0
        assert row.counts.fallbacks == row.counts.calls > 0


def test_budget_one_is_the_partner_alone(model: Model) -> None:
    partner = Fake(lambda text: " one" if len(text) % 2 else " three")
    row = Cascade(model(), partner, budget=1.0).generate(["Count:"], max_new_tokens=12)[0]
    assert {piece.source for piece in row.pieces} == {"partner"}
    assert row.counts.share == 1.0
    expected = "Count:"
    while len(expected) < len("Count:" + row.text):
        expected += partner.piece_for(expected)  # type: ignore[operator]
    assert "Count:" + row.text == expected


FAULTS: dict[str, Callable[[str], object]] = {
    "raises": lambda _: 1 / 0,
    "none": lambda _: None,
    "bytes": lambda _: b"Ulm",
    "surrogate": lambda _: "\ud83d",
    "huge": lambda _: "x" * (MAX_PIECE_CHARACTERS + 1),
    "empty": lambda _: "",
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_faults_cost_only_their_rows(model: Model, fault: str) -> None:
    def sometimes(text: str) -> object:
        return FAULTS[fault](text) if text.startswith("In 18") else pick(text)

    good = Cascade(model(), Fake(), budget=0.4).generate(PROMPTS, max_new_tokens=30)
    bad = Cascade(model(), Fake(sometimes), budget=0.4).generate(PROMPTS, max_new_tokens=30)
    for before, after in zip(good, bad, strict=True):
        if after.prompt == "In 18":
            assert after.counts.delegated == 0
            assert after.counts.fallbacks == after.counts.calls > 0
        else:
            assert_same([before], [after])


def test_a_batch_of_the_wrong_size_is_asked_again_one_by_one() -> None:
    class Short(Fake):
        def complete(self, texts: Sequence[str]) -> list[str]:
            return super().complete(texts)[: 1 if len(texts) > 1 else None]

    partner = Short(lambda text: f" {text}")
    assert Guard(partner).complete(["a", "b", "c"]) == [" a", " b", " c"]
    assert partner.batches == [["a", "b", "c"], ["a"], ["b"], ["c"]]


def test_a_partner_that_is_away_is_not_asked_more_often(model: Model) -> None:
    row = Cascade(model(seed=3), Fake(FAULTS["raises"]), budget=0.22).generate(["The"], max_new_tokens=200)[0]
    assert row.counts.fallbacks / row.counts.generated == pytest.approx(0.22, abs=0.06)


def test_parked_rows_are_asked_together(model: Model) -> None:
    partner = Fake(lambda _: " Ulm")
    prompts = [f"{number} rivers" for number in range(8)]
    rows = Cascade(model(), partner, budget=0.3).generate(prompts, max_new_tokens=40)
    calls = sum(row.counts.calls for row in rows)
    assert sum(len(batch) for batch in partner.batches) == calls
    assert calls / len(partner.batches) > 2


class Scripted:
    """An engine's session that writes given bytes, token by token, and calls where told (`None`)."""

    def __init__(self, cascade: Cascade, script: Sequence[int | bytes | None]):
        processor = {cascade.tokenizer.decode_bytes([i]): i for i in range(3, cascade.tokenizer.call_id)}
        self.script = [(processor[s] if isinstance(s, bytes) else s) for s in script]
        self.slots, self.at = 1, 0

    def steps_within(self, _: float) -> int:
        return 1

    def steps(self, rows: dict[int, list[int]], **_: object) -> dict[int, list[Step]]:
        token = self.script[self.at]
        self.at += 1
        scalars = dict.fromkeys(Step._fields[1:], 0.0)
        return {slot: [Step(token=token, **scalars)] for slot in rows}  # type: ignore[arg-type]


def scripted(cascade: Cascade, script: Sequence[int | bytes | None], monkeypatch: pytest.MonkeyPatch) -> Completion:
    monkeypatch.setattr(scheduler, "Session", lambda *_, **__: Scripted(cascade, script))
    return cascade.generate(["x"], max_new_tokens=len(script))[0]


def test_a_call_never_splits_a_character(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    partner = Fake(lambda _: "!")
    cascade = Cascade(model(), partner, budget=1.0)
    bytes_of = [bytes([b]) for b in "😺".encode()]
    monkeypatch.setattr(partner, "piece_for", lambda _: "")
    row = scripted(cascade, [*bytes_of, b"a"], monkeypatch)
    assert row.text == "😺a"
    # Asked before the character and after it, never with a part of it.
    assert [text for batch in partner.batches for text in batch] == ["x", "x😺"]
    assert [(piece.text, piece.tokens) for piece in row.pieces] == [("😺", 4), ("a", 1)]


def test_broken_and_unfinished_characters(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    cascade = Cascade(model(), None)
    first, second = (bytes([b]) for b in "é".encode())
    broken = scripted(cascade, [first, b"a", first, first, second], monkeypatch)
    assert broken.text == "\ufffda\ufffdé"
    assert sum(piece.tokens for piece in broken.pieces) == 5
    unfinished = scripted(cascade, [b"a", first], monkeypatch)
    assert unfinished.text == "a"
    assert unfinished.counts == Counts(generated=2)
    ended = scripted(cascade, [b"a", first, cascade.tokenizer.end_id], monkeypatch)
    assert (ended.text, ended.finish, ended.counts.generated) == ("a", "end", 2)


@pytest.mark.parametrize("piece", [piece for piece in PIECES if piece])
@pytest.mark.parametrize("text", ["", "Ein", "born in 18", "東", "e", " ", "😀", "a\n"])
def test_splicing_round_trips_any_text(model: Model, text: str, piece: str) -> None:
    tokenizer = model().tokenizer
    ids, tokens = splice(tokenizer, text, piece)
    assert ids == encode_text(tokenizer, text + piece)
    assert tokenizer.decode(ids) == text + piece
    assert tokenizer.call_id not in ids
    # The tokens that hold some of the piece are the last ones, and the fewest that do.
    assert text.startswith(tokenizer.decode_bytes(ids[: len(ids) - tokens]).decode(errors="ignore"))
    held = tokenizer.decode_bytes(ids[len(ids) - tokens :])
    assert len(held) >= len(piece.encode())
    assert len(tokenizer.decode_bytes(ids[len(ids) - tokens + 1 :])) < len(piece.encode()) or tokens == 1


def test_an_opening_is_read_in_place_of_the_prompt(model: Model) -> None:
    """The SLM reads control tokens and what follows them; the partner reads the prompt, and the text is what follows.

    With the ids of the prompt itself as its opening, a request is completed as the prompt is.
    """
    loaded, partner = model(), Fake()
    cascade = Cascade(loaded, partner, budget=0.4)
    tokenizer = cascade.tokenizer
    plain, asked = cascade.generate(PROMPTS, max_new_tokens=12), {text for batch in partner.batches for text in batch}
    partner.batches.clear()
    openings = [Opening((tokenizer.end_id,), prompt) for prompt in PROMPTS]
    requests = [Request(prompt, 12, opening=each) for prompt, each in zip(PROMPTS, openings, strict=True)]
    assert_same(cascade.generate(requests), plain)
    assert {text for batch in partner.batches for text in batch} == asked
    end = tokenizer.end_id
    partner.batches.clear()
    chat = cascade.generate([Request("Who?", 12, opening=Opening((end, 5, end, 6, end), "a"))])[0]
    assert chat.text == "".join(piece.text for piece in chat.pieces)
    assert {text[: len("Who?")] for batch in partner.batches for text in batch} == {"Who?"}
    with pytest.raises(ConfigError, match="opening: its ids must be tokens"):
        cascade.generate([Request("a", opening=Opening((tokenizer.call_id,), ""))])


def test_a_row_with_an_opening_keeps_it_when_the_partner_writes(model: Model) -> None:
    loaded = model()
    scheduler = Cascade(loaded, Fake(lambda _: " Ulm"), budget=1.0).scheduler(slots=1)
    scheduler.add(Request("Where was he born?", 4, opening=Opening((5, 6, 7), "He was born in")))
    row = scheduler._waiting[0]
    while scheduler.running or scheduler.waiting:
        scheduler.step()
        assert row.ids == encode_text(loaded.tokenizer, row.read, opening=(5, 6, 7))
        assert row.read == "He was born in" + row.text.removeprefix("Where was he born?")
    assert row.read.startswith("He was born in Ulm")


def test_a_piece_that_the_tokenizer_drops_counts_all_the_same(model: Model) -> None:
    """A byte-level vocabulary without some bytes spells nothing for them; such a row must end, too."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"<end>": 0, "a": 1, "b": 2}, merges=[]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    plain = dataclasses.replace(model(), tokenizer=HfTokenizer(made.to_str(), start_id=None, end_id=0))
    assert splice(plain.tokenizer, "ab", "é") == ([0, 1, 2], 1)
    scheduler = Cascade(plain, Fake(lambda _: "é"), budget=1.0).scheduler(slots=1)
    scheduler.add(Request("ab", max_new_tokens=3))
    events = [event for _ in range(100) for event in scheduler.step()]
    assert events[-1].completion is not None
    assert events[-1].completion.text == "ééé"


def test_any_of_several_ends_ends_a_text(model: Model) -> None:
    slm, prompt = model(), "Albert Einstein was"
    begun = encode_text(slm.tokenizer, prompt)
    ids = [step.token for step in Session(Engine(slm), slots=1).steps({0: begun}, ahead=12)[0]]
    first = next(index for index in range(4, 12) if ids[index] not in ids[:index])
    other = copy.copy(slm.tokenizer)
    other.end_ids = (other.end_id, ids[first])
    whole, ended = (
        Cascade(dataclasses.replace(slm, tokenizer=tokenizer), None).generate([prompt], max_new_tokens=12)[0]
        for tokenizer in (slm.tokenizer, other)
    )
    assert (whole.finish, ended.finish) == ("length", "end")
    assert (whole.counts.generated, ended.counts.generated) == (12, first)
    assert whole.text.startswith(ended.text)


@pytest.mark.parametrize("start", ["auto", "none", "<s>"])
def test_a_text_follows_what_the_settings_say(model: Model, start: str) -> None:
    """The model is as unsure as after a plain pass over just those ids, at the prompt's end and after a piece."""
    slm, prompt = model(), "Albert Einstein was"
    before = {"auto": [slm.tokenizer.end_id], "none": [], "<s>": [1]}[start]
    partner = Fake(lambda _: " Ulm")
    cascade = Cascade(slm, partner, budget=1.0, score="uncertainty", start_token=start)
    written = cascade.generate([prompt], max_new_tokens=5)[0]
    assert len(written.pieces) > 1
    for piece, text in zip(written.pieces, partner.batches, strict=True):
        ids = [*before, *slm.tokenizer.encode(text[0]).ids.tolist()]
        hidden = np.asarray(decoder.forward(slm.params, np.array([ids]), config=slm.model), np.float64)[0, -1]
        weights = np.exp(hidden @ np.asarray(decoder.output_matrix(slm.params), np.float64)[: slm.tokenizer.call_id].T)
        assert piece.score == pytest.approx(1 - weights.max() / weights.sum(), abs=1e-4)


def test_a_start_that_is_no_control_token_is_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"start_token=</t>: .*did you mean </s>\?"):
        Cascade(model(), None, start_token="</t>")


def test_scores_of_other_kinds(model: Model) -> None:
    rows = {}
    probe = Probe(weights=tuple(np.linspace(-0.3, 0.3, model().model.width).tolist()), bias=0.1)
    for kind in (*get_args(Score), "oracle"):
        oracle = (lambda text, _: len(text) % 3 == 0) if kind == "oracle" else None
        slm = dataclasses.replace(model(), factual_probe=probe, saving_probe=probe)
        cascade = Cascade(slm, Fake(lambda _: " Ulm"), budget=0.3, score=kind, oracle=oracle)
        rows[kind] = cascade.generate(["The"], max_new_tokens=60)[0]
    for kind in ("uncertainty", "call_probability", "factual", "oracle"):
        assert all(0 <= piece.score <= 1 for piece in rows[kind].pieces)
    assert all(piece.score >= 0 for piece in rows["entropy"].pieces)
    # The probability is the log-odds by another name, but only the log-odds has a warm start, if any.
    assert rows["call_probability"].text == rows["call_score"].text
    assert len({row.text for row in rows.values()}) > 1


def test_the_share_holds_with_pieces_of_several_tokens(model: Model) -> None:
    rows = [
        Cascade(model(seed=seed), Fake(lambda _: " 1,234.5"), budget=0.22).generate(PROMPTS, max_new_tokens=100)
        for seed in range(2)
    ]
    counts = sum((row.counts for each in rows for row in each), start=Counts())
    assert counts.share == pytest.approx(0.22, abs=0.03)


@pytest.mark.parametrize("budget", [0.05, 0.22])
def test_the_share_holds_over_short_rows(model: Model, budget: float) -> None:
    prompts = [*PROMPTS, *(f"{prompt} a" for prompt in PROMPTS)]
    rows = Cascade(model(), Fake(lambda _: " Ulm"), budget=budget).generate(prompts, max_new_tokens=64, batch_size=16)
    counts = sum((row.counts for row in rows), start=Counts())
    assert counts.generated > 1_000
    assert counts.share == pytest.approx(budget, abs=0.01)


def test_small_requests(model: Model) -> None:
    cascade = Cascade(model(), Fake(), budget=0.3)
    assert cascade.generate([]) == []
    nothing = cascade.generate(["x"], max_new_tokens=0)[0]
    assert (nothing.text, nothing.finish, nothing.counts) == ("", "length", Counts())
    assert cascade.generate([""], max_new_tokens=5)[0].counts.generated >= 1
    assert len(cascade.generate(["x", "x"], max_new_tokens=3, batch_size=100)) == 2
    with pytest.raises(DataError, match="surrogate"):
        cascade.generate(["\ud800"])
    with pytest.raises(ConfigError, match="give a list"):
        cascade.generate("one text")
