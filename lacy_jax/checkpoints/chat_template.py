"""The chat template that a model brings: how its conversations are written as one text, in the language Jinja.

Here it is only read, as a text; who renders it runs somebody else's program (serving/chat_sandbox.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacy_jax.data.files import parse_json
from lacy_jax.errors import CheckpointError

TEMPLATE_FILE, SETTINGS_FILE = "chat_template.jinja", "tokenizer_config.json"
MOST_CHARACTERS = 1 << 18  # the longest published ones have a tenth of it
# Names in tokenizer_config.json -> in a GGUF file's keys.
_NAMES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template. `source`: in Jinja; `names`: the control tokens that it may ask for, such as "bos_token"."""

    source: str
    names: Mapping[str, str]


def template_of_folder(folder: Path) -> ChatTemplate | None:
    """The template of a Hugging Face folder; None where it has none.

    It stands in a file of its own, or in tokenizer_config.json: as a string, or as one named "default" in a list.

    Raises:
        CheckpointError: a file cannot be read, or the template is too long.
    """
    try:
        path = folder / SETTINGS_FILE
        settings = parse_json(path.read_bytes()) if path.exists() else {}
        own = folder / TEMPLATE_FILE
        source = own.read_text(encoding="utf-8") if own.exists() else _default(settings.get("chat_template"))
        tokens = {name: settings.get(name) for name in _NAMES}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"cannot read the chat template in {folder}: {error}") from None
    written = {name: token.get("content") if isinstance(token, dict) else token for name, token in tokens.items()}
    return _template(source, written, where=str(folder))


def template_of_gguf(value: Callable[[str], Any], *, where: str) -> ChatTemplate | None:
    """The template of a GGUF file; None where it has none.

    Args:
        value: gives what the file says under a key, None where it says nothing.

    Raises:
        CheckpointError: it cannot be read, or is too long.
    """
    tokens = value("tokenizer.ggml.tokens") or []
    ids = {name: value(f"tokenizer.ggml.{key}_token_id") for name, key in _NAMES.items()}
    named = {name: tokens[index] for name, index in ids.items() if isinstance(index, int) and 0 <= index < len(tokens)}
    return _template(value("tokenizer.chat_template"), named, where=where)


def template_of_description(entry: Any, *, where: str) -> ChatTemplate | None:
    """The template in a checkpoint's description: `dataclasses.asdict` of one; None where it has none.

    Raises:
        CheckpointError: it is of another kind, or too long.
    """
    if entry is None:
        return None
    try:
        source, names = entry["source"], dict(entry["names"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{where}: the chat template in its description is of another kind") from None
    return _template(source, names, where=where)


def _default(found: Any) -> Any:
    if not isinstance(found, list):
        return found
    named = [each for each in found if isinstance(each, dict) and each.get("name") == "default"]
    return named[0].get("template") if named else None


def _template(source: Any, names: Mapping[str, Any], *, where: str) -> ChatTemplate | None:
    if not isinstance(source, str) or not source:
        return None
    if len(source) > MOST_CHARACTERS:
        raise CheckpointError(f"{where}: its chat template has {len(source)} characters; at most {MOST_CHARACTERS}")
    return ChatTemplate(source, {name: token for name, token in names.items() if isinstance(token, str)})
