"""150M parameters: 18 layers x 768, context 1024, 32K vocabulary; the smallest model worth shipping.

    python -m lacy_jax.main --config=configs/slm_150m.py:corpus=wikipedia --workdir=gs://.../slm_150m

With no corpus named it trains on the embedded one, which is far too small for it: good for trying out a machine.
120,000 steps of 32 windows are 3.9e9 tokens. A step took 84 ms on one H100 with --config.model.remat=none, which needs
25 GB (docs/performance.md): that is less than three hours.
"""

import ml_collections

from lacy_jax.config import base_config
from lacy_jax.presets import apply_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base_config()
    config.name = "slm_150m"
    config.model.update(layers=18, width=768, heads=12, context=1024, remat="full")
    config.data.batch_size = 32
    config.training.steps = 120_000
    config.optimizer.learning_rate = 6e-4
    return apply_variant(config, variant)
