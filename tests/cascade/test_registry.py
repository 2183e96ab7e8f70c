"""Partners made from specs: every form, and those that other packages register."""

import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lacy_jax.cascade import Cascade
from lacy_jax.cascade.partners import FORMS, check_partner, make_partner
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import CorpusConfig, Span
from lacy_jax.errors import PartnerError

MODULE = """
class Echo:
    def __init__(self, argument, span, timeout):
        self.name, self.options = f"echo:{argument}", (argument, span, timeout)

    def complete(self, texts):
        return [f" {text}" for text in texts]


def make(argument, *, span, timeout):
    if argument == "bad":
        raise KeyError("no such thing")
    return Echo(argument, span, timeout)


def refuse(argument, *, span, timeout):
    from lacy_jax.cascade import PartnerError

    raise PartnerError(f"refuse needs a file, not {argument!r}")


def nothing(argument, *, span, timeout):
    return None


def old(argument):
    return Echo(argument, None, None)
"""
ENTRIES = """
[lacy_jax.partners]
echo = registered_for_tests:make
refuse = registered_for_tests:refuse
nothing = registered_for_tests:nothing
old = registered_for_tests:old
gone = no_such_module_for_tests:make
missing = registered_for_tests:no_such_name
none = registered_for_tests:make
documents = registered_for_tests:make
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with entry points, as an installer leaves it."""
    (tmp_path / "registered_for_tests.py").write_text(MODULE)
    info = tmp_path / "registered_for_tests-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: registered-for-tests\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("registered_for_tests", None)


def make(spec: str, tmp_path: Path, *, span: Span = "word", timeout: float = 30.0):  # type: ignore[no-untyped-def]
    return make_partner(spec, corpus=CorpusConfig(), directory=str(tmp_path / "index"), span=span, timeout=timeout)


@pytest.mark.usefixtures("installed")
def test_a_registered_partner(tmp_path: Path) -> None:
    partner = make("echo:a:b", tmp_path, span="phrase", timeout=7.0)
    assert partner.name == "echo:a:b"
    assert partner.options == ("a:b", "phrase", 7.0)
    assert partner.complete(["x"]) == [" x"]
    assert make("echo", tmp_path).options == ("", "word", 30.0)
    assert make("none", tmp_path) is None  # our own names cannot be taken


@pytest.mark.usefixtures("installed")
def test_a_cascade_tells_a_partner_made_from_a_spec_its_span_and_timeout(model: Callable[..., LoadedModel]) -> None:
    made = Cascade(model(), "echo:a", span="phrase", timeout=7.0).partner
    assert made is not None
    assert made.timeout == 7.0
    assert made._partner.options == ("a", "phrase", 7.0)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (
            "gone:x",
            r"partner 'gone' \(entry point 'no_such_module_for_tests:make'\) cannot be imported: Module",
        ),
        ("missing", "'missing'.*cannot be imported: AttributeError"),
        ("echo:bad", "'echo'.*cannot be made of 'bad': KeyError: 'no such thing'"),
        ("refuse:x", "^refuse needs a file, not 'x'$"),
        ("nothing", "'nothing'.*made a NoneType, which has no name and complete"),
        ("old", "'old'.*cannot be made of '': TypeError"),
        (
            "ecko",
            "unknown partner 'ecko'; allowed: documents, .*; registered by packages: echo, gone",
        ),
    ],
)
def test_registered_partners_that_cannot_be_made(tmp_path: Path, spec: str, named: str) -> None:
    with pytest.raises(PartnerError, match=named):
        make(spec, tmp_path)


@pytest.mark.parametrize(
    "spec", ["", "nonsense", "database:", "database", "http:", "http:x", "https", "documents:", "checkpoint:"]
)
def test_specs_of_no_form(tmp_path: Path, spec: str) -> None:
    with pytest.raises(PartnerError, match="unknown partner") as refused:
        make(spec, tmp_path)
    assert FORMS in str(refused.value)
    assert "registered by packages: none" in str(refused.value)


