"""The annotator judge against a server on loopback that answers, errs, hangs, limits and lies."""

import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import Response

from lacy_jax.config import AnnotateConfig
from lacy_jax.data.annotate import annotate_documents, annotator_fingerprint
from lacy_jax.data.documents import Document, full_text
from lacy_jax.errors import JudgeError
from lacy_jax.evidence import judge as judges
from lacy_jax.evidence import judge_marks
from tests.evidence.judge_server import HANG, JudgeServer, serving

pytestmark = pytest.mark.usefixtures("quick_judge")

CURIE = "Marie Curie was born in Warsaw in 1867. She won the Nobel\nPrize in 1903, and died in 1934; Warsaw mourned."
DOCUMENTS = [
    Document("curie", "Marie Curie", CURIE),
    Document("emoji", "", "\U0001f600 Zoë left 東京 in 1999."),
    Document("empty", "Nothing", ""),
]


def years(prompt: str, _count: int) -> str:
    return json.dumps(re.findall(r"[12]\d{3}", passage_of(prompt)))


def passage_of(prompt: str) -> str:
    return prompt.rpartition("Passage:\n")[2]


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with serving(years) as running:
        yield running


def mark(
    server: JudgeServer, folder: Path, documents: list[Document] = DOCUMENTS, **settings: object
) -> list[list[str]]:
    """The marked words of each document."""
    config = AnnotateConfig(annotator="judge", judge=f"{server.url}#m", **settings)  # type: ignore[arg-type]
    found = []
    for document, spans in annotate_documents(documents, config, directory=str(folder)):
        assert set(spans.kinds) <= {judge_marks.KIND}
        text = full_text(document)
        found.append([text[start:end] for start, end in zip(spans.starts, spans.ends, strict=True)])
    return found


def many(count: int) -> list[Document]:
    return [Document(str(n), "", f"It was {1000 + n}.") for n in range(count)]


def test_quotes_become_characters_of_the_full_text_and_a_second_start_asks_nothing(
    server: JudgeServer, tmp_path: Path
) -> None:
    expected = [["1867", "1903", "1934"], ["1999"], []]
    assert mark(server, tmp_path) == expected
    assert len(server.bodies) == 2  # nothing is asked of an empty text
    assert [re.findall('titled "(.*?)"', prompt) for prompt in sorted(server.prompts())] == [["Marie Curie"], []]
    server.answer = lambda *_: Response(status_code=500)
    assert mark(server, tmp_path) == expected
    assert len(server.bodies) == 2
    changed = [Document("curie", "Marie Curie", CURIE + " In 1995 too.")]
    server.answer = years
    assert mark(server, tmp_path, changed) == [["1867", "1903", "1934", "1995"]]
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("answer", "expected", "counted"),
    [
        ('["Warsaw", "1867", "Warsaw"]', ["Warsaw", "1867", "Warsaw"], {"spans": 3}),
        ('["1934", "1867"]', ["1867", "1934"], {"spans": 2}),  # another order
        ('["Nobel Prize"]', ["Nobel\nPrize"], {"spans": 1}),  # white space stands for any
        ('["Paris", "arsaw", "Mar", "186", "", "  ", "1903"]', ["1903"], {"spans": 1, "not found": 6}),
        ('["1867", "1867", "Curie"]', ["Curie", "1867"], {"spans": 2, "not found": 1}),
        ('Sure! ```json\n["1867"]\n```', ["1867"], {"spans": 1}),
        ('["1867", "19', ["1867"], {"spans": 1}),  # cut
        ('["1867",\n"1903",\n"no end', ["1867", "1903"], {"spans": 2}),
        ("[]", [], {}),
        ("I would rather not.", [], {"unusable": 1}),
        ('["', [], {"unusable": 1}),
        ("[1867]", [], {"unusable": 1}),
        ('[{"text": "1867"}]', [], {"unusable": 1}),
        ("[" * 100_000, [], {"unusable": 1}),
        ('["\\ud800", "1867"]', ["1867"], {"spans": 1, "not found": 1}),
        ('["(", "1.67", ".*"]', [], {"not found": 3}),  # no patterns
    ],
)
def test_what_is_not_in_the_text_is_counted_and_dropped(
    answer: str, expected: list[str], counted: dict[str, int]
) -> None:
    counts: Counter[str] = Counter()
    found = judge_marks.quoted(answer, CURIE, counts=counts)
    assert [CURIE[start:end] for start, end in found] == expected
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(found))
    assert counts == {"passages": 1} | counted


def test_an_ideograph_is_a_word() -> None:
    text = "東京都は日本の首都である。"
    found = judge_marks.quoted('["日本", "東京"]', text, counts=Counter())
    assert [text[start:end] for start, end in found] == ["東京", "日本"]


