"""Prepare a corpus: mark its facts, train or load the tokenizer, pack windows. Training does it too where needed.

    python -m lacy_jax.prepare --config=configs/slm_tiny.py [--config.<section>.<setting>=...]
    python -m lacy_jax.prepare --config=configs/slm_tiny.py --beam_runner=DirectRunner [--beam_options="--a=b --c=d"]
    python -m lacy_jax.prepare --config=configs/slm_tiny.py --show=random:3 [--html=FILE]
    python -m lacy_jax.prepare --compare=FOLDER_A,FOLDER_B [--html=FILE]

At its end it prints a folder, which can be copied to another machine and given there as --config.data.packed. --show
makes nothing: it shows documents or packed windows, coloured by what is factual. --compare prints how far two
annotations of one corpus agree (docs/annotation.md).
"""

import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lacy_jax import flags
from lacy_jax.config import Config, Count
from lacy_jax.data.beam import Beam, Runner, beam_problems
from lacy_jax.doors import Door, run
from lacy_jax.errors import ConfigError
from lacy_jax.flags import Flag, Given
from lacy_jax.folders import unwritable
from lacy_jax.paths import expand_home
from lacy_jax.start import preparing_problems

if TYPE_CHECKING:
    from lacy_jax.data.prepared import Prepared

_SHOWN = (
    Flag("folder", flags.Path, "The dataset to show, in place of --config: a version folder, annotated or packed"),
    Flag(
        "of",
        Literal["documents", "train", "validation"],
        "Show documents, or packed windows of a split (default: documents; of a packed --folder: train)",
    ),
    Flag("tokens", bool, "Show where each token begins", False),
    Flag("html", flags.Path, "The page to write: with --show in place of text, with --compare beside it"),
    Flag("seed", Count, "Seed of the random choice", 0),
)
_COMPARE = Flag("compare", flags.Text, "Two folders to compare, annotated or packed, with a comma between them")
_BEAM = (
    Flag(
        "beam_runner",
        Runner,
        "Mark with Apache Beam, on this runner (docs/preparing.md); default: processes of this command",
    ),
    Flag("beam_options", str, 'Options of Beam and of the runner: "--name=value --name=value"', ""),
    Flag(
        "beam_parts", flags.Path, "Where parts lie while they are marked: a folder or bucket that all workers see", ""
    ),
)
_SHOW = Flag("show", flags.Text, "What to show, by number from 0 or by id or title: 17, 3-5, random, random:4, id:NAME")


def main(given: Given) -> int:
    """Prepares what the config asks for, and prints its folder (one per dataset of a mixture); or shows or compares."""
    if wrong := list(_misplaced(given)):
        raise ConfigError(*wrong)
    if given.show:
        return _show(given)
    return _compare(given) if given.compare else _prepare(given)


def _misplaced(given: Given) -> Iterator[str]:
    """A line for each flag that goes with none of those that say what is to be done, and for a page without a place."""
    if given.show and given.compare:
        yield "--show and --compare are given; give one of them"
        return
    for flag in _SHOWN:
        also = flag.name == "html"
        if flag.name in given.names and not (given.show or (also and given.compare)):
            yield f"--{flag.name} goes with --show{' or --compare' if also else ''}"
    for flag in _BEAM:
        if flag.name in given.names and (given.show or given.compare):
            yield f"--{flag.name} goes with neither --show nor --compare, which mark nothing"
    if given.show and given.folder and given.config:
        yield "--folder and --config are given; give one of them"
    if given.html and Path(given.html).is_dir():
        yield f"--html={given.html}: is a folder; name a file"
    elif given.html and (problem := unwritable(os.path.dirname(given.html) or ".", buckets="allowed")):
        yield f"--html={given.html}: {problem}"


