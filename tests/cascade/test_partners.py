"""Partners made from a spec, and the partner that is another checkpoint with another tokenizer."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer

from lacy_jax.cascade import Cascade, make_partner
from lacy_jax.cascade.decoding.engine import encode_text, window_start
from lacy_jax.cascade.decoding.programs import MOST_STEPS
from lacy_jax.cascade.partners import describe_partner
from lacy_jax.cascade.partners.checkpoint import CheckpointPartner, begin
from lacy_jax.cascade.remote.address import PARTNER
from lacy_jax.cascade.text.extent import complete_extent
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import CorpusConfig, Span
from lacy_jax.data.hf_tokenizer import HfTokenizer
from lacy_jax.errors import CheckpointError, DataError, PartnerError
from lacy_jax.model import decoder
from tests.hf_folders import control_ids, random_tensors, settings_of, tokenizer_json, write_folder

Model = Callable[..., LoadedModel]
TEXTS = ["Albert Einstein was born in", "The river", "東", "x", "In 1,23", "Albert Einstein was born in Ulm", "😀"]


forward = jax.jit(decoder.forward, static_argnames="config")


def reference_piece(loaded: LoadedModel, text: str, *, span: Span) -> str:
    """Greedy decoding without any cache; the text's last word is written again by brute force over all tokens."""
    tokenizer = loaded.tokenizer
    tail = re.findall(r"\s*[^\s,]*$", text)[0] if "," not in text else ",23"
    ids, path, written = encode_text(tokenizer, text), list[int](), b""
    while len(tokenizer.decode_bytes(path)) < len(tail.encode()):
        ids, path = ids[:-1], [ids[-1], *path]
    matrix = np.asarray(decoder.output_matrix(loaded.params), np.float64)
    tokens = {i: tokenizer.decode_bytes([i]) for i in range(tokenizer.call_id)}
    for _ in range(40):
        seen = ids[window_start(len(ids), context=loaded.model.context) :]
        padded = jnp.array([[*seen, *[0] * (loaded.model.context - len(seen))]])
        hidden = np.asarray(forward(loaded.params, padded, config=loaded.model)[0, len(seen) - 1], np.float64)
        given = tokenizer.decode_bytes(path)
        allowed = [i for i, b in tokens.items() if b.startswith(given) and len(b) > len(given)]
        logits = hidden @ matrix.T
        token = max(allowed + [*path[:1]] + [tokenizer.end_id] * (not path), key=lambda i: logits[i])
        ids.append(token)
        if path and token == path[0]:
            path = path[1:]
            continue
        written, path = written + tokens[token][len(given) :], []
        piece = complete_extent(written.decode(errors="replace"), span=span, ended=token == tokenizer.end_id)
        if piece is not None:
            return "" if "\ufffd" in piece else piece
    return ""


@pytest.mark.parametrize(("seed", "span"), [(0, "token"), (1, "token"), (0, "word"), (1, "phrase")])
def test_a_checkpoints_piece_is_its_greedy_continuation(model: Model, seed: int, span: Span) -> None:
    loaded = model("llama", size=460, seed=seed, context=40)
    partner = CheckpointPartner(loaded, slots=4, span=span)
    expected = [reference_piece(loaded, text, span=span) for text in TEXTS]
    assert partner.complete(TEXTS) == expected
    # Whatever its caches hold by now, and however the texts are grouped.
    assert partner.complete(TEXTS[::-1]) == expected[::-1]
    assert [partner.complete([text])[0] for text in TEXTS] == expected
    assert len(set(expected)) > 1
    assert partner.complete([]) == []


