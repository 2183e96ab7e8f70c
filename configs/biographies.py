"""The closed world (docs/biographies.md): invented people, whose facts are checked exactly; minutes on two CPU cores.

    python -m lacy_jax.main --config=configs/biographies.py:method=lacy_full
    python -m lacy_jax.evaluate --suite=closed_world --checkpoint=runs/biographies-lacy_full

0.7M parameters, 600 people in 12,000 biographies, and as many targets with a ground-truth gradient for every method.
`preset=paper` trains by the paper's own settings; configs/study_biographies.py compares all methods.
"""

import ml_collections

from lacy_jax.config import base_config
from lacy_jax.presets import apply_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base_config()
    config.name = "biographies"
    apply_variant(config, "corpus=biographies")
    config.corpus.validation_share = 0.02
    config.tokenizer.vocab_size = 2048
    config.model.update(layers=4, width=96, heads=4, context=160, compute_dtype="float32", layer_loop="unroll")
    config.data.batch_size = 8
    config.corpus.biographies.update(people=600, documents=12_000)
    config.training.update(
        steps=0,
        ground_truth_tokens=1_000_000,
        log_every=20,
        evaluate_every=200,
        checkpoint_every=10_000,
        keep_checkpoints=1,
    )
    config.optimizer.update(learning_rate=4e-3, warmup_steps=100)
    config.objective.rate_warmup_steps = 100
    config.cascade.update(partner="none", span="phrase", samples=0, max_new_tokens=160)
    apply_variant(config, "method=lacy_full")
    return apply_variant(config, variant)
