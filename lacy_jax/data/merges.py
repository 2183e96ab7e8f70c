"""The merges of a byte-pair vocabulary that has a score for each token, as SentencePiece's has."""

from collections.abc import Sequence


def merges_by_score(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Pairs of tokens whose whole is a token, in the order of merging: the whole with the highest score first."""
    ids = {token: index for index, token in enumerate(tokens)}
    pairs = [
        (scores[index], ids[token[:at]], ids[token[at:]], (token[:at], token[at:]))
        for token, index in ids.items()
        for at in range(1, len(token))
        if token[:at] in ids and token[at:] in ids
    ]
    return [pair for *_, pair in sorted(pairs, key=lambda each: (-each[0], each[1], each[2]))]
