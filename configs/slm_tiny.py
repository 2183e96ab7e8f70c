"""The demo's model: 4 layers x 256, 4.3M parameters, 4K vocabulary, the embedded corpus; minutes on two CPU cores.

    python -m lacy_jax.main --config=configs/slm_tiny.py

What to expect is in README.md. `--config=configs/slm_tiny.py:method=ntp` trains any method of the paper's table on
the same data (docs/objective.md lists them).
"""

import ml_collections

from lacy_jax.config import apply_variant, base_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base_config()
    config.name = "slm_tiny"
    config.tokenizer.vocab_size = 4096
    config.model.update(layers=4, width=256, heads=4, context=256, compute_dtype="float32", layer_loop="unroll")
    config.data.batch_size = 8
    config.training.update(steps=600, log_every=5, evaluate_every=100, checkpoint_every=100)
    config.optimizer.update(learning_rate=2e-3, warmup_steps=50)
    config.objective.rate_warmup_steps = 50
    return apply_variant(config, variant)
