"""llama.cpp's importance matrix: for each matrix, the summed squares of its inputs' columns.

The file is a GGUF of type "imatrix" with two tensors for each matrix of the model: NAME.in_sum2 (1, columns), the sums,
and NAME.counts (1, 1), the number of tokens. Source: `save_imatrix` in llama.cpp's tools/imatrix/imatrix.cpp. Ours can
be given to `llama-quantize --imatrix`, and one of `llama-imatrix` can be read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import MissingExtra, ModelRefused
from edgemed.core.files import whole_file
from edgemed.core.tensor_types import F32
from edgemed.models.gguf import GgufHeader, GgufTensor, read_gguf

Floats = npt.NDArray[np.float32]

_SUMS, _COUNTS = ".in_sum2", ".counts"
_CHUNK = 512
"""Tokens that we call a chunk: llama.cpp's tools show numbers of chunks."""


@dataclass(frozen=True, slots=True)
class Importance:
    """What one matrix was given during calibration."""

    mean_squares: Floats
    """(columns,), the (weighted) mean of each input's square."""
    n_tokens: float


def is_imatrix(path: Path) -> bool:
    """Whether the file is a GGUF that says it is an importance matrix."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            return False
    return read_gguf(path).metadata.get("general.type") == "imatrix"


def read_imatrix(path: Path) -> dict[str, Importance]:
    """Importance by the matrix's name in a GGUF ("blk.0.ffn_up.weight").

    Raises ModelRefused for a damaged file, one that is no importance matrix, or statistics that are zero or not finite.
    """
    header = read_gguf(path)
    if header.metadata.get("general.type") != "imatrix":
        raise ModelRefused(f"{path} is no importance matrix.", next_step="make one with llama-imatrix")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    found = {}
    for name, tensor in tensors.items():
        if not name.endswith(_SUMS):
            continue
        matrix = name.removesuffix(_SUMS)
        counts = tensors.get(matrix + _COUNTS)
        if counts is None or tensor.type is not F32 or counts.type is not F32 or counts.shape[-2:] != (1, 1):
            raise ModelRefused(f"{path} holds no usable statistics of {matrix}.", next_step="make it again")
        n_tokens = float(_values(header, counts)[0])
        sums = _values(header, tensor)
        if not (n_tokens > 0 and np.isfinite(sums).all() and sums.any()):
            raise ModelRefused(
                f"{path}: the statistics of {matrix} are zero or not finite.", next_step="make it again with more text"
            )
        found[matrix] = Importance(sums / np.float32(n_tokens), n_tokens)
    if not found:
        raise ModelRefused(f"{path} holds no statistics.", next_step="make it again")
    return found


def write_imatrix(path: Path, importance: Mapping[str, Importance], source: str) -> None:
    """Write a file that llama.cpp's tools read; `source` names the texts. Raises EdgemedError for the disk."""
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("gguf", "llama-cpp") from error
    n_tokens = max(entry.n_tokens for entry in importance.values())
    with whole_file(path) as part:
        writer = gguf.GGUFWriter(part, "imatrix")
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", [source])
        writer.add_uint32("imatrix.chunk_count", max(1, round(n_tokens / _CHUNK)))
        writer.add_uint32("imatrix.chunk_size", _CHUNK)
        for name, entry in importance.items():
            sums = (entry.mean_squares * np.float32(entry.n_tokens)).reshape(1, -1)
            writer.add_tensor(name + _SUMS, sums)
            writer.add_tensor(name + _COUNTS, np.full((1, 1), entry.n_tokens, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _values(header: GgufHeader, tensor: GgufTensor) -> Floats:
    values: Floats = np.fromfile(header.path, np.float32, tensor.n_bytes // 4, offset=tensor.offset)
    return values
