"""Times cascade decoding: tokens a second by budget and batch, beside floors and peers.

    python -m benchmarks.decode                    # random weights of slm_tiny's size, a partner six times as large
    python -m benchmarks.decode --checkpoint runs/slm_tiny --batches 8 --budgets 0,0.22

The partner is a checkpoint of random weights with a tokenizer of its own, one token per call, so that every call costs
what a model of its size costs. Beside the figures stand:

- the floor of the SLM alone: every step reads all weights and the cache once, at the memory bandwidth measured in
  the same minute, or does 2N FLOPs per row, at the rate of a plain matrix product, whichever takes longer;
- the floor with the partner: besides, every token that a question's longest answer took is a step of the partner, of
  its weights and the cache of the question's rows (what it reads of the texts, and steps thrown away, are not in it);
- the peer without parking: the same cascade, but the partner is asked as soon as a row calls, and all wait for it;
- the peer in one group: at budget 0, the same on one thread for all rows (on a CPU they are shared out over cores);
- the peer `transformers`, `generate` of the SLM's architecture in PyTorch at budget 0, where they are installed.

Runs alternate, and ratios are medians over rounds, so a machine that is busy for a while disturbs all alike.
"""

import argparse
import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.door import answered, counts
from benchmarks.objective import matmul_rate
from benchmarks.training_step import method_config
from lacy_jax.cascade import Cascade, Counts, scheduler
from lacy_jax.cascade.decoding import session
from lacy_jax.cascade.partners.checkpoint import CheckpointPartner, _Answer
from lacy_jax.cascade.partners.guard import Guard
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import Config, CorpusConfig, ModelConfig
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import full_text
from lacy_jax.data.tokenizer import Tokenizer, train_tokenizer
from lacy_jax.evidence.run_report.samples import prompt_of
from lacy_jax.model import decoder
from lacy_jax.training.flops import parameter_count

SLM = ModelConfig(layers=4, width=192, heads=3, context=256, compute_dtype="float32")
PARTNER = ModelConfig(layers=8, width=384, heads=6, context=256, compute_dtype="float32")


def random_model(config: ModelConfig, tokenizer: Tokenizer, *, seed: int) -> LoadedModel:
    """A model of random weights, large enough ones that its choices depend on what it has read."""
    vocab = decoder.padded_vocab(tokenizer.vocab_size)
    params = jax.jit(lambda: decoder.init_params(config, vocab=vocab, key=jax.random.key(seed)))()
    params = jax.tree.map(lambda x: x * 4 if x.ndim > 1 else x, params)
    whole = Config(model=config)
    return LoadedModel(config=whole, params=params, tokenizer=tokenizer, path="random weights")


class Unparked(Guard):
    """A guard that answers before anybody goes on."""

    def submit(self, texts: Sequence[str]) -> Any:
        future = super().submit(texts)
        future.result()
        return future


@contextlib.contextmanager
def one_group() -> Iterator[None]:
    """Sessions that begin within have one group of rows."""
    count = session.group_count
    session.group_count = lambda *_: 1
    try:
        yield
    finally:
        session.group_count = count


class Counted(CheckpointPartner):
    """Remembers its answers."""

    def __init__(self, loaded: LoadedModel, *, slots: int):
        super().__init__(loaded, slots=slots, span="token")
        self.begun: list[list[tuple[_Answer, int]]] = []

    def _place(self, answers: Sequence[_Answer]) -> dict[int, _Answer]:
        self.begun.append([(answer, len(answer.ids)) for answer in answers])
        return super()._place(answers)

    def steps(self) -> list[list[int]]:
        """Tokens that each answer took, by question."""
        return [[len(answer.ids) - length for answer, length in group] for group in self.begun]


class Rates(NamedTuple):
    """What the device does at best: bytes read and FLOPs, a second."""

    bandwidth: float
    flops: float


@dataclasses.dataclass(frozen=True)
class Setting:
    """One cell of the table."""

    budget: float
    batch: int