def test_a_text_finds_the_cache_that_knows_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    partner = CheckpointPartner(model("llama", size=460, context=40), slots=4, span="token")
    fed: list[int] = []
    (group,) = partner._session._groups
    read = group._read

    def counted(rows: Sequence[Any], **more: Any) -> None:
        fed.extend(row.unread for row in rows)
        read(rows, **more)

    monkeypatch.setattr(group, "_read", counted)
    # A machine that turns fast makes many steps after a piece's end, which are not part of any text.
    ahead = iter((1, 1, 1, *[MOST_STEPS] * 20))
    monkeypatch.setattr(partner._session, "steps_within", lambda _seconds: next(ahead))
    long, other = "The river Danube flows through ten countries: Germany", "Albert Einstein died in the town of Ulm"
    assert min(len(encode_text(partner._engine.tokenizer, text)) for text in (long, other)) > 12
    partner.complete([long, other])
    fed.clear()
    partner.complete([other + ".", long + ":"])
    assert max(fed, default=0) <= 6


def test_a_cascade_of_two_tokenizers_batched_and_alone(model: Model) -> None:
    slm, larger = model(), model("llama", size=460, seed=5, context=40)
    prompts = ["Albert Einstein was", "In 18", "東京", "The river Danube"]
    together = Cascade(slm, CheckpointPartner(larger, span="word", slots=4), budget=0.4).generate(
        prompts, max_new_tokens=40
    )
    partner = CheckpointPartner(larger, span="word", slots=4)
    alone = [Cascade(slm, partner, budget=0.4).generate([prompt], max_new_tokens=40)[0] for prompt in prompts]
    assert [(row.text, row.counts) for row in together] == [(row.text, row.counts) for row in alone]
    assert sum(row.counts.delegated for row in together) > 10


RECITED = (
    " was born in Ulm on 14 March 1879, 1,234.5 km from Saint-Denis. Łódź, naïve café; 東京 and 北京! 😀"
    " 👩\u200d👩\u200d👧 In U.S. Αθήνα 2024-05-17 the end of what is to be recited here."
)


def reciting_folder(folder: Path, style: str, text: str) -> Path:
    """A model whose weights make it recite `text`: GPT-2's by position, Llama's by which token follows which.

    Llama's therefore must have every token once.
    """
    start, end = control_ids(style)
    encoded = Tokenizer.from_str(tokenizer_json(style)).encode(text, add_special_tokens=False).ids
    ids = [end if start is None else start, *encoded, end]
    names = {"n_embd": 96, "n_positions": 200} if style == "gpt2" else {"hidden_size": 96}
    settings = settings_of(style, **names, tie_word_embeddings=style == "gpt2")
    tensors = random_tensors(settings, scale=0.0)  # norms stay 1: the blocks add nothing
    table = np.random.default_rng(0).standard_normal((settings["vocab_size"], 96)).astype(np.float32)
    tensors["transformer.wte.weight" if style == "gpt2" else "model.embed_tokens.weight"] = table
    if style == "gpt2":
        tensors["transformer.wpe.weight"][: len(ids) - 1] = 20 * table[ids[1:]]
    else:
        assert len(set(ids)) == len(ids)
        tensors["lm_head.weight"][ids[1:]] = table[ids[:-1]]
    return write_folder(folder, style, settings=settings, tensors=tensors)


PIECES = {
    "word": [" was", " born", " in", " Ulm", " on", " 14", " March", " 1879", ",", " 1,234.5", " km", " from",
             " Saint-Denis", ".", " Łódź", ",", " naïve", " café", ";", " 東", "京", " and", " 北", "京", "!", " 😀",
             " 👩\u200d👩\u200d👧", " In", " U.S.", " Αθήνα"],
    "phrase": [" was", " born", " in Ulm", " on 14 March 1879", ",", " 1,234.5"],
}  # fmt: skip


@pytest.mark.parametrize("span", ["token", "word", "phrase"])
def test_what_a_gpt2_recites_arrives_whole(model: Model, tmp_path: Path, span: Span) -> None:
    """The SLM's tokenizer spells digits and most of these characters apart."""
    prompt = "Albert Einstein"
    folder = reciting_folder(tmp_path / "model", "gpt2", prompt + RECITED)
    partner = make_partner(f"checkpoint:{folder}", corpus=CorpusConfig(), directory=str(tmp_path), span=span)
    completion = Cascade(model(context=200), partner, budget=1.0).generate([prompt], max_new_tokens=120)[0]
    pieces = [piece.text for piece in completion.pieces]
    assert completion.counts.fallbacks == 0
    assert RECITED.startswith(completion.text)
    assert "Αθήνα" in completion.text
    expected = PIECES.get(span, pieces)
    assert pieces[: len(expected)] == expected


