"""Rules of spaCy's attribute ruler, without those that cannot decide whether a word is a proper noun or a number."""

from collections.abc import Sequence
from typing import Any

# Parts of a pipeline: but for the ruler itself, none sets what the ruler sets.
_SIMPLE = {"tok2vec", "transformer", "tagger", "parser", "attribute_ruler", "senter", "ner"}
_UNREAD = {"LEMMA", "MORPH"}
_KNOWN = {*_UNREAD, "POS", "TAG", "DEP"}


def lighten_ruler(nlp: Any, *, names: Sequence[str]) -> None:
    """Drops the rules of a pipeline's ruler that cannot decide whether a word's part of speech is one of `names`.

    Nothing is dropped where another part of the pipeline might read, or also set, what the ruler sets.
    """
    read = str(nlp.config["components"])  # what the networks read of a word stands there
    simple = _SIMPLE.issuperset(nlp.pipe_names) and not any(repr(name) in read for name in (*_UNREAD, "POS"))
    if simple and "attribute_ruler" in nlp.pipe_names:
        ruler = nlp.get_pipe("attribute_ruler")
        if needed := needed_rules(ruler.patterns, names=names):  # it warns where it has none
            ruler.clear()
            ruler.add_patterns(needed)


def needed_rules(rules: Sequence[dict[str, Any]], *, names: Sequence[str]) -> list[dict[str, Any]]:
    """Those that may make a word one of `names`, or something else in place of it, in their order.

    The ruler finds all matches before it sets anything, and later rules win. So a rule for the part of speech of words
    with other tags than those of the rules for `names` meets none of their words.
    """
    if not all(_KNOWN.issuperset(rule["attrs"]) and isinstance(rule["attrs"].get("POS", ""), str) for rule in rules):
        return list(rules)
    tags = [_tags(rule) for rule in rules if rule["attrs"].get("POS") in names]
    of_names = None if None in tags else set().union(*filter(None, tags))
    kept = []
    for rule in rules:
        own, attrs = _tags(rule), {name: value for name, value in rule["attrs"].items() if name not in _UNREAD}
        apart = own is not None and of_names is not None and own.isdisjoint(of_names)
        if attrs and not (apart and set(attrs) == {"POS"}):
            kept.append(rule | {"attrs": attrs})
    return kept


def _tags(rule: dict[str, Any]) -> set[str] | None:
    """The tags of the words that the rule applies to; None: any."""
    found: set[str] = set()
    for pattern in rule["patterns"]:
        tag = None if any("OP" in token for token in pattern) else pattern[rule["index"]].get("TAG")
        if isinstance(tag, dict) and set(tag) == {"IN"}:
            found.update(tag["IN"])
        elif isinstance(tag, str):
            found.add(tag)
        else:
            return None
    return found
