"""FActScore against a judge on loopback that knows the truth, and against sums done by hand."""

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from starlette.responses import Response

from lacy_jax import factscore as door
from lacy_jax.cascade import Completion, Counts, Request
from lacy_jax.doors import enter
from lacy_jax.errors import DataError
from lacy_jax.evidence.factscore import atomic_facts, knowledge
from lacy_jax.evidence.factscore import scoring as factscore
from tests.evidence.judge_server import JudgeServer, serving
from tests.test_generate import workdir  # noqa: F401

pytestmark = pytest.mark.usefixtures("quick_judge")

BIOS = {
    "Marie Curie": "Marie Curie was born in Warsaw in 1867. She was a tailor.",
    "Alan Turing": "Alan Turing was a baker.",
    "Nobody": "...",
}
FACTS = {
    "Marie Curie was born in Warsaw in 1867.": ["Marie Curie was born in Warsaw.", "Marie Curie was born in 1867."],
    "She was a tailor.": ["Marie Curie was a tailor."],
    "Alan Turing was a baker.": ["Alan Turing was a baker."],
}
ARTICLES = {
    "Marie Curie": ["Marie Curie was a physicist born in Warsaw in 1867.", "She won the Nobel Prize."],
    "Alan Turing": ["Alan Turing was a mathematician."],
    "Nobody": ["An article."],
}


