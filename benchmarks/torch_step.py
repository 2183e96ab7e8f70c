"""The peer of benchmarks.step: the same architecture trained by PyTorch, in a process of its own.

transformers' GPT-2 or Llama with SDPA attention, torch.compile, fused AdamW, clipping, bfloat16 autocast where the
model computes in bfloat16. It reads numbers of steps from stdin and answers each with a line of JSON: the
seconds a step took. Two frameworks in one process would fight for the same cores.
"""

import argparse
import contextlib
import json
import resource
import sys
import time
from typing import Any

import torch
import transformers


def build(settings: dict[str, Any], *, vocab: int) -> torch.nn.Module:
    """The model of a ModelConfig's fields, no dropout; refused where transformers has no such architecture."""
    width, heads, layers, context = (settings[name] for name in ("width", "heads", "layers", "context"))
    common = {"vocab_size": vocab, "tie_word_embeddings": settings["tied_embedding"], "attn_implementation": "sdpa"}
    style = tuple(settings[name] for name in ("positions", "norm", "activation", "bias"))
    if style == ("learned", "layernorm", "gelu", True):
        sizes = {"n_positions": context, "n_embd": width, "n_layer": layers, "n_head": heads}
        inner = settings["mlp_width"] or 4 * width
        no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, n_inner=inner, **no_dropout, **common))
    if style == ("rope", "rmsnorm", "swiglu", False):
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
        sizes |= {"num_key_value_heads": settings["kv_heads"] or heads, "max_position_embeddings": context}
        inner = settings["mlp_width"] or 4 * width
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, intermediate_size=inner, **common))
    raise SystemExit("torch_step: transformers has GPT-2's and Llama's architecture, not a mixture of both")


class Trainer:
    """A model, its optimizer and one batch, which every step trains on."""

    def __init__(self, settings: dict[str, Any], *, vocab: int, batch_size: int, optimizer: dict[str, Any]):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high")
        self.model = build(settings, vocab=vocab).to(self.device)
        self.half = settings["compute_dtype"] == "bfloat16"
        self.clip = optimizer["clip_norm"]
        decays = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decays, "weight_decay": optimizer["weight_decay"]}, {"params": others, "weight_decay": 0}]
        betas = (optimizer["b1"], optimizer["b2"])
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=betas, eps=optimizer["epsilon"], fused=True)
        shape = (batch_size, settings["context"] + 1)
        self.tokens = torch.randint(0, vocab - 64, shape, device=self.device)
        self.loss = torch.compile(self._loss)

    def _loss(self, tokens: torch.Tensor) -> torch.Tensor:
        casting = torch.autocast(self.device, torch.bfloat16) if self.half else contextlib.nullcontext()
        with casting:
            logits = self.model(tokens[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())

    def steps(self, count: int) -> float:
        """Seconds a step, the device's work included."""
        started = time.perf_counter()
        for _ in range(count):
            loss = self.loss(self.tokens)
            loss.backward()
            if self.clip:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        loss.item()
        return (time.perf_counter() - started) / count

    def peak_bytes(self) -> int:
        """Of the accelerator's memory, or of this process where there is none."""
        if self.device == "cuda":
            return int(torch.cuda.max_memory_allocated())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Answers each line of stdin, a number of steps, with {"seconds": a step, "peak_bytes": so far}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("description", help="JSON: model, optimizer, vocab, batch_size")
    given = json.loads(parser.parse_args().description)
    trainer = Trainer(
        given["model"], vocab=given["vocab"], batch_size=given["batch_size"], optimizer=given["optimizer"]
    )
    for line in sys.stdin:
        seconds = trainer.steps(int(line))
        print(json.dumps({"seconds": seconds, "peak_bytes": trainer.peak_bytes()}), flush=True)


if __name__ == "__main__":
    main()
