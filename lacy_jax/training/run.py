"""What the parts of a run share."""

import dataclasses

from jax.sharding import Mesh

from lacy_jax.checkpoints.chat_template import ChatTemplate
from lacy_jax.config import Config
from lacy_jax.console import Reporter
from lacy_jax.data.prepared import Prepared
from lacy_jax.training.checkpoints import Checkpoints
from lacy_jax.training.goodput import Goodput
from lacy_jax.training.questions import QuestionEvaluator
from lacy_jax.training.reference import Reference


@dataclasses.dataclass(frozen=True)
class Run:
    """What the parts of a run share. vocab: the padded vocabulary. chat: of the model that it started from, if any."""

    config: Config
    prepared: Prepared
    mesh: Mesh
    vocab: int
    checkpoints: Checkpoints
    reporter: Reporter
    reference: Reference | None
    chat: ChatTemplate | None
    goodput: Goodput
    questions: QuestionEvaluator

    @property
    def call_id(self) -> int:
        return self.prepared.tokenizer.call_id
