"""The page of the inspector in a browser: colours on light and dark, nothing runs, no wider than a telephone."""

from pathlib import Path

import pytest

from lacy_jax.evidence.inspector.page import as_page
from lacy_jax.evidence.inspector.pieces import Piece, View, window_counts
from tests.serving.chromium import BINARY, Page

pytestmark = [pytest.mark.browser, pytest.mark.skipif(BINARY is None, reason="no Chromium")]

EVIL = "<img src=x onerror=document.title=1><script>document.title=2</script>"
PIECES = (
    Piece("\u05d1\u05d3\u05d9\u05e7\u05d4 "),
    Piece("\u05d5\u05e8\u05e9\u05d4", "factual", "GPE"),
    Piece(" 1867 ", "factual", "DATE"),
    Piece(EVIL),
    Piece("\u0301Curie" * 60, "subject", "PERSON"),
    Piece("", "end"),
    Piece("x", "repeated", "NUM"),
)
TEXT = "document.querySelector('.text')"


def test_the_page(tmp_path: Path) -> None:
    view = View(title="document 0: a", about=("id a",), pieces=PIECES, counts=window_counts(PIECES), padding=3)
    file = tmp_path / "page.html"
    file.write_text(as_page([view], about=["who"], command="again", tokens=False), encoding="utf-8")
    with Page(tmp_path / "profile") as page:
        page.send("Page.navigate", url=file.as_uri())
        page.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        assert page.run("document.title").startswith("document 0: a")  # no markup of a text was run
        assert page.run(f"{TEXT}.querySelectorAll('img, script').length") == 0
        assert EVIL in page.run(f"{TEXT}.textContent")
        assert page.run(f"getComputedStyle({TEXT}).direction") == "rtl"
        colours = []
        for scheme in ("light", "dark"):
            page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            spans = f"[...{TEXT}.querySelectorAll('.factual, .subject')]"
            colours.append(page.run(f"{spans}.map((span) => getComputedStyle(span).color)"))
        assert len({colour for scheme in colours for colour in scheme}) == 6  # place, date and subject, each in both
        page.send("Emulation.setDeviceMetricsOverride", width=320, height=600, deviceScaleFactor=1, mobile=False)
        assert page.run("document.documentElement.scrollWidth") <= 320
