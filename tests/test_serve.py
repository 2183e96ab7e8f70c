"""The door of the server, in processes of its own: a real model, the official client, signals, wrong flags."""

import contextlib
import io
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import absl.logging
import httpx
import openai
import pytest

from lacy_jax import serve
from lacy_jax.cascade import Cascade
from lacy_jax.doors import enter
from tests.cascade.conftest import random_model, write_checkpoint
from tests.xla import xla_flags

ROOT = Path(__file__).parent.parent
PROMPTS = [
    f"{start} {end}" for start in ("Albert Einstein was", "The river", "In 1,234.5") for end in ("born", "in", "日")
]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(random_model(), tmp_path_factory.mktemp("serve") / "tiny")


def start(*flags: str, **environment: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "LACY_API_KEY"}
    return subprocess.Popen(
        [sys.executable, "-m", "lacy_jax.serve", "--port=0", *flags],
        cwd=ROOT,
        env={**inherited, "XLA_FLAGS": xla_flags(devices=1), **environment},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def serving(*flags: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process and its address."""
    process = start(*flags, **environment)
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            found = re.search(r"serving .* at (http://\S+)", line)
            if found:
                break
        else:
            raise AssertionError("".join(said))
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300)


def test_answers_are_those_of_the_cascade_and_sigterm_lets_them_end(export: Path) -> None:
    # A partner that is a checkpoint, the model itself: its pieces are real, and need no data.
    flags = [
        f"--checkpoint={export}",
        f"--partner=checkpoint:{export}",
        "--budget=0.5",
        "--batch_size=4",
        "--span=token",
        "--grace_seconds=300",
    ]
    with serving(*flags) as (process, url):
        models = client(url).models.list().data
        assert [(model.id, model.model_extra["lacy"]["partner"]) for model in models] == [("tiny", "checkpoint")]

        def ask(prompt: str, answers: dict[str, str], *, max_tokens: int = 12, budget: float = 0.0) -> None:
            stream = client(url).completions.create(
                model="tiny", prompt=prompt, max_tokens=max_tokens, stream=True, extra_body={"budget": budget}
            )
            answers[prompt] = "".join(chunk.choices[0].text for chunk in stream)

        together: dict[str, str] = {}
        threads = [threading.Thread(target=ask, args=(prompt, together)) for prompt in PROMPTS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cascade = Cascade(random_model(), None)
        expected = cascade.generate(PROMPTS, max_new_tokens=12)
        assert together == {completion.prompt: completion.text for completion in expected}

        answer = client(url).completions.create(model="tiny", prompt="The river", max_tokens=40)
        lacy = answer.choices[0].model_extra["lacy"]
        assert lacy["calls"] > 0
        # A random partner often ends its text at once: an unanswered call spends a token too.
        assert (lacy["delegated"] + lacy["unanswered"]) / lacy["generated"] == pytest.approx(0.5, abs=0.15)
        metrics = httpx.get(f"{url}/metrics", trust_env=False).text
        assert f"lacy_partner_questions_total {float(lacy['calls'])}" in metrics

        late: dict[str, str] = {}
        thread = threading.Thread(target=ask, args=("The river", late), kwargs={"max_tokens": 500, "budget": 0.5})
        thread.start()
        while "lacy_rows_running 1.0" not in httpx.get(f"{url}/metrics", trust_env=False).text:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        while httpx.get(f"{url}/health", trust_env=False).status_code == 200:
            time.sleep(0.01)
        with pytest.raises(openai.InternalServerError, match="shutting down"):
            client(url).completions.create(model="tiny", prompt="a")
        thread.join(300)
        assert late["The river"].startswith(answer.choices[0].text)
        assert process.wait(120) == 0


@pytest.mark.slow
def test_a_key_of_the_environment(export: Path) -> None:
    flags = [f"--checkpoint={export}", "--partner=none", "--host=0.0.0.0", "--model_name=mine"]
    with serving(*flags, LACY_API_KEY="sesame") as (process, url):
        local = url.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(openai.AuthenticationError):
            client(local).models.list()
        keyed = openai.OpenAI(base_url=f"{local}/v1", api_key="sesame", max_retries=0)
        answer = keyed.completions.create(model="mine", prompt="a", max_tokens=3, extra_body={"budget": 0.5})
        assert answer.choices[0].model_extra["lacy"]["calls"] == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0


def test_what_cannot_be_served_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(\"No module named 'uvicorn'\", name='uvicorn')")
    taken = socket.create_server(("127.0.0.1", 0))
    expected = {
        "no checkpoint; give --checkpoint": start(),
        "Address already in use": start("--checkpoint=absent", f"--port={taken.getsockname()[1]}"),
        "--batch_size=0: allowed is 1 or more": start("--checkpoint=absent", "--batch_size=0"),
        'uvicorn is not installed; pip install "lacy_jax[serve]"': start("--checkpoint=a", PYTHONPATH=str(tmp_path)),
    }
    for words, process in expected.items():
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out) == (2, "")
        assert words in err
        assert len(err.strip().splitlines()) == 1
    taken.close()


def test_a_door_that_is_entered_closes_nobodys_stream(capsys: pytest.CaptureFixture[str]) -> None:
    """absl's handler closes its stream when it is closed itself: in a program of the user's, the standard error."""
    theirs = io.StringIO()
    logging.getLogger().addHandler(absl.logging.PythonHandler(theirs))
    assert enter(serve.DOOR, ["--port=0"]) == 2
    assert "no checkpoint" in capsys.readouterr().err
    assert not theirs.closed


def test_a_start_that_fails_ends_with_a_status(export: Path, tmp_path: Path) -> None:
    # The device runs out of memory, say, while the programs are compiled.
    (tmp_path / "sitecustomize.py").write_text(
        "from lacy_jax.cascade.scheduler import Scheduler\n"
        "def warm_up(self):\n    raise MemoryError('no room for the cache')\n"
        "Scheduler.warm_up = warm_up\n"
    )
    process = start(f"--checkpoint={export}", "--partner=none", PYTHONPATH=f"{tmp_path}:{ROOT}")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "the server could not start" in said
    assert "no room for the cache" in said
