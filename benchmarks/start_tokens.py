"""What a text that stands alone should begin with: bits per byte of held-out articles after each possible token.

    python -m benchmarks.start_tokens MODEL.gguf '<|im_start|>' '<|endoftext|>' '<|im_end|>'

Reads the first characters of articles of the embedded corpus, whose training does not matter to a model made
elsewhere. The first token of a text is left out everywhere, since without a token before it nothing says it; a
second column has it.
"""

import argparse
import math

import numpy as np

from benchmarks.door import answered
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import full_text, split_of
from lacy_jax.evidence.reading import read_tokens

CHARACTERS = (60, 300)
TOKENS = 128  # of a text of the longest kind, at most


def held_out_texts(count: int) -> list[str]:
    """The first held-out articles of the embedded corpus, with their titles."""
    corpus = CorpusConfig()
    own = (
        document
        for document in read_documents(corpus)
        if split_of(document.id, validation_share=corpus.validation_share) == "validation"
    )
    return [full_text(document) for document, _ in zip(own, range(count), strict=False)]


def bits_per_byte(slm: LoadedModel, texts: list[str], *, before: int | None) -> tuple[float, float]:
    """Of all tokens but the first of each text, and of all; NaN for the second where nothing stands before."""
    tokens = np.full((len(texts), TOKENS), slm.tokenizer.end_id, np.int32)
    own = [np.r_[[] if before is None else before, slm.tokenizer.encode(text).ids].astype(np.int32) for text in texts]
    for row, ids in zip(tokens, own, strict=True):
        row[: len(ids)] = ids
    nll = np.concatenate([read_tokens(slm, tokens[at : at + 6]).nll for at in range(0, len(texts), 6)])
    first = 0 if before is None else 1
    later = sum(row[first : len(ids) - 1].sum() for row, ids in zip(nll, own, strict=True))
    later_bytes = sum(slm.tokenizer.byte_lengths[ids[first + 1 :]].sum() for ids in own)
    whole = math.nan if before is None else sum(row[: len(ids) - 1].sum() for row, ids in zip(nll, own, strict=True))
    all_bytes = sum(len(text.encode()) for text in texts)
    return later / later_bytes / math.log(2), whole / all_bytes / math.log(2)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("tokens", nargs="+")
    parser.add_argument("--articles", type=int, default=30)
    options = parser.parse_args()
    slm, texts = load_model(options.checkpoint), held_out_texts(options.articles)
    columns = [f"first {n} characters | with the first token" for n in CHARACTERS]
    print(f"| before the text | {' | '.join(columns)} |")
    print("|---" * (1 + 2 * len(CHARACTERS)) + "|")
    for name in ("", *options.tokens):
        before = slm.tokenizer.control_tokens()[name] if name else None
        figures = [bits_per_byte(slm, [text[:n] for text in texts], before=before) for n in CHARACTERS]
        cells = [f"{later:.3f} | {'' if math.isnan(whole) else f'{whole:.3f}'}" for later, whole in figures]
        shown = "`{}`".format(name.replace("|", "\\|")) if name else "nothing"
        print(f"| {shown} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    answered(main)
