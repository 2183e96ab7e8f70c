"""Loads a server with many clients at once and compares every answer with what the same request gave alone.

    python -m benchmarks.serve_load --checkpoint=runs/slm_tiny                    # starts a server, ten minutes
    python -m benchmarks.serve_load --url=http://127.0.0.1:8000 --pid=4711 --minutes=1

The official `openai` client asks, `--clients` requests at a time, every other one as a stream. First each of the
different requests (prompts, budgets, greedy and drawn with a seed, several prompts in one) is asked alone: later
answers must be equal to those, text, pieces, finish and usage. Printed: requests, wrong and failed ones, tokens per
second, quantiles of the latency and of a stream's time to the first piece, and the server's memory (RSS): first, last,
and its slope by least squares over the second half.
"""

import argparse
import asyncio
import itertools
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openai

from benchmarks.door import answered

SUBJECTS: tuple[str, ...] = (
    "Marie Curie",
    "The river Danube",
    "The city of Warsaw",
    "Albert Einstein",
    "The First World War",
    "Mozart",
)
SUBJECTS += ("The planet Mars", "The Roman Empire", "Chess", "The Pacific Ocean", "Charles Darwin", "The violin")
ENDINGS = (" was", ", also known as", " is one of the", "\n\nHistory. In the year")
BUDGETS = (None, 0.0, 0.5)
SAMPLE_SECONDS = 2.0


@dataclass(frozen=True)
class Answer:
    """What must be the same whenever a request is repeated."""

    texts: tuple[str, ...]
    ends: tuple[str | None, ...]
    pieces: str
    usage: tuple[int, int]


@dataclass
class Seen:
    """What happened, so far."""

    latencies: list[float] = field(default_factory=list)
    first_pieces: list[float] = field(default_factory=list)
    tokens: int = 0
    wrong: int = 0
    failed: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)  # seconds, MiB


def requests_of(model: str) -> list[dict[str, Any]]:
    """Different requests: lengths 8 to 62, three budgets, a quarter drawn by seed, a sixth with two prompts."""
    asked: list[dict[str, Any]] = []
    for index, (subject, ending) in enumerate(itertools.product(SUBJECTS, ENDINGS)):
        prompt = subject + ending
        request: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": 8 + 6 * (index % 10)}
        if index % 4 == 3:
            request |= {"temperature": 0.8, "top_p": 0.95, "seed": index}
        if index % 6 == 5:
            request |= {"prompt": [prompt, f"{index}: {prompt}"]}
        budget = BUDGETS[index % len(BUDGETS)]
        asked.append(request | ({} if budget is None else {"extra_body": {"budget": budget}}))
    return asked


async def ask(client: openai.AsyncOpenAI, request: dict[str, Any], *, stream: bool) -> tuple[Answer, float | None]:
    """The answer, and a stream's seconds until its first piece."""
    began = time.monotonic()
    if not stream:
        whole = await client.completions.create(**request)
        return read(list(whole.choices), whole.usage), None
    choices: list[Any] = []
    usage: Any = None
    first: float | None = None
    async for chunk in await client.completions.create(**request, stream=True, stream_options={"include_usage": True}):
        first = first or time.monotonic() - began
        choices += chunk.choices
        usage = chunk.usage or usage
    return read(choices, usage), first


def read(parts: list[Any], usage: Any) -> Answer:
    """An answer of the parts of its choices."""
    rows = range(max(part.index for part in parts) + 1)
    of_row = [[part for part in parts if part.index == row] for row in rows]
    pieces = [[piece for part in row for piece in part.model_extra["lacy"]["pieces"]] for row in of_row]
    # A score may differ in its last digits by who ran beside; texts and writers may not.
    marks = repr([[(piece["text"], piece["source"], piece["tokens"]) for piece in row] for row in pieces])
    return Answer(
        texts=tuple("".join(part.text for part in row) for row in of_row),
        ends=tuple(row[-1].finish_reason for row in of_row),
        pieces=marks,
        usage=(usage.prompt_tokens, usage.completion_tokens),
    )


