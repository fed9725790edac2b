"""Does the exported file cut text as the original tokenizer does?"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from edgemed_converters.tokenizer import TokenizerPlan

from edgemed.core.errors import ModelRefused
from edgemed.export.engine_question import ask_engine
from edgemed.export.report import TokenCheck
from edgemed.export.verification_texts import verification_texts
from edgemed.models.config import read_json
from edgemed.models.tokenizer import open_tokenizer


def verify_tokens(exported: Path, checkpoint: Path, plan: TokenizerPlan) -> TokenCheck:
    """The comparison on 1,000 strings. Raises ModelRefused when any string, or the BOS and EOS rule, differs."""
    original = open_tokenizer(checkpoint)
    raw = _texts(checkpoint, plan)
    # The engine leaves text as it is; whoever asks it normalizes first, so equal ids are wanted of normalized text.
    texts = [unicodedata.normalize("NFC", text) for text in raw] if plan.normalization == "NFC" else raw
    answer = ask_engine({"path": str(exported), "strings": texts})
    expected = [encoding.ids for encoding in original.encode_batch(texts, add_special_tokens=False)]
    differing = [number for number, ids in enumerate(expected) if ids != answer["ids"][number]]
    if differing:
        raise _refused(texts, expected, answer["ids"], differing)
    _check_ends(plan, answer["with_special"])
    return TokenCheck(
        n_strings=len(texts),
        n_tokens=sum(len(ids) for ids in expected),
        identical=len(texts),
        normalized_first=sum(before != after for before, after in zip(raw, texts, strict=True)),
    )


def _texts(checkpoint: Path, plan: TokenizerPlan) -> list[str]:
    added = read_json(checkpoint / "tokenizer.json").get("added_tokens") or []
    special = [token["content"] for token in added if not token["content"].isspace()]
    if plan.space_prefix != "first":
        return verification_texts(special)
    bos = plan.find("bos")
    if plan.engine_adds_space or bos is None:
        # Known differences, said in the plan's notes: text after a special token, and text that begins with a space.
        return [text.lstrip(" ") for text in verification_texts(special, inside=False)]
    start = plan.metadata["tokenizer.ggml.tokens"].value[bos]
    return [start + text for text in verification_texts(special)]


def _check_ends(plan: TokenizerPlan, with_special: list[int]) -> None:
    """The engine puts BOS and EOS around a text exactly where the original does."""
    for role, place in (("bos", 0), ("eos", -1)):
        number = plan.find(role)
        found = number is not None and with_special[place] == number
        if found != plan.adds(role):
            what = "adds" if found else "does not add"
            raise ModelRefused(
                f"The engine {what} the {role.upper()} token {number}, unlike the original.",
                next_step="report this model; nothing was written",
            )


def _refused(texts: list[str], expected: list[list[int]], got: list[list[int]], differing: list[int]) -> ModelRefused:
    number = min(differing, key=lambda number: len(texts[number]))
    return ModelRefused(
        f"The exported tokenizer differs from the original on {len(differing)} of {len(texts)} strings; for "
        f"{texts[number][:60]!r} it gives {got[number][:12]}, the original {expected[number][:12]}.",
        next_step="report this model; nothing was written",
    )
