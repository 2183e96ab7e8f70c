"""A checkpoint as a model of lm-evaluation-harness (docs/measuring.md): `--model lacy_jax`.

The harness finds it by the entry point `lm_eval.models`. Releases that read none get it from `lacy_jax.lm_eval`.
"""

import dataclasses
import functools
import typing
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from lm_eval.api.model import LM
from tqdm import tqdm

from lacy_jax.cascade import Cascade
from lacy_jax.cascade.decoding.sampling import Sampling
from lacy_jax.cascade.rows import Request
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.config import ComputeDtype
from lacy_jax.data.tokenizer import starting_with
from lacy_jax.errors import ConfigError, did_you_mean
from lacy_jax.training.continuations import CallToken, Pair, Score, encode_pair, score, token_values

NAME = "lacy_jax"
AUTO_BATCH = 16  # rows of --batch_size auto
MOST_NEW_TOKENS = 256  # the harness' own default of a text to write
_ARGUMENTS = ("checkpoint", "call", "start_token", "dtype")  # of --model_args
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLING = ("do_sample", "temperature", "top_p", "repetition_penalty")


class JaxLM(LM):
    """A checkpoint that answers the harness' requests; it never asks a partner."""

    def __init__(
        self,
        checkpoint: str,
        *,
        call: CallToken = "excluded",
        start_token: str = "",
        dtype: ComputeDtype = "float32",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,  # noqa: ARG002
    ) -> None:
        """`checkpoint`: whatever `lacy_jax.load` opens: a run, an export, a Hugging Face folder, a GGUF file.

        Args:
            call: whether `<CALL>` is one of the tokens that share the probability. Excluded: the model as the cascade
                uses it. Included: as transformers reads its hf export.
            start_token: what stands before a text, as `config.cascade.start_token`; "": as the checkpoint says.
            dtype: of matrix products.
            batch_size: rows that are read at once.
            max_batch_size: of --batch_size auto.
            device: the harness always gives one, by PyTorch's name. It changes nothing; JAX_PLATFORMS=cpu does.

        Raises:
            ConfigError: a value that is not allowed. CheckpointError: nothing usable at `checkpoint`.
        """
        super().__init__()
        for name, value, kind in (("call", call, CallToken), ("dtype", dtype, ComputeDtype)):
            if value not in typing.get_args(kind):
                raise ConfigError(f"{name}={value}: allowed are {', '.join(typing.get_args(kind))}")
        self.batch_size = _rows(batch_size, most=max_batch_size)
        slm = load_model(checkpoint)
        if call == "included" and slm.family:
            raise ConfigError(f"call=included: {checkpoint} is no checkpoint of ours; all its own tokens are included")
        start = start_token or slm.config.cascade.start_token
        self.slm = dataclasses.replace(slm, tokenizer=starting_with(slm.tokenizer, start))
        self._start = start
        model = dataclasses.replace(slm.model, compute_dtype=dtype)
        self._values = jax.jit(
            functools.partial(token_values, model=model, call_id=self.slm.tokenizer.call_id, call=call)
        )

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> "JaxLM":
        """The model of a command line: `--model_args`, and what the harness adds. Raises `ConfigError`, too."""
        if unknown := sorted(arg_dict.keys() - set(_ARGUMENTS)):
            hint = "; give --batch_size as a flag" if "batch_size" in unknown else did_you_mean(unknown[0], _ARGUMENTS)
            raise ConfigError(f"--model_args: unknown {', '.join(unknown)}; allowed are {', '.join(_ARGUMENTS)}{hint}")
        if not arg_dict.get("checkpoint"):
            raise ConfigError("--model_args: checkpoint=... is needed: a run, an export or a model of others")
        more = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**arg_dict, **more)

    @property
    def tokenizer_name(self) -> str:
        """The harness asks for it where it would apply a chat template. Raises `ConfigError`."""
        raise ConfigError("--apply_chat_template: chat templates are not supported")

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """(log-likelihood, greedy) of each (context, continuation)."""
        pairs = [encode_pair(self.slm.tokenizer, *request.args) for request in requests]
        return [(each.log_likelihood, each.greedy) for each in self._score(pairs)]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Log-likelihood of each whole text, after what stands before any text."""
        pairs = [encode_pair(self.slm.tokenizer, "", request.args[0]) for request in requests]
        return [each.log_likelihood for each in self._score(pairs)]

    def generate_until(self, requests: list[Any]) -> list[str]:
        """The text that the model writes after each context, up to the first of its stop strings."""
        cascade = Cascade(self.slm, None, start_token=self._start)
        asked = [_request(context, settings) for context, settings in (request.args for request in requests)]
        texts = [""] * len(asked)
        done = cascade.iterate(asked, batch_size=self.batch_size)
        for index, completion in tqdm(done, total=len(asked), desc="texts"):
            texts[index] = completion.text
        return texts

    def _score(self, pairs: Sequence[Pair]) -> list[Score]:
        def read(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found: tuple[np.ndarray, np.ndarray] = jax.device_get(self._values(self.slm.params, tokens))
            return found

        with tqdm(total=len(pairs), desc="continuations") as bar:
            return score(pairs, read, rows=self.batch_size, context=self.slm.model.context, progress=bar.update)


def _rows(batch_size: int | str, *, most: int | None) -> int:
    """The number of rows; raises `ConfigError` where it is none."""
    if str(batch_size).partition(":")[0] == "auto":
        return min(AUTO_BATCH, most or AUTO_BATCH)
    if not str(batch_size).isdecimal() or int(batch_size) < 1:
        raise ConfigError(f"batch_size={batch_size}: allowed are 1, 2, ... and auto, which is {AUTO_BATCH}")
    return int(batch_size)


def _request(context: str, settings: dict[str, Any]) -> Request:
    """What a task asks to be written; raises `ConfigError` where it asks for what our decoding does not know."""
    unknown = settings.keys() - {"until", *_LENGTHS, *_SAMPLING}
    if unknown:
        raise ConfigError(
            f"gen_kwargs: {', '.join(sorted(unknown))}: known are until, {', '.join(_LENGTHS + _SAMPLING)}"
        )
    until = settings.get("until") or []
    stop = [until] if isinstance(until, str) else until
    length = next((int(settings[name]) for name in _LENGTHS if settings.get(name) is not None), MOST_NEW_TOKENS)
    temperature = float(settings.get("temperature") or 0.0)
    if settings.get("do_sample") is False:
        temperature = 0.0
    elif settings.get("do_sample") and settings.get("temperature") is None:
        temperature = 1.0
    sampling = Sampling(
        temperature=temperature,
        top_p=float(settings.get("top_p") or 1.0),
        repetition_penalty=float(settings.get("repetition_penalty") or 1.0),
    )
    return Request(context, max_new_tokens=length, stop=tuple(filter(None, stop)), sampling=sampling)
