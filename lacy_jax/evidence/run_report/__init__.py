"""The page of a finished run: held-out articles scored, cascade samples, and its log."""
