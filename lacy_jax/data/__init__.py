"""From documents to batches: corpus, factual spans, tokenizer, packed windows, loader."""
