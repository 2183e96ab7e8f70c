"""The site: every link in it leads to a page and a place of it, and a page loads nothing from elsewhere."""

import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import lacy_jax

ROOT = Path(__file__).parent.parent


@pytest.fixture
def site(tmp_path: Path) -> dict[str, Any]:
    """The names of docs/site.py in a copy of what it reads."""
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    return runpy.run_path(str(tmp_path / "docs/site.py"))


def test_pages_are_laid_out_with_their_links(site: dict[str, Any], tmp_path: Path) -> None:
    site["write_pages"]()
    pages = tmp_path / "build/pages"
    start = (pages / "index.md").read_text()
    assert "[A pretrained model learns when to ask](adapting.md)" in start
    assert "](docs/" not in start
    assert "](contributing.md)" in (pages / "security.md").read_text()
    assert "`<|im_end|>`" in (pages / "security.md").read_text()
    api = re.findall(r"heading: lacy_jax\.(\w+)", (pages / "api.md").read_text())
    assert sorted(api) == sorted(lacy_jax.__all__)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("faq.md", "[x](../lacy_jax/config.py)", "docs/faq.md: the link ../lacy_jax/config.py leads to nothing"),
        ("new.md", "# New", "docs/mkdocs.yml, nav: .*: new.md"),
    ],
)
def test_links_out_of_the_site_and_lost_pages_are_refused(
    site: dict[str, Any], tmp_path: Path, file: str, text: str, said: str
) -> None:
    (tmp_path / "docs" / file).write_text(text)
    with pytest.raises(ValueError, match=said):
        site["write_pages"]()


class Page(HTMLParser):
    """places: what a link may name after #. links: of its text. loads: what a browser fetches to show it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places, self.links, self.loads = set[str](), list[str](), list[str]()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value}
        self.places.add(found.get("id", ""))
        if tag == "a":
            self.links += [found["href"]] if "href" in found else []
        elif tag in ("script", "link", "img", "source"):
            self.loads += [found[name] for name in ("src", "href") if name in found]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_its_links_lead_somewhere(site: dict[str, Any], tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, tmp_path / "docs/site.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "No issues found" in built.stdout + built.stderr
    # 404.html is for a server, whose root its links begin at.
    pages = {path: Page(path) for path in site["SITE"].glob("*.html") if path.name != "404.html"}
    assert {path.stem for path in pages} == {path.stem for path in site["PAGES"].glob("*.md")}
    for path, page in pages.items():
        assert not [each for each in page.loads if re.match(r"(\w+:)?//", each)], path.name
        for link in page.links:
            if re.match(r"\w+:", link):
                continue
            name, _, place = unquote(link).partition("#")
            target = path.parent / name if name else path
            assert target.is_file(), f"{path.name}: {link}"
            assert not place or place in pages[target].places, f"{path.name}: {link}"
    offered = {f"lacy_jax.{name}" for name in lacy_jax.__all__}
    assert offered <= set(re.findall(r"lacy_jax\.\w+", (site["SITE"] / "api.html").read_text()))
