"""What doors make of the flags that they share: a checkpoint, a cascade, a judge; and what they say of them."""

import shlex
import sys
from typing import TYPE_CHECKING

from lacy_jax.config import CascadeConfig, Config
from lacy_jax.errors import CheckpointError, ConfigError, PartnerError
from lacy_jax.flags import CASCADE_SETTINGS, PARTNER, Given
from lacy_jax.folders import unwritable

if TYPE_CHECKING:
    from lacy_jax.cascade import Cascade
    from lacy_jax.checkpoints.loading import LoadedModel
    from lacy_jax.data.tokenizer import TextTokenizer
    from lacy_jax.evidence.judge import Cost, Judge


def given_checkpoint(given: Given) -> str:
    """What --checkpoint names.

    Raises:
        CheckpointError: it is not given.
    """
    if not given.checkpoint:
        raise CheckpointError("no checkpoint; give --checkpoint=..., for example the workdir of a run")
    return str(given.checkpoint)


def open_given_cascade(given: Given, *, batch_size: int, slm: "LoadedModel | None" = None) -> "Cascade":
    """The cascade that the flags CHECKPOINT and CASCADE ask for; says on stderr who will answer its calls.

    slm: what the checkpoint is, where it is loaded already.

    Raises:
        ConfigError, CheckpointError, PartnerError, DataError: a flag, or what it names, cannot be used.
    """
    from lacy_jax.cascade import Cascade  # JAX: only what is asked for waits for it
    from lacy_jax.checkpoints.loading import load_model

    slm = slm or load_model(given_checkpoint(given))
    settings = given_settings(slm, given)
    directory = given.directory or ""
    warn_of_calibration(slm, settings)
    cascade = Cascade(slm, settings.partner, settings=settings, directory=directory, batch_size=batch_size)
    say_partner(settings.partner, slm.config)
    if slm.family or settings.start_token != "auto":
        say_start(cascade.tokenizer)
    return cascade


def given_settings(slm: "LoadedModel", given: Given) -> CascadeConfig:
    """The settings of a checkpoint's cascade, but for what the flags CASCADE change.

    Raises:
        ConfigError: a flag is out of range.
        PartnerError: the checkpoint alone asks for a partner beyond itself.
    """
    from lacy_jax.checks import change_cascade

    if PARTNER.name not in given.names:
        _refuse_partner(slm.config, checkpoint=given.checkpoint)
    changes = {flag.name: getattr(given, flag.name) for flag in CASCADE_SETTINGS if flag.name in given.names}
    return change_cascade(slm.config.cascade, changes)


def warn_of_calibration(slm: "LoadedModel", settings: CascadeConfig) -> None:
    """One line on stderr where what was found for another partner or another way to call is used: price or probe."""
    own, names = slm.config.cascade, ("partner", "score", "gate", "span")
    others = [f"the {name} {getattr(own, name)}" for name in names if getattr(own, name) != getattr(settings, name)]
    if not slm.calibration or settings.partner == "none" or not others:
        return
    if (settings.policy, settings.price) == ("price", own.price):
        found = f"the price {own.price:g} was found for {' and '.join(others)}"
    elif settings.score == "expected_saving" and settings.partner != own.partner:
        found = f"what it expects to save was learned of the partner {own.partner}"
    else:
        return
    print(f"warning: {found}; lacy_jax.calibrate finds that of another", file=sys.stderr, flush=True)


def say_partner(spec: str, config: Config) -> None:
    """One line about who answers calls, on stderr."""
    from lacy_jax.cascade.partners import describe_partner

    print(f"partner: {describe_partner(spec, corpus=config.corpus)}", file=sys.stderr, flush=True)


def say_start(tokenizer: "TextTokenizer") -> None:
    """One line about what stands before a text, on stderr."""
    names = {index: name for name, index in tokenizer.control_tokens().items()}
    start = "nothing" if tokenizer.start_id is None else names[tokenizer.start_id]
    print(f"before each text: {start} (--start_token)", file=sys.stderr, flush=True)


def _refuse_partner(config: Config, *, checkpoint: str) -> None:
    """Raises `PartnerError` where a checkpoint alone asks for a partner beyond itself and the data it was trained on.

    A checkpoint may come from anybody; its partner would be sent the prompts and a key, or read any file.
    """
    from lacy_jax.data.corpus import EMBEDDED, OF_FILES

    partner, corpus = config.cascade.partner, config.corpus.name
    if partner == "none" or (partner == "documents" and corpus in (*EMBEDDED, *OF_FILES)):
        return
    asked = f"{partner!r} over the corpus {corpus!r}" if partner == "documents" else f"{partner!r}"
    raise PartnerError(
        f"the checkpoint {checkpoint} asks for the partner {asked}, which is used only if you "
        f"agree: add {shlex.quote(f'--partner={partner}')}, or --partner=none"
    )


def given_judge(given: Given) -> "Judge":
    """The judge that the flags JUDGE name; nothing is sent.

    Raises:
        ConfigError, JudgeError: a flag cannot be used.
    """
    from lacy_jax.data.files import parse_json
    from lacy_jax.evidence.judge import Judge, Settings

    if not given.judge or not given.out:
        raise ConfigError("--judge=http://HOST:PORT/v1 and --out=FOLDER are both needed")
    if problem := unwritable(given.out):
        raise ConfigError(f"--out={given.out}: {problem}")
    try:
        body = parse_json(given.judge_body)
    except ValueError as error:
        raise ConfigError(f"--judge_body={given.judge_body}: not JSON ({error})") from None
    if not isinstance(body, dict):
        raise ConfigError(f"--judge_body={given.judge_body}: not a JSON object")
    return Judge(
        Settings(
            address=given.judge,
            cache=f"{given.out}/judge.sqlite",
            model=given.judge_model,
            body=body,
            max_requests=given.max_requests,
            concurrent=given.concurrent,
        )
    )


def say_judge(judge: "Judge") -> None:
    """One line about who judges, on stderr."""
    print(f"judge: {judge.described}", file=sys.stderr, flush=True)


def say_cost(stage: str, cost: "Cost", given: Given) -> None:
    """One line about what a stage costs at the flags' prices, on stderr."""
    said = cost.told(prompt_price=given.prompt_price, answer_price=given.answer_price)
    print(f"{stage}: {said}", file=sys.stderr)
