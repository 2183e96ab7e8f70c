"""The commands that README, docs and docstrings give, as words of a command line."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOORS = {path.stem for path in (ROOT / "lacy_jax").glob("*.py") if "\nDOOR = " in path.read_text()}
SOURCES = sorted(path for folder in ("lacy_jax", "configs", "benchmarks") for path in (ROOT / folder).glob("*.py"))
# Flags that make a command about the closed world one of seconds.
WORLD = (
    "--config.corpus.biographies.people=4", "--config.corpus.biographies.documents=40",
    "--config.corpus.validation_share=0.2", "--config.tokenizer.vocab_size=400", "--config.annotate.workers=1",
    "--config.model.layers=1", "--config.model.width=32", "--config.model.heads=2", "--config.model.context=32",
    "--config.training.ground_truth_tokens=2000", "--config.training.evaluate_batches=1",
)  # fmt: skip

_START = r"(?:python -m (?:lacy_jax|benchmarks)\.|make\b|launch/)"
_SHELL = re.compile(r"```(?:bash|sh)\n(.*?)```", re.DOTALL)
_FENCE = re.compile(r"```.*?```", re.DOTALL)
_SPAN = re.compile(rf"`({_START}[^`]*)`")
_OPTIONAL = re.compile(r"\[(--?[^\]\s]+(?: [^\]]*)?)\]")


@dataclass(frozen=True)
class Command:
    """where: the page or file that has it, from the repository's root. words: as a shell reads them."""

    where: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where}: {shlex.join(self.words)}"

    @property
    def module(self) -> str:
        """What `python -m` starts; "" for another program."""
        return self.words[2] if self.words[:2] == ("python", "-m") else ""

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.words[3:] if self.module else self.words[1:]


def shell_commands(page: Path) -> list[Command]:
    """The commands of a page's shell blocks, in order; what starts no program of ours is left out."""
    return list(_commands("\n".join(_SHELL.findall(page.read_text())), page))


def all_commands() -> list[Command]:
    """Those of shell blocks and of `code` within sentences in pages, and of indented lines in docstrings."""
    found = [command for page in PAGES for command in shell_commands(page)]
    for page in PAGES:
        spans = _SPAN.findall(_FENCE.sub("", page.read_text()))
        found += _commands("\n".join(" ".join(span.split()) for span in spans), page)
    for path in SOURCES:
        found += _commands(path.read_text().replace("\\\\\n", "\\\n"), path, indent="    ")
    return found


def _commands(text: str, path: Path, *, indent: str = "") -> Iterator[Command]:
    for line in text.replace("\\\n", " ").splitlines():
        if re.match(indent + _START, line):
            words = shlex.split(_OPTIONAL.sub(r"\1", line).partition(" > ")[0], comments=True)
            yield Command(str(path.relative_to(ROOT)), tuple(words))
