"""Multiple-choice questions: their scores are those of one text at a time; a run answers them where they are due."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import Config, MeshConfig
from lacy_jax.console import Reporter
from lacy_jax.data.prepared import Prepared
from lacy_jax.data.questions import Question, question_problems, read_questions
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.training.continuations import Score, encode_pair, score, token_values
from lacy_jax.training.loop import train
from lacy_jax.training.metrics import read_metrics
from lacy_jax.training.questions import QuestionEvaluator, answers_record
from lacy_jax.training.state import state_shardings
from tests.processes import run_two

LINES = [
    {"context": "The capital of France is", "choices": ["Paris", "a river", "1879"], "answer": 0, "source": "invented"},
    {"context": "Water", "choices": ["is wet.", "is a long word that nobody has ever seen in any book."], "answer": 0},
    {"context": "", "choices": ["The", "Zq"], "answer": 1},
]


forward = jax.jit(decoder.forward, static_argnames="config")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in LINES))
    return path


def by_hand(slm: LoadedModel, before: Sequence[int], targets: Sequence[int], *, call: str) -> tuple[float, bool]:
    """One token after the other, each read alone after as many others as fit, in float64."""
    total, greedy = 0.0, True
    tokens, context, width = [*before, *targets], slm.model.context, slm.tokenizer.call_id + (call == "included")
    matrix = np.asarray(decoder.output_matrix(slm.params), np.float64)[:width]
    starts = range(len(before), len(tokens), context)  # of the windows that the targets are read in
    for at in range(len(before), len(tokens)):
        last = min(max(start for start in starts if start <= at) + context, len(tokens))
        seen = tokens[max(0, last - context - 1) : at]
        padded = np.zeros((1, context), np.int32)
        padded[0, : len(seen)] = seen
        logits = matrix @ np.asarray(forward(slm.params, padded, config=slm.model), np.float64)[0, len(seen) - 1]
        total += logits[tokens[at]] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        greedy &= int(logits.argmax()) == tokens[at]
    return total, greedy


@pytest.mark.parametrize("call", ["excluded", "included"])
def test_scores_are_those_of_one_token_after_the_other(small_run: Path, call: Any) -> None:
    """Also of a context, and of a continuation, that is longer than the window (32 tokens)."""
    slm = load_model(str(small_run))
    texts = [("The city", " is old"), ("", "Marie"), ("A river " * 20, " flows"), ("In", " the year of" * 20)]
    pairs = [encode_pair(slm.tokenizer, *text) for text in texts]
    first = pairs[0][0]
    matrix = np.asarray(decoder.output_matrix(slm.params))
    padded = np.zeros((1, slm.model.context), np.int32)
    padded[0, : len(first)] = first
    hidden = np.asarray(forward(slm.params, padded, config=slm.model))[0, len(first) - 1]
    best = int((matrix[: slm.tokenizer.call_id] @ hidden).argmax())
    pairs.append((first, [best]))  # one that greedy decoding writes

    def read(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = token_values(slm.params, tokens, model=slm.model, call_id=slm.tokenizer.call_id, call=call)
        return jax.device_get(values)

    found = score(pairs, read, rows=4, context=slm.model.context)
    expected = [by_hand(slm, *pair, call=call) for pair in pairs]
    assert max(len(pair[0]) for pair in pairs) > 2 * slm.model.context < max(len(pair[1]) for pair in pairs)
    np.testing.assert_allclose([each.log_likelihood for each in found], [total for total, _ in expected], rtol=1e-5)
    assert [each.greedy for each in found] == [greedy for _, greedy in expected]
    assert call == "included" or found[-1].greedy


def test_few_lengths_are_read() -> None:
    shapes = set()

    def read(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shapes.add(tokens.shape)
        return np.ones((len(tokens), tokens.shape[1] - 1)), tokens[:, 1:] > 0

    pairs = [([1] * length, [2, 3]) for length in range(1, 300)]
    found = score(pairs, read, rows=4, context=200)
    assert shapes == {(4, 65), (4, 129), (4, 201)}
    assert found == [Score(2.0, True)] * 299  # of each continuation, its two tokens and no more


def test_white_space_belongs_to_what_follows(small_data: Prepared) -> None:
    tokenizer = small_data.tokenizer
    start = [tokenizer.start_id]
    known, rest = encode_pair(tokenizer, "The city \n", "is old")
    assert (known, bytes(tokenizer.decode_bytes(rest))) == (
        start + tokenizer.encode("The city").ids.tolist(),
        b" \nis old",
    )
    assert encode_pair(tokenizer, "  ", "is")[0] == start


def test_accuracy_and_normalized_accuracy() -> None:
    """By hand: the first question is right only by character, the second both ways, the third (equal) neither."""
    questions = [Question("", ("short", "ten letters"), 1), Question("", ("a", "b"), 0), Question("", ("a", "b"), 1)]
    scores = [Score(each, False) for each in (-5.0, -6.0, -1.0, -2.0, -3.0, -3.0)]
    assert answers_record(questions, scores) == {"accuracy": 1 / 3, "accuracy_normalized": 2 / 3}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: not JSON"),
        ('{"context": "a", "choices": ["b"], "answer": 0}', "line 1: choices: "),
        ('{"context": "a", "choices": ["b", ""], "answer": 0}', "line 1: choices: an empty one"),
        ('{"context": "a", "choices": ["b", "c"], "answer": 2}', "line 1: answer: 2 names no choice"),
        ('{"context": "a", "choices": ["b", "c"], "answer": "0"}', "line 1: answer: "),
        ('{"question": "a", "choices": ["b", "c"], "answer": 0}', "line 1: context: "),
        ("", "there is no question in it"),
    ],
)
def test_wrong_lines_are_one_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "wrong.jsonl"
    path.write_text(line)
    (problem,) = question_problems(str(path))
    assert problem.startswith(f"config.training.questions: {path}")
    assert said in problem
    assert "\n" not in problem


def test_missing_files_and_equal_names(file: Path) -> None:
    (problem,) = question_problems("nowhere.jsonl")
    assert problem == "config.training.questions: nowhere.jsonl: cannot be read (No such file or directory)"
    other = file.with_suffix(".json")
    other.write_text(file.read_text())
    (problem,) = question_problems(f"{file}, {other}")
    assert "one name" in problem
    assert not list(question_problems(""))


def with_questions(config: Config, file: Path, **changes: Any) -> Config:
    training = dataclasses.replace(config.training, questions=str(file), questions_every=4)
    return dataclasses.replace(config, training=training, **changes)


def record_by_hand(slm: LoadedModel, file: Path) -> dict[str, float]:
    questions = read_questions(str(file))
    pairs = [encode_pair(slm.tokenizer, each.context, f" {choice}") for each in questions for choice in each.choices]
    scores = [Score(by_hand(slm, *pair, call="excluded")[0], False) for pair in pairs]
    return {f"mine/{name}": value for name, value in answers_record(questions, scores).items()}


def evaluated(slm: LoadedModel, config: Config) -> dict[str, float]:
    """By the evaluator, over all eight devices as config.mesh says."""
    mesh = sharding.make_mesh(config.mesh, batch_size=config.data.batch_size)
    placed = state_shardings(config, vocab=decoder.padded_vocab(slm.tokenizer.vocab_size), mesh=mesh).params
    with jax.set_mesh(mesh):
        return QuestionEvaluator(config, tokenizer=slm.tokenizer, mesh=mesh)(jax.device_put(slm.params, placed))


def test_eight_devices_answer_as_by_hand(small_config: Config, small_run: Path, file: Path) -> None:
    slm = load_model(str(small_run))
    assert evaluated(slm, with_questions(small_config, file)) == record_by_hand(slm, file)


@pytest.mark.slow
def test_a_run_answers_where_it_is_due(
    small_config: Config, small_data: Prepared, small_run: Path, file: Path, tmp_path: Path
) -> None:
    """Over eight devices, at step 4 and after the last, 6; and nothing else of the run changes."""
    train(with_questions(small_config, file), prepared=small_data, workdir=str(tmp_path / "run"), reporter=Reporter())
    answered = [record for record in read_metrics(str(tmp_path / "run")) if record["split"] == "questions"]
    assert [record["step"] for record in answered] == [4, 6]
    expected = record_by_hand(load_model(str(tmp_path / "run")), file)
    assert {name: answered[-1][name] for name in expected} == expected
    losses = [
        [record["loss"] for record in read_metrics(str(run)) if record["split"] == "train"]
        for run in (tmp_path / "run", small_run)
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=1, fsdp=4, tensor=2)])
def test_every_mesh_answers_the_same(small_config: Config, small_run: Path, file: Path, mesh: MeshConfig) -> None:
    slm = load_model(str(small_run))
    assert evaluated(slm, with_questions(small_config, file, mesh=mesh)) == record_by_hand(slm, file)


PROGRAM = """
import json, sys
from lacy_jax.runtime.distributed import initialize
initialize("auto")
from lacy_jax.config_dict import config_from_dict
from lacy_jax.console import Reporter
from lacy_jax.data.prepare import prepare
from lacy_jax.training.loop import train
from lacy_jax.training.run_log import RunLog

out = open(sys.argv[1], "w")
write = RunLog.write

def both(self, record, step, split):
    if split == "questions":
        print(json.dumps([step, record]), file=out)
    write(self, record, step, split)

RunLog.write = both
config = config_from_dict(json.loads(sys.argv[3]))
train(config, prepared=prepare(config), workdir=sys.argv[2], reporter=Reporter(quiet=True))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("small_data")
def test_two_processes_answer_the_same(small_config: Config, file: Path, tmp_path: Path) -> None:
    config = dataclasses.asdict(with_questions(small_config, file))
    workdir = tmp_path / "run"
    first, second = run_two(PROGRAM, [workdir, json.dumps(config)], out=tmp_path)
    assert first == second
    assert [json.loads(line)[0] for line in first] == [4, 6]
    assert len([each for each in read_metrics(str(workdir)) if each["split"] == "questions"]) == 2
