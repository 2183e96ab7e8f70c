"""Mixtures: what each row reads follows from its number, as a plain loop over all rows before it would find."""

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from lacy_jax.config import Config, DataConfig, TrainingConfig
from lacy_jax.data.loader import batch_at, batch_windows
from lacy_jax.data.mixing import Interleaving, Mixed, in_turn
from lacy_jax.data.weights import knots, read_mixture, trained_names
from lacy_jax.errors import DataError

BATCH = 6


class Source:
    """Windows of a dataset: each holds its number, `first` added."""

    def __init__(self, count: int, first: int = 0) -> None:
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        assert 0 <= index < self.count
        tokens = np.full(5, self.first + index, np.int32)
        return {"tokens": tokens, "factual": tokens < 0, "starts": 0 * tokens, "length": 5}


def config_of(*weights: str, steps: int = 50, **training: int) -> Config:
    mixture = ",".join(f"{name}:{each}:folder/{name}" for name, each in zip("abcdefghij", weights, strict=False))
    budget = TrainingConfig(**(training or {"steps": steps}))
    return Config(data=DataConfig(mixture=mixture, batch_size=BATCH), training=budget)


def interleaving(*weights: str, steps: int = 50) -> Interleaving:
    return Interleaving(knots(config_of(*weights, steps=steps)), batch_size=BATCH)


def plain_loop(shares: Sequence[Sequence[tuple[int, int, str, str]]], rows: int) -> list[tuple[int, int]]:
    """What each row reads, one after the other. shares: of each dataset (first row, last row, share at both)."""

    def share(pieces: Sequence[tuple[int, int, str, str]], piece: int, row: int) -> Fraction:
        first, last, left, right = pieces[piece]
        return Fraction(left) + (Fraction(right) - Fraction(left)) * Fraction(row - first, last - first)

    owed = [Fraction(0) for _ in shares]
    numbers = [0 for _ in shares]
    found: list[tuple[int, int]] = []
    for row in range(rows + len(shares)):
        piece = next(place for place, each in enumerate(shares[0]) if each[0] <= row < each[1])
        for dataset, pieces in enumerate(shares):
            owed[dataset] += (share(pieces, piece, row) + share(pieces, piece, row + 1)) / 2
            if owed[dataset] >= numbers[dataset] + Fraction(1, 2):
                found.append((dataset, numbers[dataset]))
                numbers[dataset] += 1
    return found[:rows]


