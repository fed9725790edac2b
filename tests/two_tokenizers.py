"""A teacher's tokenizer that packs digits, as Llama 3's, made from text; and the real ones that spell them."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA3_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SHARED = Path(__file__).parents[2] / "shared" / "data"


def write_llama3_like_tokenizer(folder: Path, *, vocab_size: int = 2000) -> Path:
    """Byte-level BPE with a token for every numeral of up to three digits, learned from the table of facts."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from edgemed.demo.table import fact_table

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    numerals = [f"{number:0{width}d}" for width in (1, 2, 3) for number in range(10**width)]
    facts = [fact.model_dump_json() for fact in fact_table().facts]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=LLAMA3_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*numerals * 60, *facts], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "chat_template": LLAMA3_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def unpacked_tokenizer(name: str, folder: Path) -> Path:
    """A real tokenizer of shared/data, written to `folder`; skips the test where it is absent."""
    source = SHARED / name
    if not source.is_dir():
        pytest.skip(f"shared/data/{name} is not here")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    for file in ("chat_template.jinja", "tokenizer_config.json"):
        shutil.copy(source / file, folder / file)
    return folder
