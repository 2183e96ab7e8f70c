"""Chinese and Japanese text: marks and tokens to the character, each of which is a word, and several bytes."""

import pytest

from lacy_jax.config import AnnotateConfig, RuleConfig
from lacy_jax.data.annotate import annotate_documents, annotator_doubts
from lacy_jax.data.documents import Document, full_text
from lacy_jax.data.factual import select_spans
from lacy_jax.data.pack import encode_documents
from lacy_jax.data.tokenizer import Tokenizer, train_tokenizer

spacy = pytest.importorskip("spacy")

RULE = RuleConfig(first_mention_only=False)
NAMES = {
    "GPE": ["北京", "上海", "東京", "大阪府", "𠮷野家"],  # the last begins beyond the first plane
    "PERSON": ["鲁迅", "紫式部", "か\u3099くと"],  # a letter and its voicing mark
    "DATE": ["1881年", "二〇二三年", "１８６７年", "㍻"],
}
DOCUMENTS = [
    Document(
        "zh",
        "鲁迅",
        "鲁迅，1881年生於紹興，後居北京、上海。\n他在北京寫了《狂人日記》👩\u200d🎓。二〇二三年，上海重印。",
    ),
    Document(
        "ja", "", "紫式部は、東京ではなく京都の人である。\u3000１８６７年，大阪府ﾊﾞｽと𠮷野家、か\u3099くと㍻の「東京」！"
    ),
    Document("mixed", "東京 2020", "Tokyo（東京）は…\r\n1881年\x00北京!!! \u202e東京\u202c"),
    Document("none", "空", ""),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """spaCy's pipeline for Chinese, in which each character is a word, with rules that find the names."""
    nlp = spacy.blank("zh")
    rules = nlp.add_pipe("entity_ruler")
    rules.add_patterns([{"label": kind, "pattern": name} for kind, names in NAMES.items() for name in names])
    path = tmp_path_factory.mktemp("zh") / "names"
    nlp.to_disk(path)
    return str(path)


def named(text: str, *, start: int) -> dict[int, str]:
    """The kind of each character of a name, found by search alone."""
    found: dict[int, str] = {}
    for kind, names in NAMES.items():
        for name in names:
            place = text.find(name, start)
            while place >= 0:
                found |= dict.fromkeys(range(place, place + len(name)), kind)
                place = text.find(name, place + 1)
    return found


def test_marks_and_tokens_are_the_names_to_the_character(model: str) -> None:
    settings = AnnotateConfig(spacy_model=model, workers=1)
    marked = list(annotate_documents(DOCUMENTS, settings))
    assert [document for document, _ in marked] == DOCUMENTS
    tokenizer = Tokenizer(train_tokenizer([full_text(DOCUMENTS[0])] * 3, vocab_size=330))
    pieces = 0
    encoded = encode_documents(marked, tokenizer=tokenizer, rule=RULE, validation_share=0.5)
    for (document, spans), tokens in zip(marked, encoded, strict=True):
        text = full_text(document)
        wanted = named(text, start=len(text) - len(document.text))
        chosen = select_spans(spans, RULE)
        found = {
            place: kind
            for start, end, kind in zip(chosen.starts, chosen.ends, chosen.kinds, strict=True)
            for place in range(start, end)
        }
        assert found == wanted
        assert tokenizer.decode(tokens.ids.tolist()) == text
        owner = [place for place, character in enumerate(text) for _ in character.encode()]
        position = 0
        for index, factual in zip(tokens.ids.tolist(), tokens.factual.tolist(), strict=True):
            size = len(tokenizer.decode_bytes([index]))
            assert factual == any(owner[byte] in wanted for byte in range(position, position + size))
            pieces += text[owner[position]].encode() != tokenizer.decode_bytes([index])
            position += size
    assert pieces > 20  # characters in several tokens, and tokens of several characters


def test_what_such_a_model_lacks_is_said(model: str) -> None:
    lines = list(annotator_doubts([each.text for each in DOCUMENTS], AnnotateConfig(spacy_model=model)))
    assert [line.partition(" has ")[2].split(":")[0] for line in lines] == ["no tagger", "no parser"]
