"""Two annotations of one corpus, compared: how far they agree, by kind, and where they do not."""
