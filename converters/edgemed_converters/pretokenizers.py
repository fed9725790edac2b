"""Which of llama.cpp's pre-tokenizers cuts text as a tokenizer.json says: by its regular expressions.

Source: the expressions are those of the models' own tokenizer.json files; the names those of llama.cpp's
src/llama-vocab.cpp, which implements each by hand. A name that cuts otherwise would show in no error, only in worse
answers: so an unknown expression is refused, and every export compares token ids.
"""

from __future__ import annotations

from typing import Any

from edgemed.models.config import as_list, as_table

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SLASH_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_QWEN2 = _CONTRACTIONS + _WORD + r"|\p{N}" + _TAIL
_LLAMA3 = _CONTRACTIONS + _WORD + r"|\p{N}{1,3}" + _TAIL
_QWEN35 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}" + _SLASH_TAIL
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}" + _SLASH_TAIL
)

_BYTE_LEVEL = "<byte-level words>"
_DIGITS = "<single digits>"

_NAMES: dict[tuple[str, ...], str] = {
    (_QWEN2,): "qwen2",
    (_QWEN35,): "qwen35",
    (_LLAMA3,): "llama-bpe",
    (_TEKKEN,): "tekken",
    (_GPT4O,): "gpt-4o",
    (_BYTE_LEVEL,): "gpt-2",
    (_DIGITS, _BYTE_LEVEL): "smollm",
}

KNOWN = tuple(sorted({*_NAMES.values(), "deepseek-r1-qwen", "dbrx"}))
"""Names that `pretokenizer_name` can give."""

_DEEPSEEK_BOS = "<｜begin▁of▁sentence｜>"


def pretokenizer_name(tokenizer: dict[str, Any]) -> str | None:
    """The value of `tokenizer.ggml.pre` for a byte-level tokenizer.json; None when its cuts are not known.

    DeepSeek's distillations have Qwen2's expression under a name of their own; Llama 3's expression without
    `ignore_merges` is known as dbrx.
    """
    name = _NAMES.get(tuple(_steps(tokenizer.get("pre_tokenizer"))))
    model = as_table(tokenizer.get("model"))
    added = [as_table(token).get("content") for token in as_list(tokenizer.get("added_tokens"))]
    if name == "qwen2" and _DEEPSEEK_BOS in added:
        return "deepseek-r1-qwen"
    if name == "llama-bpe" and not model.get("ignore_merges"):
        return "dbrx"
    return name


def _steps(node: Any) -> list[str]:
    """The cuts, in order; an element nobody knows makes the list match nothing."""
    if not isinstance(node, dict):
        return []
    kind = node.get("type")
    if kind == "Sequence":
        return [step for part in as_list(node.get("pretokenizers")) for step in _steps(part)]
    if kind == "Split":
        pattern = as_table(node.get("pattern")).get("Regex")
        plain = node.get("behavior") == "Isolated" and not node.get("invert")
        return [pattern if plain and isinstance(pattern, str) else "<unknown split>"]
    if kind == "Digits" and node.get("individual_digits"):
        return [_DIGITS]
    if kind == "ByteLevel" and not node.get("add_prefix_space"):
        return [_BYTE_LEVEL] if node.get("use_regex", True) else []
    return [f"<{kind}>"]
