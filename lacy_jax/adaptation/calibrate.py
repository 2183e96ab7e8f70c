"""The price at which a cascade spends a wanted share of its tokens, found on text that the cascade itself writes."""

import dataclasses
import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lacy_jax.cascade import Cascade, Completion, Counts, Request
from lacy_jax.cascade.scores import price_threshold
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.data.corpus import EMBEDDED, OF_FILES, corpus_of_checkpoint, read_documents
from lacy_jax.data.documents import Document, Split, split_of
from lacy_jax.errors import ConfigError, DataError, LacyError, PartnerError
from lacy_jax.evidence.run_report.samples import prompt_of

# Log-odds of the prices that are tried. A step changes the share by a few hundredths of itself.
LOWEST, HIGHEST, STEPS = -16, 12, 32
PRICES = (
    0.0,
    *(float(f"{1 / (1 + math.exp(-step / STEPS)):.6g}") for step in range(LOWEST * STEPS, HIGHEST * STEPS + 1)),
    1.0,
)
# A share this little below the wanted one, as a part of it, ends the search: the texts themselves say it less exactly.
CLOSE = 0.05
# Of so many times as many held-out documents as are wanted every so many-th is taken: neighbours may be alike.
SPREAD = 8

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Spent:
    """What the same texts cost at one price."""

    price: float
    counts: Counts

    @property
    def share(self) -> float:
        """Tokens that were delegated, and questions without an answer, over tokens generated."""
        counts = self.counts
        return (counts.delegated + counts.fallbacks) / counts.generated if counts.generated else 0.0

    def __str__(self) -> str:
        counts, hundred = self.counts, max(self.counts.generated, 1) / 100
        return (
            f"price {self.price:<11.6g} share {self.share:.3f}, {counts.calls / hundred:.1f} calls per 100 tokens, "
            f"{counts.fallbacks / hundred:.1f} of them in vain"
        )


def rounds(
    cascade: Cascade, requests: Sequence[Request], *, share: float, batch_size: int, progress: Progress
) -> Iterator[Spent]:
    """What the texts cost at one price after another, by bisection on the log-odds of the price; nothing caps them.

    The prices lie between those where the model, alone, would call at every token and at none. If none of them spends
    more than `share`, the price 0 comes last.

    Raises:
        ConfigError: the cascade's score is no probability.
        DataError: the model writes nothing after these prompts.
        PartnerError: the partner answers nothing.
    """
    thresholds = [price_threshold(cascade.score, price) for price in PRICES]
    alone = [dataclasses.replace(request, budget=0.0) for request in requests]
    texts = _write(cascade, alone, name="alone", batch_size=batch_size, progress=progress)
    scores = [piece.score for text in texts for piece in text.pieces if math.isfinite(piece.score)]
    if not scores:
        raise DataError("the model writes nothing after these prompts; give others by --prompts_file=FILE")
    low = max(bisect_left(thresholds, min(scores)) - 1, 0)
    high = max(bisect_left(thresholds, max(scores)), low + 1)
    found: list[Spent] = []
    while high - low > 1:
        middle = (low + high) // 2
        found.append(spent_at(PRICES[middle], cascade, requests, batch_size=batch_size, progress=progress))
        yield found[-1]
        if found[-1].share > share:
            low = middle
        elif found[-1].share >= (1 - CLOSE) * share:
            break
        else:
            high = middle
    if not any(each.share >= (1 - CLOSE) * share for each in found):
        found.append(spent_at(0.0, cascade, requests, batch_size=batch_size, progress=progress))
        yield found[-1]
    if not any(each.counts.delegated for each in found):
        asked = sum(each.counts.calls for each in found)
        if not asked:
            raise ConfigError(
                f"by the score {cascade.score} the model asks nowhere in these texts, even at the price 0"
            )
        raise PartnerError(f"the partner answered none of {asked:,} questions, so no price can be found for it")


