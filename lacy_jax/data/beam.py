"""Marking by Apache Beam: on this machine's cores, or on the machines of Dataflow, Flink, Spark or Dask.

The pipeline is made of part numbers. A worker reads the documents of a part and writes its marks, as parts.py says, so
only numbers go through Beam, and a part that is marked twice is the same file. See docs/preparing.md.
"""

import argparse
import functools
import importlib.util
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lacy_jax.config import AnnotateConfig
from lacy_jax.data import parts
from lacy_jax.data.batches import document_batches
from lacy_jax.data.files import write_whole
from lacy_jax.data.pool import Marks, Pool
from lacy_jax.errors import DataError, LacyError, did_you_mean
from lacy_jax.folders import unwritable
from lacy_jax.paths import absolute, is_bucket

Runner = Literal["DirectRunner", "PortableRunner", "DaskRunner", "FlinkRunner", "SparkRunner", "DataflowRunner"]

# DirectRunner itself would first look for a program of another language, and download it where it is not there.
_CLASSES = {
    "DirectRunner": "apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "DaskRunner": "apache_beam.runners.dask.dask_runner.DaskRunner",
}
_JOB_SERVICES = ("PortableRunner", "FlinkRunner", "SparkRunner")  # these know further options
_PROBLEM = "problem.json"


@dataclass(frozen=True)
class Beam:
    """Who runs the pipeline.

    options: Beam's own, --name=value. parts: a folder or bucket that all workers see; "": beside the dataset.
    """

    runner: Runner
    options: tuple[str, ...] = ()
    parts: str = ""


def beam_problems(runner: Runner, options: str, folder: str) -> Iterator[str]:
    """One line for each thing that would end the work. It starts nothing."""
    if importlib.util.find_spec("apache_beam") is None:
        yield '--beam_runner: apache_beam is not installed; pip install "lacy_jax[beam]"'
        return
    if runner == "DaskRunner" and importlib.util.find_spec("distributed") is None:
        yield '--beam_runner=DaskRunner: dask is not installed; pip install "apache-beam[dask]"'
    if runner == "DataflowRunner" and importlib.util.find_spec("apitools") is None:
        yield '--beam_runner=DataflowRunner: apitools is not installed; pip install "apache-beam[gcp]"'
    if runner == "DataflowRunner" and not is_bucket(folder):
        yield "--beam_runner=DataflowRunner: its machines see no disk of this machine; give --beam_parts=gs://BUCKET/FOLDER"
    if folder and (problem := unwritable(folder, buckets="allowed")):
        yield f"--beam_parts={folder}: {problem}"
    yield from _option_problems(runner, options)


def _option_problems(runner: Runner, options: str) -> Iterator[str]:
    from apache_beam.options.pipeline_options import PipelineOptions

    try:
        words = shlex.split(options)
    except ValueError as error:
        yield f"--beam_options={options}: {error}"
        return
    if runner == "DaskRunner" and importlib.util.find_spec("distributed"):
        import apache_beam.runners.dask.dask_runner  # noqa: F401 - defines options
    parser = _Parser(add_help=False, allow_abbrev=False)
    for kind in sorted(PipelineOptions.__subclasses__(), key=lambda kind: kind.__name__):
        kind._add_argparse_args(parser)
    try:
        _, unknown = parser.parse_known_args(words)
    except ValueError as error:
        yield f"--beam_options: {error}"
        return
    known = [name for action in parser._actions for name in action.option_strings]
    for word in unknown:
        name = word.partition("=")[0]
        if not word.startswith("--"):
            yield f"--beam_options: {word!r} is no option; options are written --name=value"
        elif name == "--runner" or runner not in _JOB_SERVICES:
            yield f"--beam_options: unknown option {name}{did_you_mean(name, known)}"


class _Parser(argparse.ArgumentParser):
    """Options of several classes may have one name; a problem is raised, not printed."""

    def add_argument(self, *names: Any, **options: Any) -> Any:
        try:
            return super().add_argument(*names, **options)
        except argparse.ArgumentError:
            return None

    def error(self, message: str) -> Any:
        raise ValueError(message)


def run_pipeline(
    beam: Beam,
    found: Sequence[tuple[int, str]],
    *,
    folder: str,
    settings: AnnotateConfig,
    further: dict[str, Any],
    workers: int,
) -> None:
    """Marks parts, given by number and sha256 of their documents, and returns when the pipeline has ended.

    Raises:
        DataError: a worker says that the annotator cannot start, or that the documents are not there.
        Exception: what the runner raises, if the pipeline failed.
    """
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import create_runner

    (absolute(folder) / _PROBLEM).unlink(missing_ok=True)
    options = list(beam.options)
    if beam.runner == "DirectRunner":
        options = ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}", *options]
    runner = create_runner(_CLASSES.get(beam.runner, beam.runner))
    pipeline = apache_beam.Pipeline(runner=runner, options=PipelineOptions(options))
    mark = functools.partial(mark_part, folder=folder, settings=settings, further=tuple(sorted(further.items())))
    numbers = pipeline | "parts" >> apache_beam.Create(list(found)) | apache_beam.Reshuffle()
    _ = numbers | "mark" >> apache_beam.Map(mark)
    pipeline.run().wait_until_finish()
    raise_problem(folder)


def mark_part(
    part: tuple[int, str], *, folder: str, settings: AnnotateConfig, further: tuple[tuple[str, Any], ...]
) -> None:
    """Marks one part, in a process of its own: if that dies, Beam's worker lives on."""
    number, sha256 = part
    try:
        documents = parts.read_documents(folder, number, sha256=sha256)
        marks: list[Marks] = []
        for batch in document_batches(documents):
            marks += _pool(settings, further).mark(batch)
        parts.write_marks(folder, number, marks, sha256=sha256)
    except LacyError as error:  # every runner would raise another error
        write_whole(absolute(folder) / _PROBLEM, json.dumps(error.problems).encode())


def raise_problem(folder: str) -> None:
    """Raises as `DataError` what `mark_part` could not raise where it ran; nothing, if nothing was wrong."""
    path = absolute(folder) / _PROBLEM
    if path.exists():
        raise DataError(*json.loads(path.read_text()))


@functools.lru_cache(maxsize=1)  # one for each worker process of Beam, for all of its threads
def _pool(settings: AnnotateConfig, further: tuple[tuple[str, Any], ...]) -> Pool:
    return Pool(settings, size=1, further=dict(further))