def tokens_per_second(cascade: Cascade, prompts: Sequence[str], *, batch: int, length: int) -> tuple[float, Counts]:
    """SLM tokens a second, prompts not counted but their reading included; and what was counted."""
    started = time.perf_counter()
    rows = cascade.generate(prompts[:batch], max_new_tokens=length, batch_size=batch)
    counts = sum((row.counts for row in rows), start=Counts())
    return counts.generated / (time.perf_counter() - started), counts


def copy_bandwidth() -> float:
    """Bytes a second read from memory, by a sum over an array that no cache holds, and that takes a while to read."""
    array = jnp.ones(2**26 if jax.default_backend() == "cpu" else 2**30, jnp.float32)
    total = jax.jit(jnp.sum)
    total(array).block_until_ready()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        total(array).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return array.nbytes / min(seconds)


def step_seconds(loaded: LoadedModel, rates: Rates, *, rows: float, context: int) -> float:
    """What a step of so many rows takes at least, with `context` tokens in each cache on average."""
    model = loaded.model
    parameters = parameter_count(model, vocab=decoder.output_matrix(loaded.params).shape[0])
    kv_width = (model.kv_heads or model.heads) * model.head_size
    cache = 4 * rows * context * 2 * model.layers * kv_width
    return max((4 * parameters + cache) / rates.bandwidth, 2 * rows * parameters / rates.flops)


def partner_seconds(partner: Counted, loaded: LoadedModel, rates: Rates, *, context: int) -> float:
    """What the partner's steps take at least."""
    longest = [(max(steps), sum(steps)) for steps in partner.steps() if any(steps)]
    return sum(n * step_seconds(loaded, rates, rows=rows / n, context=context) for n, rows in longest)


def transformers_generate(slm: LoadedModel, prompts: Sequence[str], *, length: int) -> Callable[[int], float] | None:
    """Tokens per second of PyTorch's `generate` for a batch; None where it is missing or the style is not GPT-2's."""
    try:
        import torch
        import transformers
    except ImportError:
        return None
    model = slm.model
    if model.positions != "learned":
        return None
    config = transformers.GPT2Config(
        vocab_size=decoder.output_matrix(slm.params).shape[0],
        n_positions=model.context,
        n_embd=model.width,
        n_layer=model.layers,
        n_head=model.heads,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peer = transformers.GPT2LMHeadModel(config).eval().to(device)
    ids = [slm.tokenizer.encode(prompt).ids.tolist() for prompt in prompts]

    def run(batch: int) -> float:
        width = max(map(len, ids[:batch]))
        padded = torch.tensor([[0] * (width - len(row)) + row for row in ids[:batch]], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids[:batch]], device=device)
        started = time.perf_counter()
        with torch.inference_mode():
            peer.generate(
                padded,
                attention_mask=mask,
                do_sample=False,
                min_new_tokens=length,
                max_new_tokens=length,
                pad_token_id=0,
                eos_token_id=None,
            )
        return batch * length / (time.perf_counter() - started)

    return run


def model_of(path: str | None) -> ModelConfig | None:
    """The model of a config file, in float32 as cascades run it."""
    if path is None:
        return None
    return dataclasses.replace(method_config(path, "ntp", []).model, compute_dtype="float32")