def test_a_database(tmp_path: Path) -> None:
    file = tmp_path / "facts.sqlite"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE facts (subject, relation, value)")
    connection.execute("INSERT INTO facts VALUES ('Ann Lee', 'birth_date', '1 May 1900')")
    connection.commit()
    connection.close()
    partner = make(f"database:{file}", tmp_path, span="phrase")
    assert partner.name == f"database:{file}"
    assert partner.complete(["Ann Lee was born on"]) == [" 1 May 1900"]
    assert make(f"database:{file}", tmp_path).complete(["Ann Lee was born on"]) == [" 1"]
    with pytest.raises(PartnerError, match="no such file"):
        make("database:no/such.sqlite", tmp_path)


def test_documents_write_as_far_as_the_span(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(
        '{"id": "1", "title": "Ann Lee", "text": "Ann Lee was born on 1 May 1900 in New York City, they say."}'
    )
    for span, pieces in (("token", [" 1", " New", " they"]), ("phrase", [" 1 May 1900", " New York City", " they"])):
        partner = make(f"documents:{file}", tmp_path, span=span)  # type: ignore[arg-type]
        texts = ["Ann Lee was born on", "Ann Lee was born on 1 May 1900 in", "Ann Lee was in New York City,"]
        assert partner.complete(texts) == pieces
        assert partner.complete(["Ann Lee was born on 1 May 19"])[0] == "00"


def test_http_without_httpx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    for module in (
        "lacy_jax.cascade.partners.http",
        "lacy_jax.cascade.remote.address",
        "lacy_jax.cascade.remote.server",
    ):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for act in (lambda spec: make(spec, tmp_path), check_partner):
        with pytest.raises(PartnerError, match=r"partner 'http' needs httpx.*pip install httpx"):
            act("http://127.0.0.1:9/v1")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "spec", ["none", "documents", "http://h:1/v1#m", "https://h/v1", "world", "world:known=0.9", "echo", "echo:bad"]
)
def test_a_spec_is_checked_without_making_it(spec: str) -> None:
    check_partner(spec)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("facts.csv", "unknown partner 'facts.csv'; allowed: documents.*; did you mean database:facts.csv[?]$"),
        ("my/facts.TSV", "did you mean database:my/facts.TSV[?]"),
        ("facts.sqlite", "did you mean database:facts.sqlite[?]"),
        ("articles.jsonl", "did you mean documents:articles.jsonl[?]"),
        ("a/*.jsonl.gz", r"did you mean documents:a/[*].jsonl.gz[?]"),
        ("localhost:8000/v1", "did you mean http://localhost:8000/v1[?]"),
        ("documets", "did you mean documents[?]"),
        ("ecko", "did you mean echo[?]"),
        ("no/such", "there is no such folder"),
        ("database:no/such.csv", "no such file: no/such.csv"),
        ("http://me:secret@h/v1", "no name or password"),
        ("http://h/v1?x=1", "cannot read the partner's address"),
        ("gone:x", "'gone'.*cannot be imported"),
        ("world:knwon=0.9", "partner world:knwon=0.9: knwon .*; allowed are shares of known, wordings, changed, wrong"),
        ("none:x", "unknown partner 'none:x'; allowed"),
        ("", "unknown partner ''; allowed"),
    ],
)
def test_a_wrong_spec_is_refused_alike_when_checked_and_when_made(spec: str, named: str, tmp_path: Path) -> None:
    for act in (check_partner, lambda spec: make(spec, tmp_path)):
        with pytest.raises(PartnerError, match=named) as refused:
            act(spec)
        assert "secret" not in str(refused.value)
        assert "\n" not in str(refused.value)


def test_files_that_are_there_are_hinted_at_too(tmp_path: Path) -> None:
    file = tmp_path / "facts.csv"
    file.write_text("subject,relation,value\n")
    with pytest.raises(PartnerError, match=f"did you mean database:{file}"):
        make(str(file), tmp_path)
