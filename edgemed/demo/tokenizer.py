"""The demonstration model's tokenizer: byte-level BPE with Qwen2's splitting rule, every digit a token of its own."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import Any

from edgemed.demo.questions import training_examples
from edgemed.demo.table import FactTable
from edgemed.medical.language import Category, language_data

END = "<|im_end|>"
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", END]

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""llama.cpp knows this rule as the pre-tokenizer "qwen2"."""


def train_tokenizer(table: FactTable, vocab_size: int, seed: int) -> Any:
    """A `tokenizers.Tokenizer` of at most `vocab_size` entries, learned from the templates and generated text."""
    return byte_level_bpe(_texts(table, seed), vocab_size)


def byte_level_bpe(texts: Iterable[str], vocab_size: int, split: str = QWEN2_SPLIT) -> Any:
    """A `tokenizers.Tokenizer` of at most `vocab_size` entries, learned from `texts`.

    It is Qwen2's in all but its merges, or has another rule for finding words: `split`, a regular expression.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _texts(table: FactTable, seed: int) -> list[str]:
    rng = random.Random(seed)
    templates = language_data().templates
    texts = [templates.system_text(category) for category in Category] * 50
    for example in itertools.islice(training_examples(table, rng), 20_000):
        texts += [example.question, example.answer]
    return texts
