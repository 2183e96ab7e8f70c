"""Where documents come from: one module a corpus, each with `documents(settings)` and `fingerprint(settings)`."""
