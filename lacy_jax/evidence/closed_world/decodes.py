"""Ways to call: what is ranked and gated, how far which partner writes, at which budgets."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pydantic
from pydantic import Field

from lacy_jax.cascade.scores import price_threshold
from lacy_jax.config import Gate, Policy, ScoreSetting, Share, Span
from lacy_jax.errors import ConfigError
from lacy_jax.evidence.closed_world.world import read_knowledge

DATABASE = "database"  # the partner of a decode that names none: world, with a share of the facts
EXAMPLE = '{"name": "mine", "score": "call_score", "budgets": [0.1, 0.22]}'


@dataclass(frozen=True)
class Decode:
    """A way to call: what is ranked, whether it is gated, how far which partner writes, and at which budgets.

    name: letters, digits and _; files are named by it.
    `budgets` of 0 never call: what comes out then is what the model itself holds of the facts (leakage).
    `partner`: the database of facts, or another as `lacy_jax.generate` names them: the path of a checkpoint, or
    world:known=0.5,changed=1 (docs/biographies_world.md).
    policy, price: as in `config.cascade`; None: the checkpoint's own. At a price, a budget is the most that is spent.
    """

    __pydantic_config__: ClassVar = pydantic.ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^\w+$")]
    score: ScoreSetting = "auto"
    gate: Gate = "none"
    span: Span = "phrase"
    budgets: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.22,)
    partner: Annotated[str, Field(min_length=1)] = DATABASE
    policy: Policy | None = None
    price: Share | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The settings of a cascade that it names, but for the budget and the partner."""
        named = {name: getattr(self, name) for name in ("score", "gate", "span", "policy", "price")}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def asks_world(self) -> bool:
        """Whether its partner knows the closed world, all of it or a part."""
        return self.partner == DATABASE or self.partner.partition(":")[0] == "world"

    @property
    def facts_changed(self) -> bool:
        """Whether its partner has other facts than the model was trained on, by which its texts are then judged."""
        form, _, argument = self.partner.partition(":")
        return form == "world" and read_knowledge(argument).changed > 0

    def asks(self, *, known: float) -> str:
        """The spec of its partner; `known`: the share of the facts that the database knows."""
        return f"world:known={known:g}" if self.partner == DATABASE else self.partner


ALONE = Decode("alone", budgets=(0.0,))
_READER = pydantic.TypeAdapter(Decode)


def parse_decode(text: str) -> Decode:
    """A `Decode` from a JSON object of its fields; what is left out stays at its default.

    Raises:
        ConfigError: no JSON object, an unknown field or value, or a budget that is no share.
    """
    try:
        return _READER.validate_json(text)
    except pydantic.ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, each['loc']))} {each['msg']}".strip() for each in error.errors())
        raise ConfigError(f"decode {text!r}: {found}; an example: {EXAMPLE}") from None


def check_decode(decode: Decode) -> None:
    """Returns if a decode's values are allowed, wherever it was made; its partner is not looked at.

    Raises:
        ConfigError: one is not, or a price goes with a score that is no probability.
    """
    parse_decode(decode_text(decode))
    if decode.policy == "price" and decode.score != "auto":
        price_threshold(decode.score, 0.5)


def decode_text(decode: Decode) -> str:
    """What `parse_decode` reads."""
    return json.dumps(dataclasses.asdict(decode), ensure_ascii=False)