def best_of(tried: Sequence[Spent], *, share: float) -> Spent:
    """The price whose share is nearest to the wanted one without being above it; of equal ones the highest.

    Raises:
        ConfigError: the wanted share cannot be reached, or every price that was tried spends more.
    """
    most = max(tried, key=lambda each: each.share)
    if most.share < (1 - CLOSE) * share:
        raise ConfigError(
            f"--share={share:g} cannot be reached: this model with this partner spends {most.share:.3f} at most (at "
            f"price {most.price:g})"
        )
    below = [each for each in tried if each.share <= share]
    if not below:
        least = min(tried, key=lambda each: each.share)
        raise ConfigError(
            f"--share={share:g} is less than so few texts can show: the least that they spent is {least.share:.3f}, at "
            f"price {least.price:g}; give more prompts"
        )
    return max(below, key=lambda each: (each.share, each.price))


def spent_at(
    price: float,
    cascade: Cascade,
    requests: Sequence[Request],
    *,
    batch_size: int,
    progress: Progress,
    budget: float | None = 1.0,
) -> Spent:
    """What the texts cost at a price. budget: the most that each spends; None: the cascade's own."""
    priced = [dataclasses.replace(request, price=price, budget=budget) for request in requests]
    texts = _write(cascade, priced, name=f"price {price:g}", batch_size=batch_size, progress=progress)
    return Spent(price, sum((text.counts for text in texts), start=Counts()))


def held_out_prompts(slm: LoadedModel, *, directory: str, count: int, agreed: bool = False) -> list[str]:
    """The openings of `count` held-out documents of a model's own corpus, or of all if there are fewer.

    Raises:
        ConfigError: it has no held-out documents, or they cannot be read.
    """
    instead = "give --prompts_file=FILE, with one prompt per line"
    documents = own_documents(slm, split="validation", directory=directory, count=count, instead=instead, agreed=agreed)
    return [prompt_of(document) for document in documents]


def own_documents(
    slm: LoadedModel, *, split: Split, directory: str, count: int, instead: str, agreed: bool = False
) -> list[Document]:
    """`count` documents of a split of a model's own corpus that begin with a text, or all if there are fewer.

    They are evenly spread over the first SPREAD * count.

    Args:
        instead: what to do where there are none, for the message.
        agreed: whether the user let a corpus be opened that may run code of others (docs/security.md).

    Raises:
        ConfigError: it has no such documents, or they cannot be read.
    """
    kind = {"train": "training", "validation": "held-out"}[split]
    if not slm.data:
        raise ConfigError(f"{slm.path} does not say what it was trained on, so no {kind} text is known; {instead}")
    named, share = slm.config.corpus, slm.config.corpus.validation_share
    if not agreed and named.name not in (*EMBEDDED, *OF_FILES):
        which = f" ({named.tfds_name} in {named.tfds_dir or 'its usual folder'})" if named.name == "tfds" else ""
        raise ConfigError(
            f"{slm.path} names the corpus {named.name}{which}, which may run code of others and is read only if you "
            f"agree: add --corpus={named.name}, or {instead}"
        )
    try:
        corpus = corpus_of_checkpoint(named, data=slm.data, directory=directory or slm.config.data.directory)
        of_split = (each for each in read_documents(corpus) if split_of(each.id, validation_share=share) == split)
        begun = (document for document in of_split if prompt_of(document).strip())
        found = list(itertools.islice(begun, SPREAD * count))
    except LacyError as error:
        raise ConfigError(f"{kind} documents cannot be read ({'; '.join(error.problems)}); {instead}") from None
    if not found:
        raise ConfigError(f"the corpus {named.name} of {slm.path} has no {kind} documents; {instead}")
    taken = min(count, len(found))
    return [found[place * len(found) // taken] for place in range(taken)]


def _write(
    cascade: Cascade, requests: Sequence[Request], *, name: str, batch_size: int, progress: Progress
) -> list[Completion]:
    done: dict[int, Completion] = {}
    for index, completion in cascade.iterate(requests, batch_size=batch_size):
        done[index] = completion
        progress(name, len(done), len(requests))
    return [done[index] for index in range(len(requests))]
