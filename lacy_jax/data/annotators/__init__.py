"""Who marks facts: one module per annotator, each with `mark(documents, settings)` and `fingerprint(settings)`."""
