"""Facts in the prompt in place of calls: what stands there, what is learned of it, and what it costs."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import biographies as world_config
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.checks import parse
from lacy_jax.config import AnnotateConfig, BiographiesConfig, CorpusConfig, RuleConfig
from lacy_jax.console import Reporter
from lacy_jax.data.annotate import annotate_documents
from lacy_jax.data.corpus import corpus_fingerprint, read_documents
from lacy_jax.data.documents import full_text
from lacy_jax.data.factual import select_spans
from lacy_jax.data.prepare import prepare
from lacy_jax.errors import ConfigError
from lacy_jax.evidence.closed_world import biographies as writing
from lacy_jax.evidence.closed_world.decodes import Decode
from lacy_jax.evidence.closed_world.scores import estimate
from lacy_jax.evidence.closed_world.suite import _marked_by, evaluate
from lacy_jax.evidence.closed_world.world import RELATIONS, Knowledge, changed_world, make_world, told_headings
from lacy_jax.evidence.closed_world.world.facts import known_facts
from lacy_jax.training.loop import train

WORLD = BiographiesConfig(people=60, documents=400)
TOLD, PLAIN = (CorpusConfig(name=name, biographies=WORLD) for name in ("biographies_told", "biographies"))
RULE = RuleConfig(kinds="TOLD", exclude_subjects=False, first_mention_only=False)


def told_facts(title: str) -> set[str]:
    """The values in a title, read by its own signs."""
    found = re.fullmatch(r"([^(;]+?)(?: \((.+)\))?", title)
    assert found is not None
    parts = found[2].split("; ") if found[2] else []
    return {re.sub(r"^(born|from|studied at|field|with|in) ", "", part) for part in parts}


def test_each_biography_stands_after_some_of_its_person_s_facts() -> None:
    people = {person.name: set(person.facts.values()) for person in make_world(WORLD).people}
    counts = []
    for told, plain in zip(read_documents(TOLD), read_documents(PLAIN), strict=True):
        assert (told.id, told.text) == (plain.id, plain.text)
        assert told.title.startswith(plain.title)
        values = told_facts(told.title)
        assert values <= people[plain.title]
        counts.append(len(values))
    assert {*counts} == {*range(len(RELATIONS) + 1)}
    assert np.mean(counts) == pytest.approx(len(RELATIONS) / 2, abs=0.3)
    assert corpus_fingerprint(TOLD) != corpus_fingerprint(PLAIN)


def test_what_is_told_is_marked_and_nothing_else_by_its_kind() -> None:
    marked = annotate_documents(read_documents(TOLD), AnnotateConfig(annotator="oracle"), corpus=TOLD)
    plain = annotate_documents(read_documents(PLAIN), AnnotateConfig(annotator="oracle"), corpus=PLAIN)
    told = 0
    for (document, spans), (_, own) in zip(marked, plain, strict=True):
        chosen = select_spans(spans, RULE)
        text = full_text(document)
        parts = [text[start:end] for start, end in zip(chosen.starts, chosen.ends, strict=True)]
        assert parts == re.findall(r"\(.*\)", document.title)
        told += len(parts)
        assert len(spans) - len(chosen) == len(own)
        shift = len(text) - len(document.text)
        assert set(text[spans.starts[-1] : spans.ends[-1]]) <= set(text[shift:])
    assert told > 300


def test_a_title_has_what_the_partner_knows_as_it_has_it() -> None:
    world, half = make_world(WORLD), Knowledge(known=0.5)
    for knowledge in (half, Knowledge(known=0.5, changed=1.0), Knowledge()):
        rows = list(known_facts(world, knowledge))
        for person, title in zip(world.people, told_headings(world, knowledge, world.people), strict=True):
            assert told_facts(title) == {value for name, _, value in rows if name == person.name}
    changed = changed_world(world, share=1.0).people
    titles = told_headings(world, Knowledge(changed=1.0), world.people)
    assert all(told_facts(title) == {*person.facts.values()} for title, person in zip(titles, changed, strict=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps on a small world."""
    folder = tmp_path_factory.mktemp("told")
    config = world_config.get_config("method=ignore_facts")
    config.corpus.update(name="biographies_told", validation_share=0.1)
    config.corpus.biographies.update(people=30, documents=120)
    config.annotate.annotator = "oracle"
    config.rule.update(kinds="TOLD", exclude_subjects=False, first_mention_only=False)
    config.tokenizer.vocab_size = 700
    config.model.update(layers=1, width=32, heads=2)
    config.data.directory = str(folder / "data")
    config.training.ground_truth_tokens = 6000
    config.optimizer.warmup_steps = 2
    settings = parse(config)
    train(settings, prepared=prepare(settings), workdir=str(folder / "run"), reporter=Reporter())
    return folder / "run"


