"""Every method on the closed world (docs/biographies.md), each with five seeds.

    python -m lacy_jax.evaluate --study=configs/study_biographies.py --workers=2     # about an hour on two cores
    python -m lacy_jax.evaluate --study=configs/study_biographies.py:choices         # further choices of LaCy
    python -m lacy_jax.evaluate --study=configs/study_biographies.py:full            # for an accelerator

`reduced`, the default: what the paper compares at a budget of 22%, and what a reader would object with. `choices`: the
recommended method with one choice changed. `full`: all methods of lacy_jax, 10,000 people, 50M ground-truth tokens, a
model of 3M parameters.
"""

from typing import Any

from lacy_jax.config import ConfigError
from lacy_jax.evals.closed_world import Decode
from lacy_jax.evals.study.plan import Arm, Contrast, Study

CURVE = (0.1, 0.22, 0.5, 1.0)
# The paper's score is the log-odds of <CALL>; the others are ours.
LOG_ODDS = Decode("log_odds", score="call_score", budgets=CURVE)
AT_22 = Decode("log_odds", score="call_score")
LOGIT = Decode("logit", score="call_logit")
LOG_ODDS_GATED = Decode("log_odds_gated", score="call_score", gate="factual")
LOG_ODDS_WORD = Decode("log_odds_word", score="call_score", span="word")
CALLING = (LOG_ODDS, LOGIT, LOG_ODDS_GATED, LOG_ODDS_WORD)
# What any model can do without having learned to call.
CONFIDENCE = Decode("confidence", score="uncertainty", budgets=CURVE)
GATED = Decode("gated", score="uncertainty", gate="factual", budgets=CURVE)
INFERENCE = (
    CONFIDENCE,
    GATED,
    Decode("entropy", score="entropy"),
    Decode("entropy_gated", score="entropy", gate="factual"),
    Decode("gated_word", score="uncertainty", gate="factual", span="word"),
)
# Every true fact token, in place of what spaCy marks.
ORACLE = {"annotate.annotator": "oracle", "rule.exclude_subjects": False, "rule.first_mention_only": False}

