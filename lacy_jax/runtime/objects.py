"""One object of a bucket that is written and removed only if it is as it was seen last: what a lease stands on.

A version names a state of the object: its generation in gs://, its ETag in s3://; "" where there is no object. An ETag
follows from the content, so whoever wants each write to be seen writes something else each time.
"""

from typing import Any, Protocol

from lacy_jax.paths import absolute, is_s3

# How S3 says that a condition does not hold: also of two writes at once, and of an object that is gone.
_REFUSED = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "404", "409", "412"}


class ConditionalObject(Protocol):
    """Every call may raise what its client raises."""

    def read(self) -> tuple[str, bytes]:
        """Version and content of what is there; "" and nothing where nothing is."""

    def write(self, content: bytes, *, over: str) -> str:
        """The version that it has now; "" if what was there was not the version `over`, and nothing was written."""

    def remove(self, version: str) -> None:
        """Removes this version; another one is left, and raises."""


def conditional_object(path: str) -> ConditionalObject:
    """The object at gs://... or s3://..."""
    return _S3Object(path) if is_s3(path) else _GsObject(path)


def _parts(path: str) -> tuple[str, str]:
    """Bucket and name."""
    bucket, _, name = path.partition("://")[2].partition("/")
    return bucket, name


class _GsObject:
    def __init__(self, path: str):
        from google.cloud import storage  # gcsfs brings it; it has preconditions, which gcsfs has only for new objects

        bucket, self._name = _parts(path)
        self._bucket = storage.Client().bucket(bucket)

    def read(self) -> tuple[str, bytes]:
        from google.api_core.exceptions import NotFound

        blob = self._bucket.get_blob(self._name)
        if blob is None:
            return "", b""
        try:
            return str(blob.generation), blob.download_as_bytes()
        except NotFound:  # between the two calls
            return "", b""

    def write(self, content: bytes, *, over: str) -> str:
        from google.api_core.exceptions import PreconditionFailed

        blob = self._bucket.blob(self._name)
        try:
            blob.upload_from_string(content, if_generation_match=int(over or 0))
        except PreconditionFailed:
            return ""
        return str(blob.generation)

    def remove(self, version: str) -> None:
        self._bucket.blob(self._name).delete(if_generation_match=int(version))


class _S3Object:
    def __init__(self, path: str):
        import fsspec

        absolute(path)  # settings of fsspec
        self._files: Any = fsspec.url_to_fs(path)[0]
        self._path = path
        bucket, name = _parts(path)
        self._place = {"Bucket": bucket, "Key": name}

    def read(self) -> tuple[str, bytes]:
        try:
            version = str(self._files.call_s3("head_object", **self._place)["ETag"])
            return version, self._files.cat_file(self._path)
        except FileNotFoundError:
            return "", b""

    def write(self, content: bytes, *, over: str) -> str:
        condition = {"IfMatch": over} if over else {"IfNoneMatch": "*"}
        try:
            return str(self._files.call_s3("put_object", Body=content, **self._place, **condition)["ETag"])
        except OSError as error:  # s3fs makes it of botocore's
            answer: dict[str, Any] = getattr(error.__cause__, "response", None) or {}
            if answer.get("Error", {}).get("Code") in _REFUSED:
                return ""
            raise

    def remove(self, version: str) -> None:
        self._files.call_s3("delete_object", **self._place, IfMatch=version)