def main() -> None:
    """Runs every cell, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="the SLM; default: random weights")
    parser.add_argument("--slm", metavar="CONFIG", help="whose model the random SLM has; default: slm_tiny's size")
    parser.add_argument("--partner", metavar="CONFIG", help="the partner's; default: six times slm_tiny")
    parser.add_argument("--budgets", default="0,0.05,0.22,0.8")
    parser.add_argument("--batches", type=counts, default="1,8,64")
    parser.add_argument("--length", type=int, default=64, help="new tokens per row")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    documents = [document for document, _ in zip(read_documents(CorpusConfig()), range(2000), strict=False)]
    texts = [full_text(document) for document in documents]
    tokenizer = Tokenizer.from_bytes(train_tokenizer(texts, vocab_size=4096))
    slm = (
        load_model(options.checkpoint)
        if options.checkpoint
        else random_model(model_of(options.slm) or SLM, tokenizer, seed=0)
    )
    other = Tokenizer.from_bytes(train_tokenizer(texts[:500], vocab_size=6000))
    large = random_model(model_of(options.partner) or PARTNER, other, seed=1)
    prompts = [prompt_of(document) for document in documents[: max(options.batches)]]
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), float32; {options.length} new tokens, {options.rounds} rounds")
    titles = f"{'budget':>7}{'batch':>6}{'tokens/s':>10}{'of floor':>10}{'/ unparked':>12}{'/ one group':>13}"
    print(f"{titles}{'/ transformers':>16}{'share':>7}{'texts per question':>20}{'with partner':>14}")
    peer = transformers_generate(slm, prompts, length=options.length)
    for batch in options.batches:
        rates = Rates(copy_bandwidth(), matmul_rate("float32"))
        print(f"{rates.bandwidth / 1e9:.1f} GB/s, {rates.flops / 1e9:.0f} GFLOP/s")
        for budget in map(float, options.budgets.split(",")):
            report(Setting(budget, batch), slm, large, prompts, rates=rates, peer=peer, options=options)


def report(
    setting: Setting,
    slm: LoadedModel,
    large: LoadedModel,
    prompts: Sequence[str],
    *,
    rates: Rates,
    peer: Callable[[int], float] | None,
    options: argparse.Namespace,
) -> None:
    """Times one cell against its peers and prints its line."""

    def run(guard: Callable[..., Guard], share: float) -> tuple[float, Counts, float, float]:
        """Tokens per second, counts, texts per question, and the floor with the partner, in tokens per second."""
        partner = Counted(large, slots=setting.batch)
        asked = guard(partner)
        cascade = Cascade(slm, asked, budget=setting.budget, score="call_score", span="token")
        scheduler.PARKED_SHARE = share
        speed, counts = tokens_per_second(cascade, prompts, batch=setting.batch, length=options.length)
        own = counts.generated * step_seconds(slm, rates, rows=setting.batch, context=options.length) / setting.batch
        least = own + partner_seconds(partner, large, rates, context=options.length)
        questions = asked.statistics.questions / max(1, asked.statistics.batches)
        return speed, counts, questions, counts.generated / least

    parked = scheduler.PARKED_SHARE
    calls, on_cpu = setting.budget > 0, jax.default_backend() == "cpu"
    run(Guard, parked)  # compiles
    if calls:
        run(Unparked, 0.0)
    elif on_cpu:
        with one_group():
            run(Guard, parked)
    if not calls and peer is not None:
        peer(setting.batch)
    speeds, unparked, grouped, theirs, texts, floors = [], [], [], [], [], []
    best = setting.batch / step_seconds(slm, rates, rows=setting.batch, context=options.length)
    for _ in range(options.rounds):
        speed, counts, size, floor = run(Guard, parked)
        speeds.append(speed)
        floors.append(speed / floor)
        texts.append(size)
        if calls:
            unparked.append(speed / run(Unparked, 0.0)[0])
            continue
        if on_cpu:
            with one_group():
                grouped.append(speed / run(Guard, parked)[0])
        if peer is not None:
            theirs.append(speed / peer(setting.batch))
    scheduler.PARKED_SHARE = parked
    speed = statistics.median(speeds)

    def ratio(values: list[float]) -> str:
        return f"{statistics.median(values):.2f}" if values else "-"

    print(
        f"{setting.budget:7g}{setting.batch:6}{speed:10,.0f}{f'{speed / best:.0%}':>10}{ratio(unparked):>12}"
        f"{ratio(grouped):>13}{ratio(theirs):>16}{counts.share:7.3f}{np.mean(texts):20.1f}"
        f"{f'{statistics.median(floors):.0%}':>14}",
        flush=True,
    )


if __name__ == "__main__":
    answered(main)
