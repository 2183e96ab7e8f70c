"""Find the price at which a cascade spends a wanted share of its tokens, and save it with the checkpoint.

    python -m lacy_jax.calibrate --checkpoint=runs/slm_tiny --partner=documents --share=0.1

The cascade writes the same texts at one price after another; what counts is what they spend: tokens that the partner
wrote, and questions that it did not answer. `generate`, `serve` and `export` then call at that price (docs/cascade.md).
With --score=expected_saving it first learns, from training documents that both read, where the partner saves most.
"""

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lacy_jax import flags, from_flags
from lacy_jax.config import Positive
from lacy_jax.doors import Door, run
from lacy_jax.errors import ConfigError
from lacy_jax.flags import Flag, Given
from lacy_jax.folders import unwritable

if TYPE_CHECKING:
    from lacy_jax.adaptation.calibrate import Spent
    from lacy_jax.cascade import Cascade
    from lacy_jax.checkpoints.loading import LoadedModel
    from lacy_jax.console import Reporter

_POLICY = ("policy", "price")  # what is found
_FLAGS = (
    flags.CHECKPOINT,
    Flag("share", Annotated[float, Field(gt=0.0, lt=1.0)], "Share of the tokens to spend: 0.1 for 10%", needed=True),
    *(flag for flag in flags.CASCADE if flag.name not in _POLICY),
    Flag("samples", Positive, "Texts to write, each after the opening of a held-out document", 64),
    replace(flags.PROMPTS_FILE, help=f"What the texts begin with, in place of documents. {flags.PROMPTS_FILE.help}"),
    flags.OWN_CORPUS,
    Flag("max_new_tokens", Positive, "SLM tokens of each text", 64),
    Flag("documents", Positive, "--score=expected_saving: training documents that it learns from", 400),
    flags.TEMPERATURE,
    flags.BATCH_SIZE,
    replace(flags.DRY_RUN, help="Find the price and print it, save nothing"),
)


def main(given: Given) -> int:
    """Finds the price, prints what each one spent, and saves it."""
    checkpoint = from_flags.given_checkpoint(given)
    if given.partner == "none":
        raise ConfigError("--partner=none: nobody answers, so every price spends nothing; name a partner")
    from lacy_jax.checkpoints.calibration import check_calibratable, save_calibration
    from lacy_jax.checkpoints.loading import load_model
    from lacy_jax.console import reporting

    if not given.dry_run:
        check_calibratable(checkpoint)
    slm = replace(load_model(checkpoint), calibration={})  # an earlier price is none for this partner
    budget = slm.config.cascade.budget if given.budget is None else given.budget
    if given.share > budget:
        raise ConfigError(
            f"--share={given.share:g} is more than a long text may spend, {budget:g}; give a larger --budget, too"
        )
    agreed = _corpus_agreed(slm, given)
    prompts = _prompts(slm, given, agreed=agreed or given.partner == "documents")
    with reporting() as reporter:
        slm = _with_saving_probe(slm, given, reporter, agreed=agreed)
        cascade = from_flags.open_given_cascade(given, batch_size=given.batch_size, slm=slm)
        best = _find(cascade, prompts, given, reporter)
    if given.dry_run:
        others = f"; other commands take --policy=price --price={best.price:g}"
        print(
            "nothing is saved" + (", so no other command can call by expected_saving" if slm.saving_probe else others)
        )
        return 0
    settings = replace(cascade.settings, policy="price", price=best.price)
    texts = {"texts": len(prompts), "max_new_tokens": given.max_new_tokens, "temperature": given.temperature}
    found = {"wanted": given.share, "share": best.share, **texts}
    save_calibration(slm.path, settings, found=found, saving_probe=slm.saving_probe)
    print(f"{slm.path}: its cascade calls at the price {best.price:g} now, for the partner {settings.partner}")
    return 0


def _prompts(slm: "LoadedModel", given: Given, *, agreed: bool) -> list[str]:
    from lacy_jax.adaptation.calibrate import held_out_prompts
    from lacy_jax.data.prompts import checked_prompts, prompts_of_file

    if given.prompts_file is None:
        return held_out_prompts(slm, directory=given.directory or "", count=given.samples, agreed=agreed)
    prompts = checked_prompts(prompts_of_file(given.prompts_file))
    if not prompts:
        raise ConfigError(f"--prompts_file={given.prompts_file}: it holds no prompt")
    return prompts


