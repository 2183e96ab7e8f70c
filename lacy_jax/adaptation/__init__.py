"""Teaching a pretrained model when to ask, without changing its weights (docs/adapting.md)."""
