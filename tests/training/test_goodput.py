"""Where the time of a run goes: all of it, once, by a clock that the test moves."""

import contextlib
import re
from pathlib import Path

import pytest

from lacy_jax.evidence.run_report.page import times
from lacy_jax.training.goodput import KINDS, SPLIT, Goodput, describe, read_record
from lacy_jax.training.metrics import read_metrics


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_kinds_add_up_to_the_wall_time() -> None:
    clock = Clock()
    goodput = Goodput(now=clock, since=97.0)
    clock.seconds += 7
    with goodput.of("step"):
        clock.seconds += 20
        with goodput.of("data"):
            clock.seconds += 2
        with goodput.of("evaluate"):
            clock.seconds += 8
            goodput.compiled(5)
        clock.seconds += 1
        found = {"restart": 10, "step": 21, "data": 2, "evaluate": 3, "compile": 5}
        assert read_record(goodput.record()) == {**dict.fromkeys(KINDS, 0), **found}
    clock.seconds += 4
    record = goodput.record()
    assert record["seconds/wall"] == clock.seconds - 97 == sum(read_record(record).values())
    assert record["share"] == 21 / 45
    assert record["loader_share"] == 2 / 23
    assert describe(record) == "step 46.7%, compile 11.1%, data 4.4%, evaluate 6.7%, restart 31.1%"


def test_an_error_inside_a_kind_ends_it() -> None:
    clock = Clock()
    goodput = Goodput(now=clock)
    with contextlib.suppress(OSError), goodput.of("save"):
        clock.seconds += 3
        raise OSError("full")
    clock.seconds += 4
    record = read_record(goodput.record())
    assert (record["save"], record["restart"]) == (3, 4)


def test_time_after_the_checkpoint_of_a_killed_run_is_lost() -> None:
    clock = Clock()

    def row(step: int) -> dict[str, object]:
        return {"step": step, "split": SPLIT, **goodput.record()}

    goodput = Goodput(now=clock)
    log: list[dict[str, object]] = []
    with goodput.of("step"):
        clock.seconds += 10
        log.append(row(3))  # the checkpoint
        clock.seconds += 6
        log += [row(4), {"step": 4, "split": "train", "seconds": 16.0}]
    for resumed in (1, 2):  # killed twice, each time after step 4
        clock.seconds += 1000  # nobody runs
        goodput = Goodput(now=clock)
        goodput.resume(log, step=3)
        log = [each for each in log if each["step"] <= 3]  # type: ignore[operator]
        clock.seconds += 2
        with goodput.of("step"):
            clock.seconds += 6
            log.append(row(4))
        record = read_record(goodput.record())
        assert sum(record.values()) == 16 + 8 * resumed
        # What the restarts of killed starts took is lost, too: the checkpoint knows nothing of it.
        assert (record["step"], record["restart"], record["lost"]) == (16, 2, 6 + 8 * (resumed - 1))


def test_a_run_says_where_its_time_went(small_run: Path) -> None:
    log = [record for record in read_metrics(str(small_run)) if record["split"] == SPLIT]
    last = log[-1]
    assert last["step"] == 6
    spent = read_record(last)
    assert last["seconds/wall"] == pytest.approx(sum(spent.values()))
    assert {kind for kind, seconds in spent.items() if seconds > 0} == set(KINDS) - {"lost"}
    walls = [record["seconds/wall"] for record in log]
    assert walls == sorted(walls)
    shown = times(read_metrics(str(small_run)))
    assert {what for what, _, _ in shown} == set(KINDS) - {"lost"}
    assert sum(float(share.rstrip("%")) for _, _, share in shown) == pytest.approx(100, abs=0.5)
    assert all(re.fullmatch(r"\d+ (s|min.*)", long) for _, long, _ in shown)
