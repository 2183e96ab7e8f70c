"""Call where it pays: marks that the partner made, a price in place of a quota (docs/defer.md).

    python -m lacy_jax.evaluate --study=configs/study_defer.py --workers=2
    python -m lacy_jax.evaluate --study=configs/study_defer.py:headline    # what matters most of it, ten seeds
    python -m lacy_jax.evaluate --study=configs/study_defer.py:documents   # attention within documents, or windows
    python -m lacy_jax.evaluate --study=configs/study_defer.py:told        # facts in the prompt in place of calls
    python -m lacy_jax.evaluate --study=configs/study_defer.py:remembered  # facts that a model half remembers, changed
    python -m lacy_jax.evaluate --study=configs/study_defer.py:by_heart    # the same after twice as much training
    python -m lacy_jax.evaluate --study=configs/study_defer.py:capacity    # more facts than a model can hold; a GPU's

The world, the models and the lengths are those of configs/study_biographies.py. A mark is where the partner, asked with
the text before it, answers what stands there, and only its first token is a target of `<CALL>`. Each arm calls at a
price, under caps, and by the paper's running quantile. The hypotheses D were written down before the first run, but D3
to D5 got their form (equal cost) after one seed of two arms; E were written down after a look at four seeds.
"""

import dataclasses

from lacy_jax.errors import ConfigError
from lacy_jax.evidence.closed_world.decodes import Decode
from lacy_jax.evidence.study.plan import Arm, Contrast, Study

CAPS = (0.1, 0.22, 1.0)  # the most that is spent; 1: a price alone decides
QUOTAS = (0.1, 0.22)
# What a model trained to call does: at even odds, or by the paper's quantile.
PRICE = Decode("price", score="call_score", policy="price", price=0.5, budgets=CAPS)
QUOTA = Decode("quota", score="call_score", policy="quantile", budgets=QUOTAS)
# What any model can do, with a probe that knows where facts stand: 1 - max p times P(fact) above a price.
GATED = Decode("price", score="uncertainty", gate="factual", policy="price", price=0.1, budgets=CAPS)
GATED_QUOTA = Decode("quota", score="uncertainty", gate="factual", policy="quantile", budgets=QUOTAS)
SPACY_GATED = Decode("price", score="uncertainty", gate="factual", policy="price", price=0.4, budgets=CAPS)


def frontier(decode: Decode, *prices: float) -> tuple[Decode, ...]:
    """The decode at further prices, without a cap: what each share of the tokens buys."""
    names = [f"{decode.name}_{price:g}".replace(".", "_") for price in prices]
    return tuple(
        dataclasses.replace(decode, name=name, price=price, budgets=(1.0,))
        for name, price in zip(names, prices, strict=True)
    )


CALL_FRONTIER, GATED_FRONTIER = frontier(PRICE, 0.7, 0.8, 0.9, 0.95), frontier(GATED, 0.2, 0.3, 0.4, 0.5)
# The same of a model that was trained to call: p(<CALL>) says where the partner knows, this where the model does not.
_OWN = dataclasses.replace(GATED, name="gated", budgets=(1.0,))
OWN_DOUBT = (_OWN, *frontier(_OWN, 0.2, 0.3, 0.4, 0.5))
# Other partners than the one that made the marks, and shorter answers. Prices and caps are the same.
OTHERS = {
    "half": "world:known=0.5",
    "worded": "world:known=0.9,wordings=0.5",
    "wrong": "world:known=0.9,wrong=0.05",
    "changed": "world:known=0.9,changed=1",
}


def others(decode: Decode) -> tuple[Decode, ...]:
    """The decode with each of OTHERS as its partner, and with one word per call."""
    asked = (
        dataclasses.replace(decode, name=name, partner=partner, budgets=(1.0,)) for name, partner in OTHERS.items()
    )
    return (*asked, dataclasses.replace(decode, name="word", span="word", budgets=(1.0,)))


def marks_of(partner: str) -> dict[str, object]:
    """The settings with which a partner makes the marks."""
    return {"annotate.annotator": "partner", "annotate.partner": partner, "rule.sub_tokens": "first"}


