"""Are places to call found better on text that the cascade itself wrote? Refits gates and rows of `<CALL>`.

    python -m benchmarks.on_policy runs/study_defer/ntp_answered/seed0 [RUN ...] [--partner=world:known=0.9]

A model of the closed world learned where to ask from training text. When it writes, it stands in its own sentences. So
its cascade writes about the people who are not judged. The partner is asked at every word of these texts. What finds
the places of an answer is fitted anew, and the model itself stays as it was: the probe of the gate,
and, of a model that was trained to call, the row of `<CALL>`. The control fits the same to as many texts of the
training. Then each writes about the 128 people of the study at several prices. docs/defer.md has the table.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.door import answered
from lacy_jax.adaptation.fit import fit_probe, with_call_row
from lacy_jax.adaptation.marks import Marked
from lacy_jax.adaptation.states import States, read_states
from lacy_jax.cascade import Cascade, Partner, Request, Sampling
from lacy_jax.cascade.marks.asking import question, stands_at
from lacy_jax.cascade.text.words import words_of
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.data.documents import NO_SPANS, Document, Spans, full_text, text_offset
from lacy_jax.evidence.closed_world.biographies import (
    ROWS,
    TEMPERATURE,
    closed_world_of,
    partner_of,
    pick_people,
    prompts_of,
    write_and_judge,
)
from lacy_jax.evidence.closed_world.decodes import Decode
from lacy_jax.evidence.closed_world.scores import estimate
from lacy_jax.evidence.closed_world.world import Person, World, write_biography
from lacy_jax.evidence.reading import read_documents

JUDGED = 128
COSTS = (0.05, 0.1, 0.15)
RIDGE, ITERATIONS = 10.0, 200
GATE = Decode("gate", score="uncertainty", gate="factual", policy="price")
ROW = Decode("row", score="call_score", policy="price")
PRICES = {GATE.name: (0.1, 0.3, 0.5, 0.7, 0.85), ROW.name: (0.5, 0.7, 0.85, 0.95, 0.99)}


@dataclass(frozen=True)
class Way:
    """A model and its way to call. title: the texts that it was fitted to."""

    title: str
    model: LoadedModel
    decode: Decode


def own_texts(slm: LoadedModel, partner: Partner, people: Sequence[Person], decode: Decode) -> list[Document]:
    """What the cascade writes about each."""
    cascade = Cascade(slm, partner, budget=1.0, **decode.changes)
    length, prompts = cascade.settings.max_new_tokens, prompts_of(slm, people, spec="", world=closed_world_of(slm))
    requests = [
        Request(prompt, max_new_tokens=length, sampling=Sampling(temperature=TEMPERATURE, seed=each.index))
        for each, prompt in zip(people, prompts, strict=True)
    ]
    texts = cascade.generate(requests, batch_size=ROWS)
    return [Document(each.name, each.name, text.text) for each, text in zip(people, texts, strict=True)]


def training_texts(world: World, people: Sequence[Person]) -> list[Document]:
    """A biography of each, of those that were trained on where there is one."""
    return [write_biography(world, each.index, number=0).document for each in people]


def asked(documents: Sequence[Document], partner: Partner) -> Marked:
    """The first character of every word where the partner has an answer, whatever stands there.

    Within an answer that stands there it is not asked.
    """
    found = []
    for document in documents:
        text, offset, end = full_text(document), text_offset(document), 0
        starts = [word.start + offset for word in words_of(document.text)]
        answers = partner.complete([question(text, start) for start in starts])
        places = []
        for start, answer in zip(starts, answers, strict=True):
            if start >= end and answer.strip():
                places.append(start)
                end = start + len(answer.strip()) if stands_at(text, start, answer) else start
        table, no = np.array(places, np.int32), np.zeros(len(places), bool)
        found.append((document, Spans(table, table + 1, ("ANSWERED",) * len(places), subject=no, repeated=no)))
    return found


def call_row(slm: LoadedModel, documents: Marked, states: States) -> np.ndarray:
    """float64[D]: the row of `<CALL>` with which its probability, in the softmax, is that of an answer.

    A logistic regression on the states without a bias, the logits less the log of what the other tokens sum to, by the
    method of `training.probe.fit_logistic`. The documents stand in the order of the states.
    """
    readings = read_documents(slm, [(document, NO_SPANS) for document, _ in documents])
    others_N = np.concatenate([each.said.call["call_logit"] - each.said.call["call_score"] for each in readings])
    hidden_ND = states.hidden.astype(np.float64)
    bound_DD = hidden_ND.T @ hidden_ND / 4 + RIDGE * np.eye(hidden_ND.shape[1])
    inverse_DD, weights_D = np.linalg.inv(bound_DD), np.zeros(hidden_ND.shape[1])
    for _ in range(ITERATIONS):
        p_N = 1 / (1 + np.exp(-np.clip(hidden_ND @ weights_D - others_N, -60, 60)))
        weights_D = weights_D + inverse_DD @ (hidden_ND.T @ (states.factual - p_N) - RIDGE * weights_D)
    return weights_D


def refitted(slm: LoadedModel, documents: Marked, *, title: str, folder: Path) -> Iterator[Way]:
    """The model with a probe, and if it was trained to call with a row of `<CALL>`, fitted to these places."""
    most = slm.model.context
    marked = sorted(documents, key=lambda each: min(most, len(slm.tokenizer.encode(full_text(each[0])))))  # as states
    states = read_states(slm, marked, folder=folder, progress=lambda *_: None)
    yield Way(title, dataclasses.replace(slm, factual_probe=fit_probe(states)), GATE)
    if slm.learned_to_call:
        yield Way(title, with_call_row(slm, call_row(slm, marked, states)), ROW)


def frontier(way: Way, people: Sequence[Person], partner: Partner) -> list[tuple[float, float]]:
    """(share of the tokens spent, strict) without calls and at each price, by ascending share."""
    found = []
    for price in (None, *PRICES[way.decode.name]):
        judged = write_and_judge(
            way.model,
            people,
            prompts=prompts_of(way.model, people, spec="", world=closed_world_of(way.model)),
            before=people,
            partner=partner,
            decode=way.decode if price is None else dataclasses.replace(way.decode, price=price),
            budget=0.0 if price is None else 1.0,
            temperature=TEMPERATURE,
        )
        found.append((estimate("rate", judged), estimate("strict", judged)))
    return sorted(found)


def compare(path: str, *, spec: str, texts: int, folder: Path) -> None:
    """Prints the lines of one run."""
    slm = load_model(path)
    world = closed_world_of(slm)
    people = pick_people(world, JUDGED)
    judged = {each.index for each in people}
    others = [each for each in world.people if each.index not in judged][:texts]
    partner = partner_of(slm, spec, span="phrase")
    if partner is None:
        raise SystemExit("nobody would answer; name a --partner")
    ways = [Way("the run's own", slm, decode) for decode in ((GATE, ROW) if slm.learned_to_call else (GATE,))]
    default = dataclasses.replace(ways[-1].decode, price=0.5 if slm.learned_to_call else 0.1)
    own = own_texts(slm, partner, others, default)
    for title, documents in (("training texts", training_texts(world, others)), ("own texts", own)):
        ways += refitted(slm, asked(documents, partner), title=title, folder=folder)
    for way in ways:
        points = frontier(way, people, partner)
        cells = [f"{100 * float(np.interp(cost, *np.array(points).T)):.1f}" for cost in COSTS]
        shown = ", ".join(f"{100 * strict:.1f} at {100 * rate:.1f}" for rate, strict in points)
        print(f"| {path} | {way.decode.name} | {way.title} | {' | '.join(cells)} | {shown} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of runs")
    parser.add_argument("--partner", default="world:known=0.9")
    parser.add_argument("--texts", type=int, default=400, help="that each is refitted to")
    parser.add_argument("--folder", type=Path, default=Path("runs/on_policy"), help="of what is read of the texts")
    options = parser.parse_args()
    costs = " | ".join(f"strict at {cost:.0%}" for cost in COSTS)
    print(f"| run | calls by | fitted to | {costs} | strict at a cost, at each price |")
    print("|---" * (len(COSTS) + 4) + "|")
    for path in options.runs:
        compare(path, spec=options.partner, texts=options.texts, folder=options.folder)


if __name__ == "__main__":
    answered(main)
