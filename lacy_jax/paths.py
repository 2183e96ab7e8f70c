"""Paths as people write them: ~ is the home folder, also in `--workdir=~/run`, where a shell leaves it as it is."""

import os
import re
from typing import Annotated

from pydantic import AfterValidator


def expand_home(path: str) -> str:
    """The path with the home folder in place of a leading ~."""
    return os.path.expanduser(path)


def expand_homes(paths: str) -> str:
    """The same for each of the paths in a text that commas separate."""
    return re.sub(r"(?:^|(?<=,))(\s*)(~[^,]*)", lambda found: found[1] + expand_home(found[2]), paths)


Path = Annotated[str, AfterValidator(expand_home)]
Paths = Annotated[str, AfterValidator(expand_homes)]
