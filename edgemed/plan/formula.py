"""What each place holds of a model, by formula: for engines that are not here, and to check the one that is.

Each term was seen equal to the engine's allocation (benchmarks/bench_plan_memory.py compares them), with C cells of the
KV cache, T tokens of a step, F the feed-forward's width, H the hidden size, V the vocabulary, S slots:
    KV cache  of a layer C * n_kv_heads * head_dim * 2 * bytes per value, where the layer is
    compute   4 * max(T * rows, outputs), rows of a place by what is computed there (`_rows`):
              3 F + 4 H + C / 2 + 6 where whole layers run in main memory, 3 F + 2 H + C / 2 + 5 on a GPU
    weights   the file's tensors; the embedding again where it is also the head and lies on a GPU or gets repacked
Compute terms hold for a dense decoder with flash attention, within some percent of themselves; they are a small part.
Mixtures of experts, sliding windows and recurrent layers need the projection. A GPU's own kernels may pad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgemed.core.tensor_types import BY_NAME, Role
from edgemed.engines.base import EngineConfig
from edgemed.engines.embedding import EMBEDDED_TOKENS
from edgemed.engines.llama_embedding import CHUNK
from edgemed.engines.memory_breakdown import RAM, Sizes
from edgemed.models.spec import ModelSpec
from edgemed.plan.weight_placement import WeightPlacement, is_repacked, place_weights

_CELLS = 256
"""llama.cpp rounds the KV cache up to this many tokens."""
_COPIES = 4
"""Of each step's inputs, where several GPUs that hold all layers take turns (GGML_SCHED_MAX_COPIES)."""
_ROTATION = 64
"""Rows and columns of the two matrices that spread outliers before keys and values are quantized."""
_ALIGNMENT = 32
"""Bytes; tensors of a GGUF begin at multiples of it."""
_ATTENTION: frozenset[Role] = frozenset(("attention_q", "attention_k", "attention_v", "attention_qkv"))


