"""Where a text may end when a partner that is a checkpoint is asked: how often the next word is right.

    python -m benchmarks.partner_words MODEL.gguf

Held-out articles of the embedded corpus are cut at the end of a word, within one and after a space, once each. "As is"
is greedy decoding after the text's own tokens; "written again" is what the partner does (docs/partners.md). A piece
that begins with a letter where the word had ended goes on with it: those are printed, to be judged by eye.
"""

import argparse
import random
import re
from collections.abc import Mapping, Sequence
from unittest import mock

from benchmarks.door import answered
from benchmarks.start_tokens import held_out_texts
from lacy_jax.cascade.decoding.engine import ends_word
from lacy_jax.cascade.partners import checkpoint
from lacy_jax.cascade.partners.checkpoint import CheckpointPartner
from lacy_jax.checkpoints.loading import LoadedModel, load_model

Question = tuple[str, str]  # a text, and how the article goes on
FIRST, LAST = 120, 400  # characters of an article between which it is cut


def questions(texts: Sequence[str], *, seed: int = 0) -> Mapping[str, list[Question]]:
    """Of each kind of place, at most one from each text."""
    rng = random.Random(seed)
    found: dict[str, list[Question]] = {"at the end of a word": [], "within a word": [], "after a space": []}
    for text in texts:
        ends = [m.end() for m in re.finditer(r"[A-Za-z]{3,}(?= [A-Za-z])", text[:LAST]) if m.end() > FIRST]
        words = [m for m in re.finditer(r"(?<= )[A-Za-z]{5,}\b", text[:LAST]) if m.start() > FIRST]
        if ends:
            end = rng.choice(ends)
            found["at the end of a word"].append((text[:end], text[end:]))
            found["after a space"].append((text[: end + 1], text[end + 1 :]))
        if words:
            word = rng.choice(words)
            end = word.start() + rng.randint(2, len(word.group()) - 2)
            found["within a word"].append((text[:end], text[end:]))
    return found


def pieces(slm: LoadedModel, asked: Sequence[Question], *, again: bool) -> list[str]:
    """What the partner answers; again: as it is, else without taking the last word back."""
    partner = CheckpointPartner(slm, span="word", slots=8)
    with mock.patch.object(checkpoint, "MOST_TAKEN_BACK", checkpoint.MOST_TAKEN_BACK if again else 0):
        return partner.complete([text for text, _ in asked])


def first_word(text: str) -> str:
    """The first word with the space before it, without marks around it."""
    word = re.match(r"\s*\S+", text)
    return word.group().strip(".,;:()") if word else ""


def main() -> None:
    """Prints a Markdown table, and below it the words that were gone on with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--articles", type=int, default=70)
    options = parser.parse_args()
    slm, gone_on = load_model(options.checkpoint), []
    print("| the text is cut | places | right, as is | right, written again |\n|---|---|---|---|")
    for place, asked in questions(held_out_texts(options.articles)).items():
        cells = []
        for again in (False, True):
            answers = pieces(slm, asked, again=again)
            right = [first_word(rest) == first_word(piece) for (_, rest), piece in zip(asked, answers, strict=True)]
            cells.append(str(sum(right)))
            if place == "at the end of a word":
                pairs = zip(asked, answers, strict=True)
                gone_on += [(again, text[-20:], piece) for (text, _), piece in pairs if ends_word(piece[:1])]
        print(f"| {place} | {len(asked)} | {' | '.join(cells)} |", flush=True)
    for again, text, piece in gone_on:
        print(f"{'written again' if again else 'as is'}: {text}|{piece}")


if __name__ == "__main__":
    answered(main)
