"""A Hugging Face checkpoint folder: configuration and safetensors, without torch and without running its code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgemed.core.errors import ModelRefused
from edgemed.core.tensor_types import BY_NAME, Role
from edgemed.models.config import ModelConfig, read_json
from edgemed.models.safetensors import StoredTensor, read_safetensors
from edgemed.models.spec import ModelSpec, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")

TYPE_OF_DTYPE = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
"""Weight types that are converted; everything else is refused by name."""

_LAYER = re.compile(r"\blayers\.(\d+)\.")
_ROLES: tuple[tuple[str, Role], ...] = (
    (".bias", "bias"),
    ("norm.weight", "norm"),
    ("embed_tokens.weight", "embedding"),
    ("lm_head.weight", "head"),
    ("qkv_proj.weight", "attention_qkv"),  # before v_proj, which it ends in
    ("q_proj.weight", "attention_q"),
    ("k_proj.weight", "attention_k"),
    ("v_proj.weight", "attention_v"),
    ("o_proj.weight", "attention_output"),
    ("gate_up_proj.weight", "ffn_gate_up"),  # before up_proj
    ("gate_proj.weight", "ffn_gate"),
    ("up_proj.weight", "ffn_up"),
    ("down_proj.weight", "ffn_down"),
    ("inv_freq", "rope"),
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One opened folder; tensors are read when asked for."""

    folder: Path
    config: ModelConfig
    tensors: Mapping[str, StoredTensor]

    @contextmanager
    def reader(self) -> Iterator[TensorReader]:
        """Reads tensors; the files stay open until the block ends. One thread at a time."""
        reader = TensorReader()
        try:
            yield reader
        finally:
            reader.close()


class TensorReader:
    """Plain reads, no mapping: a mapped file counts as resident memory, and a stick pulled out would kill us."""

    def __init__(self) -> None:
        self._files: dict[Path, BinaryIO] = {}

    def close(self) -> None:
        """Close every file."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def rows(self, tensor: StoredTensor, start: int, stop: int, out: Array | None = None) -> Array:
        """Rows `start` to `stop` of a tensor (elements, for one dimension) in its stored type.

        bfloat16 comes as its raw 16 bits, uint16. With `out`, uint8 of at least that size, nothing is allocated.
        Raises ModelRefused when the file ends early or cannot be read.
        """
        import numpy as np

        columns = _columns(tensor)
        dtype = _numpy_type(tensor)
        n_bytes = (stop - start) * columns * dtype.itemsize
        buffer = np.empty(n_bytes, np.uint8) if out is None else out[:n_bytes]
        self._read_into(tensor, start * columns * dtype.itemsize, buffer)
        shape = (stop - start, *tensor.shape[1:])
        return buffer.view(dtype).reshape(shape)

    def float32(self, tensor: StoredTensor, start: int = 0, stop: int | None = None) -> Array:
        """Rows of a tensor as float32; exact for every type that is read."""
        import numpy as np

        rows = self.rows(tensor, start, tensor.shape[0] if stop is None else stop)
        if tensor.dtype == "BF16":
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return rows.astype(np.float32, copy=False)

    def _read_into(self, tensor: StoredTensor, skip: int, buffer: Array) -> None:
        try:
            file = self._files.get(tensor.path)
            if file is None:
                file = self._files[tensor.path] = tensor.path.open("rb", buffering=0)
            file.seek(tensor.offset + skip)
            view = memoryview(buffer.data)
            while view:
                got = file.readinto(view)  # type: ignore[attr-defined]
                if not got:
                    raise ModelRefused(
                        f"{tensor.path} ends inside tensor {tensor.name}.", next_step="copy the file again"
                    )
                view = view[got:]
        except OSError as error:
            raise ModelRefused(
                f"{tensor.path} could not be read: {error.strerror}.",
                next_step="check the disk, or copy the file again",
            ) from error


def open_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`: configuration and tensor table, no weights yet.

    Raises ModelRefused for a folder that is no checkpoint, pickled weights, code to be run (`auto_map`), a missing
    shard, damaged files, and weights that are quantized already.
    """
    if not (folder / "config.json").is_file():
        raise ModelRefused(
            f"{folder} is no checkpoint: it has no config.json.",
            next_step="name a Hugging Face folder with config.json, tokenizer.json and *.safetensors",
        )
    config = ModelConfig.read(folder)
    _refuse_code(folder, config)
    if config.values.get("quantization_config"):
        raise ModelRefused(
            f"{folder} is already quantized; only 16- or 32-bit weights are exported or quantized.",
            next_step="give the checkpoint it was quantized from",
        )
    return Checkpoint(folder, config, _all_tensors(folder))


