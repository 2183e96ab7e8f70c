"""What an evaluation keeps in its folder: whose it is, and what was measured.

<out>/settings.json                 the checkpoint, people, the partner's share, what each decode's name stands for
<out>/<decode>-<budget>.jsonl       judged biographies, one per line (`judging.Judged`)
<out>/tokens.json                   teacher-forced: NLL by kind, separation of every score, intervals
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import Config
from lacy_jax.config_dict import config_to_dict
from lacy_jax.data.files import parse_json, read_json_lines, write_whole
from lacy_jax.errors import DataError
from lacy_jax.evidence.closed_world.decodes import Decode
from lacy_jax.evidence.closed_world.judging import Judged, judged_of
from lacy_jax.evidence.suites import share_text
from lacy_jax.folders import reading

TOKENS_FILE = "tokens.json"
# Settings that evaluations of earlier versions do not know: at their defaults they change nothing.
_LATER = (
    ("cascade", "policy"),
    ("cascade", "price"),
    ("model", "head_width"),
    ("model", "initial"),
    ("model", "qkv_bias"),
    ("model", "qk_norm"),
    ("training", "skip_nonfinite"),
    ("training", "spike_deviations"),
    ("training", "keep_every"),
    ("training", "keep_best"),
    ("training", "checksums"),
    ("cascade", "start_token"),
    ("model", "attention_within"),
    ("training", "trackers"),
    ("training", "questions"),
    ("training", "questions_every"),
    ("data", "shuffle"),
    ("corpus", "language"),
    ("annotate", "judge"),
    ("annotate", "judge_body"),
    ("annotate", "max_requests"),
    ("annotate", "partner"),
    ("annotate", "of"),
    ("annotate", "links_field"),
    ("annotate", "tagger"),
    ("annotate", "tagger_threshold"),
    ("annotate", "timeout"),
    ("optimizer", "name"),
    ("optimizer", "schedule"),
    ("optimizer", "decay_share"),
    ("optimizer", "ema_decay"),
    ("objective", "partner_right"),
    ("objective", "call_cost"),
    ("objective", "call_rate"),
    ("objective", "partner_losses"),
)
MAIN_BUDGET = 0.22  # of the intervals in it


@dataclass(frozen=True)
class Evaluation:
    """What was measured. `judged`: (decode, budget) -> biographies; `tokens`: as in tokens.json."""

    judged: dict[tuple[str, float], list[Judged]]
    tokens: dict[str, Any]


def read_evaluation(out: str | Path) -> Evaluation:
    """What `evaluate` left in a folder."""
    folder = Path(out)
    judged = {}
    for path in sorted(folder.glob("*.jsonl")):
        name, _, budget = path.stem.partition("-")
        judged[name, float(budget)] = read_judged(path)
    return Evaluation(judged, read_object(folder / TOKENS_FILE))


def judged_path(folder: Path, *, decode: str, budget: float) -> Path:
    """The file of the biographies of one decode at one budget."""
    return folder / f"{decode}-{share_text(budget)}.jsonl"


def read_judged(path: Path) -> list[Judged]:
    """The biographies of a file. Raises `DataError` where a line is none."""
    judged = []
    for where, fields in read_json_lines(path):
        try:
            judged.append(judged_of(fields))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise DataError(f"{where}: no judged biography ({error!r}); without the file it is written again") from None
    return judged


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file. Raises `DataError` where it is none."""
    with reading(path):
        content = path.read_bytes()
    try:
        found = parse_json(content)
    except ValueError as error:
        raise DataError(f"{path}: cannot be read ({error}); without it, it is made again") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: no JSON object; without it, it is made again")
    return found


def model_fingerprint(slm: LoadedModel) -> str:
    """Of all that a run's parameters follow from: its settings but where its data lies, the data, the step."""
    settings, defaults = config_to_dict(slm.config), config_to_dict(Config())
    for place in ("directory", "packed", "mixture"):  # what lies there is in `slm.data`
        del settings["data"][place]
    for section, name in _LATER:
        if settings[section][name] == defaults[section][name]:
            del settings[section][name]
    known = json.dumps([settings, slm.data, slm.step], sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()[:12]


def claim_folder(folder: Path, slm: LoadedModel, *, decodes: Sequence[Decode], settings: Mapping[str, Any]) -> None:
    """Notes which evaluation the folder holds, or refuses. Decodes may be added; a name may not change its meaning.

    Raises:
        DataError: it holds an evaluation of another model, or with other settings.
    """
    own = {
        "checkpoint": slm.step,
        "method": slm.config.method,
        "seed": slm.config.training.seed,
        "model": model_fingerprint(slm),
        **settings,
    }
    path = folder / "settings.json"
    found = read_object(path) if path.exists() else dict(own)
    noted = found.pop("decodes", {})
    # Not budgets: those are in the names of the files.
    asked = {decode.name: {**decode.changes, "partner": decode.partner} for decode in decodes}
    pairs = [(key, found.get(key), value) for key, value in own.items()]
    pairs += [(f"decode {name}", noted[name], call) for name, call in asked.items() if name in noted]
    differ = ", ".join(f"{key} {then!r}, now {now!r}" for key, then, now in pairs if then != now)
    if differ:
        raise DataError(
            f"{folder}: holds an evaluation with other settings ({differ}); give another folder, or delete it"
        )
    write_text(path, json.dumps({**own, "decodes": noted | asked}))


def write_text(path: Path, text: str) -> None:
    write_whole(path, text.encode())
