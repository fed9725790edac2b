"""What an abstract format means in each kind of file, and where a row goes that its blocks do not fit.

Abstract formats say what is kept of a weight: 32 or 16 bits, 8-bit integers, a 4-bit codebook shaped like a normal
distribution (nf4), 4-bit integers. The other names are GGUF's own and mean nothing elsewhere.

In GGUF int4 is q4_k: 4.5 bits per weight as q4_0 and iq4_nl, but with an offset for every 32 weights, as 4-bit integers
have in other kinds of file; q4_0 has none. nf4 is iq4_nl, GGUF's codebook of unequal steps; iq4_xs is the same one with
coarser scales, 4.25 bits. In torch both are nf4: bitsandbytes stores 4 bits by a codebook, and NF4 is the better one of
its two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, get_args

from edgemed.core.errors import UsageError
from edgemed.core.tensor_types import BY_NAME

Target = Literal["gguf", "torch", "onnx"]
TARGETS: tuple[Target, ...] = get_args(Target)

AbstractFormat = Literal["f32", "f16", "bf16", "int8", "nf4", "int4"]
GgufFormat = Literal["q8_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k", "q4_0", "iq4_nl", "iq4_xs"]
FormatName = Literal[AbstractFormat, GgufFormat]
"""What a recipe may name."""

ABSTRACT: tuple[AbstractFormat, ...] = get_args(AbstractFormat)
GGUF_OWN: tuple[GgufFormat, ...] = get_args(GgufFormat)

_MEANINGS: Mapping[Target, Mapping[str, str]] = MappingProxyType(
    {
        "gguf": {"f32": "f32", "f16": "f16", "bf16": "bf16", "int8": "q8_0", "nf4": "iq4_nl", "int4": "q4_k"}
        | {name: name for name in GGUF_OWN},
        "torch": {"f32": "f32", "f16": "f16", "bf16": "bf16", "int8": "int8", "nf4": "nf4", "int4": "nf4"},
        "onnx": {"f32": "f32", "f16": "f16", "int8": "int8", "nf4": "int4", "int4": "int4"},
    }
)
_EQUIVALENT: Mapping[str, str] = MappingProxyType(
    {"q8_0": "int8", "q6_k": "int8", "q5_k": "int8", "iq4_nl": "nf4", "iq4_xs": "nf4", "bf16": "f16"}
    | dict.fromkeys(("q4_k", "q4_0", "q3_k", "q2_k"), "int4")
)
"""What to say instead where a format is not known; q5_k and q6_k lie between two, and go to the safer one."""

_GGUF_FALLBACK = MappingProxyType(
    {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "iq4_xs": "iq4_nl"}
    | dict.fromkeys(("q4_0", "q5_0", "q5_1", "q8_0", "iq4_nl"), "f16")
)
"""The next type for a row that is no multiple of the block, as llama.cpp's tensor_type_fallback has it."""
_FILE_TYPES = MappingProxyType(
    {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "q2_k": 10, "q3_k": 12, "q4_k": 15, "q5_k": 17, "q6_k": 18}
    | {"iq4_nl": 25, "iq4_xs": 30, "bf16": 32}
)
"""`llama_ftype` of llama.h, by the type of most weights; of several mixes of one type, llama.cpp's medium one."""
_TORCH_BLOCKS = MappingProxyType({"nf4": 64})
_TORCH_FALLBACK = MappingProxyType({"nf4": "int8"})


def type_of(name: str, target: Target) -> str:
    """The target's own type for a format. Raises UsageError, with the equivalent, for one it does not have."""
    meanings = _MEANINGS[target]
    if name in meanings:
        return meanings[name]
    known = ", ".join(meanings)
    if name not in _EQUIVALENT:
        raise UsageError(f"There is no format {name!r}; for {target}: {known}.", next_step="name one of them")
    instead = _EQUIVALENT[name]
    whose = "GGUF's own and means nothing" if name in GGUF_OWN else "not available"
    raise UsageError(
        f"The format {name!r} is {whose} for {target}; its equivalent there is {instead}.",
        next_step=f"write {instead} in the recipe",
    )


def fitting_type(wanted: str, shape: Sequence[int], target: Target) -> tuple[str, str]:
    """The type that a tensor of that shape, rows first, really gets, and why it is not `wanted` (empty when it is).

    In a GGUF vectors are float32 whatever was asked for: llama.cpp's kernels add and multiply them as such.
    """
    if target == "gguf" and len(shape) < 2:
        return "f32", "" if wanted == "f32" else "the engine computes with vectors in float32"
    found, columns = wanted, shape[-1]
    while columns % (block := _block(found, target)):
        found = (_GGUF_FALLBACK if target == "gguf" else _TORCH_FALLBACK)[found]
    if found == wanted:
        return wanted, ""
    block = _block(wanted, target)
    return found, f"rows of {columns} are no multiple of {wanted}'s block of {block}"


def file_type(main_type: str) -> int:
    """`general.file_type` of a GGUF whose layers are mostly of that type."""
    return _FILE_TYPES[main_type]


def _block(name: str, target: Target) -> int:
    return BY_NAME[name].block_size if target == "gguf" else _TORCH_BLOCKS.get(name, 1)
