"""lm-evaluation-harness' own tasks on local copies: the same scores by our model type and by the hf export."""

import importlib
import importlib.metadata
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lacy_jax.checkpoints.export import export
from lacy_jax.errors import ConfigError
from tests.evidence.harness_data import TASKS, write_datasets

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.parity

# Where the harness has the tasks of TASKS.
FOLDERS = {"hellaswag", "piqa", "winogrande", "arc", "openbookqa", "super_glue", "lambada", "sciq"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    write_datasets(folder)
    return folder


@pytest.fixture
def harness(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The harness' registry, in the folder of the local copies; `datasets` must not have been imported before."""
    monkeypatch.chdir(data)
    for name, value in {"HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    found = pytest.importorskip("lm_eval")
    index = importlib.import_module("lm_eval.tasks._index").TaskIndex
    every = index._iter_yaml_files

    def few(root: Path) -> Iterator[Path]:
        """The harness reads the files of its 14,000 tasks in 40 seconds; the command line below still does."""
        return (path for path in every(root) if path.relative_to(root).parts[0] in FOLDERS)

    monkeypatch.setattr(index, "_iter_yaml_files", few)
    return found


def samples(harness: Any, model: Any, **model_args: Any) -> dict[str, list[Any]]:
    """(log-likelihood, greedy) of all continuations of each task."""
    found = harness.simple_evaluate(model, model_args=model_args, tasks=list(TASKS), batch_size=4, bootstrap_iters=0)
    return {
        task: [response for sample in rows for response in sample["filtered_resps"]]
        for task, rows in found["samples"].items()
    }


def test_equal_scores_by_the_export(harness: Any, small_run: Path, tmp_path: Path) -> None:
    """With `<CALL>` among the tokens, as transformers has it; without, after taking it out of the export's softmax."""
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from lm_eval.models.huggingface import HFLM

    from lacy_jax.evidence.harness import JaxLM

    export(str(small_run), out=str(tmp_path / "hf"), format="hf")
    theirs = HFLM(pretrained=str(tmp_path / "hf"), dtype="float32", device="cpu", batch_size=4)
    assert compare(samples(harness, JaxLM(str(small_run), call="included", batch_size=4)), samples(harness, theirs))
    call, forward = theirs.tokenizer.convert_tokens_to_ids("<CALL>"), theirs._model_call

    def without_call(*arguments: Any, **more: Any) -> Any:
        logits = forward(*arguments, **more)
        logits[..., call] = -torch.inf
        return logits

    theirs._model_call = without_call
    assert compare(samples(harness, JaxLM(str(small_run), batch_size=4)), samples(harness, theirs))


def compare(ours: dict[str, list[Any]], theirs: dict[str, list[Any]]) -> bool:
    assert set(ours) == set(theirs) == set(TASKS)
    for task in TASKS:
        np.testing.assert_allclose(*([each[0] for each in side[task]] for side in (ours, theirs)), atol=1e-3, rtol=0)
        assert [each[1] for each in ours[task]] == [each[1] for each in theirs[task]]
    return True


def test_rolling_and_written_text(harness: Any, small_run: Path, tmp_path: Path) -> None:  # noqa: ARG001
    """A text of several windows. transformers scores it so if its tokenizer puts nothing before the text itself."""
    pytest.importorskip("transformers")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from lacy_jax.evidence.harness import JaxLM

    def asked(kind: str, *arguments: Any) -> list[Any]:
        return [Instance(request_type=kind, doc={}, arguments=arguments, idx=0)]

    export(str(small_run), out=str(tmp_path / "hf"), format="hf")
    ours = JaxLM(str(small_run), call="included", batch_size=2)
    theirs = HFLM(pretrained=str(tmp_path / "hf"), dtype="float32", device="cpu", batch_size=2, add_bos_token=False)
    rolling = asked("loglikelihood_rolling", "The river flows through ten countries. " * 8)
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(theirs.loglikelihood_rolling(rolling), abs=1e-3)
    writing = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}
    theirs.add_bos_token = None
    request = asked("generate_until", "The city of", writing)
    (text,) = ours.generate_until(request)
    assert text == theirs.generate_until(request)[0]
    stop = text[3:5]
    (shorter,) = ours.generate_until(asked("generate_until", "The city of", writing | {"until": stop}))
    assert shorter == text.partition(stop)[0]


def test_the_harness_finds_it(harness: Any, small_run: Path) -> None:
    """By the entry point, as releases after 0.4.13 read it: a name, and where the class is."""
    from lm_eval.api.registry import Registry

    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lm_eval.models"]
    registry: Any = Registry("model")
    for name, target in points.items():
        point = importlib.metadata.EntryPoint(name=name, value=target, group="lm_eval.models")
        registry.register(name, target=point)
    model = registry.get("lacy_jax").create_from_arg_obj({"checkpoint": str(small_run)}, {"batch_size": 2})
    assert isinstance(model, harness.api.model.LM)
    assert model.batch_size == 2


def test_the_command_line(data: Path, small_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": str(ROOT)}

    asked = ["--model", "lacy_jax", "--model_args", f"checkpoint={small_run}", "--tasks", "sciq,piqa"]
    done = subprocess.run(
        [sys.executable, "-m", "lacy_jax.lm_eval", *asked, "--batch_size", "4"],
        cwd=data, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "|sciq" in done.stdout
    assert "|acc_norm" in done.stdout


@pytest.mark.parametrize("wrong", [{"call": "maybe"}, {"dtype": "int8"}, {"batch_size": "0"}, {"start_token": "<no>"}])
def test_wrong_arguments(harness: Any, small_run: Path, wrong: dict[str, Any]) -> None:  # noqa: ARG001
    from lacy_jax.evidence.harness import JaxLM

    with pytest.raises(ConfigError, match=next(iter(wrong))):
        JaxLM(str(small_run), **wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"checkpont": "a"}, "checkpont.*did you mean checkpoint"),
        ({"checkpoint": "a", "batch_size": 4}, "give --batch_size as a flag"),
        ({"call": "included"}, "checkpoint=... is needed"),
    ],
)
def test_wrong_model_args(harness: Any, wrong: dict[str, Any], said: str) -> None:  # noqa: ARG001
    from lacy_jax.evidence.harness import JaxLM

    with pytest.raises(ConfigError, match=said):
        JaxLM.create_from_arg_obj(wrong, {"device": None})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "lacy_jax", "--tasks", "nonesuch"), "Tasks not found: nonesuch"),
        (("--model", "lacy_jaxx", "--tasks", "sciq"), "lacy_jaxx"),
        (("--model", "lacy_jax", "--tasks", "sciq", "--apply_chat_template"), "templates are not supported"),
        (("--model", "lacy_jax", "--tasks", "hellaswag"), "Rowan/hellaswag"),
        (("--model", "lacy_jax", "--tasks", "sciq", "--model_args", "checkpoint=nowhere"), "nowhere"),
    ],
)
def test_what_the_harness_refuses_is_one_line(
    harness: Any,  # noqa: ARG001
    small_run: Path,
    words: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lacy_jax.lm_eval import main

    if "hellaswag" in words:
        monkeypatch.chdir(small_run)  # without the local copies
    monkeypatch.setattr(sys, "argv", ["lm_eval", "--model_args", f"checkpoint={small_run}", *words])
    assert main() == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("lm_eval: ")
    assert said in line
