"""Where a server is, what it is to us, and the key that it wants."""

import os
import urllib.parse
from dataclasses import dataclass

import httpx

from lacy_jax.errors import LacyError, PartnerError

# About 1,000 tokens of English: fits into the context of any server. `?max_characters=` in the address changes it.
MAX_CHARACTERS = 4_000
_FORM = "http://HOST:PORT/v1[?max_characters=N][#MODEL]"


@dataclass(frozen=True)
class Role:
    """What a server is to us. `keys`: the environment variables that may hold its key, the first one preferred."""

    name: str
    keys: tuple[str, ...]
    error: type[LacyError]


PARTNER = Role("partner", ("LACY_PARTNER_API_KEY", "OPENAI_API_KEY"), PartnerError)


@dataclass(frozen=True)
class Address:
    """Where a server is. `url` ends without a slash, in "/v1" as a rule; `model` is "" where none is named."""

    url: str
    model: str = ""
    max_characters: int = MAX_CHARACTERS


def parse_address(spec: str, *, role: Role = PARTNER) -> Address:
    """Reads "http://host:port/v1?max_characters=4000#model".

    Raises:
        LacyError: the role's: it is no address, or holds a name or a password.
    """
    try:
        parts = urllib.parse.urlsplit(spec)
        secret = parts.username is not None or parts.password is not None
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        characters = int(query.pop("max_characters", MAX_CHARACTERS))
        httpx.URL(spec)  # what a host may be called
    except (ValueError, httpx.InvalidURL) as error:
        shown = "" if "@" in spec else f" {spec!r}"
        raise role.error(f"cannot read the {role.name}'s address{shown}; it has the form {_FORM}") from error
    if secret:
        raise role.error(f"no name or password in a {role.name}'s address; set the environment variable {role.keys[0]}")
    if not good or query or characters < 1:
        raise role.error(f"cannot read the {role.name}'s address {spec!r}; it has the form {_FORM}")
    url = urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    return Address(url=url, model=urllib.parse.unquote(parts.fragment), max_characters=characters)


def key_variable(role: Role) -> str:
    """The first of the role's environment variables that is set, "" for none."""
    return next((name for name in role.keys if os.environ.get(name)), "")


def describe(address: Address, *, model: str = "", role: Role = PARTNER) -> str:
    """Who will be asked, and what key it will be sent, without the key."""
    named, variable = model or address.model, key_variable(role)
    key = f"the key in {variable}" if variable else "no key"
    return f"the server {address.url}{f', model {named}' if named else ''}, with {key}"


def api_key(role: Role) -> str:
    """The key from the first of the role's environment variables that is set, "" for none.

    Raises:
        LacyError: the role's: it could not be sent; the message does not show it.
    """
    variable = key_variable(role)
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise role.error(f"the environment variable {variable} holds characters that no key has")
    return key
