"""Everything that the closed world asks of one checkpoint, kept in files (kept.py): a finished part is not repeated.

biographies.py has them written, judging.py judges them, scores.py adds them up, tables.py shows them.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lacy_jax.cascade.partners import check_partner, read_spec
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import AnnotateConfig
from lacy_jax.data.annotate import annotate_documents
from lacy_jax.data.documents import Document, split_of
from lacy_jax.errors import ConfigError
from lacy_jax.evidence.closed_world.biographies import (
    as_known_to,
    check_facts_known,
    closed_world_of,
    is_told,
    partner_of,
    pick_people,
    prompts_of,
    relations_known,
    write_and_judge,
)
from lacy_jax.evidence.closed_world.decodes import ALONE, Decode, check_decode, parse_decode
from lacy_jax.evidence.closed_world.judging import to_json
from lacy_jax.evidence.closed_world.kept import (
    MAIN_BUDGET,
    TOKENS_FILE,
    Evaluation,
    claim_folder,
    judged_path,
    read_judged,
    read_object,
    write_text,
)
from lacy_jax.evidence.closed_world.tables import suite_table, token_table
from lacy_jax.evidence.closed_world.world import World, biographies
from lacy_jax.evidence.suites import Progress, Settings
from lacy_jax.evidence.token_scores import nll_by_kind, score_documents, separate, token_intervals

DOCUMENTS = 200  # held-out biographies that the teacher-forced scores are measured on
BUDGETS = (0.05, 0.1, 0.22, 0.5)  # of the separation

FLAGS = ("people", "known", "temperature", "decode")
_DEFAULT = (Decode("default", budgets=(0.1, 0.22, 0.5)),)


def run(slm: LoadedModel, settings: Settings, *, out: Path, progress: Progress) -> list[str]:
    """Markdown: the scores of judged biographies, then those of tokens; see `evaluate` for what it raises."""
    decodes = [parse_decode(text) for text in settings.decode] or list(_DEFAULT)
    names = [decode.name for decode in decodes if decode != ALONE]
    if len({*names, ALONE.name}) <= len(names):
        raise ConfigError(f"--decode: names must differ, also from {ALONE.name!r}; got {', '.join(names)}")
    found = evaluate(
        slm,
        decodes=decodes,
        people=settings.people,
        known=settings.known,
        temperature=settings.temperature,
        out=out,
        progress=progress,
    )
    return [*suite_table(found), "", *token_table(found)]


def evaluate(
    slm: LoadedModel,
    *,
    decodes: Sequence[Decode],
    people: int,
    known: float,
    temperature: float,
    out: Path,
    progress: Progress,
) -> Evaluation:
    """Does what is missing in `out`, and reads it all. The decode `ALONE` (no calls at all) is always among them.

    Args:
        decodes: how to call; names must differ.
        people: how many people are written about, evenly spaced over the world's.
        known: the share of the facts that the database knows.
        temperature: of the draw; 0 is greedy.

    Raises:
        ConfigError: the model was not trained on the closed world, a value is out of range, or a price goes with a
            score that is no probability.
        PartnerError, CheckpointError: see `partner_of`; what names no partner is refused before anything is written.
        DataError: `out` holds the evaluation of another checkpoint or with other settings.
    """
    for decode in decodes:
        check_decode(decode)
        check_partner(decode.asks(known=known))
        check_facts_known(slm, decode.asks(known=known))
    world = closed_world_of(slm)
    chosen = pick_people(world, people)
    claim_folder(out, slm, decodes=decodes, settings={"people": people, "known": known, "temperature": temperature})
    points = list(dict.fromkeys((decode, budget) for decode in (ALONE, *decodes) for budget in decode.budgets))
    partner = functools.cache(lambda spec, span: partner_of(slm, spec, span=span))
    judged = {}
    for done, (decode, budget) in enumerate(points):
        progress("biographies", done, len(points))
        path = judged_path(out, decode=decode.name, budget=budget)
        if not path.exists():
            spec = decode.asks(known=known) if budget else _marked_by(slm) or decode.asks(known=known)
            found = write_and_judge(
                slm,
                as_known_to(spec, chosen, world=world),
                prompts=prompts_of(slm, chosen, spec=spec if budget else "", world=world),
                before=chosen,
                known=relations_known(spec, chosen, world=world),
                partner=partner(spec, decode.span) if budget and not is_told(slm) else None,
                decode=decode,
                budget=budget,
                temperature=temperature,
            )
            write_text(path, "".join(f"{to_json(each)}\n" for each in found))
        judged[decode.name, budget] = read_judged(path)
    progress("biographies", len(points), len(points))
    path = out / TOKENS_FILE
    if not path.exists():
        write_text(path, json.dumps(_token_results(slm, world), indent=1))
    return Evaluation(judged, read_object(path))


def _marked_by(slm: LoadedModel) -> str:
    """The partner `world` that made a model's marks, which says what it need not know by itself; "": none did."""
    annotate = slm.config.annotate
    return annotate.partner if annotate.annotator == "partner" and read_spec(annotate.partner)[0] == "world" else ""


def held_out_biographies(world: World, *, share: float) -> Iterator[Document]:
    """The biographies that a model of the world did not see, of people whom it read about."""
    for biography in biographies(world.settings):
        if split_of(biography.document.id, validation_share=share) == "validation":
            yield biography.document


def _token_results(slm: LoadedModel, world: World) -> dict[str, Any]:
    documents = list(held_out_biographies(world, share=slm.config.corpus.validation_share))[:DOCUMENTS]
    tokens = score_documents(slm, annotate_documents(documents, AnnotateConfig(annotator="oracle")))
    separations = {}
    for name in tokens.scores:
        by_budget = {f"{budget:g}": separate(tokens, name, budget=budget) for budget in BUDGETS}
        separations[name] = {key: dataclasses.asdict(found) for key, found in by_budget.items() if found is not None}
    factual = tokens.factual
    return {
        "documents": len(documents),
        "nll": nll_by_kind(tokens),
        "share_factual": float(factual.mean()),
        "factual_right_alone": float(1 - tokens.wrong[factual].mean()),
        "factual_first_ten": float((tokens.rank[factual] <= 10).mean()),
        "factual_rank": float(np.median(tokens.rank[factual])),
        "scores": separations,
        "intervals": token_intervals(tokens, budget=MAIN_BUDGET),
    }
