"""Folders as the hub's datasets have them, of questions invented here: what lm-evaluation-harness' own tasks read."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

TASKS = (
    "hellaswag",
    "piqa",
    "winogrande",
    "arc_easy",
    "arc_challenge",
    "openbookqa",
    "boolq",
    "lambada_openai",
    "sciq",
)
_LETTERS = ["A", "B", "C", "D"]


def _lettered(question: str, **asked: Any) -> list[dict[str, Any]]:
    """ARC and OpenBookQA: choices with letters; `question` names the field."""
    rows = [
        ("What does a kettle do to water?", ["It heats it.", "It dries it.", "It paints it.", "It sells it."], "A"),
        ("Which of these floats on a pond?", ["an anvil", "a brick", "a cork", "a nail"], "C"),
        ("A lamp gives", ["soup", "light", "wool", "rain"], "B"),
    ]
    return [
        {"id": f"q{nth}", question: text, "choices": {"text": choices, "label": _LETTERS}, "answerKey": key, **asked}
        for nth, (text, choices, key) in enumerate(rows)
    ]


_HELLASWAG = [
    {
        "ind": nth, "activity_label": label, "ctx_a": a, "ctx_b": b, "ctx": f"{a} {b}", "endings": endings,
        "source_id": f"invented~{nth}", "split": "val", "split_type": "indomain", "label": right,
    }
    for nth, (label, a, b, endings, right) in enumerate([
        ("Baking bread", "A woman kneads the dough on a board.", "she",
         ["puts it into the oven. [step] It browns.", "sails away.", "reads it a law.", "paints it green."], "0"),
        ("Mending a net", "[header] How to mend a net [title] Find the hole.", "the man",
         ["eats the net.", "knots new cord across it.", "melts it.", "marries it."], "1"),
    ])
]  # fmt: skip
_PIQA = [
    {"goal": "Keep a door open.", "sol1": "Push a wedge under it.", "sol2": "Whisper its name twice.", "label": 0},
    {"goal": "Dry a wet shoe", "sol1": "fill it with more water", "sol2": "stuff it with paper", "label": 1},
]
_WINOGRANDE = [
    {"sentence": "Nora lent Ida a coat because _ was cold.", "option1": "Nora", "option2": "Ida", "answer": "2"},
    {"sentence": "The jug broke the bowl since the _ was heavy.", "option1": "jug", "option2": "bowl", "answer": "1"},
]
_BOOLQ = [
    {"question": "is the lake of Torvik salty", "passage": "Torvik -- Its lake is fresh.", "idx": 0, "label": 0},
    {"question": "did Mara Olsen build a bridge", "passage": "Mara Olsen built two bridges.", "idx": 1, "label": 1},
]
_LAMBADA = [
    {"text": "The ferryman tied the boat, looked at the empty river and waited for the boat"},
    {"text": "She asked for salt, he passed the pepper, and again she asked for salt"},
]
_SCIQ = [
    {
        "question": "What melts into water?", "distractor1": "sand", "distractor2": "iron", "distractor3": "glass",
        "correct_answer": "ice", "support": "Ice melts at zero degrees.",
    },
    {
        "question": "What do bees make?", "distractor1": "paper", "distractor2": "silk", "distractor3": "coal",
        "correct_answer": "honey", "support": "",
    },
]  # fmt: skip
# Dataset -> config -> (split, rows), as the harness' tasks name them.
_SETS: dict[str, dict[str, tuple[str, list[dict[str, Any]]]]] = {
    "Rowan/hellaswag": {"default": ("validation", _HELLASWAG)},
    "baber/piqa": {"default": ("validation", _PIQA)},
    "allenai/winogrande": {"winogrande_xl": ("validation", _WINOGRANDE)},
    "allenai/ai2_arc": {"ARC-Easy": ("test", _lettered("question")), "ARC-Challenge": ("test", _lettered("question"))},
    "allenai/openbookqa": {"main": ("test", _lettered("question_stem"))},
    "aps/super_glue": {"boolq": ("validation", _BOOLQ)},
    "EleutherAI/lambada_openai": {"default": ("test", _LAMBADA)},
    "allenai/sciq": {"default": ("test", _SCIQ)},
}


def write_datasets(folder: Path) -> None:
    """`folder`/<owner>/<name> of each dataset: Parquet (LAMBADA: JSON lines) and the card that names its configs."""
    for dataset, configs in _SETS.items():
        lines = ["---", "configs:"]
        for config, (split, rows) in configs.items():
            lambada = dataset.endswith("lambada_openai")
            file = f"data/{config}_{split}.jsonl" if lambada else f"{config}/{split}-00000-of-00001.parquet"
            path = folder / dataset / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if lambada:
                path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
            else:
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
            lines += [f"- config_name: {config}", "  data_files:"]
            for each in dict.fromkeys(["train", split]):  # the harness looks at the training split, too
                lines += [f"  - split: {each}", f"    path: {file}"]
        (folder / dataset / "README.md").write_text("\n".join([*lines, "---", ""]))
