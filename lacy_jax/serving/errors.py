"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from typing import Any


class ApiError(Exception):
    """What a client gets to read.

    status: of HTTP; param: the field to blame, if one is; code: for programs; retry_after: seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        return {"error": {"message": self.message, "type": _kind(self.status), "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with the status."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        return headers | ({"Retry-After": str(self.retry_after)} if self.retry_after is not None else {})


def _kind(status: int) -> str:
    if status >= 500:
        return "server_error"
    return {401: "authentication_error", 429: "rate_limit_error"}.get(status, "invalid_request_error")