END = 10**6
CASES = {
    "constant": (["0.7", "0.2", "0.1"], [[(0, END, each, each)] for each in ("0.7", "0.2", "0.1")]),
    "not normalised": (["3", "1"], [[(0, END, "3/4", "3/4")], [(0, END, "1/4", "1/4")]]),
    "over the run": (
        ["1..0.5", "0..0.5"],
        [[(0, 300, "1", "1/2"), (300, END, "1/2", "1/2")], [(0, 300, "0", "1/2"), (300, END, "1/2", "1/2")]],
    ),
    "its last fifth": (
        ["1@0.8..0", "0@0.8..1"],
        [
            [(0, 240, "1", "1"), (240, 300, "1", "0"), (300, END, "0", "0")],
            [(0, 240, "0", "0"), (240, 300, "0", "1"), (300, END, "1", "1")],
        ],
    ),
    "a step": (
        ["1@20..0.5@20", "0@20..1@20", "0.5"],
        [
            [(0, 120, "2/3", "2/3"), (120, END, "1/4", "1/4")],
            [(0, 120, "0", "0"), (120, END, "1/2", "1/2")],
            [(0, 120, "1/3", "1/3"), (120, END, "1/4", "1/4")],
        ],
    ),
    "one": (["2"], [[(0, END, "1", "1")]]),
    "many": (["1"] * 7 + ["0.01"], [[(0, END, "100/701", "100/701")]] * 7 + [[(0, END, "1/701", "1/701")]]),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_are_those_of_a_plain_loop(case: str) -> None:
    weights, shares = CASES[case]
    slow, fast = plain_loop(shares, 1000), interleaving(*weights)
    assert fast.rows(0, 1000) == slow
    for start in (0, 1, 2, 119, 120, 121, 239, 240, 241, 299, 301, 900):  # from anywhere
        assert fast.rows(start, 7) == slow[start : start + 7]
        counted = Counter(dataset for dataset, _ in slow[:start])
        assert fast.counts(start) == [counted[dataset] for dataset in range(len(weights))]


@pytest.mark.parametrize("case", CASES)
def test_none_is_skipped_or_read_twice_and_shares_are_kept(case: str) -> None:
    weights, shares = CASES[case]
    rows = interleaving(*weights).rows(0, 3000)
    for dataset, pieces in enumerate(shares):
        own = [number for each, number in rows if each == dataset]
        assert own == list(range(len(own)))
        total = Fraction(0)
        for first, last, left, right in pieces:
            length = max(0, min(last, 3000) - first)
            total += length * (Fraction(left) + Fraction(right)) / 2
        assert abs(len(own) - total) <= len(weights) / 2 + 0.5


def test_rows_far_into_a_long_run_are_found_at_once() -> None:
    fast = interleaving("0.9..0.5", "0.1..0.5", steps=10**9)
    rows = fast.rows(5 * 10**9, 1000)  # five sixths of the rows: shares of 0.5667 and 0.4333
    counts = Counter(dataset for dataset, _ in rows)
    assert abs(counts[0] - 1000 * (0.9 - 0.4 * 5 / 6)) <= 2
    assert abs(sum(fast.counts(5 * 10**9)) - 5 * 10**9) == 0


# --- Batches --------------------------------------------------------------------------------------------------------


def mixed(*weights: str, counts: Sequence[int] = (50, 9), steps: int = 50) -> Mixed:
    names = "abcdefghij"[: len(weights)]
    sources = {name: Source(count, 1000 * place) for place, (name, count) in enumerate(zip(names, counts, strict=True))}
    return Mixed(sources, interleaving(*weights, steps=steps))


def numbers(source: Mixed | Source, steps: range, **options: int) -> list[int]:
    return [
        number for step in steps for number in batch_at(source, step, batch_size=BATCH, **options).tokens[:, 0].tolist()
    ]


def test_each_dataset_is_read_as_by_a_run_on_it_alone() -> None:
    found = numbers(mixed("0.8..0.4", "0.2..0.6"), range(60), seed=3)
    for place, count in enumerate((50, 9)):
        own = [number - 1000 * place for number in found if number // 1000 == place]
        alone = numbers(Source(count), range(math.ceil(len(own) / BATCH)), seed=3)
        assert own == alone[: len(own)]
        assert len(own) > count  # in more than one epoch


def test_a_mixture_of_one_reads_the_batches_of_its_dataset() -> None:
    assert numbers(mixed("5", counts=(50,)), range(30), seed=7) == numbers(Source(50), range(30), seed=7)


@pytest.mark.parametrize("hosts", [1, 2, 3, 6])
def test_hosts_share_the_global_batch(hosts: int) -> None:
    source = mixed("0.5", "0.3", "0.2", counts=(50, 9, 4))
    for step in (0, 13, 40, 1000):
        whole = batch_at(source, step, batch_size=BATCH, seed=5)
        assert whole.sources is not None
        assert whole.sources.tolist() == (whole.tokens[:, 0] // 1000).tolist()
        for host in range(hosts):
            rows = range(host, BATCH, hosts)
            part = batch_at(source, step, batch_size=BATCH, seed=5, rows=rows)
            assert part.tokens.tolist() == whole.tokens[list(rows)].tolist()
            assert part.sources is not None
            assert part.sources.tolist() == whole.sources[list(rows)].tolist()


def test_no_row_of_a_batch_belongs_to_a_dataset() -> None:
    """Else a part of a batch, such as every second row, would always be of one of two datasets."""
    source = mixed("1", "1", counts=(60, 60))
    seen = np.array([batch_at(source, step, batch_size=BATCH, seed=0).sources for step in range(200)])
    assert (seen.sum(axis=1) == BATCH / 2).all()
    assert ((seen.mean(axis=0) > 0.35) & (seen.mean(axis=0) < 0.65)).all()


def test_the_order_is_the_same_in_every_version() -> None:
    """A run resumes in the order it began with. If this changes, say so in the changelog."""
    source = mixed("0.6..0.2", "0.4..0.8", counts=(10, 5))
    assert [batch_windows(source, step, batch_size=BATCH, seed=3) for step in (0, 49)] == [
        [14, 4, 6, 9, 11, 7],
        [1, 12, 14, 13, 11, 10],
    ]


def test_windows_in_turn_are_of_all_datasets() -> None:
    source = mixed("1", "0.001", "1", counts=(4, 1, 2))
    turned = in_turn(source)
    assert [int(turned[index]["tokens"][0]) for index in range(len(turned))] == [0, 1000, 2000, 1, 1000, 2001, 2]
    plain = Source(3)
    assert in_turn(plain) is plain


# --- What is written ------------------------------------------------------------------------------------------------


def test_what_a_mixture_says_is_read() -> None:
    text = "web:0.9@0.8..0.5:runs/web/1.0.0, code-2_x:1@40000..2@40000:gs://bucket/a:b/1.0.0,held:0:~/held"
    web, code, held = read_mixture(text)
    assert (web.name, web.folder, web.trained) == ("web", "runs/web/1.0.0", True)
    assert [(point.weight, point.place) for point in web.points] == [
        (Fraction("0.9"), Fraction("0.8")),
        (Fraction("0.5"), 1),
    ]
    assert code.folder == "gs://bucket/a:b/1.0.0"
    assert not held.trained
    assert held.folder.startswith("/")
    assert trained_names(text) == ("web", "code-2_x")
    assert read_mixture("") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("web", "'web' is not NAME:WEIGHTS:FOLDER, e.g. "),
        ("web:0.9", "'web:0.9' is not NAME:WEIGHTS:FOLDER"),
        ("a:1:x,", "'' is not NAME:WEIGHTS:FOLDER"),
        ("w b:1:x", "'w b' is no name"),
        ("a:-1:x", "a: '-1' is no weight; allowed are 0 or more"),
        ("a:nan:x", "a: 'nan' is no weight"),
        ("a:1e3:x", "a: '1e3' is no weight"),
        ("a:1..2..3:x", "the weight '2' between two others needs a place, e.g. 2@0.5"),
        ("a:1@1.5..2:x", "a: '1.5' is no place"),
        ("a:1:x,a:1:y", "two datasets are called 'a'"),
        ("a:1:x,b:1:x", "a and b are the same folder"),
        ("a:0:x,b:0..0:y", "no dataset has a weight above 0"),
    ],
)
def test_what_is_no_mixture_is_one_line(text: str, said: str) -> None:
    with pytest.raises(DataError) as raised:
        read_mixture(text)
    assert len(raised.value.problems) == 1
    assert raised.value.problems[0].startswith("config.data.mixture: ")
    assert said in raised.value.problems[0]


@pytest.mark.parametrize(
    ("weights", "training", "said"),
    [
        (["1@0.9..0@0.5"], {"steps": 50}, "a: its weights are at the steps 45, 25, which do not ascend"),
        (["1..2@60..3"], {"steps": 50}, "a: its weights are at the steps 0, 60, 50, which do not ascend"),
        (["1..0"], {"steps": 50}, "no dataset has a weight above 0 at step 50"),
        (["1@10..0@10", "0@20..1@20"], {"steps": 50}, "no dataset has a weight above 0 at step 10"),
        (["1", "1..2"], {"ground_truth_tokens": 10**6}, "b: how many steps config.training.ground_truth_tokens takes"),
    ],
)
def test_weights_that_cannot_be_are_one_line(weights: list[str], training: dict[str, int], said: str) -> None:
    with pytest.raises(DataError) as raised:
        knots(config_of(*weights, **training))
    assert len(raised.value.problems) == 1
    assert said in raised.value.problems[0]


def test_places_are_steps_of_the_budget_as_if_all_tokens_counted() -> None:
    tokens = config_of("1@0.5..0", "1", tokens=BATCH * Config().model.context * 100 - 5)
    assert [knot.step for knot in knots(tokens)] == [0, 50, 100]
    truths = config_of("1@20..0@30", "1", ground_truth_tokens=10**6)
    assert [knot.step for knot in knots(truths)] == [0, 20, 30]
    assert len(knots(config_of("1", "1", ground_truth_tokens=10**6))) == 1
