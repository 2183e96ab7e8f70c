"""What a study compares. A study file (configs/study_biographies.py) has `get_study(variant) -> Study`."""

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lacy_jax.config import METHODS, ConfigError
from lacy_jax.evals.closed_world import ALONE, TEMPERATURE, Decode


@dataclass(frozen=True)
class Arm:
    """A way to train. `title`: how the page names it; `reference`: the arm whose run of the same seed is Rho-1's model.

    settings: of the config, as `{"objective.rate": 0.5}`, on top of the method's.
    """

    name: str
    method: str
    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    reference: str = ""
    decodes: tuple[Decode, ...] = ()


@dataclass(frozen=True)
class Contrast:
    """A hypothesis written down before running: `better` has a higher score than `worse`, each an (arm, decode).

    Both at the study's main budget, but for the decode "alone", which never calls. score: one of evals/scores.py.
    """

    name: str
    better: tuple[str, str]
    worse: tuple[str, str]
    score: str = "strict"


@dataclass(frozen=True)
class Study:
    """All of it. `settings` hold for every arm; `people` are written about at every decode.

    known: the share of the facts that the partner knows. temperature: of the draw.

    Raises:
        ConfigError: an unknown method, a name that occurs twice, a reference or contrast that names no arm.
    """

    name: str
    config: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    contrasts: tuple[Contrast, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    people: int = 128
    known: float = 0.9
    temperature: float = TEMPERATURE
    main_budget: float = 0.22
    # (arm, decode) of the page's curves over budgets: what is compared, and variants of the score and the mask.
    curves: tuple[tuple[str, str], ...] = ()
    variants: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len({*names}) < len(names) or not names or not self.seeds:
            raise ConfigError(f"study {self.name}: needs arms with names of their own, and seeds; got {names}")
        for arm in self.arms:
            if arm.method not in METHODS:
                raise ConfigError(f"study {self.name}, arm {arm.name}: method={arm.method!r}: allowed {[*METHODS]}")
            if arm.reference and (arm.reference not in names or arm.reference == arm.name):
                raise ConfigError(f"study {self.name}, arm {arm.name}: reference {arm.reference!r} is no other arm")
        known = {(arm.name, decode.name) for arm in self.arms for decode in (ALONE, *arm.decodes)}
        named = [side for contrast in self.contrasts for side in (contrast.better, contrast.worse)]
        for side in (*named, *self.curves, *self.variants):
            if side not in known:
                raise ConfigError(f"study {self.name}: {side} is no arm and decode of it")

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def jobs(self) -> Iterator[tuple[Arm, int]]:
        """(arm, seed), all arms of a seed before the next, references first."""
        for seed in self.seeds:
            for arm in sorted(self.arms, key=lambda arm: bool(arm.reference)):
                yield arm, seed


def load_study(spec: str) -> Study:
    """The study of `FILE.py` or `FILE.py:variant`.

    Raises:
        ConfigError: there is no such file, it has no get_study, or what that gives is no study.
    """
    name, _, variant = spec.partition(":")
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"--study={spec}: no such file: {name}")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    get_study = getattr(module, "get_study", None)
    study = get_study(variant) if callable(get_study) else None
    if not isinstance(study, Study):
        raise ConfigError(f"--study={spec}: {name} needs a function get_study(variant) that returns a Study")
    return study