async def work(
    client: openai.AsyncOpenAI, asked: list[dict], alone: list[Answer], seen: Seen, *, worker: int, end: float
) -> None:
    """One client after the other's answer; each begins elsewhere and mixes streams with whole answers."""
    for count in itertools.count():
        if time.monotonic() >= end:
            return
        index = (worker * 7 + count * (2 * worker + 1)) % len(asked)
        began = time.monotonic()
        try:
            answer, first = await ask(client, asked[index], stream=(worker + count) % 2 == 0)
        except openai.OpenAIError as error:
            seen.failed.append(f"{type(error).__name__}: {error}")
            continue
        seen.latencies.append(time.monotonic() - began)
        seen.first_pieces += [] if first is None else [first]
        seen.tokens += answer.usage[1]
        if answer != alone[index]:
            seen.wrong += 1
            print(f"wrong: {asked[index]}\n  alone {alone[index]}\n  now   {answer}", flush=True)


async def watch(seen: Seen, *, pid: int, end: float) -> None:
    """Samples the server's memory, and says how far the run is."""
    began = said = time.monotonic()
    while time.monotonic() < end:
        seen.memory.append((time.monotonic() - began, resident_mib(pid)))
        if time.monotonic() - said > 60:
            said = time.monotonic()
            print(f"{said - began:.0f} s: {len(seen.latencies)} answers, {seen.memory[-1][1]:.0f} MiB", flush=True)
        await asyncio.sleep(SAMPLE_SECONDS)


def resident_mib(pid: int) -> float:
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) / 1024  # type: ignore[index]


async def load(url: str, *, pid: int, clients: int, minutes: float) -> Seen:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        model = (await client.models.list()).data[0].id
        asked = requests_of(model)
        alone = [(await ask(client, request, stream=False))[0] for request in asked]
        print(f"{len(asked)} requests asked alone; now {clients} at once for {minutes:g} minutes", flush=True)
        seen = Seen()
        end = time.monotonic() + 60 * minutes
        workers = [work(client, asked, alone, seen, worker=worker, end=end) for worker in range(clients)]
        await asyncio.gather(watch(seen, pid=pid, end=end), *workers)
    return seen


def report(seen: Seen, *, minutes: float) -> None:
    print(f"answers {len(seen.latencies)}, wrong {seen.wrong}, failed {len(seen.failed)} {seen.failed[:3] or ''}")
    print(f"tokens/s {seen.tokens / (60 * minutes):.0f}, answers/s {len(seen.latencies) / (60 * minutes):.1f}")
    for name, values in (("answer", seen.latencies), ("first piece", seen.first_pieces)):
        middle, most, nearly_all, all_of_them = np.quantile(values, [0.5, 0.9, 0.99, 1.0])
        print(f"seconds to {name}: median {middle:.2f}, 90% {most:.2f}, 99% {nearly_all:.2f}, all {all_of_them:.2f}")
    times, sizes = np.array(seen.memory).T
    half = times >= times[-1] / 2
    slope = np.polyfit(times[half] / 60, sizes[half], 1)[0] if half.sum() > 2 else float("nan")
    print(f"RSS MiB: first {sizes[0]:.0f}, middle {sizes[half][0]:.0f}, last {sizes[-1]:.0f}, most {sizes.max():.0f}")
    print(f"slope of the second half {slope:+.2f} MiB a minute")


def start_server(flags: list[str]) -> tuple[subprocess.Popen[str], str]:
    """A server on a free port of the loopback, and its address once it answers."""
    command = [sys.executable, "-m", "lacy_jax.serve", "--port=0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        print(line, end="", flush=True)
        if found := re.search(r"serving .* at (http://\S+)", line):
            return process, found[1]
    raise SystemExit(f"the server ended with status {process.wait()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="what a server is started with")
    parser.add_argument(
        "--flag", action="append", default=[], help="more flags of the server, e.g. --flag=--batch_size=16"
    )
    parser.add_argument("--url", help="a server that runs already; then give --pid too")
    parser.add_argument("--pid", type=int, help="its process, for its memory")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10.0)
    given = parser.parse_args()
    if bool(given.checkpoint) == bool(given.url and given.pid):
        parser.error("give either --checkpoint, or --url and --pid")
    process, url, pid = None, given.url, given.pid
    if given.checkpoint:
        process, url = start_server([f"--checkpoint={given.checkpoint}", *given.flag])
        pid = process.pid
    try:
        seen = asyncio.run(load(url, pid=pid, clients=given.clients, minutes=given.minutes))
    finally:
        if process is not None:
            process.terminate()
            print(f"the server ended with status {process.wait(60)} at SIGTERM")
    report(seen, minutes=given.minutes)
    return 1 if seen.wrong or seen.failed else 0


if __name__ == "__main__":
    answered(main)
