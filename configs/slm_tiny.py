"""The demo's model: 4 layers x 192, 2.6M parameters, 4K vocabulary, the embedded corpus; minutes on two CPU cores.

    python -m lacy_jax.main --config=configs/slm_tiny.py

What to expect is in README.md. `--config=configs/slm_tiny.py:method=ntp` trains any method of the comparison on the
same data (docs/objective.md lists them). The default is LaCy with one softmax everywhere (`lacy_full`): with the
paper's renormalized one (`method=lacy`) nothing pushes the call logit down, and in a run as short as this the call
score separates facts less well (README.md has both).
"""

import ml_collections

from lacy_jax.config import base_config
from lacy_jax.presets import apply_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base_config()
    config.name = "slm_tiny"
    config.tokenizer.vocab_size = 4096
    config.model.update(layers=4, width=192, heads=3, context=256, compute_dtype="float32", layer_loop="unroll")
    config.data.batch_size = 8
    config.training.update(steps=800, log_every=10, evaluate_every=100, checkpoint_every=100)
    config.optimizer.update(learning_rate=3e-3, warmup_steps=50)
    config.objective.rate_warmup_steps = 50
    apply_variant(config, "method=lacy_full")
    return apply_variant(config, variant)