ANSWERED = marks_of("world:known=0.9")
CALLING, PLAIN = (PRICE, *CALL_FRONTIER, QUOTA), (GATED, *GATED_FRONTIER, GATED_QUOTA)
NTP = Arm("ntp_answered", "ntp", "NTP, partner's marks", ANSWERED, label="NTP", decodes=(*PLAIN, *others(GATED)))
DEFER = Arm(
    "defer", "defer", "defer, partner's marks", ANSWERED, label="defer", decodes=(*CALLING, *OWN_DOUBT, *others(PRICE))
)
ARMS = (
    NTP,
    DEFER,
    Arm("joint_answered", "joint", "joint, partner's marks", ANSWERED | {"objective.rule": "factual",
        "objective.rate": 1.0}, label="joint", decodes=(*CALLING, *others(PRICE))),
    Arm("soft", "soft", "soft targets, partner's marks", ANSWERED, label="soft", decodes=(*CALLING, *OWN_DOUBT)),
    Arm("mixture", "mixture", "mixture, partner's marks", ANSWERED, label="mixture",
        decodes=CALLING),
    Arm("lacy_answered", "lacy_full", "LaCy, one softmax, partner's marks", ANSWERED, label="LaCy", decodes=CALLING),
    Arm("paper_answered", "lacy", "LaCy, the paper's softmax, partner's marks", ANSWERED, decodes=CALLING),
    Arm("random_answered", "random_factual", "random facts, one softmax, partner's marks",
        ANSWERED | {"objective.normalizer": "full"}, decodes=CALLING),
    Arm("ignore_answered", "ignore_facts", "partner's marks ignored", ANSWERED, decodes=PLAIN),
    Arm("defer_half", "defer", "defer, marks of a partner that knows half", marks_of("world:known=0.5"),
        decodes=(PRICE, dataclasses.replace(PRICE, name="half", partner=OTHERS["half"], budgets=(1.0,)))),
    Arm("ntp", "ntp", "NTP, spaCy's marks", label="NTP, spaCy", decodes=(SPACY_GATED, GATED_QUOTA)),
    Arm("lacy_full", "lacy_full", "LaCy, one softmax, spaCy's marks", label="LaCy, spaCy", decodes=CALLING),
    Arm("lacy", "lacy", "LaCy, the paper's softmax, spaCy's marks", decodes=CALLING),
    Arm("loss", "loss", "loss only", decodes=CALLING),
    Arm("rho", "rho", "Rho-1", decodes=CALLING, reference="ntp"),
)  # fmt: skip
HEADLINE = (
    Contrast("D1: a price beats the quantile", ("defer", "price"), ("defer", "quota")),
    Contrast("D3: at 10%, defer beats NTP with its marks", ("defer", "price"), ("ntp_answered", "price"), cost=0.1),
    Contrast("D4: so at 5%", ("defer", "price"), ("ntp_answered", "price"), cost=0.05),
    Contrast("D5: so at 15%", ("defer", "price"), ("ntp_answered", "price"), cost=0.15),
    Contrast("D6: alone, NTP recalls more", ("ntp_answered", "alone"), ("defer", "alone")),
    Contrast("D7: of changed facts, defer writes the new value more often", ("defer", "changed"),
        ("ntp_answered", "changed"), "followed", budget=1.0),
)  # fmt: skip
# Written down after a look at four seeds: D3 to D5 were going the other way.
AFTERWARDS = (
    Contrast("E1 (after a look at four seeds): at 10%, by its own doubt, defer is level with NTP",
        ("defer", "gated"), ("ntp_answered", "price"), cost=0.1),
    Contrast("E2 (likewise): at 10%, soft is level with NTP", ("soft", "price"), ("ntp_answered", "price"), cost=0.1),
    Contrast("E3 (likewise): at 10%, soft beats defer", ("soft", "price"), ("defer", "price"), cost=0.1),
)  # fmt: skip
SOFT = Contrast("D9: soft targets break fewer texts than hard ones", ("defer", "price"), ("soft", "price"), "unparsed")
CONTRASTS = (
    *HEADLINE,
    *AFTERWARDS,
    Contrast("D2: the partner's marks beat spaCy's", ("defer", "price"), ("lacy_full", "price")),
    Contrast("D8: all that is answered beats the hardest 60%", ("defer", "price"), ("lacy_answered", "price")),
    SOFT,
    Contrast("D10: the mixture beats hard targets at 10%", ("mixture", "price"), ("defer", "price"), cost=0.1),
    Contrast("D11: one word per call says less than a phrase", ("defer", "price"), ("defer", "word"), budget=1.0),
    Contrast("D12: a partner that knows half is asked best by a model whose marks it made", ("defer_half", "half"),
        ("defer", "half"), budget=1.0),
    Contrast("D13: defer beats the gate on a partner with 5% of wrong answers", ("defer", "wrong"),
        ("ntp_answered", "wrong"), budget=1.0),
)  # fmt: skip
CURVES = tuple((name, "price") for name in ("ntp_answered", "defer", "joint_answered", "soft", "mixture", "lacy_full"))
QUOTA_CURVES = (("defer", "quota"), ("ntp_answered", "quota"), ("lacy", "quota"), ("ntp", "price"))
# Documents apart, or not: is what the model reads beside a biography of use, or in its way?
APART = {"model.attention_within": "document"}
DOCUMENTS = (
    *(arm for arm in ARMS if arm.name in ("ntp", "lacy_full")),
    Arm("ntp_apart", "ntp", "NTP, documents apart", APART, label="NTP, apart", decodes=(SPACY_GATED, GATED_QUOTA)),
    Arm("lacy_apart", "lacy_full", "LaCy, one softmax, documents apart", APART, label="LaCy, apart", decodes=CALLING),
)
DOCUMENT_CONTRASTS = (
    Contrast("A1: LaCy, documents apart against windows", ("lacy_apart", "quota"), ("lacy_full", "quota")),
    Contrast("A2: NTP, documents apart against windows", ("ntp_apart", "quota"), ("ntp", "quota")),
)
# Facts in the prompt in place of calls: a model that was trained on texts after some of their facts, and ignores these
# as targets. Its cost is the tokens of these facts, as a share of the text's.
SHARES = (0.9, 0.45, 0.25, 0.1)  # of the facts that are known, and so told
TOLD = Arm(
    "told",
    "ignore_facts",
    "facts in the prompt, no calls",
    {"corpus.name": "biographies_told", "annotate.annotator": "oracle", "rule.kinds": "TOLD",
        "rule.exclude_subjects": False, "rule.first_mention_only": False, "model.context": 256, "data.batch_size": 4},
    label="told",
    decodes=(
        *(Decode(f"told_{round(100 * share)}", partner=f"world:known={share:g}", budgets=(1.0,)) for share in SHARES),
        Decode("changed", partner=OTHERS["changed"], budgets=(1.0,)),
    ),
)  # fmt: skip
TOLD_CONTRASTS = (
    Contrast("F1: facts in the prompt say more than calls, at more tokens", ("told", "told_90"),
        ("ntp_answered", "price"), budget=1.0),
    Contrast("F2: at about the tokens of calls, they say less", ("ntp_answered", "price"), ("told", "told_45"),
        budget=1.0),
)  # fmt: skip
# More facts than the model can hold, each text read 100 times, and a partner that knows three of the six relations:
# does a model that gives these up hold more of the others? A person's facts are 47 bits, 32 of them known to the
# partner; the model has 0.7M parameters. For an accelerator (docs/defer.md): it has not run yet.
PEOPLE = {"few": 2_000, "many": 16_000}
THREE = "world:relations=birth_date+birth_place+university"
THREE_MARKED = marks_of(THREE)
OFTEN = {
    "corpus.biographies.wording": "fixed",
    "corpus.biographies.held_out_share": 0.0,
    "model.compute_dtype": "bfloat16",
    "data.batch_size": 32,
    "training.ground_truth_tokens": 0,
    "training.evaluate_every": 1_000,
}


