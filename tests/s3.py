"""A server of S3 for tests: moto over HTTP on this machine, and what a program needs to use it.

What it does not show: permissions and signatures (it checks none), retries after 503, quotas, other servers of S3.
"""

import contextlib
import functools
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from tests.buckets import BUCKET, bucket_server, settings, watchers


class _Quiet(MotoRequestHandler):
    def log_request(self, *_: object) -> None:
        pass


Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def _watched(application: Application) -> Application:
    """Lets the watchers of tests/buckets.py know the name of every object before it is written."""

    def call(environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        bucket, _, name = environment["PATH_INFO"].removeprefix("/").partition("/")
        if bucket == BUCKET and name and environment["REQUEST_METHOD"] in ("PUT", "POST"):
            for watcher in list(watchers):
                watcher(name)
        return application(environment, start_response)

    return call


@functools.cache
def s3_server() -> str:
    """A server with one bucket, s3://runs, in memory, until this process ends; gives its address.

    There is one for a process, since fsspec keeps its clients.
    """
    application = _watched(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Quiet)
    threading.Thread(target=server.serve_forever, name="s3", daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=60
    ):
        return address


def s3_settings(address: str) -> dict[str, str]:
    """The environment of a program that shall find s3:// at `address`: Amazon's own variables."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextlib.contextmanager
def emulated(scheme: str) -> Iterator[str]:
    """The bucket of an emulator, gs://runs or s3://runs by `scheme`, and the environment that programs need for it."""
    with contextlib.ExitStack() as stack:
        found = settings(stack.enter_context(bucket_server())) if scheme == "gs" else s3_settings(s3_server())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("LACY_CACHE", stack.enter_context(tempfile.TemporaryDirectory()))
        for name, value in found.items():
            patch.setenv(name, value)
        yield f"{scheme}://{BUCKET}"
