"""Ways to call: what is ranked and gated, how far which partner writes, at which budgets."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from lacy_jax.cascade.partners import Span
from lacy_jax.cascade.scheduler import Gate, Score
from lacy_jax.errors import ConfigError

DATABASE = "database"  # the partner of a decode that names none: it knows a share of the world's facts
_FORM = "NAME:score=SCORE,gate=GATE,span=SPAN,budgets=B/B/B,partner=PARTNER"


@dataclass(frozen=True)
class Decode:
    """A way to call: what is ranked, whether it is gated, how far which partner writes, and at which budgets.

    `budgets` of 0 never call: what comes out then is what the model itself holds of the facts (leakage).
    `partner`: the database of facts, or another as `lacy_jax.generate` names them: the path of a checkpoint.
    """

    name: str
    score: Score | Literal["auto"] = "auto"
    gate: Gate = "none"
    span: Span = "phrase"
    budgets: tuple[float, ...] = (0.22,)
    partner: str = DATABASE


ALONE = Decode("alone", budgets=(0.0,))


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
