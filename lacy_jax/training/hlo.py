"""What the text of an optimized HLO module says of one run: what is sent between devices, and the compiler's cycles."""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator

_COMPUTATION = re.compile(r"^(?:(ENTRY) )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|called_computations|branch_computations|true_computation|false_computation)="
    r"\{?%?([\w.\-]+(?:, ?%[\w.\-]+)*)"
)
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_LIMIT = re.compile(r"= s(?:32|64)\[\]\S* constant\((\d+)\)")
_COLLECTIVE = re.compile(
    r" = (?P<shape>.*?) (?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|"
    r"collective-permute|collective-broadcast)(?:-start)?\("
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)[a-z0-9]*\[([\d,]*)\]")
_CHANNEL = re.compile(r"channel_id=\d+")
_GROUPS = re.compile(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)\})")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Collectives:
    """Of one kind: how many per step, and bytes of a device's larger side of them (what is gathered, or reduced)."""

    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Line:
    """An instruction, the computation that has it, and how often a run executes it."""

    text: str
    computation: str
    times: int


def collectives(hlo: str) -> dict[str, Collectives]:
    """Collectives of one run of a module, by kind; those in a loop count once a turn.

    A TPU's compiler cuts a collective into pieces that run beside other work: they share a channel, and count as one.
    """
    seen: dict[tuple[str, str], tuple[int, int]] = {}  # (kind, channel) -> (times, bytes)
    for line in executed(hlo):
        found = _COLLECTIVE.search(line.text)
        if found:
            channel = _CHANNEL.search(line.text)
            key = (found["kind"], channel[0] if channel else f"{line.computation} {line.text}")
            before = seen.get(key, (0, 0))
            seen[key] = max(before[0], line.times), max(before[1], _bytes(found, line.text))
    totals: dict[str, Collectives] = {}
    for (kind, _), (times, size) in sorted(seen.items()):
        sofar = totals.get(kind, Collectives(0, 0))
        totals[kind] = Collectives(sofar.count + times, sofar.bytes + times * size)
    return totals


def cycles(hlo: str) -> int:
    """Cycles of one run of a module by the compiler's own estimate; 0 where it gives none, as on CPUs and GPUs.

    An estimate, no measurement: a TPU's compiler has none for kernels (splash) nor for collectives, and of a choice
    both branches count.
    """
    found = ((line.times, _CYCLES.search(line.text)) for line in executed(hlo))
    return sum(times * int(estimate[1]) for times, estimate in found if estimate)


def executed(hlo: str) -> Iterator[Line]:
    """The instructions that a run of an optimized HLO module executes."""
    computations, entry = _computations(hlo)
    pending: list[tuple[str, int]] = [(entry, 1)]
    while pending:
        name, times = pending.pop()
        for text in computations[name]:
            yield Line(text, name, times)
            if not _COLLECTIVE.search(text):  # what that calls adds two numbers
                turns = _turns(text, computations)
                pending += [(called, times * turns) for called in _called(text, computations)]


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation, and the name of the first to run."""
    computations: dict[str, list[str]] = defaultdict(list)
    name = entry = ""
    for line in hlo.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            name = header[2]
            entry = name if header[1] else entry
        elif line.startswith("  "):
            computations[name].append(line)
    return computations, entry


def _called(line: str, computations: dict[str, list[str]]) -> Iterator[str]:
    for match in _CALLED.finditer(line):
        yield from (name for name in re.split(r", ?%?", match[1]) if name in computations)


def _turns(line: str, computations: dict[str, list[str]]) -> int:
    """How often a loop's body runs: a loop over layers or microbatches counts from 0 to a constant. 1 for the rest."""
    condition = _CONDITION.search(line)
    if " while(" not in line or condition is None:
        return 1
    limits = [int(limit) for text in computations[condition[1]] for limit in _LIMIT.findall(text)]
    return max(limits, default=1)


def _bytes(found: re.Match[str], line: str) -> int:
    """Of the larger side: an asynchronous start names operand and result, a scatter only the small result."""
    sizes = [
        math.prod(int(size) for size in dims.split(",") if size) * _width(kind)
        for kind, dims in _ARRAY.findall(found["shape"])
    ]
    if "-start(" in found[0]:
        return max(sizes, default=0)
    groups = _GROUPS.search(line)
    if found["kind"] == "reduce-scatter" and groups:
        return sum(sizes) * (int(groups[1]) if groups[1] else groups[2].count(",") + 1)
    return sum(sizes)


def _width(kind: str) -> int:
    """Bytes of an element: bf16 2, f32 4, s8 1, pred 1."""
    bits = re.search(r"\d+", kind)
    return max(1, int(bits[0]) // 8) if bits else 1
