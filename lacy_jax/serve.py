"""Serve a cascade by OpenAI's completions API, with a page to try it at /.

    python -m lacy_jax.serve --checkpoint=runs/slm_tiny [--partner=documents] [--budget=0.22] [--port=8000]

Listens on this machine only, unless --host says otherwise. A key that clients must send is read from the environment
(LACY_API_KEY) or from --api_key_file. SIGTERM lets running requests end. See docs/serving.md.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from absl import app, flags

from lacy_jax.cascade import Cascade, PartnerError, make_partner
from lacy_jax.cascade.partners import FORMS
from lacy_jax.checkpoint import CheckpointError, load_model
from lacy_jax.config import ConfigError
from lacy_jax.data.corpus import DataError

_OWN = "default: the checkpoint's own setting"
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A run's workdir, its checkpoints/, one step of it, or an export")
_PARTNER = flags.DEFINE_string("partner", None, f"Who answers calls: {FORMS} ({_OWN})")
_BUDGET = flags.DEFINE_float("budget", None, f"Share of tokens to delegate where a request names none ({_OWN})")
_SPAN = flags.DEFINE_enum("span", "word", ["token", "word", "phrase"], "How far the partner writes at each call")
_TIMEOUT = flags.DEFINE_float("partner_timeout", 30.0, "Seconds after which a call counts as unanswered")
_DIRECTORY = flags.DEFINE_string("directory", None, "Where indexes of documents are kept (default: beside the data)")
_MODEL = flags.DEFINE_string("model_name", None, "The model's name for clients (default: the name of its folder)")
_KEY_FILE = flags.DEFINE_string("api_key_file", None, "A file with the key that clients must send")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Where to listen; 0.0.0.0 is everywhere")
_PORT = flags.DEFINE_integer("port", 8000, "0 takes any free one")
_LIMITS = [
    flags.DEFINE_integer("slots", 8, "Rows decoded at once"),
    flags.DEFINE_integer("max_queue", 256, "Rows that may wait; beyond that requests get 429"),
    flags.DEFINE_integer("max_choices", 64, "Prompts x n of a request"),
    flags.DEFINE_integer("max_tokens", 1024, "SLM tokens of a choice"),
    flags.DEFINE_integer("max_prompt_characters", 32_768, "Characters of a prompt"),
    flags.DEFINE_integer("max_body_bytes", 1 << 20, "Bytes of a request's body"),
    flags.DEFINE_float("request_seconds", 120.0, "After that a request ends with the text it has"),
    flags.DEFINE_float("grace_seconds", 30.0, "What open requests get at SIGTERM"),
]


def main(argv: Sequence[str]) -> int:
    """Serves until a signal ends it; returns 2 where the flags cannot be used."""
    logging.basicConfig(level=logging.WARNING, format="serve: %(message)s", stream=sys.stderr, force=True)
    try:
        if len(argv) > 1:
            raise ConfigError(f"{argv[1]!r} is not a flag")
        _serve()
    except (ConfigError, DataError, CheckpointError, PartnerError) as error:
        print(f"serve: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "prometheus_client"):
            raise
        print(f'serve: {error.name} is not installed; pip install "lacy_jax[serve]"', file=sys.stderr)
        return 2
    return 0


def _serve() -> None:
    from lacy_jax.serving import server
    from lacy_jax.serving.settings import Settings, read_key

    if not _CHECKPOINT.value:
        raise ConfigError("no checkpoint; give --checkpoint=..., for example the workdir of a run")
    given: dict[str, Any] = {flag.name: flag.value for flag in _LIMITS}
    checked = Settings(host=_HOST.value, port=_PORT.value, api_key=read_key(_KEY_FILE.value), **given)
    bound = server.bind(checked)
    slm = load_model(_CHECKPOINT.value)
    own = slm.config.cascade
    spec = own.partner if _PARTNER.value is None else _PARTNER.value
    budget = own.budget if _BUDGET.value is None else _BUDGET.value
    directory = _DIRECTORY.value or slm.config.data.directory
    how: dict[str, Any] = {"batch_size": checked.slots, "span": _SPAN.value, "timeout": _TIMEOUT.value}
    partner = make_partner(spec, corpus=slm.config.corpus, directory=directory, **how)
    cascade = Cascade(slm, partner, budget=budget, window=own.window, timeout=_TIMEOUT.value)
    name = _MODEL.value or server.model_name(_CHECKPOINT.value)
    server.serve(cascade, replace(checked, model=name, partner=spec, budget=budget), bound=bound)


if __name__ == "__main__":
    app.run(main)
