"""The card of an exported model, README.md: what it is, how it was made, how `<CALL>` is read."""

import math
from pathlib import Path

import jax

from lacy_jax.checkpoints.exports.layout import CALL, Outgoing
from lacy_jax.config import Config
from lacy_jax.data.tokenizer import Tokenizer
from lacy_jax.data.weights import trained_names
from lacy_jax.presets import CLOSED_WORLD

_HEAD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- lacy
---
"""
# What is known of the corpora that come with lacy_jax. Of others it is said that nothing is known.
_WIKIPEDIA = "text by the contributors of Wikipedia, CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)"
_LICENCES = {
    "vital_articles": _WIKIPEDIA,
    **dict.fromkeys(CLOSED_WORLD, "invented people, written by lacy_jax; no text of others"),
}
_CALLS = """## How it calls

`{call}` (id {id}) is a special token. Where the model would rather ask than write, its logit is high. The call score is
its log-odds against all other tokens. `inputs` is what the tokenizer makes of the text so far:

```python
logits = model(**inputs).logits[0, -1]
others = torch.cat([logits[:{id}], logits[{id} + 1 :]])
call_score = logits[{id}] - others.logsumexp(0)
```

`generation_config.json` suppresses `{call}`, so `generate` writes text alone. This checkpoint calls by {by}.
`cascade.json` has all numbers. Cascades outside JAX: docs/exporting.md of lacy_jax.
"""
# Of a model that was trained without it.
_NEVER = """## How it calls

`{call}` (id {id}) is a special token that this model never learned. Its logit means nothing, and
`generation_config.json` suppresses it. This checkpoint calls by {by}.
`cascade.json` has all numbers. Cascades outside JAX: docs/exporting.md of lacy_jax.
"""


def card(model: Outgoing) -> str:
    """The content of README.md."""
    config = model.loaded.config
    parts = [_HEAD, f"# {_line(config.name)}", _about(model), _made(model)]
    if model.has_call:
        text = _CALLS if model.loaded.learned_to_call else _NEVER
        parts.append(text.format(call=CALL, id=model.tokenizer.call_id, by=_called_by(model)))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _about(model: Outgoing) -> str:
    settings = model.loaded.model
    numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.loaded.params))
    tables = [model.loaded.params[name]["embedding"] for name in ("embedding", "output") if name in model.loaded.params]
    numbers -= sum((table.shape[0] - model.tokens) * settings.width for table in tables)  # rows of no token
    return (
        f"A causal language model of {numbers / 1e6:,.1f}M parameters: {settings.layers} layers of width "
        f"{settings.width}, {model.tokens:,} tokens, a context of {settings.context:,}. lacy_jax wrote this folder. It "
        "is an open implementation of LaCy (arXiv 2602.12005): small models that learn what to predict and what to ask "
        "for."
    )


def _made(model: Outgoing) -> str:
    """The table of how it was made."""
    loaded, config = model.loaded, model.loaded.config
    rows = {"steps": f"{loaded.step:,}"}
    if loaded.family:
        rows = {"made": f"elsewhere, a model of the kind {loaded.family}; its licence is that of its source"}
    else:
        rows = {
            "method": f"{config.method} (rule {config.objective.rule}, rate {config.objective.rate:g})",
            "steps": f"{loaded.step:,}",
            "data": _data(config),
            "licence of the data": _licence(config),
        }
        if config.model.initial or not isinstance(model.tokenizer, Tokenizer):
            source = _line(Path(config.model.initial).name) or "a pretrained model, whose tokenizer it has"
            rows["started from"] = f"{source}; its licence holds here too"
    if version := loaded.versions.get("lacy_jax"):
        rows["lacy_jax"] = _line(version)
    opening = "nothing" if model.opening is None else f"`{model.name_of(model.opening)}`"
    rows["the tokenizer puts before a text"] = opening
    rows["ends a text"] = ", ".join(f"`{model.name_of(index)}`" for index in model.tokenizer.end_ids)
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _data(config: Config) -> str:
    corpus = config.corpus
    if config.data.mixture:
        return _line(f"a mixture of {', '.join(trained_names(config.data.mixture))}")
    if config.data.packed:
        return "prepared elsewhere"
    named = {"tfds": corpus.tfds_name, "jsonl": "JSON lines of the user's own"}.get(corpus.name, corpus.name)
    return _line(named)


def _licence(config: Config) -> str:
    corpus = config.corpus
    if config.data.packed or config.data.mixture:
        return "not known"
    if corpus.name == "tfds" and corpus.tfds_name.startswith("wikipedia/"):
        return _WIKIPEDIA
    return _LICENCES.get(corpus.name, "not known")


def _called_by(model: Outgoing) -> str:
    settings = model.loaded.config.cascade
    score = model.loaded.own_score if settings.score == "auto" else settings.score
    gated = ", weighed by P(the next token is a fact)" if settings.gate == "factual" and score != "factual" else ""
    price = f"a price of {settings.price:g}, and at most " if settings.policy == "price" else ""
    return f"the score `{score}`{gated}, at {price}{settings.budget:.0%} of its tokens"


def _line(text: str) -> str:
    """A name as it may stand in one line of a table."""
    return " ".join(text.replace("|", " ").replace("<", " ").split())[:120]
