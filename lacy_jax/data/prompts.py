"""Prompts that a person gives: on the command line, and in files."""

from collections.abc import Sequence
from pathlib import Path

from lacy_jax.data.documents import clean_text
from lacy_jax.data.files import parse_json
from lacy_jax.errors import ConfigError


def checked_prompts(prompts: Sequence[tuple[str, str]]) -> list[str]:
    """The prompts of (where it stands, prompt). Raises `ConfigError` where one is empty or no valid Unicode."""
    for where, prompt in prompts:
        if not prompt.strip():
            raise ConfigError(f"{where}: empty; give at least one word")
        if clean_text(prompt) != prompt:
            raise ConfigError(f"{where}: not valid Unicode (a lone surrogate?): {prompt[:80]!a}")
    return [prompt for _, prompt in prompts]


def prompts_of_file(path: str) -> list[tuple[str, str]]:
    """The prompts of --prompts_file, each with where it stands: lines of a text file, or of JSON lines by its name.

    Raises:
        ConfigError: it cannot be read, or a line of JSON is no prompt.
    """
    try:
        # Lines end as they do in files; `str.splitlines` would cut prompts at U+2028 and its like, too.
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts_file={path}: cannot be read ({error})") from None
    found = [(f"--prompts_file={path}, line {n}", line) for n, line in enumerate(lines, start=1) if line.strip()]
    return [(where, _json_prompt(line, where)) for where, line in found] if path.endswith(".jsonl") else found


def _json_prompt(line: str, where: str) -> str:
    """The prompt in a line of JSON: a string, or an object with the string `prompt`."""
    try:
        value = parse_json(line)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON ({error})") from None
    prompt = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(prompt, str):
        raise ConfigError(f'{where}: neither a JSON string nor an object with a string "prompt": {line[:80]!a}')
    return prompt
