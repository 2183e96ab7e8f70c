"""What a study compares. A study file (configs/study_biographies.py) has `get_study(variant) -> Study`."""

import dataclasses
import graphlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lacy_jax.cascade.partners import check_partner
from lacy_jax.config_file import call_in_file
from lacy_jax.errors import ConfigError
from lacy_jax.evidence.closed_world.biographies import TEMPERATURE
from lacy_jax.evidence.closed_world.decodes import ALONE, Decode, check_decode
from lacy_jax.presets import METHODS

MOST_LINES = 6  # of a chart, which has as many colours (page.py)


@dataclass(frozen=True)
class Arm:
    """A way to train. `reference`: the arm whose run of the same seed is Rho-1's model.

    title, label: how the page's tables and its charts' legends name it; without a label, as its title.

    settings: of the config, as `{"objective.rate": 0.5}`, on top of the method's. decodes: their `partner` is the
    database or the name of another arm, whose model answers.
    """

    name: str
    method: str
    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    reference: str = ""
    decodes: tuple[Decode, ...] = ()
    label: str = ""

    @property
    def partners(self) -> frozenset[str]:
        """The arms that its decodes ask."""
        return frozenset(decode.partner for decode in self.decodes if not decode.asks_world)

    @property
    def needs(self) -> frozenset[str]:
        """The arms that must have been trained before it."""
        return self.partners | ({self.reference} if self.reference else set())


@dataclass(frozen=True)
class Contrast:
    """A hypothesis written down before running: `better` has a higher score than `worse`, each an (arm, decode).

    Both at `budget` (None: the main one), but for the decode "alone", which never calls. cost: instead, where each
    spends this share of the tokens, between its prices; one that never spends so much counts with the most that it
    spends. score: one of `SCORES`.
    """

    name: str
    better: tuple[str, str]
    worse: tuple[str, str]
    score: str = "strict"
    budget: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Study:
    """All of it. `settings` hold for every arm; `people` are written about at every decode.

    name: studies of one name keep their runs in one folder, and take over from each other those that are the same;
    `variant` sets them apart. known: the share of the facts that the database knows. temperature: of the draw.
    An arm that another's decode names as its partner is trained with the first seed only, and answers in all of them.

    Raises:
        ConfigError: an unknown method, a name that occurs twice, a reference, partner or contrast that names no arm,
            a decode with a value out of range, a contrast at a budget or cost that one of its decodes does not have,
            arms that need each other.
        PartnerError: a partner `world` of shares or relations that there are not.
    """

    name: str
    config: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    contrasts: tuple[Contrast, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""
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
            for other in sorted(arm.needs - {*names}):
                raise ConfigError(f"study {self.name}, arm {arm.name}: its reference or partner {other!r} is no arm")
            for decode in arm.decodes:  # else evaluations would say so, after hours of training
                check_decode(decode)
                if decode.asks_world:
                    check_partner(decode.asks(known=self.known))
        known = {(arm.name, decode.name) for arm in self.arms for decode in (ALONE, *arm.decodes)}
        named = [side for contrast in self.contrasts for side in (contrast.better, contrast.worse)]
        for side in (*named, *self.curves, *self.variants):
            if side not in known:
                raise ConfigError(f"study {self.name}: {side} is no arm and decode of it")
        for contrast in self.contrasts:
            self._check(contrast)
        if max(len(self.curves), len(self.variants)) > MOST_LINES:
            raise ConfigError(
                f"study {self.name}: curves and variants can have {MOST_LINES} lines each, a colour a line"
            )
        try:
            graphlib.TopologicalSorter({arm.name: arm.needs for arm in self.arms}).prepare()
        except graphlib.CycleError as error:
            raise ConfigError(f"study {self.name}: arms need each other: {', '.join(error.args[1])}") from None

    def _check(self, contrast: Contrast) -> None:
        """Raises `ConfigError` where a side has no results at the contrast's budget or cost: the page would lack it."""
        budget = self.main_budget if contrast.budget is None else contrast.budget
        for arm, name in (contrast.better, contrast.worse):
            decode = self.decode(arm, name)
            if contrast.cost is not None:
                if contrast.budget is not None or decode.policy != "price":
                    raise ConfigError(
                        f"study {self.name}, {contrast.name}: an equal cost is of decodes at a price, without a budget;"
                        f" {name} of {arm} is none"
                    )
                if decode.facts_changed and len(self.frontier(arm, name)) < 2:
                    raise ConfigError(
                        f"study {self.name}, {contrast.name}: an equal cost needs two prices of {name} of {arm}, as "
                        "its partner's facts have changed"
                    )
            elif decode != ALONE and budget not in decode.budgets:
                raise ConfigError(
                    f"study {self.name}, {contrast.name}: {name} of {arm} has no budget {budget:g}; its budgets: "
                    f"{', '.join(f'{each:g}' for each in decode.budgets)}"
                )

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def decode(self, arm: str, name: str) -> Decode:
        return next(decode for decode in (ALONE, *self.arm(arm).decodes) if decode.name == name)

    def frontier(self, arm: str, decode: str) -> tuple[Decode, ...]:
        """What calls as the decode does, at its price and at the arm's others."""
        first = self.decode(arm, decode)
        return tuple(
            each
            for each in self.arm(arm).decodes
            if each.policy == "price"
            and dataclasses.replace(each, name=decode, price=first.price, budgets=first.budgets) == first
        )

    @property
    def title(self) -> str:
        return f"{self.name}, {self.variant}" if self.variant else self.name

    @property
    def page(self) -> str:
        """The file name of its page."""
        return f"study_{self.variant}.html" if self.variant else "study.html"

    @property
    def partners(self) -> frozenset[str]:
        """The arms that answer others."""
        return frozenset[str]().union(*(arm.partners for arm in self.arms))

    def jobs(self) -> Iterator[tuple[Arm, int]]:
        """(arm, seed), all arms of a seed before the next, as they are listed; `needs` says what each waits for."""
        for seed in self.seeds:
            for arm in self.arms:
                if seed == self.seeds[0] or arm.name not in self.partners:
                    yield arm, seed

    def needs(self, arm: Arm, seed: int) -> set[tuple[str, int]]:
        """The runs, (arm, seed), that must be there before this one."""
        partners = {(name, self.seeds[0]) for name in arm.partners}
        return partners | ({(arm.reference, seed)} if arm.reference else set())


def load_study(spec: str) -> Study:
    """The study of `FILE.py` or `FILE.py:variant`.

    Raises:
        ConfigError: there is no such file, it has no get_study, or what that gives is no study.
    """
    study = call_in_file(spec, function="get_study", flag="study", argument="")
    if not isinstance(study, Study):
        raise ConfigError(f"--study={spec}: get_study(variant) gives {type(study).__name__}, not a Study")
    return study
