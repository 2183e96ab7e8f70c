"""Everything that the closed world asks of one checkpoint, kept in files: what is there is not done again.

<out>/settings.json                 the checkpoint, people, the partner's share, what each decode's name stands for
<out>/<decode>-<budget>.jsonl       judged biographies, one a line (`closed_world.Judged`)
<out>/tokens.json                   teacher-forced: NLL by kind, separation of every score, intervals
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from lacy_jax.cascade.partners import Span
from lacy_jax.cascade.scheduler import Gate, Score
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import AnnotateConfig, config_to_dict
from lacy_jax.data.annotate import annotate_documents
from lacy_jax.data.documents import Document, split_of
from lacy_jax.data.files import write_whole
from lacy_jax.errors import ConfigError, DataError
from lacy_jax.evidence.closed_world.judging import (
    ALONE,
    DATABASE,
    Decode,
    Judged,
    closed_world_of,
    from_json,
    partner_of,
    pick_people,
    to_json,
    write_and_judge,
)
from lacy_jax.evidence.closed_world.world import World, biographies
from lacy_jax.evidence.token_scores import nll_by_kind, score_documents, separate, token_intervals

DOCUMENTS = 200  # held-out biographies that the teacher-forced scores are measured on
BUDGETS = (0.05, 0.1, 0.22, 0.5)  # of the separation
MAIN_BUDGET = 0.22  # of its intervals
_FORM = "NAME:score=SCORE,gate=GATE,span=SPAN,budgets=B/B/B,partner=PARTNER"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """What was measured. `judged`: (decode, budget) -> biographies; `tokens`: as in tokens.json."""

    judged: dict[tuple[str, float], list[Judged]]
    tokens: dict[str, Any]


def parse_decode(text: str) -> Decode:
    """A `Decode` of the form _FORM; what is left out stays at its default.

    Raises:
        ConfigError: another form, an unknown name, or a budget that is no share.
    """
    name, _, rest = text.partition(":")
    allowed = {"score": (*get_args(Score), "auto"), "gate": get_args(Gate), "span": get_args(Span)}
    given: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        if key == "budgets":
            given[key] = tuple(_share(text, each) for each in value.split("/"))
        elif (key == "partner" and value) or value in allowed.get(key, ()):
            given[key] = value
        else:
            known = "; ".join(f"{key}={'|'.join(values)}" for key, values in allowed.items())
            raise ConfigError(f"decode {text!r}: {item!r} is not of the form {_FORM} ({known})")
    if not name or not name.replace("_", "").isalnum():
        raise ConfigError(f"decode {text!r}: needs a name of letters, digits and _, as in {_FORM}")
    return Decode(name, **given)


def decode_text(decode: Decode) -> str:
    """What `parse_decode` reads."""
    budgets = "/".join(f"{budget:g}" for budget in decode.budgets)
    partner = "" if decode.partner == DATABASE else f",partner={decode.partner}"
    return f"{decode.name}:score={decode.score},gate={decode.gate},span={decode.span},budgets={budgets}{partner}"


def _share(text: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"decode {text!r}: the budget {number!r} is no share, 0 to 1")
    return value


def evaluate(
    slm: LoadedModel,
    *,
    decodes: Sequence[Decode],
    people: int,
    known: float,
    temperature: float,
    out: str | Path,
    directory: str = "",
    progress: Progress = lambda _stage, _done, _total: None,
) -> Evaluation:
    """Does what is missing in `out`, and reads it all. The decode `ALONE` (no calls at all) is always among them.

    Args:
        decodes: how to call; names must differ.
        people: how many people are written about, evenly spaced over the world's.
        known: the share of the facts that the database knows.
        temperature: of the draw; 0 is greedy.
        directory: where the partner's file is made; "": beside the data of the model.

    Raises:
        ConfigError: the model was not trained on the closed world, or a value is out of range.
        PartnerError, CheckpointError: see `partner_of`.
        DataError: `out` holds the evaluation of another checkpoint or with other settings.
    """
    world = closed_world_of(slm)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    _claim_folder(
        folder,
        {
            "checkpoint": slm.step,
            "method": slm.config.method,
            "seed": slm.config.training.seed,
            "model": model_fingerprint(slm),
            "people": people,
            "known": known,
            "temperature": temperature,
        },
        decodes=decodes,
    )
    points = list(dict.fromkeys((decode, budget) for decode in (ALONE, *decodes) for budget in decode.budgets))
    partner = functools.cache(lambda spec, span: partner_of(slm, spec, span=span, known=known, directory=directory))
    judged = {}
    for done, (decode, budget) in enumerate(points):
        progress("biographies", done, len(points))
        path = folder / f"{decode.name}-{budget:g}.jsonl"
        if not path.exists():
            found = write_and_judge(
                slm,
                pick_people(world, people),
                partner=partner(decode.partner, decode.span) if budget else None,
                decode=decode,
                budget=budget,
                temperature=temperature,
            )
            _write(path, "".join(f"{to_json(each)}\n" for each in found))
        judged[decode.name, budget] = read_judged(path)
    progress("biographies", len(points), len(points))
    path = folder / "tokens.json"
    if not path.exists():
        _write(path, json.dumps(_token_results(slm, world), indent=1))
    return Evaluation(judged, json.loads(path.read_text()))


def read_evaluation(out: str | Path) -> Evaluation:
    """What `evaluate` left in a folder."""
    folder = Path(out)
    judged = {}
    for path in sorted(folder.glob("*.jsonl")):
        name, _, budget = path.stem.rpartition("-")
        judged[name, float(budget)] = read_judged(path)
    return Evaluation(judged, json.loads((folder / "tokens.json").read_text()))


def read_judged(path: Path) -> list[Judged]:
    """The biographies of a file."""
    return [from_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
        "scores": separations,
        "intervals": token_intervals(tokens, budget=MAIN_BUDGET),
    }


def model_fingerprint(slm: LoadedModel) -> str:
    """Of all that a run's parameters follow from: its settings but where its data lies, the data, the step."""
    settings = config_to_dict(slm.config)
    del settings["data"]["directory"], settings["data"]["packed"]
    known = json.dumps([settings, slm.meta["data"], slm.step], sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()[:12]


def _claim_folder(folder: Path, settings: dict[str, Any], *, decodes: Sequence[Decode]) -> None:
    """Notes what the folder is of, or refuses. Decodes may be added to it; a name may not change what it stands for."""
    path = folder / "settings.json"
    found = json.loads(path.read_text()) if path.exists() else dict(settings)
    noted = found.pop("decodes", {})
    # Not budgets: those are in the names of the files.
    asked = {
        decode.name: {key: value for key, value in vars(decode).items() if key not in ("name", "budgets")}
        for decode in decodes
    }
    pairs = [(key, found.get(key), value) for key, value in settings.items()]
    pairs += [(f"decode {name}", noted[name], call) for name, call in asked.items() if name in noted]
    differ = ", ".join(f"{key} {then!r}, now {now!r}" for key, then, now in pairs if then != now)
    if differ:
        raise DataError(
            f"{folder}: holds an evaluation with other settings ({differ}); give another folder, or delete it"
        )
    _write(path, json.dumps({**settings, "decodes": noted | asked}))


def _write(path: Path, text: str) -> None:
    write_whole(path, text.encode())
