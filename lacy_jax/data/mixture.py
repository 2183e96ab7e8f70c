"""The datasets of `config.data.mixture`, opened as one, and the lines that describe them."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from lacy_jax.budget import Budget
from lacy_jax.config import Config
from lacy_jax.data.datasets import Fingerprint, Statistics
from lacy_jax.data.mixing import Interleaving, Joined, Mixed
from lacy_jax.data.pack import TOKENIZER_FILE, Packed, Progress
from lacy_jax.data.prepared import Prepared, open_elsewhere
from lacy_jax.data.weights import SETTING, Entry, knots, read_mixture
from lacy_jax.errors import DataError
from lacy_jax.folders import unreadable
from lacy_jax.paths import absolute


def mixture_problems(config: Config) -> Iterator[str]:
    """What is wrong with `config.data.mixture`, one line each; no dataset is opened."""
    try:
        entries = read_mixture(config.data.mixture)
        training = config.training
        if entries and (training.steps or training.tokens or training.ground_truth_tokens):
            knots(config)
    except DataError as error:
        yield from error.problems
        return
    for entry in entries:
        if problem := unreadable(entry.folder):
            yield f"{SETTING}: {entry.name}: {entry.folder}: {problem}"
        elif not absolute(entry.folder).is_dir():
            yield f"{SETTING}: {entry.name}: there is no folder {entry.folder}"


def open_mixture(config: Config, *, expected: Fingerprint, progress: Progress) -> Prepared:
    """All datasets of the mixture, and as `train` those that have a weight.

    Args:
        expected: entries that the fingerprint of each dataset must have.

    Raises:
        DataError: one is missing or is another than expected, they have different tokenizers, or two are the same.
        StorageError: one lies in a bucket and cannot be copied.
    """
    entries = read_mixture(config.data.mixture)
    opened = functools.partial(
        open_elsewhere, expected=expected, shuffle=config.data.shuffle, progress=progress,
        partner_losses=config.objective.partner_losses,
    )  # fmt: skip
    parts = {entry.name: opened(entry.folder) for entry in entries}
    _check_together(entries, parts)
    own = {entry.name: parts[entry.name] for entry in entries if entry.trained}
    shares = knots(config)
    interleaving = Interleaving(shares, batch_size=config.data.batch_size)
    first = next(iter(own.values()))
    packed = Packed(
        directory=first.packed.directory,
        fingerprint={
            "mixture": [[name, part.fingerprint] for name, part in own.items()],
            "shares": [[knot.step, list(map(str, knot.before)), list(map(str, knot.after))] for knot in shares],
            **{name: first.fingerprint[name] for name in ("tokenizer", "rule", "window")},
        },
        statistics=_sums([part.packed.statistics for part in own.values()]),
        train=Mixed({name: part.train for name, part in own.items()}, interleaving),
        validation=Joined({name: part.validation for name, part in own.items()}),
        tokenizer=first.tokenizer,
    )
    return Prepared(packed=packed, annotated_directory=first.annotated_directory, parts=parts)


def describe_mixture(config: Config, prepared: Prepared) -> list[str]:
    """A line about each dataset: its share of the run's windows, how many that is, how often it reads each."""
    entries, train = read_mixture(config.data.mixture), prepared.train
    if not isinstance(train, Mixed):
        return []
    rows = Budget.of(config).least_steps * config.data.batch_size
    counts = dict(zip(train.names, train.interleaving.counts(rows), strict=True))
    shares = knots(config)
    lines = []
    for entry in entries:
        if entry.name not in counts:
            lines.append(f"mixture     {entry.name}: weight 0, only validated")
            continue
        place, own = train.names.index(entry.name), len(prepared.parts[entry.name].train)
        course = _course([(knot.step, knot.before[place], knot.after[place]) for knot in shares])
        lines.append(
            f"mixture     {entry.name}: {course}; in all {counts[entry.name]:,} of {rows:,} windows, which is "
            f"{counts[entry.name] / own:.2f} times each of its {own:,}"
        )
    return lines


def _course(shares: Sequence[tuple[int, Fraction, Fraction]]) -> str:
    """`90.0%`, or `100.0% at step 0, from 100.0% to 50.0% at step 800`."""
    if len({share for _, before, after in shares for share in (before, after)}) == 1:
        return f"{float(shares[0][2]):.1%}"
    said = [(f"from {float(before):.1%} to " if before != after else "", after, step) for step, before, after in shares]
    return ", ".join(f"{jump}{float(after):.1%} at step {step:,}" for jump, after, step in said)


def _check_together(entries: Sequence[Entry], parts: Mapping[str, Prepared]) -> None:
    """Raises `DataError` where two of the datasets have different tokenizers, or are one and the same."""
    first, *others = (entry.name for entry in entries)
    problems = [
        f"{SETTING}: {first} and {name} have different tokenizers; prepare {name} again with "
        f"--config.tokenizer.path={parts[first].packed.directory / TOKENIZER_FILE}"
        for name in others
        if parts[name].fingerprint["tokenizer"] != parts[first].fingerprint["tokenizer"]
    ]
    problems += [
        f"{SETTING}: {one} and {other} are the same dataset in two folders; name it once, with both weights added"
        for one, other in itertools.combinations(parts, 2)
        if parts[one].fingerprint == parts[other].fingerprint
    ]
    if problems:
        raise DataError(*problems)


def _sums(each: Sequence[Statistics]) -> Statistics:
    """The statistics of several datasets together."""
    return {split: {name: sum(own[split][name] for own in each) for name in each[0][split]} for split in each[0]}
