"""Flags of the doors that ask a judge (`factscore`, `acceptability`)."""

import json
import sys

from absl import flags

from lacy_jax.errors import ConfigError
from lacy_jax.evidence.judge import Cost, Judge, Settings

JUDGE = flags.DEFINE_string("judge", None, "The judge: an OpenAI-compatible server, http://HOST:PORT/v1[#MODEL]")
_MODEL = flags.DEFINE_string("judge_model", "", "The judge's model, where the address does not name it")
_BODY = flags.DEFINE_string("judge_body", "{}", "JSON: further entries of each request; null leaves one out")
_CONCURRENT = flags.DEFINE_integer("concurrent", 16, "Requests at once")
OUT = flags.DEFINE_string("out", None, "The folder for results; answers are kept there, in judge.sqlite")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Tell what it would cost, ask nothing")
_MOST = flags.DEFINE_integer("max_requests", 0, "Never send more requests than this; 0: any number")
_PROMPT_PRICE = flags.DEFINE_float("prompt_price", 0.0, "Of a million prompt tokens, for the cost")
_ANSWER_PRICE = flags.DEFINE_float("answer_price", 0.0, "Of a million answer tokens, for the cost")


def judge_from_flags() -> Judge:
    """The judge that the flags name; nothing is sent.

    Raises:
        ConfigError, JudgeError: a flag cannot be used.
    """
    if not JUDGE.value or not OUT.value:
        raise ConfigError("--judge=http://HOST:PORT/v1 and --out=FOLDER are both needed")
    if _CONCURRENT.value < 1 or _MOST.value < 0:
        raise ConfigError("--concurrent is at least 1, --max_requests at least 0")
    try:
        body = json.loads(_BODY.value)
    except ValueError as error:
        raise ConfigError(f"--judge_body={_BODY.value}: not JSON ({error})") from None
    if not isinstance(body, dict):
        raise ConfigError(f"--judge_body={_BODY.value}: not a JSON object")
    return Judge(
        Settings(
            address=JUDGE.value,
            cache=f"{OUT.value}/judge.sqlite",
            model=_MODEL.value,
            body=body,
            max_requests=_MOST.value,
            concurrent=_CONCURRENT.value,
        )
    )


def tell(stage: str, cost: Cost) -> None:
    """One line about a stage's cost, on stderr."""
    told = cost.told(prompt_price=_PROMPT_PRICE.value, answer_price=_ANSWER_PRICE.value)
    print(f"{stage}: {told}", file=sys.stderr)
