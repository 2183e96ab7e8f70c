"""Records with named fields, as lines of JSON and rows of tables have them: each a document, or left out."""

import json
from collections.abc import Mapping
from typing import Any

from lacy_jax.config import CorpusConfig
from lacy_jax.data.documents import BEGINNING, Document, LeftOut


def document_of(record: Mapping[str, Any], corpus: CorpusConfig, *, identity: str) -> Document | LeftOut:
    """The document of a record. Without an id in it, its id is `identity`; it may lack a title, but not a text."""
    own, title, text = (record.get(name) for name in (corpus.id_field, corpus.title_field, corpus.text_field))
    reason = ""
    if isinstance(own, bool) or not isinstance(own, str | int | None):
        reason = f"the id, field {corpus.id_field!r}, must be a string or a whole number"
    elif not isinstance(title, str | None):
        reason = f"the title, field {corpus.title_field!r}, must be a string"
    elif isinstance(text, str):
        return Document(id=identity if own is None else str(own), title=title or "", text=text)
    else:
        reason = (
            f"the text, field {corpus.text_field!r}, must be a string; the record has "
            f"{', '.join(map(repr, record)) or 'no fields'} (config.corpus.text_field names it)"
        )
    return LeftOut(reason, json.dumps(record, ensure_ascii=False, default=str)[:BEGINNING])