def sizes_by_place(spec: ModelSpec, config: EngineConfig, gpus: Sequence[str] = ()) -> dict[str, Sizes]:
    """Weights, KV cache and compute buffers in bytes by place; `gpus` are the devices where the config names none."""
    placement = place_weights(spec, config, gpus)
    tokens = min(config.n_ubatch, n_cells(config))
    tokens = -(-tokens // config.n_slots) * config.n_slots
    step = _Step(tokens, outputs=config.n_slots, cells=n_cells(config))
    kv_layer = kv_bytes(spec, config) // spec.n_layers
    return {
        place: Sizes(
            placement.weight_bytes(place),
            kv_layer * placement.layers.count(place),
            _compute_bytes(spec, config, placement, step, place),
        )
        for place in placement.places()
    }


def embedding_by_place(spec: ModelSpec, config: EngineConfig, gpus: Sequence[str] = ()) -> dict[str, Sizes]:
    """What the embedder's context takes (engines/llama_embedding.py): its KV cache and compute buffers."""
    placement = place_weights(spec, config, gpus)
    step = _Step(tokens=CHUNK, outputs=CHUNK, cells=EMBEDDED_TOKENS)
    kv_layer = EMBEDDED_TOKENS * _kv_row_bytes(spec, config)
    return {
        place: Sizes(0, kv_layer * placement.layers.count(place), _compute_bytes(spec, config, placement, step, place))
        for place in placement.places()
    }


def embedding_rows_bytes(spec: ModelSpec) -> int:
    """Bytes of logits and vectors that an embedding call hands back, in main memory."""
    return 4 * CHUNK * (spec.vocab_size + spec.hidden_size)


def formula_sizes(spec: ModelSpec, config: EngineConfig) -> Sizes:
    """Weights, KV cache and compute buffer in bytes by formula, with everything in main memory."""
    alone = config.model_copy(update={"n_gpu_layers": 0, "devices": (), "tensor_places": ()})
    return sizes_by_place(spec, alone)[RAM]


def kv_bytes(spec: ModelSpec, config: EngineConfig) -> int:
    """Bytes of the KV cache of all slots together; exact for layers that keep the whole context."""
    return spec.n_layers * n_cells(config) * _kv_row_bytes(spec, config)


def _kv_row_bytes(spec: ModelSpec, config: EngineConfig) -> int:
    return 2 * BY_NAME[config.kv_type].row_bytes(spec.n_kv_heads * spec.head_dim)


def n_cells(config: EngineConfig) -> int:
    """Tokens that the KV cache holds, all slots together, as the engine rounds them."""
    wanted = config.n_slots * config.context_length
    return -(-wanted // _CELLS) * _CELLS


def logits_bytes(spec: ModelSpec, config: EngineConfig) -> int:
    """Bytes of the logits handed back for one step, float32; the projection leaves them out."""
    return 4 * config.n_slots * spec.vocab_size


def mapped_bytes(spec: ModelSpec, config: EngineConfig, gpus: Sequence[str] = (), *, repacks: bool = True) -> int:
    """Bytes of the file that stay mapped: from the first to the last tensor that is used where it lies in the file."""
    placement = place_weights(spec, config, gpus)
    used = {
        tensor.name
        for tensor, place in placement.tensors
        if place == RAM and (tensor.role == "embedding" or not (repacks and is_repacked(tensor)))
    }
    at, first, last = 0, None, 0
    for tensor in spec.tensors:
        if tensor.name in used:
            first = at if first is None else first
            last = at + tensor.n_bytes
        at += -(-tensor.n_bytes // _ALIGNMENT) * _ALIGNMENT
    return last - (first or 0)


def repacked_bytes(spec: ModelSpec, config: EngineConfig, gpus: Sequence[str] = ()) -> int:
    """Bytes of weights in main memory that lie there in their kernels' own order."""
    placement = place_weights(spec, config, gpus)
    found, seen = 0, set()
    for tensor, place in placement.tensors:
        as_rows = tensor.role == "embedding" and tensor.name not in seen  # the first stays as it is: rows are looked up
        seen.add(tensor.name)
        if place == RAM and is_repacked(tensor) and not as_rows:
            found += tensor.n_bytes
    return found


@dataclass(frozen=True, slots=True)
class _Step:
    """The largest step of a context."""

    tokens: int
    outputs: int
    """Tokens whose logits are wanted."""
    cells: int


def _compute_bytes(spec: ModelSpec, config: EngineConfig, placement: WeightPlacement, step: _Step, place: str) -> int:
    """Bytes of the buffers of one step in one place."""
    copies = _COPIES if _in_turns(spec, config, placement) else 1
    rows = _rows(spec, config, placement, step, place)
    inputs = 0
    if place == RAM or place in placement.layers:
        rotation = 2 * _ROTATION**2 if _rotates(spec, config) else 0
        inputs = copies * (step.tokens * (step.cells // 2 + (6 if place == RAM else 5)) + rotation)
    outputs = 0
    if place == placement.head:
        hidden = 2 * step.tokens if place == RAM else step.tokens + 2 * step.outputs if rows else step.outputs
        outputs = step.outputs * spec.vocab_size + hidden * spec.hidden_size
    if step.outputs == step.tokens:  # then the last layer works on every token, and what it read is still there
        outputs += inputs if outputs else 0
    return 4 * max(step.tokens * rows + inputs, outputs)


def _in_turns(spec: ModelSpec, config: EngineConfig, placement: WeightPlacement) -> bool:
    """Whether several GPUs work on several steps at a time (llama.cpp's pipeline parallelism)."""
    gpus = {*placement.layers, placement.head} - {RAM}
    return len(gpus) > 1 and config.n_gpu_layers > spec.n_layers and not config.tensor_places


def _rotates(spec: ModelSpec, config: EngineConfig) -> bool:
    """Whether keys and values are rotated before they are quantized."""
    return config.kv_type != "f16" and spec.head_dim % _ROTATION == 0


def _rows(spec: ModelSpec, config: EngineConfig, placement: WeightPlacement, step: _Step, place: str) -> int:
    """float32 values of one token that live at the same time in one place, beside masks and positions."""
    runs, hidden, wide = place in placement.layers, spec.hidden_size, spec.ffn_size
    # The input of the first layer stays for a while; rotating quantized keys and values frees it earlier.
    entry = hidden if place == placement.layers[0] and not _rotates(spec, config) else 0
    if runs and not config.flash_attention:
        return max(3 * wide, spec.n_heads * step.cells) + 7 * hidden
    if _in_turns(spec, config, placement):
        return _rows_in_turns(spec, config, placement, place)
    # The last layer's feed-forward sees the wanted tokens alone.
    before_last = range(spec.n_layers if step.outputs == step.tokens else spec.n_layers - 1)
    feeds, gathers = placement.feed_forward(place, before_last)
    if place != RAM and any(placement.layers[layer] == place for layer in gathers - feeds):
        return 4 * wide + hidden
    if feeds:
        beside = 2 * hidden + (hidden if place == RAM and runs else 0)
        return (3 if feeds & gathers or place != RAM else 2) * wide + beside + entry
    if gathers:
        return wide + 2 * hidden
    if place == RAM:
        return 5 * hidden if placement.holds(RAM, _ATTENTION) else 2 * hidden
    return 4 * hidden if runs else 0


def _rows_in_turns(spec: ModelSpec, config: EngineConfig, placement: WeightPlacement, place: str) -> int:
    """The same where GPUs take turns: the inputs of several steps are there at once."""
    hidden = spec.hidden_size
    if place not in placement.layers:
        return (_COPIES + 1) * hidden if place == RAM else 0
    feeds, _ = placement.feed_forward(place, range(spec.n_layers - 1))
    rotated = hidden if _rotates(spec, config) else 0
    return (3 * spec.ffn_size if feeds else 0) + (7 if place == placement.layers[0] else 11) * hidden - rotated