def of_size(arm: Arm, size: str) -> Arm:
    """The arm on a world of so many people, with 100 passes over their texts (57 tokens each, windows of 160)."""
    people = PEOPLE[size]
    settings = {"corpus.biographies.people": people, "corpus.biographies.documents": people,
        "training.steps": round(people * 57 * 100 / (160 * 32))}  # fmt: skip
    return dataclasses.replace(arm, name=f"{arm.name}_{size}", title=f"{arm.title}, {people:,} people",
        label=f"{arm.label}, {people:,}", settings={**arm.settings, **settings})  # fmt: skip


def asking_three(decode: Decode) -> Decode:
    """The decode with the partner that knows three relations, as often as its price says."""
    return dataclasses.replace(decode, partner=THREE, budgets=(1.0,))


CAPACITY = tuple(
    of_size(arm, size)
    for size in PEOPLE
    for arm in (
        Arm("ntp_three", "ntp", "NTP", THREE_MARKED, label="NTP", decodes=(asking_three(GATED),)),
        Arm("defer_three", "defer", "defer", THREE_MARKED, label="defer", decodes=(asking_three(PRICE),)),
        Arm("whole_three", "defer", "defer, all sub-tokens", THREE_MARKED | {"rule.sub_tokens": "all"},
            label="defer, all", decodes=(asking_three(PRICE),)),
    )
)  # fmt: skip
# Written down before the first run.
CAPACITY_CONTRASTS = (
    Contrast("G1: of 16,000 people, who gives up whole values knows more of what it does not ask for",
        ("whole_three_many", "price"), ("ntp_three_many", "price"), "own_precision", budget=1.0),
    Contrast("G2: so its texts are right more often", ("whole_three_many", "price"), ("ntp_three_many", "price"),
        budget=1.0),
    Contrast("G3: of 2,000 people, NTP's are right more often", ("ntp_three_few", "price"),
        ("whole_three_few", "price"), budget=1.0),
    Contrast("G4: first sub-tokens alone free less", ("whole_three_many", "price"), ("defer_three_many", "price"),
        "own_precision", budget=1.0),
)  # fmt: skip
# Facts that a model remembers: 64 people, three of them held out, the others with 21 to 1,284 biographies. Then the
# partner's facts change. Who asks where the model doubts should not hear of it; who asks wherever the partner knows
# should.
REMEMBERED_WORLD = {
    "corpus.biographies.people": 64,
    "corpus.biographies.documents": 6_000,
    "training.ground_truth_tokens": 1_500_000,
    "training.evaluate_every": 1_000,
}
# P(fact) by the probe that has the partner's marks, however sure the model is. A pilot with NTP (3M targets, one seed)
# followed most of the changed facts at a price of 0.2, so NTP gets that.
FACTUAL = Decode("factual", score="factual", policy="price", price=0.2, budgets=(1.0,))


