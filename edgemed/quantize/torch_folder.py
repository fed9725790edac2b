"""Writes a Hugging Face folder whose linear layers are packed in 4 or 8 bits, for torch on CPU or CUDA.

`edgemed.quantize.mixed_quantizer` says how it is loaded. 4-bit weights are in bitsandbytes' own storage: NF4 in blocks
of 64, whose largest values are themselves rounded to 8 bits. Codes come from the caller, chosen on the grids given here
(error compensation), or are those of the nearest level. Tensors are read, packed and written one at a time: the peak is
a few copies of the largest matrix. What is not packed all has one type, because transformers loads it as one.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import MissingExtra, UsageError
from edgemed.core.files import whole_folder, write_text
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import Record
from edgemed.core.tensor_types import BF16, F16, F32, TensorType
from edgemed.core.units import format_bytes
from edgemed.formats.blocks import Grid
from edgemed.formats.packing import pack
from edgemed.models.checkpoint import Checkpoint, TensorReader, spec_from_checkpoint
from edgemed.models.safetensors import StoredTensor
from edgemed.models.spec import TensorSpec
from edgemed.quantize.folder_files import (
    PlannedTensor,
    ShardWriter,
    check_place,
    copy_companions,
    plan_shards,
    write_index,
)
from edgemed.quantize.rounding import refuse_unusable

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
CodesFor = Callable[[str], "Bytes | None"]
"""The codes (rows, columns) of a tensor by its checkpoint name, on the grid of its format; None for the nearest."""

METHOD = "edgemed_mixed"
LAYOUT = 1
"""Of the stored tensors: raised when they change, so that an older reader refuses them."""
NF4_BLOCK = 64
NESTED_BLOCK = 256
"""Blocks whose scales share a scale."""
_INT8_LEVELS = 127
_PIECE_BYTES = 64 * 1024 * 1024
_PIECE_WEIGHTS = 1 << 20

Codes = Literal["", "given", "nearest"]
Format = Literal["nf4", "int8", "f16", "bf16", "f32"]
_FLOATS: Mapping[str, TensorType] = {"f16": F16, "bf16": BF16, "f32": F32}
_STORED_AS = {"f16": "F16", "bf16": "BF16", "f32": "F32"}
_TORCH_DTYPE = {"f16": "float16", "bf16": "bfloat16", "f32": "float32"}


class PackedTensor(Record):
    """What became of one tensor."""

    name: str
    format: Format
    asked: str
    reason: str = ""
    """Why `format` is not what was asked for."""
    codes: Codes = ""
    n_bytes: int
    """Scales included."""


class TorchFolderReport(Record):
    """A folder that was written."""

    schema_version: Literal[1] = 1
    recipe: str
    recipe_digest: str
    n_weights: int
    n_bytes: int
    """Of all weights."""
    bits_per_weight: float
    tensors: tuple[PackedTensor, ...]

    def bytes_by_format(self) -> dict[str, int]:
        """Bytes of the tensors in each format."""
        sums: dict[str, int] = {}
        for tensor in self.tensors:
            sums[tensor.format] = sums.get(tensor.format, 0) + tensor.n_bytes
        return sums


def nf4_grid(weights: Floats) -> Grid:
    """The values that bitsandbytes' 4-bit storage of `weights` (rows, columns) can take.

    Scales are the blocks' largest values after bitsandbytes' own rounding of them. Columns are a multiple of 64: its
    blocks run on from row to row. Needs torch and bitsandbytes.
    """
    return _grid_of_state(nf4_state(weights))


def nf4_state(weights: Floats) -> Any:
    """bitsandbytes' QuantState of `weights` (rows, columns): scales, without codes."""
    if weights.shape[1] % NF4_BLOCK:
        raise ValueError(f"{weights.shape[1]} columns are no multiple of {NF4_BLOCK}")
    values = _torch().from_numpy(np.ascontiguousarray(weights, np.float32))
    functional = bitsandbytes_library().functional
    _, state = functional.quantize_4bit(values, blocksize=NF4_BLOCK, compress_statistics=True, quant_type="nf4")
    return state


def nf4_tensor(codes: Bytes, state: Any) -> dict[str, npt.NDArray[Any]]:
    """What is stored for a 4-bit weight of `codes` (rows, columns): the codes under "", the rest by its suffix.

    bitsandbytes reads it as `nf4_grid(weights).values(codes)`, exactly.
    """
    flat = np.ascontiguousarray(codes).reshape(-1)
    return {
        "": (flat[0::2] << 4 | flat[1::2]).reshape(-1, 1),
        "_absmax": state.absmax.numpy(),
        "_absmax_scale": state.state2.absmax.numpy(),
        "_absmax_code": state.state2.code.numpy(),
        "_absmax_offset": state.offset.reshape(1).numpy(),
    }


