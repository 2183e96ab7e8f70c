"""Partners made from a spec, and the partner that is another checkpoint with another tokenizer."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacy_jax.cascade import Cascade, PartnerError, make_partner
from lacy_jax.cascade.engine import encode_text, window_start
from lacy_jax.cascade.partners.checkpoint import MAX_TOKENS, CheckpointPartner, whole_piece
from lacy_jax.checkpoint import CheckpointError, LoadedModel
from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpus import DataError
from lacy_jax.model import decoder

Model = Callable[..., LoadedModel]
TEXTS = ["Albert Einstein was born in", "The river", "東", "x", "In 1,23", "Albert Einstein was born in Ulm", "😀"]


forward = jax.jit(decoder.forward, static_argnames="config")


def reference_piece(loaded: LoadedModel, text: str) -> str:
    """Greedy decoding without any cache."""
    tokenizer = loaded.tokenizer
    ids, written = encode_text(tokenizer, text), b""
    matrix = np.asarray(decoder.output_matrix(loaded.params), np.float64)
    for _ in range(MAX_TOKENS):
        seen = ids[window_start(len(ids), context=loaded.model.context) :]
        padded = jnp.array([[*seen, *[0] * (loaded.model.context - len(seen))]])
        hidden = np.asarray(forward(loaded.params, padded, config=loaded.model)[0, len(seen) - 1], np.float64)
        scores = hidden @ matrix.T
        allowed = [i for i in range(tokenizer.call_id) if tokenizer.byte_lengths[i] or i == tokenizer.end_id]
        token = max(allowed, key=lambda i: scores[i])
        if token == tokenizer.end_id:
            return ""
        ids, written = [*ids, token], written + tokenizer.decode_bytes([token])
        piece = whole_piece(written)
        if piece is not None:
            return piece
    return ""


@pytest.mark.parametrize("seed", [0, 1])
def test_a_checkpoints_piece_is_its_greedy_continuation(model: Model, seed: int) -> None:
    loaded = model("llama", size=460, seed=seed, context=40)
    partner = CheckpointPartner(loaded, slots=4, span="token")
    expected = [reference_piece(loaded, text) for text in TEXTS]
    assert partner.complete(TEXTS) == expected
    # Whatever its caches hold by now, and however the texts are grouped.
    assert partner.complete(TEXTS[::-1]) == expected[::-1]
    assert [partner.complete([text])[0] for text in TEXTS] == expected
    assert len(set(expected)) > 1
    assert partner.complete([]) == []


def test_a_text_finds_the_cache_that_knows_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    partner = CheckpointPartner(model("llama", size=460, context=40), slots=4)
    fed: list[int] = []
    feed = partner._session._feed

    def counted(parts: dict[int, Sequence[int]], *, starts: dict[int, int]) -> object:
        fed.append(max(map(len, parts.values())))
        return feed(parts, starts=starts)

    monkeypatch.setattr(partner._session, "_feed", counted)
    long, other = "The river Danube flows", "died in Princeton"
    partner.complete([long, other])
    fed.clear()
    partner.complete([other + ".", long + ":"])
    assert max(fed) <= 4


@pytest.mark.parametrize(
    ("written", "piece"),
    [(b" Ulm", " Ulm"), (b" ", None), (b"   ", None), (b" 1", " 1"), (b"\n", "\n"), ("é".encode()[:1], None),
     ("é".encode(), "é"), (b" " + "東".encode()[:2], None), (b"\xff", ""), (b"\xe6a", ""), (b"", None)],
)  # fmt: skip
def test_whole_pieces(written: bytes, piece: str | None) -> None:
    assert whole_piece(written) == piece


def test_a_cascade_of_two_tokenizers_batched_and_alone(model: Model) -> None:
    slm, larger = model(), model("llama", size=460, seed=5, context=40)
    prompts = ["Albert Einstein was", "In 18", "東京", "The river Danube"]
    together = Cascade(slm, CheckpointPartner(larger, slots=4), budget=0.4).generate(prompts, max_new_tokens=40)
    partner = CheckpointPartner(larger, slots=4)
    alone = [Cascade(slm, partner, budget=0.4).generate([prompt], max_new_tokens=40)[0] for prompt in prompts]
    assert [(row.text, row.counts) for row in together] == [(row.text, row.counts) for row in alone]
    assert sum(row.counts.delegated for row in together) > 10


def test_specs(tmp_path: Path, checkpoint: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text('{"id": "1", "title": "Ulm", "text": "Ulm lies on the Danube."}\n')
    own = CorpusConfig(name="jsonl", files=str(file))
    options = {"corpus": own, "directory": str(tmp_path)}
    assert make_partner("none", **options) is None
    for spec in ("documents", f"documents:{file}"):
        partner = make_partner(spec, **options)
        assert partner is not None
        assert partner.name == spec
        assert partner.complete(["Ulm lies on the"]) == [" Danube"]
    for spec in (f"checkpoint:{checkpoint}", str(checkpoint)):
        partner = make_partner(spec, **options)
        assert isinstance(partner, CheckpointPartner)
        assert partner.name == f"checkpoint:{checkpoint}"


@pytest.mark.parametrize(
    ("spec", "error", "named"),
    [
        ("document", PartnerError, "'document'.*documents, documents:FILE.jsonl, checkpoint:PATH"),
        ("", PartnerError, "allowed"),
        ("documents:", PartnerError, "allowed"),
        ("checkpoint:", PartnerError, "allowed"),
        ("no/such/folder", PartnerError, "no/such/folder"),
        ("checkpoint:no/such/folder", CheckpointError, "no/such/folder"),
        ("documents:no/such.jsonl", DataError, r"no/such\.jsonl"),
    ],
)
def test_specs_that_are_refused(tmp_path: Path, spec: str, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        make_partner(spec, corpus=CorpusConfig(), directory=str(tmp_path))
