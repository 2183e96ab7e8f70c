"""An OpenAI-compatible server over the cascade. Needs the extra `serve`; nothing else in lacy_jax does."""
