"""Complete prompts with a cascade: the SLM writes, and a partner writes where the SLM asks.

    python -m lacy_jax.generate --checkpoint=runs/slm_tiny --prompt="Marie Curie was born in" [--budget=0.22]

Prints the texts with the partner's pieces in colour (or in brackets), and the realised share on stderr.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

from lacy_jax.cascade import Cascade, Completion, Counts, PartnerError, make_partner
from lacy_jax.cascade.partners import FORMS
from lacy_jax.cascade.render import as_json, marked_text, wants_colour
from lacy_jax.checkpoint import CheckpointError, LoadedModel, load_model
from lacy_jax.config import ConfigError
from lacy_jax.console import reporting
from lacy_jax.data.corpus import DataError

_OWN = "default: the checkpoint's own setting"
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A run's workdir, its checkpoints/, one step of it, or an export")
_PARTNER = flags.DEFINE_string("partner", None, f"Who answers calls: {FORMS} ({_OWN})")
_BUDGET = flags.DEFINE_float("budget", None, f"Share of the SLM's tokens to delegate, 0 to 1 ({_OWN})")
_PROMPT = flags.DEFINE_multi_string("prompt", [], "A text to complete; may be given several times")
_PROMPTS_FILE = flags.DEFINE_string("prompts_file", None, "A text file of prompts, one a line")
_MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", None, f"SLM tokens to generate at most ({_OWN})")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "How many prompts are worked on at once")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object a prompt instead of marked text")
_DIRECTORY = flags.DEFINE_string("directory", None, "Where indexes of documents are kept (default: beside the data)")


def main(argv: Sequence[str]) -> int:
    """Completes what the flags ask for; returns 2 where they cannot be used."""
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise ConfigError(f"{argv[1]!r} is not a flag; prompts are given by --prompt=...")
        prompts = _prompts()
        completions = _complete(prompts)
    except (ConfigError, DataError, CheckpointError, PartnerError) as error:
        print(f"generate: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for completion in completions:
        if _JSON.value:
            print(json.dumps(as_json(completion), ensure_ascii=False))
        else:
            print(marked_text(completion, colour=wants_colour(sys.stdout)), end="\n\n")
    counts = sum((completion.counts for completion in completions), start=Counts())
    sys.stdout.flush()
    print(
        f"share {counts.share:.3f}: {counts.delegated} of {counts.generated} tokens delegated, "
        f"{counts.calls} calls, {counts.fallbacks} unanswered",
        file=sys.stderr,
    )
    return 0


def _prompts() -> list[str]:
    prompts = list(_PROMPT.value)
    if _PROMPTS_FILE.value is not None:
        try:
            lines = Path(_PROMPTS_FILE.value).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--prompts_file={_PROMPTS_FILE.value}: cannot be read ({error})") from None
        prompts += [line for line in lines if line.strip()]
    if not prompts:
        raise ConfigError("no prompt; give --prompt=... or --prompts_file=FILE with one a line")
    if not all(prompt.strip() for prompt in prompts):
        raise ConfigError("--prompt: empty; give at least one word")
    return prompts


def _complete(prompts: Sequence[str]) -> list[Completion]:
    if not _CHECKPOINT.value:
        raise ConfigError("no checkpoint; give --checkpoint=..., for example the workdir of a run")
    for flag in (_MAX_NEW_TOKENS, _BATCH_SIZE):
        if flag.value is not None and flag.value < 1:
            raise ConfigError(f"--{flag.name}={flag.value}: allowed is 1 or more")
    with reporting() as reporter:
        slm: LoadedModel = load_model(_CHECKPOINT.value)
        own = slm.config.cascade
        budget = own.budget if _BUDGET.value is None else _BUDGET.value
        spec = own.partner if _PARTNER.value is None else _PARTNER.value
        directory = _DIRECTORY.value or slm.config.data.directory
        partner = make_partner(spec, corpus=slm.config.corpus, directory=directory, batch_size=_BATCH_SIZE.value)
        cascade = Cascade(slm, partner, budget=budget, window=own.window)
        done: dict[int, Completion] = {}
        max_new_tokens = _MAX_NEW_TOKENS.value or own.max_new_tokens
        for index, row in cascade.iterate(prompts, max_new_tokens=max_new_tokens, batch_size=_BATCH_SIZE.value):
            done[index] = row
            reporter.update("prompts", len(done), len(prompts))
    return [done[index] for index in range(len(prompts))]


if __name__ == "__main__":
    app.run(main)
