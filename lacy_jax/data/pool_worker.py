"""A process of `Pool` (pool.py): reads pickled settings, then lists of documents, and writes the marks of each."""

import dataclasses
import os
import pickle
import select
import signal
import sys
import threading

from lacy_jax.data.annotate import ANNOTATORS, in_order
from lacy_jax.errors import LacyError
from lacy_jax.folders import of_storage
from lacy_jax.imports import hidden


def main() -> None:
    """Answers until there is nothing more to read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then ends this process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    settings, further = pickle.load(sys.stdin.buffer)
    settings = dataclasses.replace(settings, workers=1)
    annotator = None
    while True:
        try:
            if annotator is None:
                annotator = ANNOTATORS.load(settings.annotator)
                with hidden(*getattr(annotator, "unneeded", lambda _settings: ())(settings)):
                    list(annotator.mark([], settings, **further))  # loads what it needs
                answer: tuple[str, object] = ("ready", None)
            else:
                documents = pickle.load(sys.stdin.buffer)
                marked = iter(list(annotator.mark(documents, settings, **further)))  # to its end
                answer = ("marks", [marks for _, marks in in_order(documents, marked, annotator=settings.annotator)])
        except EOFError:
            return
        except LacyError as error:
            answer = ("problem", error.problems)
        except Exception as error:  # spaCy's, of this text, or a disk's
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            disk = isinstance(error, OSError) and of_storage(error)
            answer = ("problem", [f"what marks cannot read its files ({said})"]) if disk else ("failed", said)
        pickle.dump(answer, answers)
        answers.flush()


def _end_with_parent() -> None:
    """Ends this process when the other end of its input is closed, also in the middle of a batch."""
    hangup = select.poll()
    hangup.register(0, 0)
    hangup.poll()
    os._exit(1)


if __name__ == "__main__":
    main()
