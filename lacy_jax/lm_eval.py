"""lm-evaluation-harness with the model type `lacy_jax`: the harness' own command line, unchanged.

    python -m lacy_jax.lm_eval --model lacy_jax --model_args checkpoint=runs/slm_tiny --tasks hellaswag,piqa

Release 0.4.13 of the harness finds no models of other packages; later ones find this one by its entry point, and
plain `lm_eval` does the same. docs/measuring.md has more.
"""

import sys

from lacy_jax.doors import WRONG_INPUT
from lacy_jax.errors import LacyError


def main() -> int:
    """Hands the words of the command line to the harness; returns the exit status."""
    try:
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import model_registry

        from lacy_jax.evidence.harness import NAME, JaxLM
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("lm_eval", "tqdm"):
            raise
        print('lm_eval: lm_eval is not installed; pip install "lacy_jax[eval]"', file=sys.stderr)
        return WRONG_INPUT
    import lm_eval.models  # noqa: F401 (its own models, which it would leave out where one is there already)

    if NAME not in model_registry:
        model_registry.register(NAME, target=JaxLM)
    try:
        cli_evaluate()
    except LacyError as error:
        for problem in error.problems:
            print(f"lm_eval: {' '.join(problem.split())}", file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