REDUCED = (
    Arm("ntp", "ntp", "NTP", decodes=INFERENCE),
    Arm("loss", "loss", "loss only", decodes=CALLING),
    Arm("rho", "rho", "Rho-1", decodes=CALLING, reference="ntp"),
    Arm("lacy", "lacy", "LaCy, the paper's settings", decodes=CALLING),
    Arm("lacy_full", "lacy_full", "LaCy, one softmax", decodes=CALLING),
    Arm("joint", "joint", "joint", decodes=CALLING),
    Arm("lacy_full_oracle", "lacy_full", "LaCy, one softmax, true fact tokens", ORACLE, decodes=CALLING),
)
FURTHER = (
    Arm("random", "random", "random", decodes=CALLING),
    Arm("random_factual", "random_factual", "random facts", decodes=CALLING),
    Arm("ignore", "ignore", "LaCy's targets ignored", decodes=INFERENCE),
    Arm("ignore_facts", "ignore_facts", "all facts ignored", decodes=INFERENCE),
    Arm("judge", "judge", "judge (true facts, highest loss)", ORACLE, decodes=CALLING),
    Arm("ntp_oracle", "ntp", "NTP, gate from true fact tokens", ORACLE, decodes=INFERENCE),
    Arm("lacy_oracle", "lacy", "LaCy, true fact tokens", ORACLE, decodes=CALLING),
    Arm(
        "lacy_noisy",
        "lacy_full",
        "LaCy, one softmax, marks at 0.8",
        ORACLE | {"annotate.oracle_precision": 0.8, "annotate.oracle_recall": 0.8},
        decodes=CALLING,
    ),
    Arm(
        "lacy_first", "lacy_full", "LaCy, one softmax, first sub-tokens", {"rule.sub_tokens": "first"}, decodes=CALLING
    ),
    Arm(
        "lacy_cold",
        "lacy_full",
        "LaCy, one softmax, no warm-up of the rate",
        {"objective.rate_warmup_steps": 0},
        decodes=CALLING,
    ),
)
# One choice of the recommended method changed; also written down before its first run.
FULL = {"objective.normalizer": "full"}
CHOICES = (
    Arm("lacy_full", "lacy_full", "LaCy, one softmax", decodes=CALLING),
    Arm("random", "random_factual", "random facts, one softmax", FULL, decodes=(AT_22,)),
    Arm("first", "lacy_full", "LaCy, one softmax, first sub-tokens", {"rule.sub_tokens": "first"}, decodes=(AT_22,)),
    Arm("cold", "lacy_full", "LaCy, one softmax, no warm-up", {"objective.rate_warmup_steps": 0}, decodes=(AT_22,)),
)
CHOICE_CONTRASTS = (
    Contrast("C1: the hardest facts beat random facts", ("lacy_full", "log_odds"), ("random", "log_odds")),
    Contrast("C2: all sub-tokens beat the first", ("lacy_full", "log_odds"), ("first", "log_odds")),
    Contrast("C3: a rate that warms up beats one that does not", ("lacy_full", "log_odds"), ("cold", "log_odds")),
)
CURVES = (("lacy", "log_odds"), ("ntp", "confidence"), ("ntp", "gated"), ("loss", "log_odds"), ("joint", "log_odds"))
VARIANTS = (("lacy", "log_odds"), ("lacy_full", "log_odds"), ("lacy_full_oracle", "log_odds"), ("rho", "log_odds"))
# Written down before the first run (the paper's order, and what pilots suggested).
CONTRASTS = (
    Contrast("H1: LaCy beats loss alone", ("lacy", "log_odds"), ("loss", "log_odds")),
    Contrast("H2: loss alone beats NTP without calls", ("loss", "log_odds"), ("ntp", "alone")),
    Contrast("H3: full normalizer beats renormalized", ("lacy_full", "log_odds"), ("lacy", "log_odds")),
    Contrast("H4: LaCy against NTP's confidence", ("lacy", "log_odds"), ("ntp", "confidence")),
    Contrast("H5: LaCy beats Rho-1", ("lacy", "log_odds"), ("rho", "log_odds")),
    Contrast("H6: alone, NTP knows more than LaCy", ("ntp", "alone"), ("lacy", "alone")),
    Contrast("H7: joint beats LaCy", ("joint", "log_odds"), ("lacy", "log_odds")),
    Contrast("H8: joint beats gated confidence", ("joint", "log_odds"), ("ntp", "gated")),
    Contrast("H9: the call logit beats the log-odds", ("lacy", "logit"), ("lacy", "log_odds")),
    Contrast("H10: true fact tokens beat spaCy's", ("lacy_full_oracle", "log_odds"), ("lacy_full", "log_odds")),
)


def get_study(variant: str = "") -> Study:
    """`reduced` (or nothing), `choices` or `full`."""
    if variant == "choices":
        return Study("study_choices", "configs/biographies.py", CHOICES, (0, 1, 2, 3, 4), CHOICE_CONTRASTS)
    common: dict[str, Any] = {
        "name": "study_biographies",
        "config": "configs/biographies.py",
        "contrasts": CONTRASTS,
        "curves": CURVES,
    }
    common["variants"] = VARIANTS
    if variant in ("", "reduced"):
        return Study(arms=REDUCED, seeds=(0, 1, 2, 3, 4), **common)
    if variant != "full":
        raise ConfigError(f"configs/study_biographies.py:{variant}: allowed are reduced, choices and full")
    settings = {
        "corpus.biographies.people": 10_000,
        "corpus.biographies.documents": 400_000,
        "model.layers": 6,
        "model.width": 192,
        "data.batch_size": 64,
        "training.ground_truth_tokens": 50_000_000,
        "optimizer.learning_rate": 2e-3,
        "tokenizer.vocab_size": 4096,
    }
    return Study(arms=REDUCED + FURTHER, seeds=(0, 1, 2, 3, 4), settings=settings, people=512, **common)
