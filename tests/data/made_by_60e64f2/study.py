"""The study that commit 60e64f2 finished. It imports the modules under the names that they had then."""

from lacy_jax.evals.closed_world import Decode
from lacy_jax.evals.study.plan import Arm, Contrast, Study

CALL = Decode("log_odds", score="call_score")
ASKING = Decode("asking", score="call_score", partner="ntp")
OURS = Decode("confidence", score="uncertainty", gate="factual")
SMALL = {
    "corpus.biographies.people": 12,
    "corpus.biographies.documents": 200,
    "corpus.biographies.wording": "fixed",
    "corpus.validation_share": 0.1,
    "annotate.annotator": "oracle",
    "rule.exclude_subjects": False,
    "rule.first_mention_only": False,
    "tokenizer.vocab_size": 700,
    "model.layers": 1,
    "model.width": 32,
    "model.heads": 2,
    "data.batch_size": 8,
    "training.ground_truth_tokens": 500000,
    "optimizer.warmup_steps": 20,
    "objective.rate_warmup_steps": 0,
    "cascade.max_new_tokens": 80,
}


def get_study(variant: str) -> Study:
    del variant  # there is one
    arms = (
        Arm("rho", "rho", "Rho-1", reference="ntp", decodes=(CALL, ASKING)),
        Arm("ntp", "ntp", "NTP", decodes=(OURS,)),
    )
    contrast = Contrast("H1: first", ("rho", "log_odds"), ("ntp", "confidence"))
    pairs = (("rho", "log_odds"), ("ntp", "confidence"))
    return Study("frozen", "configs/biographies.py", arms, (0,), (contrast,), SMALL, people=6, curves=pairs)
