"""Our own server as a partner of another cascade: what the http partner finds out at its start, before any text."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import lacy_jax
from lacy_jax import generate, serve
from lacy_jax.cascade.partners.http import HttpPartner
from lacy_jax.cascade.remote.address import parse_address
from lacy_jax.doors import enter
from lacy_jax.errors import PartnerError
from tests.cascade.conftest import random_model, write_checkpoint
from tests.serving.conftest import FakeScheduler, Running, serving

KEY = "sesame-0123456789"


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    with serving(FakeScheduler(), api_key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def slm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(random_model(), tmp_path_factory.mktemp("slm") / "tiny")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("LACY_PARTNER_API_KEY", KEY)
    for name in ("LIST_SECONDS", "QUESTION_SECONDS"):
        monkeypatch.setattr(f"lacy_jax.cascade.partners.http.{name}", 60.0)


def unused_address() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


REFUSED = {
    "wrong key": ("{url}/v1", "wrong", r"refuses the key in LACY_PARTNER_API_KEY \(status 401\)"),
    "no key": ("{url}/v1", "", r"wants a key: set LACY_PARTNER_API_KEY \(status 401\)"),
    "no v1": ("{url}", KEY, r"has no /completions \(status 404\); did you mean http://.*/v1\?"),
    "other path": ("{url}/api/v1", KEY, r"has no /completions \(status 404\); see its address"),
    "unknown model": ("{url}/v1#nobody", KEY, r"The model 'nobody' does not exist"),
    "nobody there": (unused_address(), KEY, "cannot be reached"),
    "no such host": ("http://no-such-host.invalid/v1", KEY, "cannot be reached"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_will_never_answer_is_an_error_at_the_start(
    case: str, locked: Running, slm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    form, key, said = REFUSED[case]
    spec = form.format(url=locked.url)
    monkeypatch.setenv("LACY_PARTNER_API_KEY", key)
    with pytest.raises(PartnerError, match=said) as refused:
        lacy_jax.Cascade(lacy_jax.load(str(slm)), spec)
    assert KEY not in str(refused.value)
    words = [f"--checkpoint={slm}", f"--partner={spec}"]
    for door, more in ((generate.DOOR, "--prompt=Albert Einstein was"), (serve.DOOR, "--port=0")):
        assert enter(door, [*words, more]) == 2
        (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith(f"{door.name}: ")]
        assert str(refused.value).partition(" (")[0] in line


def test_what_answers_is_a_partner(locked: Running) -> None:
    partner = HttpPartner(parse_address(f"{locked.url}/v1"), span="word", timeout=60.0)
    assert partner.complete(["in Ulm. ", "so "]) == ["in", "so"]  # the fake scheduler repeats the prompt
    partner.close()