def test_faults_that_pass_are_asked_again(server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "ANSWER_SECONDS", 0.2)  # only what hangs takes as long; a slow machine asks once more
    faults = [Response("slow down", status_code=429, headers={"Retry-After": "0"}), Response(status_code=503), HANG]
    server.answer = lambda prompt, count: faults[count - 1] if count <= 3 else years(prompt, count)
    assert mark(server, tmp_path, DOCUMENTS[:1]) == [["1867", "1903", "1934"]]
    assert set(server.counts.values()) == {4}


def test_a_long_document_is_cut_between_sentences_and_every_mark_is_found(server: JudgeServer, tmp_path: Path) -> None:
    sentences = [f"In {1000 + n} there was nothing new, and nobody minded that. " for n in range(300)]
    document = Document("long", "A title", "".join(sentences))
    assert mark(server, tmp_path, [document]) == [[str(1000 + n) for n in range(300)]]
    asked = [passage_of(prompt) for prompt in server.prompts()]
    assert len(asked) == len(server.bodies) > 10
    assert max(map(len, asked)) <= judge_marks.PASSAGE
    assert all(each.lstrip().startswith("In ") for each in asked)


def test_a_start_sends_no_more_than_it_may_and_the_next_goes_on(server: JudgeServer, tmp_path: Path) -> None:
    documents = many(2 * judge_marks.AT_ONCE)
    for limit, sent in ((10, 10), (10, 20), (100, 120)):
        with pytest.raises(JudgeError, match=rf"sent {limit} requests, the most that .*max_requests allows") as caught:
            mark(server, tmp_path, documents, max_requests=limit)
        assert "\n" not in str(caught.value)
        assert len(server.bodies) == sent
    expected = [[str(1000 + n)] for n in range(len(documents))]
    assert mark(server, tmp_path, documents, max_requests=8) == expected
    assert mark(server, tmp_path, documents, max_requests=1) == expected
    assert set(server.counts.values()) == {1}
    assert len(server.bodies) == len(documents)


def test_too_many_passages_without_an_answer_make_no_dataset(
    server: JudgeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    documents = many(120)
    server.answer = lambda prompt, count: Response(status_code=400) if "1007" in prompt else years(prompt, count)
    assert [n for n, found in enumerate(mark(server, tmp_path, documents)) if not found] == [7]  # under one per cent
    assert "1 passages without an answer" in caplog.text
    broken = ("1007", "1011")
    server.answer = lambda prompt, count: (
        Response(status_code=400) if any(year in prompt for year in broken) else years(prompt, count)
    )
    sent = len(server.bodies)
    with pytest.raises(JudgeError, match=r"left 2 of 120 passages unanswered \(status 400: 2\).*about the others"):
        mark(server, tmp_path / "other", documents)
    server.answer = years
    assert mark(server, tmp_path / "other", documents) == [[str(1000 + n)] for n in range(120)]
    assert len(server.bodies) - sent == 120 + 2


def test_a_lost_server_is_one_line(server: JudgeServer, tmp_path: Path) -> None:
    server.answer = lambda *_: Response(status_code=401)
    with pytest.raises(JudgeError, match=r"refuses us \(status 401\)") as caught:
        mark(server, tmp_path)
    assert "\n" not in str(caught.value)


def test_who_is_asked_is_said_without_the_key(
    server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LACY_JUDGE_API_KEY", "sk-secret")
    with caplog.at_level(logging.WARNING):
        mark(server, tmp_path)
    assert server.headers[0]["authorization"] == "Bearer sk-secret"
    assert f"asking the server {server.url}, model m, with the key in LACY_JUDGE_API_KEY" in caplog.text
    assert "sk-secret" not in caplog.text
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"sk-secret" not in kept


def test_the_fingerprint_is_of_what_is_asked_not_of_where() -> None:
    def of(**settings: str) -> dict[str, object]:
        return annotator_fingerprint(AnnotateConfig(annotator="judge", **settings))  # type: ignore[arg-type]

    one = of(judge="http://a:1/v1#m")
    assert one == of(judge="http://b:2/v1#m")
    assert one != of(judge="http://a:1/v1#n")
    assert one != of(judge="http://a:1/v1#m", judge_body='{"seed": 1}')


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"judge": "localhost#m"}, "cannot read the judge's address"),
        ({"judge": "http://x/v1"}, "name the judge's model"),
        ({"judge": "http://me:secret@x/v1#m"}, "no name or password"),
        ({"judge": "http://x/v1#m", "judge_body": "{"}, "judge_body={: not JSON"),
        ({"judge": "http://x/v1#m", "judge_body": "[]"}, "not a JSON object"),
    ],
)
def test_wrong_settings_are_said_before_the_start(settings: dict[str, str], words: str) -> None:
    (line,) = judge_marks.problems(AnnotateConfig(annotator="judge", **settings))  # type: ignore[arg-type]
    assert words in line
    assert "secret" not in line
