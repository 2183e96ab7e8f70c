"""Multiple-choice questions in the middle of a run: how many the model answers, every so many steps."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lacy_jax.config import Config
from lacy_jax.data.questions import Question, question_files, read_questions
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.training.continuations import Score, encode_pair, score, token_values
from lacy_jax.training.step import for_devices


def answers_record(questions: Sequence[Question], scores: Sequence[Score]) -> dict[str, float]:
    """Shares of the questions whose right choice has the highest log-likelihood, and the highest per character.

    lm-evaluation-harness calls them acc and acc_norm. Of equal choices the first counts.

    Args:
        scores: of all choices, question by question.
    """
    right, right_normalized, first = 0, 0, 0
    for question in questions:
        likelihoods = np.array([each.log_likelihood for each in scores[first : first + len(question.choices)]])
        first += len(question.choices)
        right += int(likelihoods.argmax()) == question.answer
        lengths = [len(choice) for choice in question.choices]
        right_normalized += int((likelihoods / lengths).argmax()) == question.answer
    return {"accuracy": right / len(questions), "accuracy_normalized": right_normalized / len(questions)}


class QuestionEvaluator:
    """The questions of `config.training.questions`, read and encoded once; call it with the parameters of any step.

    All processes of a run call it together. A batch has as many rows as a microbatch of training, over the mesh.

    Raises:
        DataError: a file that cannot be read.
    """

    def __init__(self, config: Config, *, tokenizer: TextTokenizer, mesh: Mesh):
        self._files = {name: read_questions(path) for name, path in question_files(config.training.questions).items()}
        self._pairs = {
            name: [encode_pair(tokenizer, each.context, f" {choice}") for each in questions for choice in each.choices]
            for name, questions in self._files.items()
        }
        self._mesh, self._rows = mesh, config.data.batch_size // config.training.microbatches
        self._every, self._context = config.training.questions_every, config.model.context
        values = functools.partial(
            token_values, model=for_devices(config, mesh).model, call_id=tokenizer.call_id, call="excluded"
        )
        whole = NamedSharding(mesh, PartitionSpec())
        self._values = jax.jit(values, out_shardings=(whole, whole))

    def due(self, step: int, *, last: bool) -> bool:
        """Whether the questions are to be answered after this step."""
        return bool(self._files) and (last or step % self._every == 0)

    def __call__(self, params: decoder.Params) -> dict[str, float]:
        """`<file>/accuracy` and `<file>/accuracy_normalized` of each file."""

        def read(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            own = tokens[sharding.process_rows(self._mesh, self._rows)]
            placed = sharding.place_rows(self._mesh, own, batch_size=self._rows)
            found: tuple[np.ndarray, np.ndarray] = jax.device_get(self._values(params, placed))
            return found

        record: dict[str, float] = {}
        for name, questions in self._files.items():
            scores = score(self._pairs[name], read, rows=self._rows, context=self._context)
            record |= {f"{name}/{what}": value for what, value in answers_record(questions, scores).items()}
        return record
