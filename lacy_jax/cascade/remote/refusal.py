"""What a server says to a first small question: whether it can ever answer, and if not, why, in one line."""

import urllib.parse

import httpx

from lacy_jax.cascade.remote.address import Role, api_key, key_variable
from lacy_jax.cascade.remote.server import Response
from lacy_jax.data.files import parse_json

MOST_SAID = 160  # characters of a server's own words in a message
_PASSING = frozenset({408, 425, 429})  # besides 500 and above


def may_pass(status: int) -> bool:
    """Whether a server of this status may answer the same question later."""
    return status in _PASSING or status >= 500


def unreachable(error: httpx.TransportError, *, url: str, role: Role) -> str:
    """The line about a server to which there is no connection, or which speaks another language."""
    if isinstance(error, httpx.ConnectError):
        why = " ".join(str(error)[:MOST_SAID].split()) or "no connection"
        return f"the {role.name}'s server {url} cannot be reached ({why}); start it first, or correct its address"
    return (
        f"the {role.name}'s server {url} does not answer as HTTP ({type(error).__name__}); correct its address "
        "(http:// or https://, host, port)"
    )


def refusal(response: Response, *, url: str, model: str, role: Role) -> str:
    """The line about a response to /completions, of a status other than 200, that will not change by itself.

    Args:
        model: that the question named, "" for none.
    """
    status, server = response.status, f"the {role.name}'s server {url}"
    if status in (401, 403):
        variable = key_variable(role)
        key = f"refuses the key in {variable}" if variable else f"wants a key: set {role.keys[0]}"
        return f"{server} {key} (status {status})"
    if 300 <= status < 400:
        return f"{server} sends us to another address (status {status}), which is not followed; name that one"
    said = _said(response, role=role)
    if status in (404, 405) and "model" not in said.lower():
        return f"{server} has no /completions (status {status}){address_hint(url)}"
    named = f"; the model asked for is {model!r}, another one is named by #MODEL" if model else ""
    return f"{server} does not take a question (status {status}{f': {said}' if said else ''}){named}"


def address_hint(url: str) -> str:
    """The end of a message about a server that is there, but not as expected."""
    return "; see its address" if urllib.parse.urlsplit(url).path else f"; did you mean {url}/v1?"


def _said(response: Response, *, role: Role) -> str:
    """The server's own words, short, in one line of printable characters, without the key."""
    text = response.body[:10_000].decode(errors="replace")
    try:
        error = parse_json(response.body)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError):
        pass
    if key := api_key(role):
        text = text.replace(key, "***")
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:MOST_SAID]
