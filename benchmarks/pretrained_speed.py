"""How fast a pretrained model writes here, beside transformers and llama.cpp on the same file, in turns.

    python -m lacy_jax.export --checkpoint=MODEL.gguf --format=gguf --dtype=float32 --out=MODEL_f32.gguf
    python -m benchmarks.pretrained_speed --model=MODEL.gguf \\
        --llama llama.cpp=http://127.0.0.1:8080 --llama "llama.cpp, float32=http://127.0.0.1:8081"

Greedy, 64 tokens after each of 1 and of 8 openings of held-out articles; the peers may not end a text early. lacy_jax
and transformers compute in float32 with the weights that the file stands for. llama.cpp computes with those of its own
file: of one with 4 bits a weight, each token reads about a fifth of the bytes. Its servers are the user's to start,
with as many slots as rows and the threads that the others use. Runs alternate; the ratios are medians over rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np

from benchmarks.door import answered, counts
from benchmarks.start_tokens import held_out_texts
from lacy_jax.cascade import Cascade, Request
from lacy_jax.checkpoints.loading import LoadedModel, load_model

CHARACTERS = 200  # of a prompt

Writer = Callable[[Sequence[str]], int]  # prompts -> tokens that were written


def ours(slm: LoadedModel, *, length: int) -> Writer:
    """The cascade without a partner."""
    cascade = Cascade(slm, None)

    def write(prompts: Sequence[str]) -> int:
        requests = [Request(prompt, max_new_tokens=length) for prompt in prompts]
        rows = [row for _, row in cascade.iterate(requests, batch_size=len(prompts))]
        return sum(row.counts.generated for row in rows)

    return write


def transformers_peer(path: str, *, length: int) -> Writer:
    """`generate` of transformers' own reading of the file, in float32."""
    import torch
    import transformers

    folder, _, name = path.rpartition("/")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder or ".", gguf_file=name, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder or ".", gguf_file=name, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token

    def write(prompts: Sequence[str]) -> int:
        given = tokenizer(list(prompts), return_tensors="pt", padding=True)
        with torch.inference_mode():
            out = model.generate(**given, do_sample=False, min_new_tokens=length, max_new_tokens=length)
        return int((out.shape[1] - given["input_ids"].shape[1]) * out.shape[0])

    return write


def llama_peer(address: str, *, length: int) -> Writer:
    """A server of llama.cpp, asked for all prompts at once."""
    client, pool = httpx.Client(timeout=600), ThreadPoolExecutor(64)

    def ask(prompt: str) -> int:
        wanted = {"prompt": prompt, "n_predict": length, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        answer = client.post(f"{address}/completion", json=wanted).raise_for_status().json()
        return int(answer["tokens_predicted"])

    return lambda prompts: sum(pool.map(ask, prompts))


def named(text: str) -> tuple[str, str]:
    """A type for argparse: NAME=ADDRESS of a server.

    Raises:
        argparse.ArgumentTypeError: the text is something else.
    """
    name, _, address = text.partition("=")
    if not name or not address.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} should be NAME=ADDRESS, such as llama.cpp=http://127.0.0.1:8080")
    return name, address


def main() -> None:
    """Prints tokens per second, and ratios to ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument(
        "--llama", type=named, action="append", default=[], metavar="NAME=ADDRESS", help="a server of llama.cpp"
    )
    parser.add_argument("--rows", type=counts, default="1,8")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    writers = {
        "lacy_jax": ours(load_model(given.model), length=given.length),
        "transformers": transformers_peer(given.model, length=given.length),
    }
    for name, address in given.llama:
        writers[name] = llama_peer(address, length=given.length)
    for rows in given.rows:
        prompts = [text[:CHARACTERS].rpartition(" ")[0] for text in held_out_texts(rows)]
        rates: dict[str, list[float]] = {name: [] for name in writers}
        for number in range(given.rounds + 1):
            for name, write in writers.items():
                started = time.perf_counter()
                written = write(prompts)
                if number:  # the first round compiles
                    rates[name].append(written / (time.perf_counter() - started))
        own = np.array(rates["lacy_jax"])
        for name, each in rates.items():
            ratios = np.quantile(own / np.array(each), [0.25, 0.5, 0.75])
            print(
                f"{rows} rows, {name:<18} {statistics.median(each):7.1f} tokens/s; lacy_jax is {ratios[1]:.2f} times "
                f"as fast ({ratios[0]:.2f} to {ratios[2]:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    answered(main)