def int8_grid(weights: Floats) -> Grid:
    """The values of 8-bit storage: whole numbers from -127 to 127 times one scale a row; code 127 is 0."""
    scale = np.abs(weights).max(axis=1, keepdims=True) / np.float32(_INT8_LEVELS)
    levels = np.arange(-_INT8_LEVELS, _INT8_LEVELS + 1, dtype=np.float32)
    return Grid(levels, weights.shape[1], scale.astype(np.float32), np.zeros_like(scale, np.float32))


def write_torch_folder(
    checkpoint: Checkpoint,
    output: Path,
    assignment: Mapping[str, str],
    codes_for: CodesFor | None = None,
    *,
    recipe: str = "nf4-int8",
    recipe_digest: str = "",
    judge: Callable[[Path], None] | None = None,
    progress: Progress | None = None,
) -> TorchFolderReport:
    """Writes the checkpoint in the formats of `assignment` (every tensor's, by name) to the folder `output`.

    `codes_for` is asked once for every packed tensor, layer by layer; `judge` is shown the finished folder before it is
    put in place, and raises to leave nothing. Raises UsageError for an assignment that cannot
    be stored and for a folder that is not one of ours, ModelRefused for weights that are NaN, infinite or all zero. The
    folder appears whole or not at all.
    """
    _torch()
    bitsandbytes_library()
    plan = _plan(checkpoint, assignment)
    check_place(output, sum(tensor.n_bytes for tensor in plan.tensors), METHOD)
    with whole_folder(output) as folder, checkpoint.reader() as reader:
        packed = _write_weights(folder, plan, _Packing(reader, codes_for), progress or SilentProgress())
        report = _report(packed, plan, recipe, recipe_digest)
        copy_companions(checkpoint.folder, folder)
        values = {**checkpoint.config.values, **_settings(plan, report)}
        values.pop("torch_dtype", None)  # the older name of "dtype"
        write_text(folder / "config.json", json.dumps(values, indent=2) + "\n")
        write_text(folder / "README.md", _card(checkpoint.folder.resolve().name, report))
        if judge is not None:
            judge(folder)
    return report


@dataclass(frozen=True, slots=True)
class _Planned:
    """One tensor, the format it gets and the stored tensors that it becomes."""

    stored: StoredTensor
    format: Format
    asked: str
    reason: str
    parts: tuple[PlannedTensor, ...]

    @property
    def n_bytes(self) -> int:
        return sum(part.n_bytes for part in self.parts)

    @property
    def module(self) -> str:
        return self.stored.name.removesuffix(".weight")


@dataclass(frozen=True, slots=True)
class _Plan:
    """All tensors in the order of layers, and the type of what is not packed."""

    tensors: tuple[_Planned, ...]
    float_type: Format


def _plan(checkpoint: Checkpoint, assignment: Mapping[str, str]) -> _Plan:
    spec = spec_from_checkpoint(checkpoint)
    tensors = sorted(spec.tensors, key=_place)
    faults = [f"{name}: no such tensor" for name in sorted(set(assignment) - {tensor.name for tensor in tensors})]
    for tensor in tensors:
        faults += _faults(tensor, assignment.get(tensor.name), spec.tied_embeddings)
    if faults:
        raise UsageError(
            f"{len(faults)} tensors cannot be stored as asked: {'; '.join(faults[:5])}.",
            next_step="give every tensor nf4, int8, f16, bf16 or f32; only linear layers nf4 or int8",
        )
    float_type = _float_type(tensors, assignment)
    return _Plan(
        tuple(_planned(checkpoint.tensors[tensor.name], assignment[tensor.name], float_type) for tensor in tensors),
        float_type,
    )


def _place(tensor: TensorSpec) -> tuple[int, str]:
    """The embedding first, then layer by layer, then the rest."""
    if tensor.layer is not None:
        return tensor.layer, tensor.name
    return (-1 if tensor.role == "embedding" else 1 << 30), tensor.name


def _faults(tensor: TensorSpec, asked: str | None, tied: bool) -> Iterator[str]:
    if asked is None:
        yield f"{tensor.name}: no format"
    elif asked in ("nf4", "int8"):
        linear = tensor.role.startswith(("attention_", "ffn_")) or (tensor.role == "head" and not tied)
        if not linear or len(tensor.shape) != 2:
            yield f"{tensor.name}: {asked} for a tensor that is no linear layer"
    elif asked not in _FLOATS:
        yield f"{tensor.name}: unknown format {asked!r}"


def _float_type(tensors: list[TensorSpec], assignment: Mapping[str, str]) -> Format:
    """The embedding's; weights that are stored in 16 bits keep their kind of 16 bits, which is exact."""
    unpacked = [tensor for tensor in tensors if assignment[tensor.name] in _FLOATS]
    first = next((tensor for tensor in unpacked if tensor.role == "embedding"), unpacked[0])
    asked = assignment[first.name]
    return cast("Format", first.type if asked != "f32" and first.type in ("f16", "bf16") else asked)


