"""Complete prompts with a cascade: the SLM writes, and a partner writes where the SLM asks.

    python -m lacy_jax.generate --checkpoint=runs/slm_tiny --prompt="Marie Curie was born in" [--budget=0.22]

Prints the texts with the partner's pieces in colour (or in brackets), and the realised share on stderr.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

from lacy_jax.cascade import Completion, Counts, Request, Sampling
from lacy_jax.cascade.render import as_json, marked_text, wants_colour
from lacy_jax.cascade_flags import open_from_flags
from lacy_jax.console import reporting
from lacy_jax.errors import CheckpointError, ConfigError, DataError, PartnerError

_PROMPT = flags.DEFINE_multi_string("prompt", [], "A text to complete; may be given several times")
_PROMPTS_FILE = flags.DEFINE_string("prompts_file", None, "A text file of prompts, one a line")
_MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", None, "SLM tokens to generate at most (default: its own)")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 is greedy; above it tokens are drawn")
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Draw from the most likely tokens that hold this probability")
_SEED = flags.DEFINE_integer("seed", 0, "Of the draw")
_PENALTY = flags.DEFINE_float("repetition_penalty", 1.0, "Above 1, tokens that are in sight become less likely")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "How many prompts are worked on at once")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object a prompt instead of marked text")


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
            # Lines end as they do in files; `str.splitlines` would cut prompts at U+2028 and its like, too.
            lines = Path(_PROMPTS_FILE.value).read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--prompts_file={_PROMPTS_FILE.value}: cannot be read ({error})") from None
        prompts += [line for line in lines if line.strip()]
    if not prompts:
        raise ConfigError("no prompt; give --prompt=... or --prompts_file=FILE with one a line")
    if not all(prompt.strip() for prompt in prompts):
        raise ConfigError("--prompt: empty; give at least one word")
    return prompts


def _complete(prompts: Sequence[str]) -> list[Completion]:
    for flag in (_MAX_NEW_TOKENS, _BATCH_SIZE):
        if flag.value is not None and flag.value < 1:
            raise ConfigError(f"--{flag.name}={flag.value}: allowed is 1 or more")
    sampling = Sampling(_TEMPERATURE.value, _TOP_P.value, _SEED.value, _PENALTY.value)
    with reporting() as reporter:
        opened = open_from_flags(batch_size=_BATCH_SIZE.value)
        length = _MAX_NEW_TOKENS.value or opened.settings.max_new_tokens
        requests = [Request(prompt, max_new_tokens=length, sampling=sampling) for prompt in prompts]
        done: dict[int, Completion] = {}
        for index, row in opened.cascade.iterate(requests, batch_size=_BATCH_SIZE.value):
            done[index] = row
            reporter.update("prompts", len(done), len(prompts))
    return [done[index] for index in range(len(prompts))]


if __name__ == "__main__":
    app.run(main)