def _prepare(given: Given) -> int:
    from lacy_jax.console import duration, reporting
    from lacy_jax.data.marking import Marking
    from lacy_jax.data.prepare import prepare
    from lacy_jax.data.speed import Marked

    marked = Marked()

    def report(so_far: Marked) -> None:
        nonlocal marked
        marked = so_far
        reporter.note(so_far.speed())

    with reporting() as reporter:
        marking = Marking(report=report, beam=_beam(given))
        prepared = prepare(given.config, tokenizer=given.tokenizer, progress=reporter.update, marking=marking)
        reporter.finish()
        for name, part in (prepared.parts or {"": prepared}).items():
            if name:
                reporter.say(f"dataset     {name}")
            _describe(part, given.config, say=reporter.say)
        if marked.documents:
            reporter.say(f"marked      {marked.documents:,} documents in {duration(marked.seconds)}: {marked.speed()}")
    for part in (prepared.parts or {"": prepared}).values():
        print(part.packed.directory)
    return 0


def _describe(prepared: "Prepared", config: Config, *, say: Callable[[str], None]) -> None:
    from lacy_jax.data.marks import describe_marks, doubts
    from lacy_jax.data.pack import SPLITS

    for split in SPLITS:
        count = prepared.packed.statistics[split]
        say(
            f"{split:<10}  {count['documents']:,} documents, {count['tokens']:,} tokens, "
            f"{count['factual'] / count['tokens']:.1%} factual, {count['windows']:,} windows"
        )
    say(f"marked by   {describe_marks(prepared)}")
    for doubt in doubts(prepared, config.annotate):
        say(f"warning     {doubt}")
    say(f"documents   {prepared.annotated_directory}")


def _compare(given: Given) -> int:
    """Prints how far two annotations agree, and writes the page."""
    from lacy_jax.console import reporting
    from lacy_jax.evidence.comparison.compare import compare, lines, open_annotation
    from lacy_jax.evidence.comparison.page import write_comparison_page

    folders = [expand_home(each.strip()) for each in given.compare.split(",")]
    if len(folders) != 2 or not all(folders):
        raise ConfigError(f"--compare={given.compare}: name two folders, with a comma between them")
    first, second = map(open_annotation, folders)
    with reporting() as reporter:
        found = compare(first, second, progress=reporter.update)
    for line in lines(found, first, second):
        print(line)
    if given.html:
        write_comparison_page(given.html, found, first=first, second=second, command=given.command)
        print(given.html)
    return 0


def _show(given: Given) -> int:
    from lacy_jax.evidence.inspector.choice import choose, open_configured, open_folder
    from lacy_jax.evidence.inspector.lines import as_lines
    from lacy_jax.evidence.inspector.page import as_page
    from lacy_jax.evidence.inspector.views import described, views
    from lacy_jax.evidence.pages.render import write_page
    from lacy_jax.terminal import wants_colour

    if given.folder:
        source, part = open_folder(given.folder, part=given.of)
    else:
        source, part = open_configured(given.config, tokenizer=given.tokenizer, part=given.of)
    numbers = choose(given.show, source, part=part, seed=given.seed)
    found = list(views(source, numbers, part=part, tokens=given.tokens))
    if given.html:
        write_page(given.html, as_page(found, about=described(source), command=given.command, tokens=given.tokens))
        print(given.html)
        return 0
    for line in as_lines(found, about=described(source), colour=wants_colour(sys.stdout), tokens=given.tokens):
        print(line)
    return 0


def _beam(given: Given) -> Beam | None:
    if not given.beam_runner:
        return None
    return Beam(given.beam_runner, tuple(shlex.split(given.beam_options)), given.beam_parts)


def _problems(config: Config, given: Given) -> Iterable[str]:
    if given.show or given.compare:
        return
    if given.beam_runner:
        yield from beam_problems(given.beam_runner, given.beam_options, given.beam_parts)
    elif given.beam_options or given.beam_parts:
        yield "--beam_options and --beam_parts go with --beam_runner"
    yield from preparing_problems(config)


DOOR = Door(
    "prepare",
    __doc__,
    (
        dataclasses.replace(flags.CONFIG, unless=("folder", "compare")),
        flags.PRINT_CONFIG,
        *_BEAM,
        _COMPARE,
        _SHOW,
        *_SHOWN,
    ),
    main,
    prefix="error",
    hint=flags.SETTINGS_HINT,
    check=_problems,
)

if __name__ == "__main__":
    run(DOOR)
