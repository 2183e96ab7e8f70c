"""What a client may ask: the JSON of a request, checked, and the rows of the scheduler that it becomes."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

import pydantic
import pydantic_core
from pydantic import BaseModel, ConfigDict, Field

from lacy_jax.cascade import Opening, Request, Sampling
from lacy_jax.errors import did_you_mean
from lacy_jax.serving.chat import Message
from lacy_jax.serving.errors import ApiError
from lacy_jax.serving.settings import Settings

DEFAULT_MAX_TOKENS = 16  # OpenAI's
MAX_MESSAGES = 1000
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 200
_SEEDS = 1 << 32

# Fields of OpenAI's that change the text or the answer in a way that the cascade cannot: refused rather than ignored,
# unless they ask for nothing.
_Unsupported = Mapping[str, tuple[Any, ...]]
_NEITHER: _Unsupported = {"logit_bias": ({},), "frequency_penalty": (0,), "presence_penalty": (0,)}
_NO_COMPLETION: _Unsupported = {"logprobs": (), "best_of": (1,), "suffix": ("",), **_NEITHER}
_NO_CHAT: _Unsupported = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    **_NEITHER,
}
# Fields about the client, its account or its bill: they change no text, and have no meaning here.
IGNORED = ("user", "metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier")


_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _StreamOptions(BaseModel):
    model_config = _STRICT

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # OpenAI's padding of a stream's parts; there is none here


class _Body(BaseModel):
    """What both routes take: types and ranges. Unknown fields are refused, as OpenAI does; null means "not given"."""

    model_config = _STRICT

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)] | None = None
    stop: list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]] | None = Field(
        default=None, max_length=MAX_STOPS
    )
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    budget: Annotated[float, Field(ge=0.0, le=1.0)] | None = None  # ours
    price: Annotated[float, Field(ge=0.0, le=1.0)] | None = None  # ours
    repetition_penalty: Annotated[float, Field(ge=1.0, le=10.0)] | None = None  # vLLM's

    @pydantic.field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class _Completion(_Body):
    """A request of /v1/completions."""

    prompt: list[str]
    echo: bool | None = None

    @pydantic.field_validator("prompt", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if isinstance(value, list) and any(isinstance(part, int | list) for part in value):
            raise ValueError("arrays of token ids are not supported; give the prompt as text")
        if not isinstance(value, str | list) or value == []:
            raise ValueError("expected a string or a list of strings with at least one")
        return [value] if isinstance(value, str) else value


class _Message(BaseModel):
    """A message, and what an answer's message has besides: clients send it back as they got it.

    They also put in fields of their own that are null, which say nothing.
    """

    model_config = _STRICT

    role: Literal["system", "user", "assistant"]
    content: str
    annotations: Annotated[list[Any], Field(max_length=0)] = []
    tool_calls: Annotated[list[Any], Field(max_length=0)] = []
    lacy: Any = None  # ours: who wrote what

    @pydantic.model_validator(mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: each for name, each in value.items() if each is not None or name in ("role", "content")}

    @pydantic.field_validator("content", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return "".join(map(_text_of, value)) if isinstance(value, list) else value


class _Chat(_Body):
    """A request of /v1/chat/completions."""

    messages: Annotated[list[_Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None


def _text_of(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise ValueError(
            'expected a string, or parts such as {"type": "text", "text": "..."}; others are not supported'
        )
    text: str = part["text"]
    return text


@dataclass(frozen=True)
class Asked:
    """A checked request. `rows`: one for each choice, prompts outermost, as OpenAI numbers choices.

    messages: of a chat, whose one prompt is what the partner reads: their texts.
    """

    prompts: tuple[str, ...]
    rows: tuple[Request, ...]
    stream: bool
    include_usage: bool
    echo: bool = False
    messages: tuple[Message, ...] = ()

    def opened(self, opening: Opening) -> "Asked":
        """The chat as its model reads it."""
        return replace(self, rows=tuple(replace(row, opening=opening) for row in self.rows))


def parse(body: bytes, settings: Settings) -> Asked:
    """The request in a body of /v1/completions.

    Raises:
        ApiError: 400 for what is malformed, out of range or not supported; 404 for another model.
    """
    asked = _checked(_Completion, body, _NO_COMPLETION)
    _within_limits(asked, settings, prompts=asked.prompt, blame="prompt")
    length = min(DEFAULT_MAX_TOKENS, settings.max_tokens) if asked.max_tokens is None else asked.max_tokens
    return Asked(
        prompts=tuple(asked.prompt),
        rows=_rows(asked, asked.prompt, length=length),
        stream=bool(asked.stream),
        include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        echo=bool(asked.echo),
    )


def parse_chat(body: bytes, settings: Settings) -> Asked:
    """The request in a body of /v1/chat/completions; raises as `parse` does."""
    asked = _checked(_Chat, body, _NO_CHAT)
    lengths = {each for each in (asked.max_tokens, asked.max_completion_tokens) if each is not None}
    if len(lengths) > 1:
        message = "max_tokens and max_completion_tokens are the same; give one of them"
        raise ApiError(400, message, param="max_completion_tokens")
    length = lengths.pop() if lengths else settings.max_tokens
    prompt = "".join(f"{message.content}\n\n" for message in asked.messages)
    _within_limits(asked, settings, prompts=[prompt], blame="messages")
    _within_length(length, settings, blame="max_completion_tokens")
    return Asked(
        prompts=(prompt,),
        rows=_rows(asked, [prompt], length=length),
        stream=bool(asked.stream),
        include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        messages=tuple(Message(message.role, message.content) for message in asked.messages),
    )


_Any = TypeVar("_Any", bound=_Body)


def _checked(form: type[_Any], body: bytes, unsupported: _Unsupported) -> _Any:
    try:
        given = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    checked = given
    if isinstance(given, dict):
        checked = {name: value for name, value in given.items() if name not in unsupported and name not in IGNORED}
    try:
        asked = form.model_validate(checked)
    except pydantic.ValidationError as error:
        raise _describe(error, known=[*form.model_fields, *unsupported, *IGNORED]) from None
    for name, harmless in unsupported.items():
        if given.get(name) is not None and given[name] not in harmless:
            message = f"{name}={given[name]!r}"[:80] + " is not supported by this server; leave it out"
            raise ApiError(400, message, param=name, code="unsupported_parameter")
    return asked


def _within_limits(asked: _Body, settings: Settings, *, prompts: Sequence[str], blame: str) -> None:
    if asked.model is not None and asked.model != settings.model:
        message = f"The model {asked.model[:200]!r} does not exist; this server has {settings.model!r}"
        raise ApiError(404, message, param="model", code="model_not_found")
    choices = len(prompts) * (asked.n or 1)
    if choices > settings.max_choices:
        message = f"{choices} choices (prompts x n); allowed are {settings.max_choices} per request"
        raise ApiError(400, message, param="n" if (asked.n or 1) > 1 else blame)
    longest = max(map(len, prompts))
    if longest > settings.max_prompt_characters:
        message = f"a prompt of {longest} characters; allowed are {settings.max_prompt_characters}"
        raise ApiError(400, message, param=blame, code="context_length_exceeded")
    _within_length(asked.max_tokens or 0, settings, blame="max_tokens")


def _within_length(length: int, settings: Settings, *, blame: str) -> None:
    if length > settings.max_tokens:
        raise ApiError(400, f"{blame}={length}; allowed are {settings.max_tokens}", param=blame)


def _rows(asked: _Body, prompts: Sequence[str], *, length: int) -> tuple[Request, ...]:
    """Choice k of a request samples with seed + k, so that choices differ and each can be had again alone."""
    first = secrets.randbelow(_SEEDS) if asked.seed is None else asked.seed
    return tuple(
        Request(
            prompt=prompt,
            max_new_tokens=length,
            budget=asked.budget,
            price=asked.price,
            sampling=Sampling(
                temperature=asked.temperature or 0.0,
                top_p=1.0 if asked.top_p is None else asked.top_p,
                repetition_penalty=asked.repetition_penalty or 1.0,
                seed=(first + index) % _SEEDS,
            ),
            stop=tuple(asked.stop or ()),
        )
        for index, prompt in enumerate(prompt for prompt in prompts for _ in range(asked.n or 1))
    )


def _describe(error: pydantic.ValidationError, *, known: Sequence[str]) -> ApiError:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "extra_forbidden":
        return _unknown([str(part) for part in first["loc"]], known=known)
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{where}: {message}" if where else message, param=str(first["loc"][0]) if where else None)


def _unknown(path: list[str], *, known: Sequence[str]) -> ApiError:
    *above, name = path
    inner: dict[str, type[BaseModel]] = {"stream_options": _StreamOptions, "messages": _Message}
    known = list(inner[above[0]].model_fields) if above else known
    shown = ".".join([*above, name])[:80]
    message = f"unknown parameter {shown!r}{did_you_mean(name[:80], known)}"
    return ApiError(400, message, param=shown, code="unknown_parameter")
