"""Marks that a partner makes: where it answers what the text says."""
