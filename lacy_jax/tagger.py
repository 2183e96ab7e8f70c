"""Make a tagger: a small network that learns another annotator's marks, and makes them at a fraction of the cost.

    python -m lacy_jax.tagger --annotated=runs/data/annotated/NAME/1.0.0 --out=tagger
    python -m lacy_jax.prepare --config=... --config.annotate.annotator=tagger --config.annotate.tagger=tagger

--annotated is a folder that lacy_jax.prepare made with the annotator to be learned: spacy, judge, or any other. With
--start=TAGGER, a tagger that learned many cheap marks learns a few costly ones. docs/tagger.md has figures.
"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lacy_jax import flags
from lacy_jax.config import Count, Positive, Share
from lacy_jax.doors import Door, run
from lacy_jax.errors import ConfigError, DataError
from lacy_jax.flags import Flag, Given
from lacy_jax.folders import unwritable

if TYPE_CHECKING:
    from lacy_jax.data.datasets import AnnotatedSource
    from lacy_jax.tagging.network import Network
    from lacy_jax.tagging.saved import About


def main(given: Given) -> int:
    """Teaches a tagger, saves it, and prints how far it agrees on documents that it did not see."""
    from lacy_jax.console import reporting
    from lacy_jax.tagging import learning
    from lacy_jax.tagging.saved import save_tagger

    source, start = _opened(given)
    language = given.language or (start[0].language if start else learning.language_of(source.fingerprint))
    with reporting() as reporter:
        marked = []
        for item in learning.read_marked(source.evenly(given.documents), language=language):
            marked.append(item)
            reporter.update("read", len(marked), min(len(source), given.documents))
        held_out = [item for item in marked if learning.is_held_out(item[0], share=given.held_out)]
        taught = [item for item in marked if not learning.is_held_out(item[0], share=given.held_out)]
        if not taught:
            raise ConfigError(f"--held_out={given.held_out:g} leaves none of {len(marked):,} documents to learn from")
        about = learning.describe(taught, language=language)
        if start:
            about = dataclasses.replace(about, width=start[0].width)
        network = learning.teach(
            taught,
            about,
            start=start[1] if start else None,
            epochs=given.epochs or (learning.EPOCHS if start is None else learning.EPOCHS_AFTER),
            seed=given.seed,
            progress=reporter.update,
        )
        reporter.finish()
        found = learning.agreement(held_out, about, network)
    about = dataclasses.replace(about, learned={"from": source.fingerprint, "agreement": dataclasses.asdict(found)})
    save_tagger(Path(given.out), about, network)
    judged = (
        f"of {found.units:,} words in {len(held_out):,} others, {found.alike:.1%} are called alike by the default "
        f"rule; facts: recall {found.recall:.3f}, precision {found.precision:.3f}, F1 {found.f1:.3f}"
    )
    print(f"{given.out}: taught by {len(taught):,} documents; {judged if held_out else 'none was left to judge it'}")
    if held_out and not found.recall:
        print("warning: it found no fact of those held out; give more documents, or more --epochs", file=sys.stderr)
    return 0


def _opened(given: Given) -> tuple["AnnotatedSource", "tuple[About, Network] | None"]:
    """The documents to learn from, and the tagger to begin with. Raises `ConfigError` with all that is wrong."""
    from lacy_jax.data.datasets import AnnotatedSource, version_folder
    from lacy_jax.tagging.saved import load_tagger

    problems, source, start = [], None, None
    try:
        source = AnnotatedSource(version_folder(Path(given.annotated)))
    except DataError as error:
        problems += [f"--annotated: {problem}" for problem in error.problems]
    if Path(given.out).exists():
        problems.append(f"--out={given.out} exists already; name another folder")
    elif problem := unwritable(given.out):
        problems.append(f"--out={given.out}: {problem}")
    try:
        start = load_tagger(given.start) if given.start else None
    except DataError as error:
        problems += [f"--start: {problem}" for problem in error.problems]
    if problems or source is None:
        raise ConfigError(*problems)
    return source, start


_FLAGS = (
    Flag("annotated", flags.Path, "Documents with marks: a version folder that lacy_jax.prepare made", needed=True),
    dataclasses.replace(flags.OUT, help="The folder to write; it must not exist yet", needed=True),
    Flag("start", flags.Path, "The tagger to begin with"),
    Flag(
        "language",
        str,
        "Language of spaCy's tokenizer: en, de, ... (default: that of --start, of the spaCy model that marked, or en)",
        "",
    ),
    Flag(
        "documents", Positive, "The most documents to read, from all over the corpus; they are held in memory", 20_000
    ),
    Flag("epochs", Count, "How often each document is seen; 0: 4, or 8 with --start", 0),
    Flag("held_out", Share, "Share of the documents that judge the tagger, and do not teach it", 0.02),
    Flag("seed", Count, "Seed of the weights and the order", 0),
)
DOOR = Door("tagger", __doc__, _FLAGS, main)

if __name__ == "__main__":
    run(DOOR)