def knowing(prompt: str, _count: int) -> str | Response:
    """Splits by FACTS; true is what names a word of which the article's words consist."""
    if prompt.endswith("Facts:"):
        sentence = prompt.rsplit("Sentence: ", 1)[1].removesuffix("\nFacts:")
        return "Here you are:\n" + "\n".join(f"- {fact}" for fact in FACTS[sentence])
    fact = prompt.rsplit("Statement: ", 1)[1].removesuffix("\nAnswer:")
    last = fact.rstrip(".").split()[-1]
    return "True." if last in prompt.split("Statement: ", 1)[0].rsplit("By these passages", 1)[0] else "False"


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with serving(knowing) as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rows = [{"input": f"Tell {t}", "output": text, "topic": t, "cat": ["rare"]} for t, text in BIOS.items()]
    (tmp_path / "bios.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    articles = [{"title": title, "text": " ".join(parts)} for title, parts in ARTICLES.items()]
    (tmp_path / "wiki.jsonl").write_text("".join(json.dumps(row) + "\n" for row in articles))
    connection = sqlite3.connect(tmp_path / "wiki.db")
    connection.execute("CREATE TABLE documents (title PRIMARY KEY, text)")
    joined = [(t, knowledge.SEPARATOR.join(f"<s>{part}</s>" for part in parts)) for t, parts in ARTICLES.items()]
    connection.executemany("INSERT INTO documents VALUES (?, ?)", joined)
    connection.commit()
    connection.close()
    return tmp_path


def run(server: JudgeServer, files: Path, *more: str, knowledge_file: str = "wiki.db") -> int:
    arguments = [f"--judge={server.url}#m", f"--generations={files / 'bios.jsonl'}", f"--out={files / 'out'}"]
    return enter(door.DOOR, [*arguments, f"--knowledge={files / knowledge_file}", *more])


def result(files: Path) -> dict:
    return json.loads((files / "out" / "bios_factscore_output.json").read_text())


def test_the_sums_are_those_of_the_paper() -> None:
    def decided(*supported: bool) -> list[dict]:
        return [{"atom": "x", "is_supported": each} for each in supported]

    found = factscore.score([decided(True, True, False, True), decided(*[False] * 10, True, True), []])
    first, second = 3 / 4, 2 / 12
    assert found["init_score"] == pytest.approx((first + second) / 2)
    assert found["score"] == pytest.approx((first * math.exp(1 - 10 / 4) + second) / 2)
    assert found["respond_ratio"] == pytest.approx(2 / 3)
    assert found["num_facts_per_response"] == 8
    assert found["decisions"][2] is None
    assert factscore.score([decided(True)], gamma=0)["score"] == 1.0
    assert factscore.score([decided(*[True] * 10)])["score"] == 1.0  # exp(0)
    assert factscore.score([[]])["score"] is factscore.score([[]])["interval"] is None


@pytest.mark.parametrize("form", ["wiki.db", "wiki.jsonl"])
def test_from_texts_to_a_score(server: JudgeServer, files: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(server, files, knowledge_file=form) == 0
    found = result(files)
    # Curie: Warsaw and 1867 are there, a tailor is not; Turing was no baker; nobody has no facts.
    assert [[d["is_supported"] for d in own] if own else None for own in found["decisions"]] == [
        [True, True, False],
        [False],
        None,
    ]
    assert found["init_score"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["score"] == pytest.approx((2 / 3 * math.exp(1 - 10 / 3) + 0) / 2)
    assert found["respond_ratio"] == pytest.approx(2 / 3)
    assert found["num_facts_per_response"] == 2
    out, err = capsys.readouterr()
    # Of two texts drawn twice a quarter is twice the first, a quarter twice the second.
    assert found["interval"] == pytest.approx([0, 2 * found["score"]])
    assert "FActScore 3.2 (95% interval over texts: 0.0 to 6.5), 33.3 without the length penalty, 66.7% respond" in out
    assert "split into facts: 3 requests (0 answers are there)" in err
    assert "check the facts: 4 requests" in err
    assert len(server.bodies) == 7
    assert run(server, files, knowledge_file=form) == 0
    assert len(server.bodies) == 7  # all was there
    assert result(files) == found


def test_a_dry_run_asks_nothing_and_an_exact_one_follows(
    server: JudgeServer, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, files, "--dry_run", "--prompt_price=1") == 0
    assert not server.bodies
    err = capsys.readouterr().err
    assert "split into facts: 3 requests" in err
    assert "a guess" in err
    assert run(server, files, "--max_requests=3") == 2  # the sentences, and then no more
    assert len(server.bodies) == 3
    capsys.readouterr()
    assert run(server, files, "--dry_run") == 0
    assert "check the facts: 4 requests" in capsys.readouterr().err
    assert run(server, files) == 0
    assert len(server.bodies) == 3 + 4


def test_the_facts_can_be_fed_again_in_factscores_form(server: JudgeServer, files: Path) -> None:
    run(server, files)
    before, count = result(files)["decisions"][:2], len(server.bodies)
    rows = [json.loads(line) for line in (files / "out" / "bios_facts.jsonl").read_text().splitlines()]
    assert rows[0]["input"] == "Tell Marie Curie"
    assert rows[0]["cat"] == ["rare"]
    assert rows[0]["annotations"][1] == {
        "text": "She was a tailor.",
        "model-atomic-facts": [{"text": "Marie Curie was a tailor."}],
    }
    rows[2]["annotations"] = None  # left out, as FActScore does
    (files / "bios.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(server, files, "--use_atomic_facts") == 0
    assert result(files)["decisions"] == before
    assert len(server.bodies) == count
    # The lines that it was given are also what it gives on, with the facts that it found where it was to find them.
    fed = (files / "bios.jsonl").read_text().splitlines()
    assert (files / "out" / "bios_facts.jsonl").read_text().splitlines() == fed[:2]
    rows[0]["annotations"] = [{"text": "x", "model-atomic-facts": [{"text": "Somebody else's."}]}]
    (files / "bios.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(server, files, "--nouse_atomic_facts") == 0
    found = [json.loads(line) for line in (files / "out" / "bios_facts.jsonl").read_text().splitlines()]
    assert [[f["text"] for f in part["model-atomic-facts"]] for part in found[0]["annotations"]] == list(
        FACTS.values()
    )[:2]
    assert found[2]["annotations"] == []


def test_a_file_is_scored_whole_unless_told_otherwise(server: JudgeServer, files: Path) -> None:
    row = {"topic": "Alan Turing", "output": BIOS["Alan Turing"]}
    (files / "bios.jsonl").write_text((json.dumps(row) + "\n") * (factscore.ENTITIES + 1))
    assert run(server, files) == 0
    assert len(result(files)["decisions"]) == factscore.ENTITIES + 1
    assert run(server, files, "--limit=2") == 0
    assert len(result(files)["decisions"]) == 2


def test_answers_that_say_nothing_are_counted_apart_and_never_right(server: JudgeServer, files: Path) -> None:
    said = {
        "Marie Curie was born in Warsaw.": "It is hard to say.",
        "Marie Curie was born in 1867.": "True or False",
        "Marie Curie was a tailor.": Response(status_code=400),
    }

    def answer(prompt: str, count: int) -> str | Response:
        fact = prompt.rsplit("Statement: ", 1)[-1].removesuffix("\nAnswer:")
        return said.get(fact) or knowing(prompt, count)

    server.answer = answer
    assert run(server, files) == 1
    found = result(files)
    assert (found["unclear"], found["unanswered"], found["init_score"]) == (2, 1, 0.0)
    assert [d["verdict"] for d in found["decisions"][0]] == ["unclear", "unclear", "unanswered"]
    before = len(server.bodies)
    server.answer = knowing
    assert run(server, files) == 0
    assert len(server.bodies) == before + 1  # only the one that was left


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("True", "true"),
        (" true.\n", "true"),
        ("**False**", "false"),
        ("It is not true.", "unclear"),
        ("True, or false?", "unclear"),
        ("Yes", "unclear"),
        ("", "unclear"),
        ("untrue", "unclear"),
        (None, "unanswered"),
    ],
)
def test_verdicts(answer: str | None, verdict: str) -> None:
    assert atomic_facts.verdict_of(answer) == verdict


def test_sentences_and_facts() -> None:
    text = 'J. R. Smith met Dr. Jones. He said "Yes." Then he left!\n\n1. In 1999 he came back?  ...'
    assert atomic_facts.sentences_of(text) == [
        "J. R. Smith met Dr. Jones.",
        'He said "Yes."',
        "Then he left!",
        "In 1999 he came back?  ...",
    ]
    assert atomic_facts.facts_of("Sure:\n- a b\n* c\n2. d\n- a b\n-\nno item") == ["a b", "c", "d"]


def test_demonstrations_of_ones_own(tmp_path: Path) -> None:
    own = {f"sentence {index} here": [f"fact {index}"] for index in range(9)} | {"the green frog": ["a frog"]}
    (tmp_path / "demons.json").write_text(json.dumps(own))
    prompt = atomic_facts.facts_prompt(
        "a green frog jumps", demonstrations=atomic_facts.read_demonstrations(str(tmp_path / "demons.json"))
    )
    assert prompt.count("Sentence: ") == 7 + 1 + 1
    assert "- a frog" in prompt
    assert "fact 7" not in prompt
    (tmp_path / "demons.json").write_text("[]")
    with pytest.raises(DataError, match="a JSON object of sentences"):
        atomic_facts.read_demonstrations(str(tmp_path / "demons.json"))


def test_retrieval_ranks_within_the_article() -> None:
    passages = [knowledge.Passage("t", text) for text in ("He was born.", "Paris and London", 'OR "Paris" NOT', "d")]
    best = knowledge.Retrieval(passages).best('t Paris "London" OR', count=3)
    assert best[0].text == "Paris and London"
    assert best[1].text == 'OR "Paris" NOT'
    assert len(best) == 3
    assert knowledge.Retrieval(passages).best("!?", count=9) == passages
    assert [len(part.split()) for part in knowledge.passages_of("a " * 400)] == [192, 192, 16]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("bios.jsonl", '{"topic": "A"}\n'), "bios.jsonl, line 1: not an object of"),
        (("bios.jsonl", ""), "no generation in it"),
        (("bios.jsonl", '{"topic": "Who?", "output": "x"}\n'), "no article for 1 of 1 topics ('Who?')"),
        (("wiki.db", "SQLite format 3\0rubbish"), "not FActScore's table documents"),
        (("wiki.db", "words\n"), "line 1: not JSON"),
        (
            ("wiki.db", b"\x1f\x8b\xff"),
            "save the file as UTF-8; give FActScore's .db",
        ),
        (("wiki.db", '{"title": ["A"], "text": "x"}\n'), "line 1: not an object of"),
        (("wiki.db", '{"title": "A", "text": null}\n'), "line 1: not an object of"),
    ],
)
def test_wrong_files_end_in_one_line_and_cost_nothing(
    server: JudgeServer, files: Path, change: tuple[str, str | bytes], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / change[0]).write_bytes(change[1] if isinstance(change[1], bytes) else change[1].encode())
    assert run(server, files) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not server.bodies


