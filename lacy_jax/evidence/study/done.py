"""What is noted of a finished run of a study: how it was trained, how it was evaluated, and by which code.

A file of JSON. Those of commit 60e64f2 and before have two lines, the commands, and do not say which code it was.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lacy_jax
from lacy_jax.data.files import parse_json, write_whole
from lacy_jax.errors import DataError
from lacy_jax.evidence.closed_world.decodes import Decode, decode_text, parse_decode

UNKNOWN_CODE = "unknown code (runs noted it only later)"


@dataclass(frozen=True)
class Done:
    """A finished run. `trained`: the command; `evaluated`: the other command, but for `decodes`, which may be added to.

    code: all that trained or evaluated it, as `code_identity` says it.
    """

    trained: str
    evaluated: str
    decodes: frozenset[Decode]
    code: frozenset[str]

    def covers(self, wanted: "Done") -> bool:
        """Whether nothing of `wanted` is missing, by whichever code."""
        return self.is_of_the_same_run(wanted) and wanted.decodes <= self.decodes

    def is_of_the_same_run(self, other: "Done") -> bool:
        return (self.trained, self.evaluated) == (other.trained, other.evaluated)


def read_done(path: Path) -> Done | None:
    """What was noted; None where nothing was. Raises `DataError` where it cannot be understood."""
    if not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        if not text.startswith("{"):
            return _of_two_lines(*text.splitlines())
        fields = parse_json(text)
        decodes = frozenset(parse_decode(json.dumps(each)) for each in fields["decodes"])
        return Done(fields["trained"], fields["evaluated"], decodes, frozenset(fields["code"]))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(f"{path}: not what a study notes ({error}); without it the run is evaluated again") from None


def write_done(path: Path, done: Done) -> None:
    """Notes a finished run, and keeps what was noted of it before."""
    before = read_done(path)
    if before is not None and before.is_of_the_same_run(done):
        done = dataclasses.replace(done, decodes=done.decodes | before.decodes, code=done.code | before.code)
    fields = {
        "trained": done.trained,
        "evaluated": done.evaluated,
        "decodes": [json.loads(each) for each in sorted(map(decode_text, done.decodes))],
        "code": sorted(done.code),
    }
    write_whole(path, f"{json.dumps(fields, ensure_ascii=False, indent=1)}\n".encode())


def code_identity() -> str:
    """The version, and a hash of all source files of the package: what a wheel and a checkout both have."""
    root = Path(lacy_jax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for suffix in ("py", "toml") for path in root.rglob(f"*.{suffix}")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return f"lacy_jax {lacy_jax.__version__}, source {digest.hexdigest()[:12]}"


def _of_two_lines(trained: str, evaluated: str) -> Done:
    words = re.split(" (?=--)", evaluated)
    flag = "--decode="
    decodes = frozenset(_old_decode(word.removeprefix(flag)) for word in words if word.startswith(flag))
    others: Sequence[str] = [word for word in words if not word.startswith(flag)]
    return Done(trained, " ".join(others), decodes, frozenset({UNKNOWN_CODE}))


def _old_decode(text: str) -> Decode:
    """Of the form NAME:score=SCORE,gate=GATE,span=SPAN,budgets=B/B,partner=PARTNER."""
    name, _, rest = text.partition(":")
    fields = dict(item.split("=", 1) for item in rest.split(","))
    budgets = [float(budget) for budget in fields.pop("budgets").split("/")]
    return parse_decode(json.dumps({"name": name, **fields, "budgets": budgets}))
