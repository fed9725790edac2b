"""The synthetic model that the server's benchmarks answer with: the shape of a 0.5B, and words of the demonstration's.

Its vocabulary is the demonstration model's own, so that questions are cut into as many tokens as those of a real model
and every server cuts them alike, filled up to the shape's size with words of letters only: what the weights say is
nonsense, but the guard finds no numbers in it to check.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from synthetic import MIXES, SHAPES

from edgemed.demo import demo_model_path
from edgemed.hardware.synthetic_model import write_synthetic
from edgemed.models.gguf import check_gguf
from edgemed.models.gguf_values import Value, flag, i32_array, text, texts, u32

HALF_B = SHAPES["qwen2-0.5b"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ORDINARY = 1
"""llama.cpp's kind of a plain token."""


def half_b(folder: Path) -> Path:
    """A 0.5B of Qwen2 shape in the nf4-int8 mix, some 400 MB."""
    return write_synthetic(
        folder / "half-b-nf4-int8.gguf",
        HALF_B,
        MIXES["nf4-int8"],
        context_length=8192,
        vocabulary=filled_vocabulary(HALF_B.vocab_size),
    )


def filled_vocabulary(size: int) -> dict[str, Value]:
    """The demonstration model's vocabulary and chat template, with fillers behind it."""
    header = check_gguf(demo_model_path())
    words = header.read_array("tokenizer.ggml.tokens")
    n_more = size - len(words)
    kinds = [*header.read_array("tokenizer.ggml.token_type"), *[_ORDINARY] * n_more]
    known = set(words)
    fillers = (word for word in map(_filler, range(2 * size)) if word not in known)
    return {
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text("qwen2"),
        "tokenizer.ggml.tokens": texts([*words, *(next(fillers) for _ in range(n_more))]),
        "tokenizer.ggml.token_type": i32_array(kinds),
        "tokenizer.ggml.merges": texts(header.read_array("tokenizer.ggml.merges")),
        "tokenizer.ggml.eos_token_id": u32(header.metadata["tokenizer.ggml.eos_token_id"]),
        "tokenizer.ggml.padding_token_id": u32(header.metadata["tokenizer.ggml.padding_token_id"]),
        "tokenizer.ggml.add_bos_token": flag(False),
        "tokenizer.chat_template": text(header.metadata["tokenizer.chat_template"]),
    }


def _filler(number: int) -> str:
    """A word with a blank before it; five letters count all of them."""
    letters = ""
    for _ in range(5):
        number, at = divmod(number, len(_LETTERS))
        letters += _LETTERS[at]
    return "Ġ" + letters