def _planned(stored: StoredTensor, asked: str, float_type: Format) -> _Planned:
    name, shape = stored.name, stored.shape
    if asked in _FLOATS:
        reason = "" if asked == float_type else f"what is not packed is all {float_type}, as the embedding"
        n_bytes = int(np.prod(shape)) * (4 if float_type == "f32" else 2)
        return _Planned(stored, float_type, asked, reason, (PlannedTensor(name, n_bytes),))
    rows, columns = shape
    if asked == "int8" or columns % NF4_BLOCK:
        reason = "" if asked == "int8" else f"rows of {columns} are no multiple of nf4's block of {NF4_BLOCK}"
        parts = (PlannedTensor(name, rows * columns), PlannedTensor(f"{name}_scale", 4 * rows))
        return _Planned(stored, "int8", asked, reason, parts)
    blocks = rows * columns // NF4_BLOCK
    sizes = {
        "": rows * columns // 2,
        "_absmax": blocks,
        "_absmax_scale": 4 * -(-blocks // NESTED_BLOCK),
        "_absmax_code": 4 * 256,
        "_absmax_offset": 4,
    }
    return _Planned(stored, "nf4", asked, "", tuple(PlannedTensor(name + end, size) for end, size in sizes.items()))


class _Packing:
    """Turns one planned tensor after the other into what is stored for it."""

    def __init__(self, reader: TensorReader, codes_for: CodesFor | None) -> None:
        self._reader = reader
        self._codes_for = codes_for

    def write(self, planned: _Planned, shard: ShardWriter) -> PackedTensor:
        """Packs and writes a tensor."""
        start = shard.data_bytes
        codes: Codes = ""
        if planned.format in _FLOATS:
            dtype = _STORED_AS[planned.format]
            shard.add(planned.stored.name, dtype, planned.stored.shape, self._float_pieces(planned))
        else:
            codes = self._write_packed(planned, shard)
        return PackedTensor(
            name=planned.stored.name,
            format=planned.format,
            asked=planned.asked,
            reason=planned.reason,
            codes=codes,
            n_bytes=shard.data_bytes - start,
        )

    def _write_packed(self, planned: _Planned, shard: ShardWriter) -> Codes:
        stored = planned.stored
        weights = self._reader.float32(stored)
        refuse_unusable(weights, stored.name)
        state = nf4_state(weights) if planned.format == "nf4" else None
        grid = int8_grid(weights) if state is None else _grid_of_state(state)
        # A caller that prepared codes for 4 bits has none for a layer that fell back to 8.
        given = self._codes_for(stored.name) if self._codes_for is not None and not planned.reason else None
        codes = _nearest(weights, grid) if given is None else _checked(given, grid, stored)
        if state is None:
            integers = (codes.astype(np.int16) - _INT8_LEVELS).astype(np.int8)
            shard.add(stored.name, "I8", stored.shape, [integers])
            shard.add(f"{stored.name}_scale", "F32", (stored.shape[0],), [grid.scale])
        else:
            for end, array in nf4_tensor(codes, state).items():
                dtype = {"uint8": "U8", "float32": "F32"}[array.dtype.name]
                shard.add(stored.name + end, dtype, array.shape, [array])
        return "nearest" if given is None else "given"

    def _float_pieces(self, planned: _Planned) -> Iterator[npt.NDArray[Any]]:
        stored = planned.stored
        rows = stored.shape[0]
        step = max(1, _PIECE_BYTES * rows // max(1, stored.n_bytes))
        for start in range(0, rows, step):
            piece = self._reader.rows(stored, start, min(start + step, rows))
            yield pack(piece, stored.dtype, _FLOATS[planned.format], stored.name)


def _write_weights(folder: Path, plan: _Plan, packing: _Packing, progress: Progress) -> list[PackedTensor]:
    written: list[PackedTensor] = []
    places: dict[str, str] = {}
    rest = iter(plan.tensors)
    with progress.task("Packing", sum(tensor.stored.n_bytes for tensor in plan.tensors), "B") as task:
        for shard in plan_shards([tensor.parts for tensor in plan.tensors]):
            with ShardWriter.open(folder, shard) as writer:
                for planned in islice(rest, len(shard.groups)):
                    task.describe(planned.stored.name)
                    written.append(packing.write(planned, writer))
                    task.advance(planned.stored.n_bytes)
                places |= dict.fromkeys(writer.names, shard.file_name)
    write_index(folder, places, sum(tensor.n_bytes for tensor in written))
    return written


def _settings(plan: _Plan, report: TorchFolderReport) -> dict[str, Any]:
    """What config.json says beside the parent's own values."""
    names: dict[str, list[str]] = {"nf4": [], "int8": []}
    for tensor in plan.tensors:
        if tensor.format in names:
            names[tensor.format].append(tensor.module)
    quantization = {
        "quant_method": METHOD,
        "layout": LAYOUT,
        "recipe": report.recipe,
        "recipe_digest": report.recipe_digest,
        **names,
    }
    return {"dtype": _TORCH_DTYPE[plan.float_type], "quantization_config": quantization}


def _card(parent: str, report: TorchFolderReport) -> str:
    """README.md of the folder: what it is, what takes how many bytes, how it is loaded."""
    sizes = "\n".join(f"| {name} | {format_bytes(n_bytes)} |" for name, n_bytes in report.bytes_by_format().items())
    changed = [tensor for tensor in report.tensors if tensor.reason and tensor.asked not in _FLOATS]
    fallbacks = "\n".join(f"- {tensor.name} is {tensor.format}: {tensor.reason}" for tensor in changed)
    recipe = f"`{report.recipe}`" + (f" (digest {report.recipe_digest})" if report.recipe_digest else "")
    given = sum(tensor.codes == "given" for tensor in report.tensors)
    nearest = sum(tensor.codes == "nearest" for tensor in report.tensors)
    return f"""# {parent}, quantized

Made by edgemed from the checkpoint `{parent}` with the recipe {recipe}:
{report.bits_per_weight:.3f} bits per weight, {format_bytes(report.n_bytes)} of weights.
{given} layers have calibrated codes, {nearest} are rounded to nearest.

| Format | Size |
|---|---|
{sizes}
{chr(10) + fallbacks + chr(10) if fallbacks else ""}
Load it with transformers, bitsandbytes and edgemed installed:

    import edgemed.quantize.mixed_quantizer
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("this folder")

Adapters go on the layers that `edgemed.quantize.mixed_quantizer.lora_targets(model)` names.
To export it to another format, export its 16-bit parent instead.
"""


def _report(tensors: list[PackedTensor], plan: _Plan, recipe: str, recipe_digest: str) -> TorchFolderReport:
    n_weights = sum(int(np.prod(tensor.stored.shape)) for tensor in plan.tensors)
    n_bytes = sum(tensor.n_bytes for tensor in tensors)
    return TorchFolderReport(
        recipe=recipe,
        recipe_digest=recipe_digest,
        n_weights=n_weights,
        n_bytes=n_bytes,
        bits_per_weight=8 * n_bytes / n_weights,
        tensors=tuple(tensors),
    )


def _grid_of_state(state: Any) -> Grid:
    functional = bitsandbytes_library().functional
    scale = (functional.dequantize_blockwise(state.absmax, state.state2) + state.offset).float().numpy()
    blocks = scale.reshape(state.shape[0], -1)
    return Grid(state.code.numpy(), NF4_BLOCK, blocks, np.zeros_like(blocks))


def _nearest(weights: Floats, grid: Grid) -> Bytes:
    """In pieces of rows: the search takes 20 bytes a weight."""
    from edgemed.quantize.compensation import nearest_codes

    codes = np.empty(weights.shape, np.uint8)
    step = max(1, _PIECE_WEIGHTS // weights.shape[1])
    for start in range(0, weights.shape[0], step):
        rows = slice(start, start + step)
        piece = Grid(grid.levels, grid.block, grid.scale[rows], grid.offset[rows])
        codes[rows] = nearest_codes(weights[rows], piece)
    return codes


def _checked(codes: Bytes, grid: Grid, stored: StoredTensor) -> Bytes:
    if codes.shape != stored.shape or codes.dtype != np.uint8 or int(codes.max()) >= len(grid.levels):
        raise ValueError(f"codes of {stored.name} do not fit: {codes.dtype} {codes.shape}, largest {codes.max()}")
    return codes


def bitsandbytes_library() -> Any:
    """bitsandbytes, kept from running code of the network.

    On CPUs with AVX512-BF16 its import fetches a compiled kernel when the package `kernels` is installed; nothing here
    uses it. Raises MissingExtra when bitsandbytes is not installed.
    """
    if (library := sys.modules.get("bitsandbytes")) is not None:
        return library
    own_log = logging.getLogger("bitsandbytes.backends.cpu.ops")  # would report the missing kernel
    before, silent = sys.modules.get("kernels", own_log), own_log.disabled
    sys.modules["kernels"], own_log.disabled = None, True  # type: ignore[assignment]  # "cannot be imported"
    try:
        import bitsandbytes.functional
    except ImportError as error:
        raise MissingExtra("bitsandbytes", "workstation") from error
    finally:
        own_log.disabled = silent
        if before is own_log:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = before  # type: ignore[assignment]
    return bitsandbytes


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "workstation") from error
    return torch
