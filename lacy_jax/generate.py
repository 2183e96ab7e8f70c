"""Complete prompts with a cascade: the SLM writes, and a partner writes where the SLM asks.

    python -m lacy_jax.generate --checkpoint=runs/slm_tiny --prompt="Marie Curie was born in" [--budget=0.22]

Prints the texts with the partner's pieces in colour (or in brackets), and the realised share on stderr.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lacy_jax import flags, from_flags
from lacy_jax.config import Count, Positive
from lacy_jax.doors import Door, run
from lacy_jax.errors import ConfigError
from lacy_jax.flags import Flag, Given

if TYPE_CHECKING:
    from lacy_jax.cascade import Completion

_FLAGS = (
    flags.CHECKPOINT,
    Flag("prompt", list[str], "A text to complete; may be given several times", []),
    flags.PROMPTS_FILE,
    *flags.CASCADE,
    Flag("max_new_tokens", Positive, "SLM tokens to generate at most (default: the checkpoint's own setting)"),
    flags.TEMPERATURE,
    Flag(
        "top_p",
        Annotated[float, Field(gt=0.0, le=1.0)],
        "Draw from the most likely tokens that hold this probability",
        1.0,
    ),
    Flag("seed", Count, "Seed of the draw", 0),
    Flag("repetition_penalty", float, "Above 1, tokens that are in sight become less likely", 1.0),
    dataclasses.replace(flags.BATCH_SIZE, help="How many prompts are worked on at once"),
    Flag("json", bool, "Print one JSON object per prompt instead of marked text", False),
)


def main(given: Given) -> int:
    """Completes the prompts, and prints what was written."""
    prompts = _prompts(given)
    from lacy_jax.cascade import Counts
    from lacy_jax.cascade.render import as_json, marked_text
    from lacy_jax.terminal import wants_colour

    completions = _complete(prompts, given)
    for completion in completions:
        if given.json:
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


def _prompts(given: Given) -> list[str]:
    from lacy_jax.data.prompts import checked_prompts, prompts_of_file

    prompts = [("--prompt", prompt) for prompt in given.prompt]
    if given.prompts_file is not None:
        prompts += prompts_of_file(given.prompts_file)
    if not prompts:
        raise ConfigError("no prompt; give --prompt=... or --prompts_file=FILE with one per line")
    return checked_prompts(prompts)


def _complete(prompts: Sequence[str], given: Given) -> "list[Completion]":
    from lacy_jax.cascade import Request, Sampling
    from lacy_jax.console import reporting

    sampling = Sampling(given.temperature, given.top_p, given.seed, given.repetition_penalty)
    with reporting() as reporter:
        rows = min(given.batch_size, len(prompts))  # a partner has a cache and programs for as many
        cascade = from_flags.open_given_cascade(given, batch_size=rows)
        length = given.max_new_tokens or cascade.settings.max_new_tokens
        requests = [Request(prompt, max_new_tokens=length, sampling=sampling) for prompt in prompts]
        done: dict[int, Completion] = {}
        for index, row in cascade.iterate(requests, batch_size=given.batch_size):
            done[index] = row
            reporter.update("prompts", len(done), len(prompts))
    return [done[index] for index in range(len(prompts))]


DOOR = Door("generate", __doc__, _FLAGS, main, hint="prompts are given by --prompt=...")

if __name__ == "__main__":
    run(DOOR)