class Writer:
    """Stands for a cascade, last request first; killed after `most` texts."""

    def __init__(self, most: int = 99) -> None:
        self.asked: list[str] = []
        self._most = most

    def iterate(self, requests: Sequence[Request], *, batch_size: int) -> Iterator[tuple[int, Completion]]:
        assert batch_size == 8
        for index in reversed(range(len(requests))):
            if len(self.asked) == self._most:
                raise KeyboardInterrupt
            prompt = requests[index].prompt
            self.asked.append(prompt)
            yield index, Completion(prompt, f" é{len(prompt)}", (), Counts(1), "end")


def test_writing_goes_on_after_a_kill(tmp_path: Path) -> None:
    entities, by = ["A", "Bé", "C", "D", "A"], {"budget": 0.2}
    path, partial, straight = tmp_path / "bios.jsonl", tmp_path / "bios.jsonl.partial", tmp_path / "straight.jsonl"

    def write(writer: Writer, where: Path, **written_by: float) -> None:
        factscore.write_generations(writer, entities, path=str(where), written_by=written_by)  # type: ignore[arg-type]

    write(Writer(), straight, **by)
    with pytest.raises(KeyboardInterrupt):
        write(Writer(most=2), path, **by)
    assert not path.exists()
    kept = partial.read_bytes()
    partial.write_bytes(kept + b'{"topic": "A", "output": "\xc3')  # cut within a character
    again = Writer()
    write(again, path, **by)
    assert len(again.asked) == 2
    assert path.read_bytes() == straight.read_bytes()
    assert factscore.are_written(entities, path=str(path), written_by=by)
    partial.write_bytes(kept)
    other = Writer()
    write(other, path, budget=0.3)
    assert len(other.asked) == 4


