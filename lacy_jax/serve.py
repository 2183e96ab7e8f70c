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

from lacy_jax.cascade_flags import open_from_flags
from lacy_jax.errors import CheckpointError, ConfigError, DataError, PartnerError

_MODEL = flags.DEFINE_string("model_name", None, "The model's name for clients (default: the name of its folder)")
_KEY_FILE = flags.DEFINE_string("api_key_file", None, "A file with the key that clients must send")
_SETTINGS = [
    flags.DEFINE_string("host", "127.0.0.1", "Where to listen; 0.0.0.0 is everywhere"),
    flags.DEFINE_integer("port", 8000, "0 takes any free one"),
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
    """Serves until a signal ends it; returns 1 where it cannot start, 2 where the flags cannot be used."""
    logging.basicConfig(level=logging.WARNING, format="serve: %(message)s", stream=sys.stderr, force=True)
    try:
        if len(argv) > 1:
            raise ConfigError(f"{argv[1]!r} is not a flag")
        return _serve()
    except (ConfigError, DataError, CheckpointError, PartnerError) as error:
        print(f"serve: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "prometheus_client"):
            raise
        print(f'serve: {error.name} is not installed; pip install "lacy_jax[serve]"', file=sys.stderr)
        return 2


def _serve() -> int:
    from lacy_jax.serving import server
    from lacy_jax.serving.settings import Settings, read_key

    given: dict[str, Any] = {flag.name: flag.value for flag in _SETTINGS}
    checked = Settings(api_key=read_key(_KEY_FILE.value), **given)
    bound = server.bind(checked)
    opened = open_from_flags(batch_size=checked.slots)
    name = _MODEL.value or server.model_name(flags.FLAGS.checkpoint)
    partner, budget = server.partner_kind(opened.settings.partner), opened.settings.budget
    return server.serve(opened.cascade, replace(checked, model=name, partner=partner, budget=budget), bound=bound)


if __name__ == "__main__":
    app.run(main)
