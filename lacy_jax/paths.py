"""Paths as people write them: of files, with ~ for the home folder, also in `--workdir=~/run`; of buckets, gs://..."""

import os
import re
import shlex
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

if TYPE_CHECKING:
    from etils import epath


def expand_home(path: str) -> str:
    """The path with the home folder in place of a leading ~."""
    return os.path.expanduser(path)


def expand_homes(paths: str) -> str:
    """The same for each of the paths in a text that commas separate."""
    return re.sub(r"(?:^|(?<=,))(\s*)(~[^,]*)", lambda found: found[1] + expand_home(found[2]), paths)


Path = Annotated[str, AfterValidator(expand_home)]
Paths = Annotated[str, AfterValidator(expand_homes)]


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path lies in a bucket (gs://..., s3://...) or, at least, on no disk of this machine."""
    return "://" in os.fspath(path)


def is_s3(path: str | os.PathLike[str]) -> bool:
    """Whether a path lies in s3://, where Orbax neither reads nor writes arrays: they go by a copy on this machine."""
    return os.fspath(path).startswith("s3://")


def copy_command(folder: str | os.PathLike[str], *, into: str) -> str:
    """What a shell runs to copy a folder, from a disk or a bucket, into the folder `into`."""
    there, name = shlex.quote(os.fspath(folder)), os.path.basename(os.fspath(folder))
    if is_s3(folder):
        return f"aws s3 cp --recursive {there} {into}/{name}"
    if is_bucket(folder):
        return f"gcloud storage cp -r {there} {into}/"
    return f"mkdir -p {into} && cp -r {there} {into}/"


def absolute(path: str | os.PathLike[str]) -> "epath.Path":
    """The path from the root, as Orbax wants it; one in a bucket as it is (`epath.Path.absolute` makes it a local one).

    Whatever may lie in a bucket is opened by this: two programs may look at one bucket, and TensorStore writes past
    fsspec, so no listing of a folder may be remembered.
    """
    from etils import epath

    if not is_bucket(path):
        return epath.Path(path).absolute()
    import fsspec

    for scheme in ("gs", "s3"):
        fsspec.config.conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)
    return epath.Path(path)
