"""How a partner is asked what stands at a place of a text, and when its answer is right."""

BATCH = 8  # questions at once


def question(text: str, start: int) -> str:
    """What a partner is given for the place `start`: the text before it, without the spaces at its end."""
    return text[:start].rstrip(" ")


def stands_at(text: str, start: int, answer: str) -> bool:
    """Whether an answer is what the text says from the character `start` on, to the end of one of its words."""
    said = answer.strip()
    after = text[start + len(said) :]
    return bool(said) and text.startswith(said, start) and not (said[-1:].isalnum() and after[:1].isalnum())
