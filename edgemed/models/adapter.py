"""LoRA adapters as GGUF: is one safe to hand to the engine, and was it made for this base?

Form: llama.cpp's (general.type "adapter", adapter.type "lora", adapter.lora.alpha; tensors NAME.lora_a (rank, in) and
NAME.lora_b (out, rank)). The engine adds scale * alpha / rank * B A to each matrix NAME. It asks for some keys by type
and ends its process when the file has another one, so those are checked here first.

Matrices of equal size do not make an equal base. Our own exports carry a digest of the base's norms, which every format
of a model stores as they were trained; an adapter without one can only be compared by its shapes.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemed.core.errors import ModelRefused
from edgemed.core.tensor_types import BF16, F16, F32
from edgemed.models.gguf_header import GgufHeader, GgufTensor, read_gguf
from edgemed.models.gguf_values import ValueType

ALPHA_KEY = "adapter.lora.alpha"
BASE_KEY = "edgemed.adapter.base"
"""Digest of the base's norms, see `norms_digest`."""
MERGED_KEY = "edgemed.adapter.merged"
"""Of a model: digest of the adapter's weights that were merged into it."""
ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What an adapter may be called: it stands in requests, journals and file names."""
MAX_RANK = 8192
_TYPES = (F32, F16, BF16)
_HALF = re.compile(r"(.+)\.lora_([ab])")
_MATRIX = re.compile(r"blk\.\d{1,5}\.(attn_(q|k|v|qkv|output)|ffn_(gate|up|down))\.weight")
"""What an adapter may change: the engine ignores it elsewhere, or reads it in another order."""
_EXPORT = "export it again: edgemed export BASE --adapter FOLDER --adapter-mode separate"


@dataclass(frozen=True, slots=True)
class AdaptedMatrix:
    """One matrix of the base and what is added to it."""

    name: str
    """Of the base's tensor."""
    rank: int
    n_in: int
    n_out: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """A checked adapter file."""

    path: Path
    architecture: str
    alpha: float
    matrices: tuple[AdaptedMatrix, ...]
    tensor_bytes: int
    """What the engine allocates for it."""
    base: str
    """Digest of its base's norms; "" where the file does not say."""

    @property
    def largest_rank(self) -> int:
        """Of all its matrices."""
        return max(matrix.rank for matrix in self.matrices)


def check_adapter(path: Path) -> Adapter:
    """The adapter in a GGUF that may be given to the engine; called before every load.

    Raises ModelRefused for what `read_gguf` refuses, for a file that is no LoRA adapter, and for one that would end the
    engine's process or that the engine would ignore in part.
    """
    header = read_gguf(path)
    if (kind := header.metadata.get("general.type")) != "adapter":
        raise ModelRefused(
            f"{path} is no adapter: its general.type is {str(kind)[:40]!r}.", next_step="name an adapter's .gguf file"
        )
    faults = _key_faults(header)
    pairs, wrong = _pairs(header)
    faults += wrong
    matrices = []
    for name, (a, b) in pairs.items():
        faults += _pair_faults(name, a, b)
        matrices.append(AdaptedMatrix(name, a.shape[0], a.shape[-1], b.shape[0]))
    if not faults and not matrices:
        faults.append("it changes no matrix")
    if faults:
        more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise ModelRefused(f"{path} cannot be loaded safely: {'; '.join(faults[:4])}{more}.", next_step=_EXPORT)
    return Adapter(
        path,
        header.architecture,
        float(header.metadata[ALPHA_KEY]),
        tuple(matrices),
        sum(tensor.n_bytes for tensor in header.tensors),
        str(header.metadata.get(BASE_KEY, "")),
    )


def _key_faults(header: GgufHeader) -> list[str]:
    faults = []
    for key in ("general.architecture", "adapter.type"):
        if header.types.get(key) is not ValueType.STRING:
            faults.append(f"{key} is missing or no text")
    if header.metadata.get("adapter.type", "lora") != "lora":
        faults.append(f"adapter.type is {str(header.metadata['adapter.type'])[:40]!r}, not 'lora'")
    alpha: Any = header.metadata.get(ALPHA_KEY)
    if header.types.get(ALPHA_KEY) is not ValueType.FLOAT32 or not math.isfinite(alpha) or not alpha > 0:
        # Of alpha 0 the engine makes "as it stands", where equation 3 makes nothing of it.
        faults.append(f"{ALPHA_KEY} is {str(alpha)[:40]}; it must be a positive 32-bit real")
    if "adapter.alora.invocation_tokens" in header.metadata:
        faults.append("it works after certain tokens only (aLoRA), which is not supported")
    return faults


