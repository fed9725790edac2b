"""Special tokens and the chat template of a checkpoint, as GGUF keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemed.core.errors import ModelRefused
from edgemed.models.config import as_list, as_table, read_json
from edgemed.models.gguf_values import Value, flag, text, texts, u32
from edgemed.models.tokenizer import chat_templates

_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "sep": "seperator", "mask": "mask"}
"""Role in tokenizer_config.json to the word in the GGUF key; the third is misspelt there too."""


def special_token_metadata(
    folder: Path, tokenizer: dict[str, Any], tokens: list[str], model_config: Mapping[str, Any]
) -> dict[str, Value]:
    """Keys for BOS, EOS and the others, the rule whether they are added, and the chat template.

    Names come from tokenizer_config.json or special_tokens_map.json, else numbers from generation_config.json or
    config.json. Raises ModelRefused for a named token that is not in the vocabulary.
    """
    settings = _optional(folder / "special_tokens_map.json") | _optional(folder / "tokenizer_config.json")
    numbers = {token: number for number, token in enumerate(tokens)}
    fallback = dict(model_config) | _optional(folder / "generation_config.json")
    found: dict[str, int] = {}
    for role in _ROLES:
        number = _number(folder, settings.get(f"{role}_token"), fallback.get(f"{role}_token_id"), numbers)
        if number is not None:
            found[role] = number
    metadata = {f"tokenizer.ggml.{_ROLES[role]}_token_id": u32(number) for role, number in found.items()}
    metadata |= _end_of_turn(fallback, found, len(tokens))
    adds = _added_tokens(tokenizer, settings, found)
    metadata |= {f"tokenizer.ggml.add_{role}_token": flag(adds[role]) for role in adds}
    return metadata | _templates(folder, settings)


def _number(folder: Path, named: Any, numbered: Any, numbers: Mapping[str, int]) -> int | None:
    name = named.get("content") if isinstance(named, dict) else named
    if isinstance(name, str) and name:
        if name not in numbers:
            raise ModelRefused(
                f"{folder}: the special token {name[:60]!r} is not in the vocabulary.",
                next_step="mend tokenizer_config.json, or copy the checkpoint again",
            )
        return numbers[name]
    first = numbered[0] if isinstance(numbered, list) and numbered else numbered
    return first if type(first) is int and 0 <= first < len(numbers) else None


def _end_of_turn(fallback: Mapping[str, Any], found: Mapping[str, int], n_tokens: int) -> dict[str, Value]:
    """Models with several end tokens list them in generation_config.json; the first other one ends a turn."""
    ends = fallback.get("eos_token_id")
    others = [end for end in ends if end != found.get("eos")] if isinstance(ends, list) else []
    usable = [end for end in others if type(end) is int and 0 <= end < n_tokens]
    return {"tokenizer.ggml.eot_token_id": u32(usable[0])} if usable else {}


def _added_tokens(tokenizer: dict[str, Any], settings: Mapping[str, Any], found: Mapping[str, int]) -> dict[str, bool]:
    """Whether BOS and EOS are put around text: as the settings say, else as the post-processor does."""
    before, after = _template_ends(tokenizer.get("post_processor"))
    rules = {}
    for role, number in (("bos", before), ("eos", after)):
        said = settings.get(f"add_{role}_token")
        wanted = said if isinstance(said, bool) else number is not None and number == found.get(role)
        rules[role] = wanted and role in found
    return rules


def _template_ends(node: Any) -> tuple[int | None, int | None]:
    """Numbers of the special tokens that a post-processor puts before and after a text."""
    if not isinstance(node, dict):
        return None, None
    if node.get("type") == "Sequence":
        ends = [_template_ends(part) for part in as_list(node.get("processors"))]
        return next((e[0] for e in ends if e[0] is not None), None), next(
            (e[1] for e in ends if e[1] is not None), None
        )
    single = node.get("single")
    if node.get("type") != "TemplateProcessing" or not isinstance(single, list) or not single:
        return None, None
    return _special_id(node, single[0]), _special_id(node, single[-1])


def _special_id(node: dict[str, Any], step: Any) -> int | None:
    name = as_table(as_table(step).get("SpecialToken")).get("id")
    if not isinstance(name, str):
        return None
    ids = as_list(as_table(as_table(node.get("special_tokens")).get(name)).get("ids"))
    return ids[0] if ids and type(ids[0]) is int else None


def _templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, Value]:
    named = chat_templates(folder, settings)
    metadata = {f"tokenizer.chat_template.{name}": text(body) for name, body in named.items() if name != "default"}
    if metadata:
        metadata["tokenizer.chat_templates"] = texts([name for name in named if name != "default"])
    if "default" in named:
        metadata["tokenizer.chat_template"] = text(named["default"])
    return metadata


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
