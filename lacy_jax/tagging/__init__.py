"""A small network that learns another annotator's marks, and makes them at a fraction of its cost."""