def test_facts_that_are_no_texts_are_told(tmp_path: Path) -> None:
    row = {"topic": "A", "output": "x", "annotations": [{"text": "x", "model-atomic-facts": [{"text": 5}]}]}
    (tmp_path / "bios.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"line 1: not an object of .*a fact must be a text"):
        factscore.read_generations(str(tmp_path / "bios.jsonl"), use_atomic_facts=True)


def test_factscores_entities_are_there() -> None:
    entities = factscore.read_entities(limit=0)
    assert len({*entities}) == 183
    assert factscore.read_entities() == entities[:100]
    assert entities[:3] == ["Kang Ji-hwan", "Kalki Koechlin", "William Post"]


def test_files_with_a_byte_order_mark_are_read_without_it(tmp_path: Path) -> None:
    (tmp_path / "entities.txt").write_text("# people\nMarie Curie\n", encoding="utf-8-sig")
    assert factscore.read_entities(str(tmp_path / "entities.txt")) == ["Marie Curie"]
    (tmp_path / "demons.json").write_text('{"A frog jumps.": ["A frog jumps."]}', encoding="utf-8-sig")
    assert atomic_facts.read_demonstrations(str(tmp_path / "demons.json")) == {"A frog jumps.": ["A frog jumps."]}


def test_biographies_by_the_protocol(
    workdir: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "entities.txt").write_text("Marie Curie\n\nAlan Turing\nNobody\n")
    out = tmp_path / "bios.jsonl"
    arguments = [f"--checkpoint={workdir}", f"--generations={out}", "--partner=none", "--limit=2"]
    arguments.append(f"--entities={tmp_path / 'entities.txt'}")
    assert enter(door.DOOR, arguments) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["topic"] for row in rows] == ["Marie Curie", "Alan Turing"]
    assert rows[0]["input"] == "Tell me a bio of Marie Curie. Marie Curie is"
    assert all(row["output"].startswith(f"{row['topic']} is") for row in rows)
    assert len(factscore.read_generations(str(out))) == 2
    # The same command again goes on with what is there, were it cut in the middle of a line; another one does not take
    # it for its own.
    written = out.read_bytes()
    assert enter(door.DOOR, arguments) == 0
    assert out.read_bytes() == written
    marked = written.replace(b'"output": "Marie Curie is', b'"output": "Marie Curie is (kept)')
    end = marked.index(b"\n") + 1
    out.rename(tmp_path / "bios.jsonl.partial").write_bytes(marked[: end + 60])
    assert enter(door.DOOR, arguments) == 0
    assert out.read_bytes() == marked
    assert not (tmp_path / "bios.jsonl.partial").exists()
    assert enter(door.DOOR, [*arguments, "--budget=0.5"]) == 2
    assert "exists" in capsys.readouterr().err
    (tmp_path / "entities.txt").write_text("Alan Turing\n")
    assert enter(door.DOOR, arguments) == 2
    assert "exists" in capsys.readouterr().err
