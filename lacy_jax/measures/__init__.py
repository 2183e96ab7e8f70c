"""Statistics over plain arrays: how well a score separates, and how far a figure can be trusted."""
