"""The page in a real browser."""

from collections.abc import Iterator

import pytest

from tests.serving.chromium import BINARY, Page
from tests.serving.conftest import FakeScheduler, Running, serving

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script> "

pytestmark = [pytest.mark.browser, pytest.mark.skipif(BINARY is None, reason="no Chromium")]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(tab: Page) -> Iterator[Page]:
    tab.events.clear()
    yield tab
    complaints = [event for event in tab.events if event.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
    # The browser itself logs answers of 401 and cut connections.
    harmless = ("Failed to load resource", "'level': 'info'")
    assert not [event for event in complaints if not any(words in str(event) for words in harmless)]


def open_page(page: Page, server: Running) -> None:
    page.send("Page.navigate", url=server.url)
    page.wait("document.readyState === 'complete' && location.href !== 'about:blank'")


def write(page: Page, prompt: str, *, tokens: int) -> None:
    page.run(f"document.getElementById('prompt').value = {prompt!r}")
    page.run(f"document.getElementById('tokens').value = {tokens}")
    page.run("document.getElementById('go').click()")


def text(page: Page, name: str) -> str:
    return str(page.run(f"document.getElementById('{name}').textContent"))


def test_pieces_are_shown_by_who_wrote_them(page: Page) -> None:
    with serving(FakeScheduler(), partner="documents", budget=0.22, max_tokens=1024) as server:
        open_page(page, server)
        page.wait("document.title === 'tiny'")
        assert text(page, "budget-shown") == "22%"
        page.run("document.getElementById('budget').value = 0.5")
        write(page, "a", tokens=7)
        page.wait("document.getElementById('status').textContent.includes('calls')")
        assert text(page, "answer") == "aa0 a1 a2 a3 a4 a5 a6 "
        assert text(page, "status").startswith("7 tokens, 2 from the partner (28.6%), 2 calls, ")
        partner = "[...document.querySelectorAll('#answer .partner')]"
        assert page.run(f"{partner}.map((span) => span.textContent)") == ["a2 ", "a5 "]
        assert page.run(f"getComputedStyle({partner}[0]).textDecorationLine") == "underline"
        assert "underline" not in page.run(
            "getComputedStyle(document.querySelector('#answer .slm')).textDecorationLine"
        )
        page.run(f"{partner}[0].focus()")
        assert text(page, "detail") == "the partner, call score 1.25, 1 token"
        request = server.scheduler.requests[0]
        assert (request.prompt, request.max_new_tokens, request.budget) == ("a", 7, 0.5)


def test_output_is_text_whatever_it_says(page: Page) -> None:
    scheduler = FakeScheduler()
    scheduler.always = EVIL
    with serving(scheduler) as server:
        open_page(page, server)
        page.wait("document.title === 'tiny'")
        write(page, "<b>bold</b>", tokens=3)
        page.wait("document.getElementById('status').textContent.includes('call')")
        assert text(page, "answer") == "<b>bold</b>" + 3 * EVIL
        assert page.run("document.querySelectorAll('#answer img, #answer script, #answer b').length") == 0


def test_nothing_foreign_runs_or_loads(page: Page) -> None:
    with serving(FakeScheduler()) as server:
        open_page(page, server)
        page.wait("document.title === 'tiny'")
        page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.bad = 1\">')")
        page.run("new Promise((done) => setTimeout(done, 200))")
        assert page.run("window.bad") is None
        requests = [event for event in page.events if event.get("method") == "Network.requestWillBeSent"]
        assert {event["params"]["request"]["url"].split("?")[0] for event in requests} <= {
            f"{server.url}/",
            f"{server.url}/v1/models",
            f"{server.url}/x",  # blocked by the policy before it is sent
            "data:,",
        }
        page.events.clear()  # the policy's complaints are what this test is about


def test_stop(page: Page) -> None:
    with serving(FakeScheduler(delay=0.03)) as server:
        open_page(page, server)
        page.wait("document.title === 'tiny'")
        write(page, "a", tokens=1000)
        page.wait("document.querySelectorAll('#answer .slm').length > 2")
        page.run("document.getElementById('stop').click()")
        page.wait("document.getElementById('status').textContent.startsWith('Stopped')")
        server.until(lambda: server.scheduler.cancelled == [0])
        assert page.run("document.getElementById('go').disabled") is False


def test_a_key_is_asked_for_and_errors_are_shown(page: Page) -> None:
    with serving(FakeScheduler(), api_key="sesame", max_tokens=10) as server:
        open_page(page, server)
        page.wait("!document.getElementById('key-form').hidden")
        for key in ("wrong", "sesame"):
            page.run(f"document.getElementById('key').value = '{key}'")
            page.run("document.getElementById('key-form').requestSubmit()")
            page.wait("document.getElementById('status').textContent !== '' || document.title === 'tiny'")
            page.run("document.getElementById('status').textContent = ''")
        page.wait("document.title === 'tiny'")
        assert page.run("document.getElementById('key-form').hidden") is True
        page.run("document.getElementById('form').noValidate = true")
        write(page, "a", tokens=11)
        page.wait("document.getElementById('status').className === 'error'")
        assert "allowed are 10" in text(page, "status")
        write(page, "a", tokens=2)
        page.wait("document.getElementById('status').textContent.includes('2 tokens')")