def _pairs(header: GgufHeader) -> tuple[dict[str, tuple[GgufTensor, GgufTensor]], list[str]]:
    """Both halves by the base's tensor, and what does not belong."""
    halves: dict[str, dict[str, GgufTensor]] = {}
    faults = []
    for tensor in header.tensors:
        match = _HALF.fullmatch(tensor.name)
        if match is None:
            faults.append(f"{tensor.name!r} is no half of an adapted matrix")
        elif _MATRIX.fullmatch(match[1]) is None:
            faults.append(f"{match[1]!r} is no matrix that an adapter can change in the engine")
        else:
            halves.setdefault(match[1], {})[match[2]] = tensor
    faults += [f"{name}: one half of it is missing" for name, found in halves.items() if len(found) < 2]
    return {name: (found["a"], found["b"]) for name, found in halves.items() if len(found) == 2}, faults


def _pair_faults(name: str, a: GgufTensor, b: GgufTensor) -> list[str]:
    faults = [f"{half.name} has the type {half.type.name}" for half in (a, b) if half.type not in _TYPES]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[-1] or a.shape[0] > MAX_RANK:
        faults.append(f"{name}: A is {list(a.shape)} and B is {list(b.shape)}, which share no rank up to {MAX_RANK}")
    return faults


def check_fits(adapter: Adapter, base: GgufHeader) -> None:
    """Raise ModelRefused, with the numbers, unless `adapter` was made for the model of the header `base`."""
    faults = []
    if MERGED_KEY in base.metadata:  # its norms are the base's, its matrices no longer
        faults.append("the model has an adapter merged into it already")
    if adapter.architecture != base.architecture:
        faults.append(f"it is for {adapter.architecture[:40]!r}, the model is {base.architecture[:40]!r}")
    shapes = {tensor.name: tensor.shape for tensor in base.tensors}
    absent = [matrix.name for matrix in adapter.matrices if matrix.name not in shapes]
    if absent:
        faults.append(
            f"{len(absent)} of its {len(adapter.matrices)} matrices are not in the model, such as {absent[0]}"
        )
    for matrix in adapter.matrices:
        shape = shapes.get(matrix.name)
        if shape is not None and shape != (matrix.n_out, matrix.n_in):
            faults.append(f"{matrix.name} is {matrix.n_out} x {matrix.n_in} in it, {_times(shape)} in the model")
            break
    if not faults and adapter.base and (found := norms_digest(base)) and adapter.base != found:
        faults.append(
            "its matrices have the right sizes, but it was trained on other weights (digest of the norms "
            f"{adapter.base[:12]}, the model's {found[:12]})"
        )
    if faults:
        raise ModelRefused(
            f"{adapter.path} was made for another base than {base.path}: {'; '.join(faults)}.",
            next_step="serve it with the model it was trained on, or export it for this one: "
            "edgemed export BASE --adapter FOLDER --adapter-mode separate",
        )


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def norms_digest(base: GgufHeader) -> str:
    """Digest of a model's norms, the same in every format of its weights; "" where they are not stored as float32.

    Reads some KiB for each layer. Raises ModelRefused when the file cannot be read.
    """
    norms = [tensor for tensor in base.tensors if is_norm(tensor.name)]
    if not norms or any(tensor.type is not F32 for tensor in norms):
        return ""
    try:
        values = {}
        with base.path.open("rb") as file:
            for tensor in norms:
                file.seek(tensor.offset)
                values[tensor.name] = file.read(tensor.n_bytes)
        return digest_of_norms(values)
    except OSError as error:
        raise ModelRefused(f"{base.path} cannot be read: {error.strerror}.", next_step="check the file") from error


def digest_of_norms(norms: Mapping[str, bytes]) -> str:
    """SHA-256 over names (as a GGUF has them) and float32 values of norms, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(norms):
        digest.update(name.encode() + b"\0" + norms[name])
    return digest.hexdigest()


def is_norm(name: str) -> bool:
    """Whether a GGUF's tensor of that name is a norm's scale."""
    return name.endswith("norm.weight")


def file_digest(path: Path) -> str:
    """SHA-256 of the whole file: an adapter is some MiB. Raises ModelRefused when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read: {error.strerror}.", next_step="check the path") from error
