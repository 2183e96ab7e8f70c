"""Buckets for tests: gcp-storage-emulator over HTTP on this machine, and what a program needs to use it.

Three things that Cloud Storage does and the emulator leaves out are added here, as the reference of the JSON API
describes them, because TensorStore and the lease of a work folder stand on them: conditional requests
(ifGenerationMatch, ifGenerationNotMatch), the generation of an object that is read (x-goog-generation), and moveTo.
What no emulator shows: permissions and tokens, retries after 429 and 503, quotas, buckets with folders of their own.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

BUCKET = "runs"
Handler = Callable[..., None]
watchers: list[Callable[[str], None]] = []  # called with an object's name before it is written


def object_name(request: Any) -> str:
    """Of the object that a request is about."""
    name: str = request.params.get("object_id") or request.query.get("name", [None])[0] or request.data["meta"]["name"]
    return name


def _generation(request: Any, storage: Any) -> str:
    """Of the object that a request is about; "0" where there is none."""
    name = object_name(request)
    try:
        return str(storage.get_file_obj(request.params["bucket_name"], name)["generation"])
    except NotFound:
        return "0"


def _conditional(handler: Handler) -> Handler:
    def handle(request: Any, response: Any, storage: Any, *args: Any, **kwargs: Any) -> None:
        if request.method == "POST":
            for watcher in list(watchers):
                watcher(object_name(request))
        now = _generation(request, storage) if "upload_id" not in request.query else ""
        wanted, unwanted = (request.query.get(f"ifGeneration{word}Match", [None])[0] for word in ("", "Not"))
        if wanted is not None and wanted != now:
            request.data  # noqa: B018 - the body is read, or the client sees a broken connection
            response.status = HTTPStatus.PRECONDITION_FAILED
        elif unwanted is not None and unwanted == now:
            response.status = HTTPStatus.NOT_MODIFIED
        else:
            handler(request, response, storage, *args, **kwargs)
            if request.method == "GET" and now not in ("", "0"):
                response["x-goog-generation"] = now

    return handle


def _move(request: Any, response: Any, storage: Any) -> None:
    objects.copy(request, response, storage)
    if response.status == HTTPStatus.OK:
        objects.delete(request, response, storage)


for _name in ("insert", "get", "delete", "download"):
    setattr(objects, _name, _conditional(getattr(objects, _name)))

from gcp_storage_emulator import server  # noqa: E402 - its routes hold the handlers above

_MOVE = r"^/storage/v1/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.*[^/]+)/moveTo/o/(?P<dest_object_id>.*[^/]+)$"


def _move_in_bucket(request: Any, response: Any, storage: Any) -> None:
    request.params["dest_bucket_name"] = request.params["bucket_name"]
    _move(request, response, storage)


class _Handler(server.RequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that has read enough, or is killed
            super().handle()


server.RequestHandler = _Handler
server.HANDLERS = ((_MOVE, {"POST": _move_in_bucket}), *server.HANDLERS)


def settings(address: str) -> dict[str, str]:
    """The environment of a program that shall find gs:// at `address`: gcsfs' and TensorStore's own variables."""
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # TensorStore asks for no token elsewhere
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # gcsfs would ask by gRPC what kind of bucket it is
    }


@contextlib.contextmanager
def watching(watcher: Callable[[str], None]) -> Iterator[None]:
    """Lets `watcher` know the name of every object before it is written, while the block runs."""
    watchers.append(watcher)
    try:
        yield
    finally:
        watchers.remove(watcher)


@contextlib.contextmanager
def bucket_server() -> Iterator[str]:
    """A server with one bucket, gs://runs, in memory; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with server.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET):
        yield f"http://127.0.0.1:{port}"
