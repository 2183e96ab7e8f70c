"""What a server allows and where it listens: checked once, at the door."""

import ipaddress
import os
from dataclasses import dataclass, field, fields
from pathlib import Path

from lacy_jax.errors import ConfigError

KEY_VARIABLE = "LACY_API_KEY"


@dataclass(frozen=True)
class Settings:
    """Limits are for one request, except `batch_size` and `max_queue`, which count rows of all requests together, and
    `max_connections`.

    model, partner, budget: what the page and /v1/models say of the cascade; partner is its kind.
    api_key: "" asks for none.
    batch_size: rows decoded at once; max_queue: rows that may wait for their turn before requests get 429.
    max_choices: prompts x n; max_prompt_characters: of each prompt; max_tokens: SLM tokens of each choice.
    request_seconds: after that a request ends with what it has; grace_seconds: what running rows get at SIGTERM.

    Raises:
        ConfigError: a value out of range.
    """

    model: str = "slm"
    partner: str = "none"
    budget: float = 0.0
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str = field(default="", repr=False)
    batch_size: int = 8
    max_queue: int = 256
    max_choices: int = 64
    max_tokens: int = 1024
    max_prompt_characters: int = 32_768
    max_body_bytes: int = 1 << 20
    max_connections: int = 1000
    request_seconds: float = 120.0
    grace_seconds: float = 30.0

    def __post_init__(self) -> None:
        above_0 = ("batch_size", "max_choices", "max_tokens", "max_prompt_characters", "max_connections")
        lowest = dict.fromkeys(above_0, 1) | {"max_body_bytes": 256}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int | float) and not value >= lowest.get(each.name, 0):  # "not >=": NaN too
                raise ConfigError(f"--{each.name}={value}: allowed is {lowest.get(each.name, 0)} or more")
        if self.port > 65_535:
            raise ConfigError(f"--port={self.port}: allowed is 0 (any free one) to 65535")
        if self.request_seconds == 0:
            raise ConfigError("--request_seconds=0: allowed is more than 0")
        if self.max_choices > self.batch_size + self.max_queue:
            raise ConfigError(
                f"--max_choices={self.max_choices}: a request of so many rows never fits "
                f"--batch_size={self.batch_size} and --max_queue={self.max_queue}; raise --max_queue or lower "
                "--max_choices"
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def read_key(file: str | None) -> str:
    """The key that clients must send, from a file or else from the environment; "" where neither is given.

    Raises:
        ConfigError: one is named, but cannot be read or holds nothing: then somebody expects a key to be asked for.
    """
    name, key = KEY_VARIABLE, os.environ.get(KEY_VARIABLE)
    if file is not None:
        name = f"--api_key_file={file}"
        try:
            key = Path(file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}: cannot be read ({error})") from None
    if key is not None and not key.strip():
        raise ConfigError(f"{name} is empty; give a key, or leave it out to ask for none")
    return (key or "").strip()
