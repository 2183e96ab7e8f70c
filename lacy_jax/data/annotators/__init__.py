"""Who marks facts: one module an annotator, each with `mark(documents, settings)` and `fingerprint(settings)`."""