def test_what_a_llama_recites_arrives_whole_wherever_the_text_ends(model: Model, tmp_path: Path) -> None:
    """Also where the text ends within what is one token there: "23", " Ul", a space before a character of two bytes."""
    folder = reciting_folder(tmp_path / "model", "llama3", "The é\n😀12345 Ulm,")
    pieces = {
        "T": "he", "The": " é", "The ": "é", "The é": "\n😀12345", "The é\n": "😀12345", "The é\n😀12": "345",
        "The é\n😀123": "45", "The é\n😀12345": " Ulm", "The é\n😀12345 U": "lm",
    }  # fmt: skip
    partner = CheckpointPartner(load_model(str(folder)), span="word", slots=4)
    assert dict(zip(pieces, partner.complete(list(pieces)), strict=True)) == pieces
    completions = Cascade(model(), partner, budget=1.0).generate(list(pieces), max_new_tokens=1)
    assert [completion.pieces[0].text for completion in completions] == list(pieces.values())


def test_a_number_without_end_is_taken_for_whole(tmp_path: Path) -> None:
    """The model goes on with it for longer than a piece may take. What it holds for likely beside that is the piece."""
    loaded = load_model(str(reciting_folder(tmp_path / "model", "gpt2", "in 1879 and 19" + "19" * 60)))
    mark = loaded.tokenizer.encode(";").ids[0]
    positions = loaded.params["positions"]["embedding"] + 10 * loaded.params["embedding"]["embedding"][mark]
    params = loaded.params | {"positions": {"embedding": positions}}
    partner = CheckpointPartner(dataclasses.replace(loaded, params=params), span="word", slots=2)
    texts = ["in 1879 and 191919", "in 1879", "in 1879 and 1919191919191919"]
    assert partner.complete(texts) == [";", " and", ";"]
    assert partner.complete(texts[::-1]) == [";", " and", ";"]


def test_a_begun_word_is_written_again_as_one_token() -> None:
    """What is taken back is the end of the text, and begins with a token."""
    definition, (start, end) = tokenizer_json("gpt2"), control_ids("gpt2")
    tokenizer = HfTokenizer(definition, start_id=start, end_id=end)
    for text, taken in {
        "was born in": " in", "was born in ": " ", "born in  \n": "  \n", "Albert Einst": " Einst",
        "on 14 March 18": " 18", "in 1,23": ",23", "(Ulm": "(Ulm", "Ulm,": "", "Saint-Den": "-Den", "is 東京": "東京",
        "": "", "Łó": "Łó", "😀": "😀", "x" * 60: "x" * 24, "\ue000" * 9: "\ue000" * 9,
    }.items():  # fmt: skip
        answer = begin(tokenizer, text)
        given = tokenizer.decode_bytes(answer.given).decode(errors="replace")
        assert tokenizer.decode_bytes([*answer.ids, *answer.given]) == text.encode()
        assert given.endswith(taken), text
        assert len(given) <= len(taken) + 8


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


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("none", "nobody, the model writes all by itself"),
        ("documents", "the documents of the corpus vital_articles"),
        ("documents:a.jsonl,b.jsonl", "the documents of a.jsonl,b.jsonl"),
        ("database:facts.csv", "the database facts.csv"),
        ("checkpoint:runs/large", "the checkpoint runs/large"),
        ("https://host/v1#m", "the server https://host/v1, model m, with no key"),
    ],
)
def test_who_is_asked_is_said(spec: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PARTNER.keys:
        monkeypatch.delenv(name, raising=False)
    assert describe_partner(spec, corpus=CorpusConfig()) == said
