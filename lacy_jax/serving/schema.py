"""What a client may ask: the JSON of POST /v1/completions, checked, and the rows of the scheduler that it becomes."""

import secrets
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
import pydantic_core
from pydantic import BaseModel, ConfigDict, Field

from lacy_jax.cascade import Request, Sampling
from lacy_jax.errors import did_you_mean
from lacy_jax.serving.errors import ApiError
from lacy_jax.serving.settings import Settings

DEFAULT_MAX_TOKENS = 16  # OpenAI's
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 200
_SEEDS = 1 << 32

# Fields of OpenAI's that change the text or the answer in a way that the cascade cannot: refused rather than ignored,
# unless they ask for nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "logprobs": (),
    "best_of": (1,),
    "suffix": ("",),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
}
# Fields about the client, its account or its bill: they change no text, and have no meaning here.
IGNORED = ("user", "metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier")


_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _StreamOptions(BaseModel):
    model_config = _STRICT

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # OpenAI's padding of a stream's parts; there is none here


class _Body(BaseModel):
    """Types and ranges. Unknown fields are refused, as OpenAI does; null means "not given"."""

    model_config = _STRICT

    prompt: list[str]
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
    echo: bool | None = None
    budget: Annotated[float, Field(ge=0.0, le=1.0)] | None = None  # ours
    repetition_penalty: Annotated[float, Field(ge=1.0, le=10.0)] | None = None  # vLLM's

    @pydantic.field_validator("prompt", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if isinstance(value, list) and any(isinstance(part, int | list) for part in value):
            raise ValueError("arrays of token ids are not supported; give the prompt as text")
        if not isinstance(value, str | list) or value == []:
            raise ValueError("expected a string or a list of strings with at least one")
        return [value] if isinstance(value, str) else value

    @pydantic.field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


@dataclass(frozen=True)
class Asked:
    """A checked request. `rows`: one for each choice, prompts outermost, as OpenAI numbers choices."""

    prompts: tuple[str, ...]
    rows: tuple[Request, ...]
    stream: bool
    include_usage: bool
    echo: bool


def parse(body: bytes, settings: Settings) -> Asked:
    """The request in a body.

    Raises:
        ApiError: 400 for what is malformed, out of range or not supported; 404 for another model.
    """
    try:
        given = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    checked = given
    if isinstance(given, dict):
        checked = {name: value for name, value in given.items() if name not in _UNSUPPORTED and name not in IGNORED}
    try:
        asked = _Body.model_validate(checked)
    except pydantic.ValidationError as error:
        raise _describe(error) from None
    for name, harmless in _UNSUPPORTED.items():
        if given.get(name) is not None and given[name] not in harmless:
            message = f"{name}={given[name]!r}"[:80] + " is not supported by this server; leave it out"
            raise ApiError(400, message, param=name, code="unsupported_parameter")
    _within_limits(asked, settings)
    return Asked(
        prompts=tuple(asked.prompt),
        rows=_rows(asked, settings),
        stream=bool(asked.stream),
        include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        echo=bool(asked.echo),
    )


def _within_limits(asked: _Body, settings: Settings) -> None:
    if asked.model is not None and asked.model != settings.model:
        message = f"The model {asked.model[:200]!r} does not exist; this server has {settings.model!r}"
        raise ApiError(404, message, param="model", code="model_not_found")
    choices = len(asked.prompt) * (asked.n or 1)
    if choices > settings.max_choices:
        message = f"{choices} choices (prompts x n); allowed are {settings.max_choices} a request"
        raise ApiError(400, message, param="n" if (asked.n or 1) > 1 else "prompt")
    longest = max(map(len, asked.prompt))
    if longest > settings.max_prompt_characters:
        message = f"a prompt of {longest} characters; allowed are {settings.max_prompt_characters}"
        raise ApiError(400, message, param="prompt", code="context_length_exceeded")
    if (asked.max_tokens or 0) > settings.max_tokens:
        message = f"max_tokens={asked.max_tokens}; allowed are {settings.max_tokens}"
        raise ApiError(400, message, param="max_tokens")


def _rows(asked: _Body, settings: Settings) -> tuple[Request, ...]:
    """Choice k of a request samples with seed + k, so that choices differ and each can be had again alone."""
    first = secrets.randbelow(_SEEDS) if asked.seed is None else asked.seed
    length = min(DEFAULT_MAX_TOKENS, settings.max_tokens) if asked.max_tokens is None else asked.max_tokens
    prompts = [prompt for prompt in asked.prompt for _ in range(asked.n or 1)]
    return tuple(
        Request(
            prompt=prompt,
            max_new_tokens=length,
            budget=asked.budget,
            sampling=Sampling(
                temperature=asked.temperature or 0.0,
                top_p=1.0 if asked.top_p is None else asked.top_p,
                repetition_penalty=asked.repetition_penalty or 1.0,
                seed=(first + index) % _SEEDS,
            ),
            stop=tuple(asked.stop or ()),
        )
        for index, prompt in enumerate(prompts)
    )


def _describe(error: pydantic.ValidationError) -> ApiError:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "extra_forbidden":
        return _unknown([str(part) for part in first["loc"]])
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{where}: {message}" if where else message, param=str(first["loc"][0]) if where else None)


def _unknown(path: list[str]) -> ApiError:
    *above, name = path
    known = _StreamOptions.model_fields if above else [*_Body.model_fields, *_UNSUPPORTED, *IGNORED]
    shown = ".".join([*above, name])[:80]
    message = f"unknown parameter {shown!r}{did_you_mean(name[:80], known)}"
    return ApiError(400, message, param=shown, code="unknown_parameter")
