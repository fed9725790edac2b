"""Tokenizer of a checkpoint to the `tokenizer.*` keys of a GGUF: byte-level BPE, and SentencePiece-style BPE.

Reads `tokenizer.json`, the file of the `tokenizers` library, so that the original can be asked for the token ids of
the same text. Sources: that library's file format; llama.cpp's src/llama-vocab.cpp for what the engine makes of
each key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from edgemed.core.errors import ModelRefused
from edgemed.models.config import as_list, as_table, read_json
from edgemed.models.gguf_values import Value, f32_array, flag, i32_array, text, texts
from edgemed_converters.pretokenizers import KNOWN, pretokenizer_name
from edgemed_converters.special_tokens import special_token_metadata

_SPACE = "\u2581"
"""SentencePiece writes a space as this block."""


class TokenType(IntEnum):
    """llama.cpp's kinds of token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class TokenizerPlan:
    """The tokenizer's part of a GGUF."""

    metadata: Mapping[str, Value]
    normalization: str
    """Unicode form the original brings text to before cutting it ("NFC"), or "": the engine leaves text as it is."""
    space_prefix: str
    """When the original puts a space before text: "never", "always" (after every special token) or "first"."""
    engine_adds_space: bool
    """Whether the engine is told to put a space before text."""
    notes: tuple[str, ...]
    strips_after_special: bool = False
    """The original drops white space after its role tokens, as Phi-3's does."""

    def adds(self, role: str) -> bool:
        """Whether BOS ("bos") or EOS ("eos") is put around text."""
        value = self.metadata.get(f"tokenizer.ggml.add_{role}_token")
        return value is not None and bool(value.value)

    def find(self, role: str) -> int | None:
        """The number of the BOS or EOS token; None when there is none."""
        value = self.metadata.get(f"tokenizer.ggml.{role}_token_id")
        return None if value is None else int(value.value)


@dataclass(slots=True)
class _Vocabulary:
    tokens: list[str]
    types: list[int]


