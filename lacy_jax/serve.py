"""Serve a cascade by OpenAI's API (completions, chats), with a page to try it at /.

    python -m lacy_jax.serve --checkpoint=runs/slm_tiny [--partner=documents] [--budget=0.22] [--port=8000]

Listens on this machine only, unless --host names another address. Clients must send the key in the environment
variable LACY_API_KEY or in --api_key_file, if there is one. SIGTERM lets running requests end. See docs/serving.md.
"""

import logging
import sys
from dataclasses import replace

from lacy_jax import flags, from_flags
from lacy_jax.doors import Door, run
from lacy_jax.flags import Flag, Given

_SETTINGS = (  # `serving.settings.Settings` says what is allowed
    Flag("host", str, "Where to listen; 0.0.0.0 is everywhere", "127.0.0.1"),
    Flag("port", int, "0 takes any free one", 8000),
    replace(flags.BATCH_SIZE, type=int, help="Rows decoded at once", old=("slots",)),
    Flag("max_queue", int, "Rows that may wait; beyond that requests get 429", 256),
    Flag("max_choices", int, "Prompts x n of a request", 64),
    Flag("max_tokens", int, "SLM tokens of a choice", 1024),
    Flag("max_prompt_characters", int, "Characters of a prompt", 32_768),
    Flag("max_body_bytes", int, "Bytes of a request's body", 1 << 20),
    Flag("max_connections", int, "Connections at once; fewer where the process may open few files", 1000),
    Flag("request_seconds", float, "After that a request ends with the text it has", 120.0),
    Flag("grace_seconds", float, "What open requests get at SIGTERM", 30.0),
)
_FLAGS = (
    flags.CHECKPOINT,
    *flags.CASCADE,
    Flag("model_name", str, "The model's name for clients (default: the name of its folder)"),
    Flag("api_key_file", flags.Path, "A file with the key that clients must send"),
    *_SETTINGS,
)


def main(given: Given) -> int:
    """Serves until a signal ends it; returns 1 where it cannot start."""
    _log_as_serve()
    from lacy_jax.serving import server
    from lacy_jax.serving.settings import Settings, read_key

    own = {flag.name: getattr(given, flag.name) for flag in _SETTINGS}
    checked = Settings(api_key=read_key(given.api_key_file), **own)
    bound = server.bind(checked)
    cascade = from_flags.open_given_cascade(given, batch_size=checked.batch_size)
    name = given.model_name or server.model_name(given.checkpoint)
    partner, budget = server.partner_kind(cascade.settings.partner), cascade.settings.budget
    return server.serve(cascade, replace(checked, model=name, partner=partner, budget=budget), bound=bound)


def _log_as_serve() -> None:
    """Warnings of any library as lines on stderr. The handlers before are not closed: absl's would close its stream."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("serve: %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)


DOOR = Door("serve", __doc__, _FLAGS, main)

if __name__ == "__main__":
    run(DOOR)
