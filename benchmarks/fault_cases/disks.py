"""Disks that are full, and disks that cannot be written. They are made by Linux' unshare, which needs no rights."""

import shutil
import subprocess
from collections.abc import Iterator

from benchmarks.fault_cases.common import Ended, Outcome, Row, Scene, Sizes, door_command, result

# A shell's program: $1 is the folder of the disk, $2 what is done to it, $3 what mends it, the rest the command.
_PROGRAM = """
disk=$1; before=$2; after=$3; shift 3
mount -t tmpfs -o size=1g lacy_jax "$disk" && mkdir "$disk/run" "$disk/data" || exit 99
mount -o "remount,$before" "$disk" || exit 99
"$@"; first=$?
mount -o "remount,$after" "$disk" || exit 99
echo "FIRST $first" >&2
"$@"; second=$?
cp -r "$disk/run" "$disk-result"
exit $second
"""


def full(scene: Scene, sizes: Sizes) -> Iterator[Row]:
    """A disk of 64 KB to 2 MB: the command ends with a line, and with more room it comes to its end."""
    kilobytes = [64 * 2 ** (number % 6) for number in range(sizes.stops)]
    outcomes = [_outcome(scene, before=f"size={size}k", after="size=1g") for size in kilobytes]
    yield Row("disk full", [each for each in outcomes if each], note=_note(outcomes))


def read_only(scene: Scene, sizes: Sizes) -> Iterator[Row]:
    """A disk that cannot be written: the command ends with a line before it does anything, and later to its end."""
    outcomes = [_outcome(scene, before="ro", after="rw") for _ in range(max(2, sizes.stops // 3))]
    yield Row("disk read-only", [each for each in outcomes if each], note=_note(outcomes))


def _note(outcomes: list[Outcome | None]) -> str:
    return "left out: unshare --mount is not allowed here" if None in outcomes else ""


def _outcome(scene: Scene, *, before: str, after: str) -> Outcome | None:
    """None: such disks cannot be made here."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        return None
    disk = scene.folder / "disk"
    disk.mkdir(exist_ok=True)
    words = door_command("main", *scene.training(workdir=disk / "run", data=disk / "data"))
    ended = scene.command(["unshare", "-rm", "bash", "-c", _PROGRAM, "bash", str(disk), before, after, *words])
    kept = scene.folder / "disk-result"
    right = kept.exists() and result(kept) == result(scene.run)
    shutil.rmtree(kept, ignore_errors=True)
    return None if ended.status == 99 else _judged(ended, right=right)


def _judged(ended: Ended, *, right: bool) -> Outcome:
    if ended.broken:
        return "traceback"
    if not right:
        return "lost"
    return "survived" if "FIRST 0" in ended.said else "clear"
