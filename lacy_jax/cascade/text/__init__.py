"""Where words and phrases begin and end, and how texts align."""
