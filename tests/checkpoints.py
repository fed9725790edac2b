"""Tiny checkpoints in Hugging Face layout: real tokenizers trained on a few lines, random weights."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "The patient has a fever: give paracetamol 15 mg/kg every 6 hours, at most 60 mg/kg per day.",
    "What is the dose of amoxicillin in a child of 2 years? 40 mg/kg twice daily for 5 days.",
    "Do not give ibuprofen in the third trimester of pregnancy. Refer at once. It's urgent; she'll need care.",
    "Artemether-lumefantrine 20 mg/120 mg tablets, oxytocin 10 IU, magnesium sulfate 4 g, zinc 20 mg, ORS.",
]

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma3", "phi3")


def write_byte_level_tokenizer(
    folder: Path, *, split: str = QWEN2_SPLIT, ignore_merges: bool = False, **settings: Any
) -> int:
    """A byte-level BPE tokenizer with chat tokens in `folder`; the size of its vocabulary.

    `split` is a regular expression, "words" for byte-level's own, or "digits" for single digits before those.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.normalizer = normalizers.NFC()
    own = split in ("words", "digits")
    first = [] if own else [pre_tokenizers.Split(Regex(split), "isolated")]
    if split == "digits":
        first = [pre_tokenizers.Digits(individual_digits=True)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}
    _write_settings(folder, names | {"chat_template": CHAT_TEMPLATE} | settings)
    return int(tokenizer.get_vocab_size())


def write_sentencepiece_tokenizer(folder: Path, *, prefix: str = "always", **settings: Any) -> int:
    """A SentencePiece-style BPE tokenizer with byte fallback, as Llama 2's; the size of its vocabulary.

    Its merges are closed as SentencePiece's are: every way to make a piece from two is a merge.
    """
    special, letters = ["<unk>", "<s>", "</s>"], sorted({"\u2581", *"".join(CORPUS).replace(" ", "")})
    pieces = [
        "\u2581t",
        "he",
        "\u2581the",
        "in",
        "re",
        "\u2581d",
        "ose",
        "\u2581dose",
        "ev",
        "er",
        "ever",
        "mg",
        "os",
        "se",
    ]
    vocabulary = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *letters]
    known = {*pieces, *letters}
    merges = [
        [piece[:cut], piece[cut:]]
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    normalizers = [{"type": "Prepend", "prepend": "\u2581"}, replace] if prefix == "always" else [replace]
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(number, token) for number, token in enumerate(special)],
        "normalizer": {"type": "Sequence", "normalizers": normalizers} if prefix != "first" else None,
        "pre_tokenizer": metaspace if prefix == "first" else None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {token: number for number, token in enumerate(dict.fromkeys(vocabulary))},
            "merges": merges,
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    _write_settings(folder, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | settings)
    return len(tokenizer["model"]["vocab"])


def write_checkpoint(folder: Path, architecture: str, *, dtype: str = "bfloat16", **changes: Any) -> Path:
    """A random model of one architecture, two or more tiny layers, saved by transformers itself."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece = architecture in ("llama", "mistral", "gemma3", "phi3")
    write = write_sentencepiece_tokenizer if sentencepiece else write_byte_level_tokenizer
    n_vocab = write(folder, **({"prefix": "never"} if architecture == "gemma3" else {}))
    config, model_class = _config(architecture, n_vocab, changes)
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms of one and biases of zero would hide what is done to them
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif "embed" not in name:
                parameter.mul_(4)  # default weights are so small that attention is flat and positions do not matter
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def _config(architecture: str, n_vocab: int, changes: dict[str, Any]) -> tuple[Any, Any]:
    import transformers as hf

    common = {
        "vocab_size": n_vocab + 3,  # rows that no token uses, as real models have
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
    }
    own: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, {"head_dim": 16}),
        "mistral": (hf.MistralConfig, hf.MistralForCausalLM, {"head_dim": 32, "sliding_window": None}),
        "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM, {"tie_word_embeddings": True}),
        "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM, {"head_dim": 32}),
        "gemma3": (
            hf.Gemma3TextConfig,
            hf.Gemma3ForCausalLM,
            {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16, "num_hidden_layers": 7},
        ),
        "phi3": (hf.Phi3Config, hf.Phi3ForCausalLM, {}),
    }
    config_class, model_class, special = own[architecture]
    return config_class(**(common | special | changes)), model_class


def write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> Path:
    """A safetensors file written by hand: name to (dtype, shape, data)."""
    header: dict[str, Any] = {}
    place = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + len(data)]}
        place += len(data)
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"".join(data for _, _, data in tensors.values()))
    return path


def _added(number: int, token: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, "special": True, **plain}


def _write_settings(folder: Path, settings: dict[str, Any]) -> None:
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(own | settings), encoding="utf-8")
