"""The paper's smaller model: 24 layers x 1024, context 1024, 32K SentencePiece vocabulary plus <CALL> (334M).

    python -m lacy_jax.main --config=configs/slm_334m.py:method=lacy,corpus=wikipedia --workdir=gs://.../slm_334m

The paper trains on about 50B tokens of Wikipedia, in batches of about 112 windows: 340K steps for plain next-token
prediction (`method=ntp`), 400K for a method that delegates 15%, so that the tokens with a ground-truth gradient are
equal; here the budget is that number of tokens. Its full precision is `--config.model.compute_dtype=float32`; the
default does matrix products in bfloat16. The learning rate is LMLM's (arXiv 2505.15962), the paper gives none.
Bar: FactScore 22.7 against 15.9 for `ntp` (paper, 334M, cascade with Llama 3.2 1B at 22% calls).
"""

import ml_collections

from lacy_jax.config import base_config
from lacy_jax.presets import apply_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base_config()
    config.name = "slm_334m"
    config.model.update(layers=24, width=1024, heads=16, context=1024, remat="full")
    config.data.batch_size = 112
    config.training.update(steps=0, ground_truth_tokens=340_000 * 112 * 1024)
    config.training.update(log_every=100, evaluate_every=5_000, checkpoint_every=5_000)
    return apply_variant(config, variant)
