"""Builds the site of these pages. A warning, a broken link or a page without a place is a failure.

    python docs/site.py                 # the site lies in build/site, and opens from there; needs lacy_jax[docs]

The pages stay what a code host shows: README is the start page, docs/ the rest, and what Python offers comes from its
docstrings. Links between them are changed for where the pages lie in the site.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import lacy_jax

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
CONFIG = DOCS / "mkdocs.yml"
BUILD = ROOT / "build"
PAGES, SITE = BUILD / "pages", BUILD / "site"
# Files of the repository that are pages of the site -> their names there.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.md",
}
# [text](target#place)
_LINK = re.compile(r"\[([^\]\[]*)\]\(([^)\s#]+)((?:#[^)\s]*)?)\)")
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
_API = """# API

What `import lacy_jax` offers, from its docstrings; [lacy_jax from Python](python.md) shows how it is used.
"""


def sources() -> dict[Path, str]:
    """The files that the site shows -> their names in it."""
    inside = [path for path in sorted(DOCS.rglob("*")) if path.is_file() and path.suffix not in (".py", ".pyc", ".yml")]
    return {ROOT / name: page for name, page in OUTSIDE.items()} | {p: p.relative_to(DOCS).as_posix() for p in inside}


def title(path: Path) -> str:
    """What a link says that has a file's name on a code host."""
    return path.read_text().partition("\n")[0].removeprefix("# ") if path.suffix == ".md" else path.name


def page_text(path: Path, names: dict[Path, str]) -> str:
    """The text of a page with its links changed; of a license the text as it stands.

    Raises:
        ValueError: a link leads to a file that is not in the site.
    """
    if path.suffix != ".md":
        return f"# License\n\n```text\n{path.read_text()}```\n"

    def moved(link: re.Match[str]) -> str:
        if re.match(r"\w+:", link[2]):
            return link[0]
        target = Path(os.path.normpath(path.parent / link[2]))
        if target not in names:
            raise ValueError(f"{path.relative_to(ROOT)}: the link {link[2]} leads to nothing that the site has")
        text = title(target) if link[1].endswith(target.name) else link[1]
        return f"[{text}]({names[target]}{link[3]})"

    # Links in code are none; code hosts drop the \\ before a | in a table's code, Python's Markdown shows it.
    parts = _CODE.split(path.read_text())
    parts[::2] = [_LINK.sub(moved, part) for part in parts[::2]]
    parts[1::2] = [part if part.startswith("```") else part.replace(r"\|", "|") for part in parts[1::2]]
    return "".join(parts)


def api_text() -> str:
    """A page with one entry for each public name."""
    offered = {name: getattr(lacy_jax, name) for name in sorted(lacy_jax.__all__, key=str.lower)}
    options = "    options:\n      heading: lacy_jax.{name}\n      toc_label: {name}\n"
    entries = [
        f"::: {each.__module__}.{each.__qualname__}\n{options.format(name=name)}" for name, each in offered.items()
    ]
    return "\n".join([_API, *entries])


def write_pages() -> None:
    """Fills build/pages.

    Raises:
        ValueError: a link leads out of the site, or a page is not in the navigation of mkdocs.yml.
    """
    shutil.rmtree(PAGES, ignore_errors=True)
    names = sources()
    for path, name in names.items():
        (PAGES / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".md"):
            (PAGES / name).write_text(page_text(path, names))
        else:
            shutil.copy(path, PAGES / name)
    (PAGES / "api.md").write_text(api_text())
    shutil.copy(CONFIG, BUILD)
    placed = set(re.findall(r"\b\w+\.md", CONFIG.read_text().partition("\nnav:")[2].partition("\ntheme:")[0]))
    if lost := sorted({path.name for path in PAGES.glob("*.md")} ^ placed):
        raise ValueError(f"docs/mkdocs.yml, nav: a page without a place, or a place without a page: {', '.join(lost)}")


def main() -> int:
    try:
        write_pages()
    except ValueError as error:
        print(f"site: {error}", file=sys.stderr)
        return 2
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", BUILD / CONFIG.name]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
