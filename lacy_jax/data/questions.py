"""Multiple-choice questions in JSON lines: {"context": "...", "choices": ["...", ...], "answer": 0}."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydantic

from lacy_jax.data.files import read_json_lines
from lacy_jax.errors import DataError
from lacy_jax.invalid import explain


@dataclass(frozen=True)
class Question:
    """A question, the choices that may follow it after a space, and the number of the right one, from 0."""

    context: str
    choices: tuple[str, ...]
    answer: int


class _Line(pydantic.BaseModel):
    context: str
    choices: list[pydantic.StrictStr] = pydantic.Field(min_length=2)
    answer: pydantic.StrictInt = pydantic.Field(ge=0)


def question_files(setting: str) -> dict[str, str]:
    """The files of `config.training.questions` by their names without endings, under which they are measured."""
    return {Path(each.strip()).name.partition(".")[0]: each.strip() for each in setting.split(",") if each.strip()}


def read_questions(path: str) -> list[Question]:
    """The questions of a file (also .gz, .zst), at least one.

    Raises:
        DataError: the file cannot be read, a line is no question, or there is none.
    """
    found = []
    for where, line in read_json_lines(path):
        try:
            read = _Line.model_validate(line)
        except pydantic.ValidationError as error:
            problem = error.errors()[0]
            raise DataError(f"{where}: {'.'.join(map(str, problem['loc']))}: {explain(problem)}") from None
        if read.answer >= len(read.choices):
            raise DataError(f"{where}: answer: {read.answer} names no choice; there are {len(read.choices)}, from 0")
        if not all(read.choices):
            raise DataError(f"{where}: choices: an empty one has no likelihood")
        found.append(Question(read.context, tuple(read.choices), read.answer))
    if not found:
        raise DataError(f"{path}: there is no question in it")
    return found


def question_problems(setting: str) -> Iterator[str]:
    """What is wrong with the files of `config.training.questions`, one line each."""
    files = question_files(setting)
    if len(files) < sum(bool(each.strip()) for each in setting.split(",")):
        yield "config.training.questions: two files have one name; they are measured under their names"
    for path in files.values():
        try:
            read_questions(path)
        except DataError as error:
            yield f"config.training.questions: {error}"
