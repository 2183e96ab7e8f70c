"""Flags of the doors that open a cascade (`generate`, `serve`): what changes a checkpoint's own settings."""

import dataclasses

from absl import flags

from lacy_jax.cascade import Cascade, open_cascade
from lacy_jax.cascade.partners import FORMS
from lacy_jax.checkpoint_flag import given_checkpoint
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import CascadeConfig, change_cascade

_OWN = "default: the checkpoint's own setting"
_SETTINGS = {
    "partner": flags.DEFINE_string("partner", None, f"Who answers calls: {FORMS} ({_OWN})"),
    "budget": flags.DEFINE_float("budget", None, f"Share of the SLM's tokens to delegate, 0 to 1 ({_OWN})"),
    "score": flags.DEFINE_enum(
        "score",
        None,
        ["auto", "call_score", "call_logit", "call_probability", "uncertainty", "entropy"],
        f"What decides who calls ({_OWN})",
    ),
    "gate": flags.DEFINE_enum("gate", None, ["none", "factual"], f"Weigh the score by P(factual) ({_OWN})"),
    "span": flags.DEFINE_enum("span", None, ["token", "word", "phrase"], f"How far the partner writes ({_OWN})"),
    "timeout": flags.DEFINE_float("partner_timeout", None, f"Seconds that the partner has to answer ({_OWN})"),
}
_DIRECTORY = flags.DEFINE_string("directory", None, "Where indexes of documents are kept (default: beside the data)")


@dataclasses.dataclass(frozen=True)
class OpenCascade:
    """A cascade, its model, and the settings that it was opened with."""

    cascade: Cascade
    slm: LoadedModel
    settings: CascadeConfig


def open_from_flags(*, batch_size: int) -> OpenCascade:
    """The cascade that the flags ask for.

    Raises:
        ConfigError, CheckpointError, PartnerError, DataError: a flag, or what it names, cannot be used.
    """
    slm = load_model(given_checkpoint())
    given = {name: flag.value for name, flag in _SETTINGS.items() if flag.value is not None}
    settings = change_cascade(slm.config.cascade, given)
    cascade = open_cascade(slm, settings, directory=_DIRECTORY.value or "", batch_size=batch_size)
    return OpenCascade(cascade, slm, settings)