def before_and_after(*decodes: Decode) -> tuple[Decode, ...]:
    """Each decode without a cap, and with a partner whose facts have all changed."""
    free = [dataclasses.replace(decode, budgets=(1.0,)) for decode in decodes]
    after = (dataclasses.replace(each, name=f"{each.name}_changed", partner=OTHERS["changed"]) for each in free)
    return (*free, *after)


# Of these prices 0.8 and 0.95 of CALLED, 0.005 of DOUBTED, 0.05 and 0.1 of BY_FACT came after a look, for equal cost.
CALLED = before_and_after(PRICE, *frontier(PRICE, 0.2, 0.8, 0.95))
DOUBTED = before_and_after(GATED, *frontier(GATED, 0.02, 0.005))
BY_FACT = before_and_after(FACTUAL, *frontier(FACTUAL, 0.05, 0.1, 0.5, 0.8))
REMEMBERED = (
    Arm("ntp_known", "ntp", "NTP", ANSWERED, label="NTP", decodes=(*DOUBTED, *BY_FACT)),
    Arm("defer_known", "defer", "defer", ANSWERED, label="defer", decodes=(*CALLED, *BY_FACT)),
    Arm("soft_known", "soft", "soft", ANSWERED, label="soft", decodes=(*CALLED, *BY_FACT)),
)
# Written down after the pilot with NTP and before the first run of another arm.
REMEMBERED_CONTRASTS = (
    Contrast("R1: of changed facts, defer writes the new value more often than NTP asked by its doubt",
        ("defer_known", "price_changed"), ("ntp_known", "price_changed"), "followed", budget=1.0),
    Contrast("R2: more often than NTP asked by P(fact)", ("defer_known", "price_changed"),
        ("ntp_known", "factual_changed"), "followed", budget=1.0),
    Contrast("R3: alone, NTP recalls more of what the partner knows", ("ntp_known", "alone"), ("defer_known", "alone"),
        "of_known"),
    Contrast("R4: of what it does not know, no more (no difference)", ("ntp_known", "alone"), ("defer_known", "alone"),
        "of_unknown"),
    Contrast("R5: while nothing has changed, NTP asked by its doubt is right more often", ("ntp_known", "price"),
        ("defer_known", "price"), budget=1.0),
    # After a look at eight runs, as R2 is not at equal cost.
    Contrast("R10 (after a look): so at 18% of the tokens", ("defer_known", "price_changed"),
        ("ntp_known", "factual_changed"), "followed", cost=0.18),
    Contrast("R6: alone, soft recalls more of what the partner knows than defer", ("soft_known", "alone"),
        ("defer_known", "alone"), "of_known"),
)  # fmt: skip
# The same with twice the targets: NTP then has nine of ten facts right alone (the pilot). Written down before its run.
BY_HEART = tuple(
    dataclasses.replace(
        arm,
        name=arm.name.replace("known", "heart"),
        settings={**arm.settings, "training.ground_truth_tokens": 3_000_000},
    )
    for arm in REMEMBERED[:2]
)
BY_HEART_CONTRASTS = (
    Contrast("R7: of changed facts, defer writes the new value more often than NTP asked by its doubt",
        ("defer_heart", "price_changed"), ("ntp_heart", "price_changed"), "followed", budget=1.0),
    Contrast("R8: more often than NTP asked by P(fact)", ("defer_heart", "price_changed"),
        ("ntp_heart", "factual_changed"), "followed", budget=1.0),
    Contrast("R9: while nothing has changed, NTP asked by its doubt is right more often", ("ntp_heart", "price"),
        ("defer_heart", "price"), budget=1.0),
)  # fmt: skip
REMEMBERED_CURVES = (
    ("ntp_known", "price"),
    ("ntp_known", "factual"),
    ("defer_known", "price"),
    ("soft_known", "price"),
)
NAME, CONFIG, SEEDS = "study_defer", "configs/biographies.py", (0, 1, 2, 3, 4)
HEADLINE_CURVES = (
    ("ntp_answered", "price"),
    ("defer", "price"),
    ("soft", "gated"),
    ("ntp_answered", "quota"),
    ("defer", "quota"),
)
STUDIES = {
    "main": Study(NAME, CONFIG, ARMS, SEEDS, CONTRASTS, curves=CURVES, variants=QUOTA_CURVES),
    "headline": Study(
        NAME,
        CONFIG,
        tuple(arm for arm in ARMS if arm.name in ("ntp_answered", "defer", "soft")),
        tuple(range(10)),
        (*HEADLINE, SOFT, *AFTERWARDS),
        variant="headline",
        curves=HEADLINE_CURVES,
    ),
    "told": Study(NAME, CONFIG, (NTP, TOLD), SEEDS, TOLD_CONTRASTS, variant="told", curves=CURVES[:1]),
    "remembered": Study(
        NAME,
        CONFIG,
        REMEMBERED,
        SEEDS,
        REMEMBERED_CONTRASTS,
        settings=REMEMBERED_WORLD,
        variant="remembered",
        people=64,
        curves=REMEMBERED_CURVES,
        variants=tuple((arm, f"{decode}_changed") for arm, decode in REMEMBERED_CURVES),
    ),
    "by_heart": Study(
        NAME,
        CONFIG,
        BY_HEART,
        SEEDS[:3],
        BY_HEART_CONTRASTS,
        settings=REMEMBERED_WORLD,
        variant="by_heart",
        people=64,
        curves=(("ntp_heart", "price"), ("ntp_heart", "factual"), ("defer_heart", "price")),
    ),
    "capacity": Study(NAME, CONFIG, CAPACITY, SEEDS[:3], CAPACITY_CONTRASTS, settings=OFTEN, variant="capacity"),
    "documents": Study(
        NAME,
        CONFIG,
        DOCUMENTS,
        SEEDS,
        DOCUMENT_CONTRASTS,
        variant="documents",
        curves=tuple((arm.name, "price") for arm in DOCUMENTS),
    ),
}


def get_study(variant: str = "") -> Study:
    """One of `STUDIES`; without a name `main`."""
    study = STUDIES.get(variant or "main")
    if study is None:
        raise ConfigError(f"configs/study_defer.py:{variant}: allowed are {', '.join(STUDIES)}")
    return study
