"""Model families that Hugging Face folders may be of: one module each, as lacy_jax/checkpoints/family.py says."""
