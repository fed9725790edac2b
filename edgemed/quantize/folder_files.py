"""The files of a Hugging Face folder as they are written: safetensors of a bounded size, whole folders, what is copied.

Format of safetensors: see edgemed.models.safetensors. The header stands before the data; room for it is left, and
filled up with blanks, which the format allows, so that a tensor's place need not be known before it is written.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import EdgemedError, UsageError
from edgemed.core.files import whole_file, write_text
from edgemed.core.units import format_bytes
from edgemed.models.checkpoint import INDEX_FILE, SINGLE_FILE
from edgemed.models.config import read_json

SHARD_BYTES = 4_000_000_000
"""FAT32, the usual format of a USB stick, ends at 4 GiB a file."""
_ENTRY_BYTES = 220
"""More than one tensor's entry in the header takes beside its name, with 8 dimensions."""
_SPARE_BYTES = 64 * 1024 * 1024
_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
    "LICENSE*",
    "NOTICE*",
)


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One stored tensor to come, and its bytes."""

    name: str
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One file to be written: so many groups of tensors, in order."""

    file_name: str
    groups: tuple[Sequence[PlannedTensor], ...]


def plan_shards(groups: Sequence[Sequence[PlannedTensor]], limit: int | None = None) -> list[Shard]:
    """The files for groups of tensors that stay together, none larger than `limit` unless a single group is."""
    limit = SHARD_BYTES if limit is None else limit
    cut: list[list[Sequence[PlannedTensor]]] = [[]]
    size = 0
    for group in groups:
        n_bytes = sum(tensor.n_bytes + len(tensor.name) + _ENTRY_BYTES for tensor in group)
        if cut[-1] and size + n_bytes > limit:
            cut.append([])
            size = 0
        cut[-1].append(group)
        size += n_bytes
    count = len(cut)
    names = [SINGLE_FILE] if count == 1 else [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
    return [Shard(name, tuple(part)) for name, part in zip(names, cut, strict=True)]


class ShardWriter:
    """Writes one safetensors file, tensor after tensor."""

    def __init__(self, file: BinaryIO, shard: Shard) -> None:
        names = [tensor.name for group in shard.groups for tensor in group]
        self._room = -(-(sum(len(json.dumps(name)) + _ENTRY_BYTES for name in names) + 64) // 8) * 8
        self._file = file
        self._entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self.data_bytes = 0
        """Written until now."""
        file.seek(8 + self._room)

    @classmethod
    @contextmanager
    def open(cls, folder: Path, shard: Shard) -> Iterator[ShardWriter]:
        """A writer whose file is there, whole, when the block ends well."""
        with whole_file(folder / shard.file_name) as part:
            with part.open("wb") as file:
                writer = cls(file, shard)
                yield writer
                writer._finish()

    @property
    def names(self) -> list[str]:
        """Of the tensors written until now."""
        return [name for name in self._entries if name != "__metadata__"]

    def add(self, name: str, dtype: str, shape: Sequence[int], pieces: Iterable[npt.NDArray[Any]]) -> None:
        """Append a tensor that comes in pieces, in order."""
        start = self.data_bytes
        for piece in pieces:
            raw = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
            self._file.write(raw.data)
            self.data_bytes += raw.nbytes
        self._entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, self.data_bytes]}

    def _finish(self) -> None:
        header = json.dumps(self._entries, separators=(",", ":")).encode()
        assert len(header) <= self._room, "an entry took more room than was left for it"
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._room) + header.ljust(self._room))


def write_index(folder: Path, places: dict[str, str], n_bytes: int) -> None:
    """Says which file each tensor is in; nothing to say for a single file."""
    if set(places.values()) != {SINGLE_FILE}:
        index = {"metadata": {"total_size": n_bytes}, "weight_map": dict(sorted(places.items()))}
        write_text(folder / INDEX_FILE, json.dumps(index, indent=2) + "\n")


def copy_companions(source: Path, folder: Path) -> None:
    """Copies tokenizer, chat template, generation settings and licence, as they are."""
    for pattern in _COPIED:
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                with whole_file(folder / path.name) as part:
                    shutil.copyfile(path, part)


def check_place(output: Path, n_bytes: int, method: str) -> None:
    """Raise UsageError when `output` is something else than a folder of that quantization method, or has no room."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UsageError(f"{output} is no folder.", next_step="name a new folder with --output")
    if output.exists() and any(output.iterdir()) and not _is_ours(output, method):
        raise UsageError(
            f"{output} exists and was not written by this command; it is left as it is.",
            next_step="choose another --output",
        )
    parent = output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if free < n_bytes + _SPARE_BYTES:
        raise UsageError(
            f"The disk of {output} has {format_bytes(free)} free; the folder takes {format_bytes(n_bytes)}.",
            next_step="free space there, or choose another disk with --output",
        )


def _is_ours(folder: Path, method: str) -> bool:
    path = folder / "config.json"
    if not path.is_file():
        return False
    try:
        quantization = read_json(path).get("quantization_config")
    except EdgemedError:
        return False
    return isinstance(quantization, dict) and quantization.get("quant_method") == method