def test_a_told_model_is_prompted_and_calls_nobody(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slm = load_model(str(run))
    prompts: list[list[str]] = []
    made: Callable[..., writing.Cascade] = writing.Cascade

    def watched(*arguments: object, **changes: object) -> writing.Cascade:
        assert arguments[1] is None
        cascade = made(*arguments, **changes)
        generate = cascade.generate

        def noted(requests: list[writing.Request], **more: Any) -> object:
            prompts.append([request.prompt for request in requests])
            return generate(requests, **more)

        monkeypatch.setattr(cascade, "generate", noted)
        return cascade

    monkeypatch.setattr(writing, "Cascade", watched)
    judge, known = writing.judge, []

    def heard(*arguments: Any, **more: Any) -> writing.Judged:
        known.append(more["known"])
        return judge(*arguments, **more)

    monkeypatch.setattr(writing, "judge", heard)
    decodes = [Decode("told", budgets=(1.0,)), Decode("half", partner="world:known=0.45", budgets=(1.0,))]

    def evaluated(*asked: Decode) -> dict[tuple[str, float], list[writing.Judged]]:
        return evaluate(
            slm, decodes=asked, people=4, known=0.9, temperature=0.0, out=tmp_path / "out", progress=lambda *_: None
        ).judged

    found = evaluated(*decodes)
    people = writing.pick_people(make_world(slm.config.corpus.biographies), 4)
    for number, spec in enumerate(("world:known=0.9", "world:known=0.9", "world:known=0.45")):
        expected = writing.relations_known(spec, people, world=make_world(slm.config.corpus.biographies))
        assert known[4 * number :][:4] == expected, spec
    assert prompts[0] == [f"{person.name}\n\n" for person in people]
    for number, key in ((1, ("told", 1.0)), (2, ("half", 1.0))):
        for person, prompt, judged in zip(people, prompts[number], found[key], strict=True):
            title = prompt.removesuffix("\n\n")
            assert told_facts(title) <= {*person.facts.values()}
            tokens = [len(slm.tokenizer.encode(text)) for text in (prompt, f"{person.name}\n\n")]
            assert judged.told == tokens[0] - tokens[1]
            assert judged.calls == judged.delegated == 0
        spent = sum(each.told for each in found[key]) / sum(each.generated for each in found[key])
        assert estimate("rate", found[key]) == pytest.approx(spent)
    assert estimate("rate", found["told", 1.0]) > estimate("rate", found["half", 1.0]) > 0
    assert estimate("rate", found["alone", 0.0]) == 0
    with pytest.raises(ConfigError, match=r"partner documents: .* calls nobody; give a partner that knows them"):
        evaluated(Decode("search", partner="documents"))
    assert "search" not in (tmp_path / "out/settings.json").read_text()  # refused before anything was written


def test_who_made_the_marks_says_what_a_model_need_not_know(run: Path) -> None:
    slm = load_model(str(run))
    for settings, expected in (
        ({"annotator": "partner", "partner": "world:known=0.4"}, "world:known=0.4"),
        ({"annotator": "partner", "partner": "documents"}, ""),
        ({"annotator": "spacy", "partner": "world:known=0.4"}, ""),
    ):
        annotate = dataclasses.replace(slm.config.annotate, **settings)  # type: ignore[arg-type]
        assert (
            _marked_by(dataclasses.replace(slm, config=dataclasses.replace(slm.config, annotate=annotate))) == expected
        )


def test_what_is_told_is_what_the_training_ignores(run: Path) -> None:
    slm = load_model(str(run))
    assert (slm.config.objective.rule, slm.config.objective.treatment) == ("factual", "ignore")
    windows, told, other = prepare(slm.config).train, 0, 0
    for index in range(len(windows)):
        inside: bool | None = None  # a window may begin anywhere
        for token, factual in zip(windows[index]["tokens"], windows[index]["factual"], strict=True):
            piece = slm.tokenizer.decode_bytes([int(token)]).decode(errors="replace").strip()
            if token == slm.tokenizer.end_id:
                inside = False
            elif piece and inside is not None:
                inside = inside or "(" in piece
                assert factual == inside, piece
                told, other = told + inside, other + (not inside)
                inside = inside and ")" not in piece
    assert told > 1000
    assert other > 3000
