"""SmolLM2-135M, or another pretrained model, trained on: it keeps its language and learns where to ask.

    python -m lacy_jax.main --config=configs/smollm2_135m.py --config.model.initial=SmolLM2-135M-Instruct.gguf

`config.model.initial` names a Hugging Face folder, a GGUF file or a checkpoint of ours. Its sizes and its tokenizer
take the place of those below, which are SmolLM2-135M's, so `lacy_jax.compile_ahead` needs no file. Without it the same
model is trained from random parameters. The learning rate is a tenth of that of a new model, so that little is
unlearned. `python -m lacy_jax.adapt` changes no weights but those of `<CALL>`, and takes minutes on a CPU.
"""

import ml_collections

from lacy_jax.config import base_config
from lacy_jax.presets import apply_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base_config()
    config.name = "smollm2_135m"
    config.tokenizer.vocab_size = 49_152
    config.model.update(layers=30, width=576, heads=9, kv_heads=3, mlp_width=1536, context=1024, remat="full")
    config.model.update(positions="rope", rope_theta=100_000.0, norm="rmsnorm", activation="swiglu", bias=False)
    config.data.batch_size = 32
    config.training.update(steps=2_000, checkpoint_every=500, evaluate_every=500)
    config.optimizer.update(learning_rate=5e-5, warmup_steps=100)
    config.objective.rate_warmup_steps = 100
    apply_variant(config, "method=lacy_full")
    return apply_variant(config, variant)