def spec_from_checkpoint(checkpoint: Checkpoint) -> ModelSpec:
    """The ModelSpec of a checkpoint, the same however it is sharded.

    Raises ModelRefused for missing or senseless numbers in its configuration.
    """
    config = checkpoint.config
    hidden_size = config.integer("hidden_size")
    n_heads = config.integer("num_attention_heads")
    has_head = "lm_head.weight" in checkpoint.tensors
    return ModelSpec(
        architecture=config.model_type,
        n_layers=config.integer("num_hidden_layers", high=512),
        hidden_size=hidden_size,
        n_heads=n_heads,
        n_kv_heads=config.integer("num_key_value_heads", n_heads),
        head_dim=config.integer("head_dim", max(1, hidden_size // n_heads)),
        ffn_size=config.integer("intermediate_size"),
        vocab_size=config.integer("vocab_size"),
        context_length=config.integer("max_position_embeddings"),
        tied_embeddings=config.flag("tie_word_embeddings", not has_head),
        tensors=tuple(_tensor_spec(checkpoint.tensors[name]) for name in sorted(checkpoint.tensors)),
    )


def role_of(name: str) -> Role:
    """What the tensor of that checkpoint name does."""
    return next((role for ending, role in _ROLES if name.endswith(ending)), "other")


def layer_of(name: str) -> int | None:
    """The number of the layer in a checkpoint's tensor name."""
    match = _LAYER.search(name)
    return int(match.group(1)) if match and len(match.group(1)) < 6 else None


def _tensor_spec(tensor: StoredTensor) -> TensorSpec:
    return TensorSpec(
        name=tensor.name,
        shape=tensor.shape,
        type=TYPE_OF_DTYPE.get(tensor.dtype, tensor.dtype.lower()),
        role=role_of(tensor.name),
        layer=layer_of(tensor.name),
        n_bytes=tensor.n_bytes,
    )


def _refuse_code(folder: Path, config: ModelConfig) -> None:
    """`auto_map` names Python files to be run while loading; this project never runs a checkpoint's code."""
    places = [config.path.name] if "auto_map" in config.values else []
    tokenizer_config = folder / "tokenizer_config.json"
    if tokenizer_config.is_file() and "auto_map" in read_json(tokenizer_config):
        places.append(tokenizer_config.name)
    if places:
        raise ModelRefused(
            f"{folder}: {' and '.join(places)} asks for the checkpoint's own code to be run (auto_map); refused.",
            next_step="take a checkpoint of a built-in architecture; if this is one, remove auto_map from a copy of it",
        )


def _all_tensors(folder: Path) -> dict[str, StoredTensor]:
    index = folder / INDEX_FILE
    if index.is_file():
        return _sharded(folder, index)
    if (folder / SINGLE_FILE).is_file():
        return read_safetensors(folder / SINGLE_FILE)
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise ModelRefused(
            f"{folder} holds pickled weights only ({', '.join(pickled[:3])}); unpickling can run any code: refused.",
            next_step="convert them to safetensors on a machine that may be lost: model.save_pretrained(...)",
        )
    raise ModelRefused(
        f"{folder} holds no weights: no {SINGLE_FILE} and no {INDEX_FILE}.", next_step="copy the weights too"
    )


def _sharded(folder: Path, index: Path) -> dict[str, StoredTensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelRefused(f"{index} has no usable weight_map.", next_step="copy or download that file again")
    shards = sorted(set(places.values()))
    if foreign := [name for name in shards if Path(name).name != name or not name.endswith(".safetensors")]:
        raise ModelRefused(
            f"{index} names {foreign[0][:80]!r}, which is no safetensors file of this folder.",
            next_step="copy or download that file again",
        )
    if missing := [name for name in shards if not (folder / name).is_file()]:
        raise ModelRefused(
            f"{folder} lacks {len(missing)} of {len(shards)} shards: {', '.join(missing[:5])}.",
            next_step="copy the missing files into the folder",
        )
    found = {shard: read_safetensors(folder / shard) for shard in shards}
    absent = [name for name, shard in places.items() if name not in found[shard]]
    if absent:
        raise ModelRefused(
            f"{folder}: tensor {absent[0][:80]!r} is not in {places[absent[0]]}, where the index places it.",
            next_step="copy or download the checkpoint again",
        )
    return {name: found[shard][name] for name, shard in places.items()}


def _columns(tensor: StoredTensor) -> int:
    columns = 1
    for extent in tensor.shape[1:]:
        columns *= extent
    return columns


def _numpy_type(tensor: StoredTensor) -> np.dtype[Any]:
    import numpy as np

    kinds = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    if tensor.dtype not in kinds:
        known = ", ".join(TYPE_OF_DTYPE)
        raise ModelRefused(
            f"Tensor {tensor.name} is stored as {tensor.dtype}; weights are read as {known}.",
            next_step="save the checkpoint in bfloat16",
        )
    return np.dtype(kinds[tensor.dtype])


assert set(TYPE_OF_DTYPE.values()) <= set(BY_NAME)
