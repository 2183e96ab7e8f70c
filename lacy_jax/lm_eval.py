"""lm-evaluation-harness with the model type `lacy_jax`: the harness' own command line, unchanged.

    python -m lacy_jax.lm_eval --model lacy_jax --model_args checkpoint=runs/slm_tiny --tasks hellaswag,piqa

Release 0.4.13 of the harness finds no models of other packages; later ones find this one by its entry point, and
plain `lm_eval` does the same. docs/measuring.md has more.
"""

import sys
import traceback

from lacy_jax.doors import WRONG_INPUT
from lacy_jax.errors import LacyError

# Raised by these, such an error is about what the harness was asked for: a task or a model type that it does not know,
# data that it cannot reach, a chat template.
_REFUSERS = ("lm_eval", "datasets")
_REFUSALS = (ValueError, ConnectionError, NotImplementedError, FileNotFoundError)


def main() -> int:
    """Hands the words of the command line to the harness; returns the exit status."""
    try:
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import model_registry

        from lacy_jax.evidence.harness import NAME, JaxLM
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("lm_eval", "tqdm"):
            raise
        return _refused('lm_eval is not installed; pip install "lacy_jax[eval]"')
    import lm_eval.models  # noqa: F401 (its own models, which it would leave out where one is there already)

    if NAME not in model_registry:
        model_registry.register(NAME, target=JaxLM)
    try:
        cli_evaluate()
    except LacyError as error:
        return _refused(*error.problems, status=error.status)
    except ModuleNotFoundError as error:  # of another model type, such as PyTorch
        if (error.name or "").partition(".")[0] == "lacy_jax":
            raise
        return _refused(f"{error.name} is not installed, but this model type needs it: pip install {error.name}")
    except _REFUSALS as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _REFUSERS:
            raise
        return _refused(str(error))
    return 0


def _refused(*problems: str, status: int = WRONG_INPUT) -> int:
    for problem in problems:
        print(f"lm_eval: {' '.join(problem.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
