"""The rules that are kept make the same words proper nouns and numbers as all of them, on any words and tags."""

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacy_jax.data.annotators.ruler import lighten_ruler, needed_rules

spacy = pytest.importorskip("spacy")
NAMES = ("PROPN", "NUM")

words = st.sampled_from(["a", "b", "c"])
tags = st.sampled_from(["A", "B", "C", "D"])


def conditions(values: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    chosen = st.lists(values, min_size=1, max_size=3)
    return st.one_of(values, chosen.map(lambda own: {"IN": own}), chosen.map(lambda own: {"NOT_IN": own}))


tokens = st.fixed_dictionaries({}, optional={"TAG": conditions(tags), "LOWER": conditions(words)}).filter(bool)
attributes = st.fixed_dictionaries(
    {}, optional={"POS": st.sampled_from([*NAMES, "NOUN", "VERB"]), "LEMMA": words, "MORPH": st.just("Number=Sing")}
).filter(bool)
rules = st.one_of(
    st.builds(lambda own, attrs: {"patterns": [[each] for each in own], "attrs": attrs, "index": 0},
              st.lists(tokens, min_size=1, max_size=2), attributes),
    st.builds(lambda first, second, attrs, index: {"patterns": [[first, second]], "attrs": attrs, "index": index},
              tokens, tokens, attributes, st.sampled_from([0, 1, -1])),
)  # fmt: skip


@functools.cache
def pipeline() -> Any:
    nlp = spacy.blank("en")
    nlp.add_pipe("attribute_ruler")
    return nlp


def names_by(own: list[dict[str, Any]], text: list[tuple[str, str]]) -> list[str]:
    """The part of speech of each word that is one of `NAMES`, else nothing."""
    nlp = pipeline()
    ruler = nlp.get_pipe("attribute_ruler")
    ruler.clear()
    ruler.add_patterns([*own, {"patterns": [[{"LOWER": "no word"}]], "attrs": {"LEMMA": "x"}}])  # some, or it warns
    doc = ruler(spacy.tokens.Doc(nlp.vocab, words=[word for word, _ in text], tags=[tag for _, tag in text]))
    return [word.pos_ if word.pos_ in NAMES else "" for word in doc]


@settings(deadline=None)
@given(st.lists(rules, max_size=8), st.lists(st.tuples(words, tags), min_size=1, max_size=6))
def test_the_rules_that_are_kept_name_the_same_words(own: list[dict[str, Any]], text: list[tuple[str, str]]) -> None:
    assert names_by(needed_rules(own, names=NAMES), text) == names_by(own, text)


def test_rules_of_other_tags_are_dropped() -> None:
    def rule(tag: Any, **attrs: str) -> dict[str, Any]:
        return {"patterns": [[{"TAG": tag}]], "attrs": attrs, "index": 0}

    name, aux = rule("NNP", POS="PROPN", MORPH="Number=Sing"), rule({"NOT_IN": ["TO"]}, POS="AUX")
    own = [rule("CC", POS="CCONJ"), name, rule({"IN": ["VB", "DT"]}, POS="VERB"), rule("NNP", LEMMA="x"), aux]
    assert needed_rules(own, names=NAMES) == [rule("NNP", POS="PROPN"), aux]
    assert needed_rules([*own, rule("CC", ENT_TYPE="X")], names=NAMES) == [*own, rule("CC", ENT_TYPE="X")]


@pytest.mark.parametrize("part", ["", "entity_ruler"])
def test_a_pipeline_that_may_read_parts_of_speech_keeps_its_rules(part: str) -> None:
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("attribute_ruler")
    ruler.add([[{"TAG": "CC"}]], {"POS": "CCONJ"})
    ruler.add([[{"TAG": "CD"}]], {"POS": "NUM"})
    if part:
        nlp.add_pipe(part)
    lighten_ruler(nlp, names=NAMES)
    assert len(ruler.patterns) == (2 if part else 1)
