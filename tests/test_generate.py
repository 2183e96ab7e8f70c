"""The door of the cascade: what it prints, and what it refuses in one line."""

import dataclasses
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import pytest

from lacy_jax import generate, terminal
from lacy_jax.cascade import Cascade
from lacy_jax.cascade.decoding import programs
from lacy_jax.cascade.decoding.engine import Engine
from lacy_jax.cascade.decoding.session import Session
from lacy_jax.cascade.partners.checkpoint import CheckpointPartner
from lacy_jax.cascade.render import as_json
from lacy_jax.checkpoints.format import META_FILE, model_meta
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.config import CascadeConfig, Config, CorpusConfig, DataConfig, ModelConfig
from lacy_jax.data.corpus import corpus_fingerprint
from lacy_jax.data.tokenizer import Tokenizer, train_tokenizer
from lacy_jax.doors import enter
from lacy_jax.errors import DataError
from lacy_jax.model import decoder
from tests.cascade.conftest import random_params

ARTICLES = [
    ("Albert Einstein", "Albert Einstein was born in Ulm on 14 March 1879, and died in Princeton on 18 April 1955."),
    ("Danube", "The Danube flows through ten countries: Germany, Austria, Slovakia, Hungary, Croatia and others."),
    ("Marie Curie", "Marie Curie was born in Warsaw in 1867. She won the Nobel Prize in 1903 and again in 1911."),
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a random SLM whose own corpus is ARTICLES."""
    folder = tmp_path_factory.mktemp("run")
    corpus = folder / "articles.jsonl"
    corpus.write_text("".join(json.dumps({"id": t, "title": t, "text": text}) + "\n" for t, text in ARTICLES))
    tokenizer = Tokenizer.from_bytes(train_tokenizer([text for _, text in ARTICLES] * 3, vocab_size=340))
    config = Config(
        model=ModelConfig(layers=2, width=32, heads=2, context=96, compute_dtype="float32"),
        corpus=CorpusConfig(name="jsonl", files=str(corpus)),
        data=DataConfig(directory=str(folder / "data")),
        cascade=CascadeConfig(max_new_tokens=30),
    )
    params = random_params(config.model, vocab=decoder.padded_vocab(tokenizer.vocab_size), seed=0, scale=8.0)
    step = folder / "checkpoints" / "5"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(step / "params", params)
    (step / "meta").mkdir()
    data = {"corpus": corpus_fingerprint(config.corpus)}
    meta = model_meta(config, tokenizer=tokenizer, step=5, data=data, call_scores=[-9.0, -7.0, -5.0])
    (step / META_FILE).write_text(json.dumps(meta))
    return folder


def programs_so_far() -> int:
    return sum(each._cache_size() for each in vars(programs).values() if hasattr(each, "_cache_size"))


def run(*arguments: str) -> int:
    return enter(generate.DOOR, arguments)


def test_prints_marked_text_and_the_share(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(f"--checkpoint={workdir}", "--prompt=Marie Curie was born", "--prompt=The Danube flows", "--budget=0.5")
    out, err = capsys.readouterr()
    first, second = out.strip().split("\n\n", 1)
    assert first.startswith("Marie Curie was born")
    assert second.startswith("The Danube flows")
    assert "⟦" in out
    assert "\x1b" not in out
    assert err.strip().splitlines()[-1].startswith("share 0.")
    assert f"partner: the documents of {workdir}/articles.jsonl\n" in err
    assert list((workdir / "data").glob("documents-*.sqlite"))  # beside the prepared data


def test_budget_one_reads_the_document(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "Marie Curie was born in"
    run(f"--checkpoint={workdir}", f"--prompt={prompt}", "--budget=1", "--max_new_tokens=20", "--json")
    out, err = capsys.readouterr()
    row = json.loads(out)
    assert ARTICLES[2][1].startswith(row["prompt"] + row["text"])
    assert row["counts"]["share"] == 1.0
    assert {piece["source"] for piece in row["pieces"]} == {"partner"}
    assert "share 1.000" in err


def foreign(workdir: Path, folder: Path, **settings: Any) -> Path:
    """A copy of the run, as somebody else might send it: its description names other settings."""
    shutil.copytree(workdir / "checkpoints", folder / "checkpoints")
    path = folder / "checkpoints" / "5" / META_FILE
    meta = json.loads(path.read_text())
    for section, values in settings.items():
        meta["config"][section] |= values
    path.write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize("form", ["http", "database", "documents", "checkpoint", "reader", "other"])
def test_a_checkpoint_alone_reaches_no_server_and_no_file(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"id": "1", "title": "Key", "text": "The key is 1234."}\n')
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        specs = {
            "http": f"http://127.0.0.1:{server.getsockname()[1]}/v1",
            "database": f"database:{secret}",
            "documents": f"documents:{secret}",
            "checkpoint": f"checkpoint:{workdir}",
            "reader": f"reader:{workdir}",
            "other": "oracle",
        }
        checkpoint = foreign(workdir, tmp_path / "run", cascade={"partner": specs[form]})
        assert run(f"--checkpoint={checkpoint}", "--prompt=The key is", "--budget=1") == 2
        with pytest.raises(BlockingIOError):  # nobody called
            server.accept()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"asks for the partner {specs[form]!r}" in err
    assert f"--partner={specs[form]}" in err
    run(f"--checkpoint={checkpoint}", "--prompt=The key is", "--partner=none", "--max_new_tokens=2", "--json")
    assert json.loads(capsys.readouterr().out)["counts"]["delegated"] == 0


def test_a_partner_on_the_command_is_agreement(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = f"documents:{workdir}/articles.jsonl"
    checkpoint = foreign(workdir, tmp_path / "run", cascade={"partner": spec})
    words = [f"--checkpoint={checkpoint}", f"--partner={spec}", "--prompt=Marie Curie was born in", "--budget=1"]
    assert run(*words, "--max_new_tokens=3", "--json") == 0
    out, err = capsys.readouterr()
    assert " Warsaw" in json.loads(out)["text"]
    assert f"partner: the documents of {workdir}/articles.jsonl\n" in err


@pytest.mark.parametrize("agreed", [(), ("--partner=documents",), ("--partner=reader:{workdir}",)])
def test_files_that_a_checkpoint_was_not_trained_on_are_not_read(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], agreed: tuple[str, ...]
) -> None:
    secret = tmp_path / "articles.jsonl"
    secret.write_text('{"id": "1", "title": "Key", "text": "The key is 1234."}\n')
    places = {"corpus": {"files": str(secret)}, "data": {"directory": str(tmp_path / "data")}}
    checkpoint = foreign(workdir, tmp_path / "run", **places)
    flags = [flag.format(workdir=workdir) for flag in agreed]
    assert run(f"--checkpoint={checkpoint}", "--prompt=The key is", "--budget=1", *flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"documents:{secret}" in err
    assert not list((tmp_path / "data").glob("*.sqlite"))
    with pytest.raises(DataError, match="not what it was trained on"):
        Cascade(load_model(str(checkpoint)), "documents")


def test_a_corpus_of_other_code_needs_agreement(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = foreign(workdir, tmp_path / "run", corpus={"name": "tfds"})
    assert run(f"--checkpoint={checkpoint}", "--prompt=The key is") == 2
    assert "'documents' over the corpus 'tfds'" in capsys.readouterr().err


@pytest.mark.parametrize("budget", [(), ("--budget=1",)])
def test_the_api_writes_what_the_door_writes(
    workdir: Path, capsys: pytest.CaptureFixture[str], budget: tuple[str, ...]
) -> None:
    """The same checkpoint has one set of settings: how far the partner writes, how long, by which score."""
    prompts = ["Marie Curie was born in", "Albert Einstein was born in Ulm on", "The Danube"]
    run(f"--checkpoint={workdir}", *(f"--prompt={prompt}" for prompt in prompts), *budget, "--json")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    changes = {"budget": 1.0} if budget else {}
    cascade = Cascade(load_model(str(workdir)), "documents", **changes)
    completions = cascade.generate(prompts)
    assert [completion.text for completion in completions] == [row["text"] for row in rows]
    assert [as_json(completion)["counts"] for completion in completions] == [row["counts"] for row in rows]
    if budget:
        assert any(piece.text == " 14 March 1879" for piece in completions[1].pieces)  # a phrase
    assert cascade.settings == dataclasses.replace(load_model(str(workdir)).config.cascade, **changes)


def test_colour_on_a_terminal(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(terminal, "wants_colour", lambda stream: isinstance(stream, io.TextIOBase))
    run(f"--checkpoint={workdir}", "--prompt=Marie Curie was born in", "--budget=1", "--max_new_tokens=3")
    assert "\x1b[1;36m Warsaw" in capsys.readouterr().out


def test_prompts_from_a_file_and_other_partners(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffThe\u2028Danube\r\n\nMarie Curie\n", encoding="utf-8", newline="")
    for partner, delegates in (("none", False), (str(workdir), True), (f"documents:{workdir}/articles.jsonl", True)):
        run(f"--checkpoint={workdir}/checkpoints/5", f"--prompts_file={file}", f"--partner={partner}", "--json")
        rows = [json.loads(line) for line in capsys.readouterr().out.strip().split("\n")]
        assert [row["prompt"] for row in rows] == ["The\u2028Danube", "Marie Curie"]
        assert any(row["counts"]["delegated"] for row in rows) is delegates


def test_prompts_of_several_lines_are_json_lines(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ["Danube\n\nThe Danube", "Marie\u2028Curie", " x"]
    file = tmp_path / "prompts.jsonl"
    lines = [json.dumps(prompts[0]), "", json.dumps({"prompt": prompts[1], "more": 1}), json.dumps({"prompt": " x"})]
    file.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8", newline="")
    words = (f"--checkpoint={workdir}", "--prompt=a", f"--prompts_file={file}", "--partner=none", "--max_new_tokens=2")
    assert run(*words, "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.strip().split("\n")]
    assert [row["prompt"] for row in rows] == ["a", *prompts]


def test_a_partner_compiles_before_the_first_text(
    workdir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what the prompts need, which is known: nothing is compiled while it is asked."""
    compiled: list[int] = []

    def answered(partner: CheckpointPartner, texts: Sequence[str]) -> list[str]:
        before = programs_so_far()
        pieces = complete(partner, texts)
        compiled.append(programs_so_far() - before)
        return pieces

    jax.clear_caches()
    complete = CheckpointPartner.complete
    monkeypatch.setattr(CheckpointPartner, "complete", answered)
    words = [f"--checkpoint={workdir}", f"--partner={workdir}", "--budget=0.5", "--max_new_tokens=20"]
    assert run(*words, "--prompt=The Danube", "--prompt=Marie Curie was born in", "--json") == 0
    assert f"partner checkpoint:{workdir} compiles its programs before it is first asked" in caplog.messages
    assert len(compiled) > 2
    assert set(compiled) == {0}


def test_a_session_compiles_for_rows_of_a_length(workdir: Path) -> None:
    engine = Engine(load_model(str(workdir)))
    session = Session(engine, slots=2)
    session._groups[0]._buckets = (24, 48, 96)
    whole = session.warm_up()
    counts = [session.warm_up(length=length) for length in (3, 23, 24, 47, 48, 500)]
    assert counts[0] == counts[1] < counts[2] == counts[3] < counts[4] == counts[5] == whole


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("The Danube", "not JSON"),
        ('"cut', "not JSON"),
        ("[" * 5000, "not JSON"),
        ('["The Danube"]', "neither a JSON string nor an object"),
        ('{"text": "The Danube"}', "neither a JSON string nor an object"),
        ('{"prompt": 3}', "neither a JSON string nor an object"),
        ("null", "neither a JSON string nor an object"),
        ('""', "empty"),
        ('"\\ud800"', "surrogate"),
    ],
)
def test_a_bad_line_of_prompts_is_named(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, named: str
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'"The Danube"\n\n{line}\n')
    assert run(f"--checkpoint={workdir}", f"--prompts_file={file}") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"{file}, line 3: " in err
    assert named in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--prompt=x"], "no checkpoint"),
        (["--checkpoint={workdir}/nothing", "--prompt=x"], "no such folder"),
        (["--checkpoint={workdir}"], "no prompt"),
        (["--checkpoint={workdir}", "--prompt="], "--prompt: empty"),
        (["--checkpoint={workdir}", "--prompt= \n"], "--prompt: empty"),
        (["--checkpoint={workdir}", "--prompts_file={workdir}/nothing"], "cannot be read"),
        (["--checkpoint={workdir}", "--prompt=x", "--partner=oracle"], "unknown partner 'oracle'; allowed: documents"),
        (["--checkpoint={workdir}", "--prompt=x", "--partner=documents:no.jsonl"], "no.jsonl"),
        (["--checkpoint={workdir}", "--prompt=x", "--partner=checkpoint:nowhere"], "nowhere"),
        (["--checkpoint={workdir}", "--prompt=x", "--budget=1.5"], "budget=1.5"),
        (["--checkpoint={workdir}", "--prompt=x", "--partner=none", "--budget=-1"], "budget=-1"),
        (["--checkpoint={workdir}", "--prompt=x", "--max_new_tokens=0"], "--max_new_tokens=0"),
        (["--checkpoint={workdir}", "--prompt=x", "--batch_size=0"], "--batch_size=0"),
        (["--checkpoint={workdir}", "--prompt=\udcff"], "surrogate"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(
    workdir: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert run(*(argument.format(workdir=workdir) for argument in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err
    assert len(err.strip().splitlines()) == 1


def test_as_a_command(workdir: Path) -> None:
    command = [sys.executable, "-m", "lacy_jax.generate", f"--checkpoint={workdir}", "--max_new_tokens=5"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([*command, "--prompt=The Danube"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The Danube")
    assert "tokens delegated" in done.stderr.strip().splitlines()[-1]
    wrong = subprocess.run([*command, "a prompt"], capture_output=True, text=True, env=environment)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.strip() == "generate: unexpected argument 'a prompt'; prompts are given by --prompt=..."
