"""What somebody might send: files and texts that are nearly right, and values that are hardly ever right."""

import contextlib
import copy
import json
import os
from collections.abc import Iterator
from typing import Any

import hypothesis
from hypothesis import strategies as st

# Few in `make test`; CONTRIBUTING.md has the command for many.
EXAMPLES = int(os.environ.get("LACY_FUZZ_EXAMPLES", "50"))
fuzz = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="LACY_FUZZ_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@contextlib.contextmanager
def refused(*kinds: type[Exception], naming: str = "") -> Iterator[None]:
    """What happens inside succeeds, or raises one of `kinds` with a message that names what is at fault."""
    problem = None
    try:
        yield
    except kinds as error:
        problem = str(error)
    if problem is not None:
        assert problem.strip()
        assert naming in problem
        assert len(problem) < 20_000


# JSON that Python's own values cannot stand for, or only at the price of writing them: put in after the rest is text.
_RAW = {"\u241fdigits": "9" * 5_000, "\u241fdeep": "[" * 3_000 + "]" * 3_000, "\u241flarge": "1e999"}
_ODD: list[Any] = [
    None, True, False, 0, 1, -1, 7, 10**9, 5 * 10**8, 10**12, 2**63, 10**30, 0.0, -0.5, 1e308, float("nan"),
    float("inf"), "", "x", "\ud800", "\x00", "a\nb", "../../etc/passwd", "/etc/passwd", [], {}, [None], [[]],
    {"": None}, {"a": {"a": []}}, *_RAW,
]  # fmt: skip
_listed = st.sampled_from(_ODD).map(copy.deepcopy)  # they are put into values that are then changed
odd = _listed | st.integers() | st.floats() | st.text() | st.lists(_listed, max_size=3)


def as_json(value: Any) -> str:
    """JSON as `json.dumps` writes it, with what only text can say."""
    text = json.dumps(value)
    for name, raw in _RAW.items():
        text = text.replace(json.dumps(name), raw)
    return text


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values within one; of a long list only the first few."""
    yield above
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value[:20])
        for key, child in items:
            yield from _places(child, (*above, key))


@st.composite
def changed_json(draw: st.DrawFn, good: Any) -> str:
    """The JSON of `good` with one to three values replaced by odd ones, taken out or put in."""
    value = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from(list(_places(value)))) or (None,)
        if last is None:
            return as_json(draw(odd))
        node = value
        for key in above:
            node = node[key]
        match draw(st.sampled_from(("replace", "replace", "remove", "add"))):
            case "replace":
                node[last] = draw(odd)
            case "remove":
                del node[last]
            case "add" if isinstance(node, dict):
                node[draw(st.text(max_size=5))] = draw(odd)
            case _:
                node.insert(last, draw(odd))
    return as_json(value)


@st.composite
def changed_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """`good` with some bytes changed, a part taken out or doubled, or cut."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        end = min(len(data), start + draw(st.integers(1, 40)))
        match draw(st.sampled_from(("set", "remove", "double", "cut", "insert"))):
            case "set":
                data[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
            case "remove":
                del data[start:end]
            case "double":
                data[start:start] = data[start:end]
            case "cut":
                del data[start:]
            case _:
                data[start:start] = draw(st.binary(max_size=20))
    return bytes(data)


any_text = st.text(st.characters(exclude_categories=())) | st.text("\x00\ud800\udfff a1.,\n\u2028\u0301\u202e😀東'\"-")