def plan_tokenizer(folder: Path, vocab_size: int, model_config: Mapping[str, Any]) -> TokenizerPlan:
    """The tokenizer of the checkpoint in `folder`, padded to the `vocab_size` rows of its embedding.

    Raises ModelRefused when tokenizer.json is missing, damaged, of a kind the engine cannot reproduce, or too large.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelRefused(
            f"{folder} has no tokenizer.json.",
            next_step="make it with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    tokenizer = read_json(path)
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else None
        raise _refused(path, f"its model is {str(kind)[:40]!r}; byte-level and SentencePiece-style BPE are known")
    vocabulary = _vocabulary(path, tokenizer, vocab_size)
    merges = _merges(path, model)
    if _is_byte_level(tokenizer):
        special = special_token_metadata(folder, tokenizer, vocabulary.tokens, model_config)
        return _byte_level(path, tokenizer, vocabulary, merges, special)
    if model.get("byte_fallback"):
        special = special_token_metadata(folder, tokenizer, vocabulary.tokens, model_config)
        return _sentencepiece(path, tokenizer, vocabulary, merges, special)
    raise _refused(path, "its BPE is neither byte-level nor with byte fallback")


def _byte_level(
    path: Path,
    tokenizer: dict[str, Any],
    vocabulary: _Vocabulary,
    merges: list[tuple[str, str]],
    special: dict[str, Value],
) -> TokenizerPlan:
    pre = pretokenizer_name(tokenizer)
    if pre is None:
        raise _refused(path, f"its pre-tokenizer is not known; known: {', '.join(KNOWN)}")
    normalization, faults = _normalization(tokenizer.get("normalizer"))
    if faults:
        raise _refused(path, faults)
    metadata = {
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text(pre),
        "tokenizer.ggml.tokens": texts(vocabulary.tokens),
        "tokenizer.ggml.token_type": i32_array(vocabulary.types),
        "tokenizer.ggml.merges": texts([f"{left} {right}" for left, right in merges]),
        **special,
    }
    if normalization:
        metadata["edgemed.tokenizer.normalization"] = text(normalization)
    return TokenizerPlan(
        metadata, normalization, "never", engine_adds_space=False, notes=(), strips_after_special=_strips(tokenizer)
    )


def _sentencepiece(
    path: Path,
    tokenizer: dict[str, Any],
    vocabulary: _Vocabulary,
    merges: list[tuple[str, str]],
    special: dict[str, Value],
) -> TokenizerPlan:
    prefix = _space_prefix(tokenizer)
    if prefix is None:
        raise _refused(path, "the way it turns spaces into pieces is not known")
    # With "first" the original has a space before text at the very start only, the engine before text after any special
    # token too. A chat always starts with a special token, so without the engine's space it is exact.
    templated = "tokenizer.chat_template" in special
    adds_space = prefix == "always" or (prefix == "first" and not templated)
    notes: tuple[str, ...] = ()
    if prefix == "first":
        start = "at the very start of a text that no special token opens"
        where = "after special tokens and before a text that begins with a space" if adds_space else start
        notes = (f"the engine and the original tokenizer differ by one space {where}",)
    metadata = {
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.pre": text("default"),
        "tokenizer.ggml.tokens": texts(vocabulary.tokens),
        "tokenizer.ggml.scores": f32_array(_scores(vocabulary, merges)),
        "tokenizer.ggml.token_type": i32_array(vocabulary.types),
        "tokenizer.ggml.add_space_prefix": flag(adds_space),
        **special,
    }
    return TokenizerPlan(metadata, "", prefix, adds_space, notes, _strips(tokenizer))


def _strips(tokenizer: dict[str, Any]) -> bool:
    return any(as_table(token).get("rstrip") for token in as_list(tokenizer.get("added_tokens")))


def _scores(vocabulary: _Vocabulary, merges: list[tuple[str, str]]) -> list[float]:
    """The engine merges the pair whose piece scores highest; the original applies the merge of lowest rank.

    So a piece scores minus the rank of the first merge that makes it. Float32 holds every rank below 2^24 exactly.
    """
    rank: dict[str, int] = {}
    for number, (left, right) in enumerate(merges):
        rank.setdefault(left + right, number)
    last = float(-len(merges) - 1)
    return [float(-rank[token]) if token in rank else last for token in vocabulary.tokens]


def _vocabulary(path: Path, tokenizer: dict[str, Any], vocab_size: int) -> _Vocabulary:
    vocab = tokenizer["model"].get("vocab")
    if not isinstance(vocab, dict) or not vocab:
        raise _refused(path, "it has no vocabulary")
    added = [as_table(token) for token in as_list(tokenizer.get("added_tokens"))]
    pairs = [*vocab.items(), *((token.get("content"), token.get("id")) for token in added)]
    tokens = [""] * vocab_size
    for token, number in pairs:
        if not isinstance(token, str) or type(number) is not int or not 0 <= number < vocab_size:
            raise _refused(
                path, f"token {str(token)[:40]!r} has number {number!r}, the embedding has {vocab_size} rows"
            )
        if tokens[number] not in ("", token):
            raise _refused(path, f"number {number} means both {tokens[number][:40]!r} and {token[:40]!r}")
        tokens[number] = token
    types = _types(tokenizer["model"], added, tokens)
    for number, token in enumerate(tokens):
        if not token:
            tokens[number] = f"[PAD{number}]"  # rows of the embedding that no token uses
    if len(set(tokens)) != vocab_size:
        raise _refused(path, "a token has two numbers")
    return _Vocabulary(tokens, types)


def _types(model: dict[str, Any], added: list[dict[str, Any]], tokens: list[str]) -> list[int]:
    types = [TokenType.NORMAL if token else TokenType.UNUSED for token in tokens]
    if model.get("byte_fallback"):
        numbers = {token: number for number, token in enumerate(tokens)}
        for byte in range(256):
            if (number := numbers.get(f"<0x{byte:02X}>")) is not None:
                types[number] = TokenType.BYTE
    for token in added:
        special = token.get("special") or _looks_special(token["content"])
        types[token["id"]] = TokenType.CONTROL if special else TokenType.USER_DEFINED
        if not special and not token.get("normalized"):
            tokens[token["id"]] = token["content"].replace(_SPACE, " ")  # the engine looks for it in the raw text
    unknown = model.get("unk_token")
    if unknown in tokens:
        types[tokens.index(unknown)] = TokenType.UNKNOWN
    return [int(kind) for kind in types]


def _looks_special(token: str) -> bool:
    """Some vocabularies forget to mark their role tokens; as ordinary tokens they could be typed into a question."""
    return (
        (token.startswith(("<|", "<\uff5c")) and token.endswith(("|>", "\uff5c>")))
        or token.startswith("<unused")
        or token in ("<pad>", "<mask>")
    )


def _merges(path: Path, model: dict[str, Any]) -> list[tuple[str, str]]:
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise _refused(path, "it has no merges")
    pairs = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            raise _refused(path, f"the merge {str(merge)[:60]!r} is no pair")
        pairs.append((parts[0], parts[1]))
    return pairs


def _is_byte_level(tokenizer: dict[str, Any]) -> bool:
    def holds(node: Any) -> bool:
        if not isinstance(node, dict):
            return False
        return node.get("type") == "ByteLevel" or any(holds(part) for part in as_list(node.get("pretokenizers")))

    return holds(tokenizer.get("pre_tokenizer"))


def _normalization(node: Any) -> tuple[str, str]:
    """The Unicode form, and what is wrong with any other normalizer."""
    if node is None:
        return "", ""
    if isinstance(node, dict) and node.get("type") == "NFC":
        return "NFC", ""
    if isinstance(node, dict) and node.get("type") == "Sequence" and not node.get("normalizers"):
        return "", ""
    kind = node.get("type") if isinstance(node, dict) else node
    return "", f"its normalizer {str(kind)[:40]!r} is not known for byte-level BPE"


def _space_prefix(tokenizer: dict[str, Any]) -> str | None:
    """When text gets a leading space: "always", "first" or "never"; None for anything not understood."""
    prefix = "never"
    normalizer = as_table(tokenizer.get("normalizer"))
    parts = [as_table(part) for part in as_list(normalizer.get("normalizers")) or [normalizer] if part]
    for part in parts:
        if part.get("type") == "Prepend" and part.get("prepend") == _SPACE:
            prefix = "always"
        elif part.get("type") != "Replace" or part.get("content") != _SPACE:
            return None
    if tokenizer.get("pre_tokenizer") is None:
        return prefix if parts else None
    pre = as_table(tokenizer["pre_tokenizer"])
    if pre.get("type") == "Metaspace" and pre.get("replacement") == _SPACE:
        default = "always" if pre.get("add_prefix_space", True) else "never"
        scheme = str(pre.get("prepend_scheme", default))
        return scheme if scheme in ("always", "first", "never") and prefix == "never" else None
    if pre.get("type") == "Split" and as_table(pre.get("pattern")).get("String") == " ":
        return prefix  # Gemma: a cut at spaces, of which none are left after the normalizer
    return None


def _refused(path: Path, why: str) -> ModelRefused:
    return ModelRefused(
        f"{path} cannot be converted: {why}.", next_step="export a model with a tokenizer of a known kind"
    )
