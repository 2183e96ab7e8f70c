"""Where documents come from: one module per corpus, each with `documents(settings)` and `fingerprint(settings)`."""
