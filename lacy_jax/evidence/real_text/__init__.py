"""Claims in texts about real people, checked against their articles."""
