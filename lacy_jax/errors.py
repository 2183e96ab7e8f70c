"""What a user can mend: every error that a door ends with in one line is a `LacyError`.

Each message says what is wrong, where, and what to do. Anything else that is raised is a fault of the program and
keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class LacyError(ValueError):
    """Input that cannot be used. `problems` are messages for the user, one line each where a door prints them.

    status: what a door ends with.
    """

    status = 2

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


class ConfigError(LacyError):
    """A setting that is unknown, out of range or contradicts another one."""


class DataError(LacyError):
    """Input data, or prepared data, that cannot be used: says what, where and what to do."""


class CheckpointError(LacyError):
    """A checkpoint that is missing, unfinished or of another kind than asked for."""


class DamagedError(CheckpointError):
    """A checkpoint whose files were cut or changed after they were written: an older step may do in its place."""


class MeshError(LacyError):
    """A mesh that the devices, the batch or the model do not fit, or processes of one run that disagree."""


class NotFiniteError(LacyError):
    """The numbers of a run are not finite any more; the message says since which batch, and what is saved."""

    status = 3


class FolderError(LacyError):
    """A work folder that another run holds."""


class StorageError(LacyError):
    """A disk that is full or gone, or a bucket that cannot be reached, in the middle of the work."""

    status = 4


class PartnerError(LacyError):
    """A partner that cannot be made: says what was asked for and what is allowed."""


class JudgeError(LacyError):
    """A judge that cannot be asked, or that would be asked more than is allowed."""


def did_you_mean(word: str, known: Iterable[str], *, before: str = "") -> str:
    """The end of a message about an unknown `word`: "; did you mean X?", or nothing where no known word is near.

    before: what the known words are written with.
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {before}{near[0]}?" if near else ""