def _corpus_agreed(slm: "LoadedModel", given: Given) -> bool:
    """Whether the user named the checkpoint's own corpus, so that it may be opened even if that runs code of others."""
    if given.corpus is not None and slm.data and given.corpus != slm.config.corpus.name:
        raise ConfigError(f"--corpus={given.corpus}: the corpus of {slm.path} is {slm.config.corpus.name}")
    return given.corpus is not None


def _with_saving_probe(slm: "LoadedModel", given: Given, reporter: "Reporter", *, agreed: bool) -> "LoadedModel":
    """With a probe for what its partner saves, if it calls by that; prints what that is worth."""
    settings = from_flags.given_settings(slm, given)
    if settings.score != "expected_saving":
        if "documents" in given.names:
            raise ConfigError("--documents says from how many documents --score=expected_saving learns; give that, too")
        return replace(slm, saving_probe=None)
    from lacy_jax.adaptation.calibrate import own_documents
    from lacy_jax.adaptation.saving import learn_saving
    from lacy_jax.cascade.cascade import as_called
    from lacy_jax.cascade.partners import read_spec
    from lacy_jax.checkpoints.loading import load_model
    from lacy_jax.evidence.token_scores import ENDINGS
    from lacy_jax.model.probe import Probe

    form, path = read_spec(settings.partner)
    if form != "checkpoint":
        raise ConfigError(
            f"--score=expected_saving: the partner {settings.partner} is no model, so it is not known what it pays for "
            "a text; name one by --partner=checkpoint:PATH, or take another score"
        )
    directory = given.directory or slm.config.data.directory
    if problem := unwritable(directory):
        raise ConfigError(f"what the partner read is kept in {directory}, which {problem}; name another --directory")
    nothing = Probe(weights=(0.0,) * slm.model.width, bias=0.0)
    slm = as_called(replace(slm, saving_probe=nothing), settings)
    own = functools.partial(own_documents, slm, directory=directory, instead="take another --score", agreed=agreed)
    train, held_out = own(split="train", count=given.documents), own(split="validation", count=-(-given.documents // 4))
    partner = load_model(path)
    folder = Path(directory) / "partner_reads"
    slm, pieces = learn_saving(slm, partner, train, held_out, folder=folder, progress=reporter.update)
    reporter.finish()
    scores, name = pieces.scores(slm), settings.score + ENDINGS[settings.gate]
    if scores[name].max() <= 0:
        raise ConfigError(f"the partner {settings.partner} is expected to save nothing, anywhere in held-out documents")
    ways = {name: scores[name], "uncertainty": scores["uncertainty"], "what it saves, in hindsight": pieces.saved}
    print(f"bits per byte of {len(held_out)} held-out documents, {given.share:g} of the tokens asked for:")
    print(f"  {pieces.bits_per_byte(pieces.saved, share=0.0):.3f} alone")
    for way, values in ways.items():
        print(f"  {pieces.bits_per_byte(values, share=given.share):.3f} asked by {way}", flush=True)
    return slm


def _find(cascade: "Cascade", prompts: list[str], given: Given, reporter: "Reporter") -> "Spent":
    """What the texts spend at the price that is found; prints that of every price."""
    from lacy_jax.adaptation.calibrate import best_of, rounds, spent_at
    from lacy_jax.cascade import Request, Sampling

    budget = cascade.settings.budget
    if cascade.partner is None:
        raise ConfigError("the checkpoint names no partner; add --partner=...")
    if cascade.partner.prepares:
        reporter.say("partner: it compiles its programs before the first text that may ask it")
    sampling = Sampling(given.temperature)
    requests = [Request(prompt, max_new_tokens=given.max_new_tokens, sampling=sampling) for prompt in prompts]
    tried = []
    for spent in rounds(cascade, requests, share=given.share, batch_size=given.batch_size, progress=reporter.update):
        reporter.finish()
        tried.append(spent)
        print(spent, flush=True)
    best = best_of(tried, share=given.share)
    print(f"{best}, the one for {given.share:g}")
    if budget < 1:
        used = spent_at(
            best.price, cascade, requests, batch_size=given.batch_size, progress=reporter.update, budget=None
        )
        reporter.finish()
        print(f"{used}, of at most {budget:g} of a long text (--budget)")
    return best


DOOR = Door("calibrate", __doc__, _FLAGS, main)

if __name__ == "__main__":
    run(DOOR)
