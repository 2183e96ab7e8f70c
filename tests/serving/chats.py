"""Chat templates as published models bring them, and a tokenizer with their control tokens."""

import functools
import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from lacy_jax.checkpoints.chat_template import ChatTemplate
from lacy_jax.data.hf_tokenizer import HfTokenizer
from lacy_jax.serving.chat import Chat
from tests.hf_folders import tokenizer_json

# SmolLM2-135M-Instruct's own, the manner of Llama 3 and of Phi-4-mini (whose names are put together), and what Qwen3's
# does with thoughts.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{- bos_token }}\n{%- for message in messages %}\n    {%- if loop.index0 > 99 %}{% break %}{% endif %}\n"
    "    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim }}\n"
    "    {{- '<|eot_id|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
    "    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
PHI4 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt else eos_token }}"
)
THOUGHTS = (
    "{% set found = namespace(last=-1) %}{% for message in messages %}{% set content = message.content %}"
    "{% if message.role == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% set found.last = loop.index0 %}{% endif %}"
    "<|im_start|>{{ message.role }}\n{% generation %}{{ content | replace('!', '') }}{% endgeneration %}<|im_end|>\n"
    "{% endfor %}{% if tools is none and found.last >= 0 %}{{ {'thoughts': 'é'} | tojson }}{% endif %}"
    "<|im_start|>assistant\n"
)
TEMPLATES = {"smollm2": SMOLLM2, "llama3": LLAMA3, "phi4": PHI4, "thoughts": THOUGHTS}
CONTROL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>",
)  # fmt: skip
NAMES = {"bos_token": "<|begin_of_text|>", "eos_token": "<|im_end|>"}


@functools.cache
def definition() -> str:
    """A byte-level tokenizer.json; <think> and </think> are tokens of it, and text."""
    tokenizer = Tokenizer.from_str(tokenizer_json("gpt2"))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in CONTROL])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in ("<think>", "</think>")])
    return tokenizer.to_str()


def chat_of(source: str) -> Chat:
    end_id = Tokenizer.from_str(definition()).token_to_id("<|im_end|>")
    return Chat(ChatTemplate(source, NAMES), HfTokenizer(definition(), start_id=None, end_id=end_id))


def write_tokenizer(folder: Path, source: str) -> Path:
    """A folder that transformers opens."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(definition())
    settings = {**NAMES, "chat_template": source, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
