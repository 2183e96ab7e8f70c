"""FActScore (arXiv 2305.14251): texts split into facts, each checked by a judge."""
