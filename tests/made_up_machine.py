"""A machine whose speeds are known: it answers the measurement's questions by arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgemed.core.tensor_types import BY_NAME
from edgemed.engines.base import EngineConfig
from edgemed.engines.stopwatch import Loaded, Measurement, Timed
from edgemed.hardware.synthetic_model import Formats, SyntheticShape, write_header_only
from edgemed.hardware.workshop import Workshop
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.models.spec import ModelSpec

READ = {"q8_0": 20e9, "iq4_nl": 16e9, "q6_k": 18e9, "q4_k": 17e9, "f16": 24e9, "q5_k": 12e9}
COMPUTE = {"q8_0": 100e9, "iq4_nl": 130e9, "q6_k": 120e9, "q4_k": 125e9, "f16": 80e9, "q5_k": 140e9}
LAYER_S, TOKEN_S, WORD_S = 40e-6, 100e-6, 3e-9
KV_READ, ATTENTION_DECODE, ATTENTION_PREFILL = 15e9, 18e9, 42e9
GPU = 8.0
"""How many times faster the GPU is than the CPU with one thread, overheads apart."""
FEED_FORWARD = ("ffn_gate", "ffn_up", "ffn_down")


def step_s(spec: ModelSpec, size: int, before: int, outputs: int, config: EngineConfig, threads: int = 1) -> float:
    """Seconds of one step of `size` tokens; two threads halve everything but the overheads."""
    pace = GPU if config.n_gpu_layers else float(threads)
    work = 0.0
    for tensor in spec.tensors:
        if len(tensor.shape) == 1 or (tensor.role == "embedding" and not spec.tied_embeddings):
            continue
        last = tensor.layer == spec.n_layers - 1 and tensor.role in FEED_FORWARD
        rows = outputs if last or tensor.role in ("head", "embedding") else size
        columns = tensor.shape[0] * tensor.shape[1]
        work += tensor.n_bytes / READ[tensor.type] if rows == 1 else 2 * columns * rows / COMPUTE[tensor.type]
    heads = 4 * spec.n_heads * spec.head_dim
    if size == 1:
        row = BY_NAME[config.kv_type].row_bytes(spec.n_kv_heads * spec.head_dim)
        attention = before * (heads / ATTENTION_DECODE + 2 * row / KV_READ)
    else:
        attention = heads * (size * before + size * (size + 1) / 2) / ATTENTION_PREFILL
    overhead = TOKEN_S + spec.n_layers * LAYER_S + WORD_S * spec.vocab_size
    return overhead + (work + spec.n_layers * attention) / pace


def timed(spec: ModelSpec, config: EngineConfig, wanted: Measurement) -> Timed:
    """What a stopwatch would say."""
    threads = wanted.n_threads or config.n_threads
    batch = wanted.n_threads_batch or config.n_threads_batch or threads
    prompt, done = 0.0, 0
    while done < wanted.prompt_tokens:
        size = min(config.n_ubatch, wanted.prompt_tokens - done)
        outputs = int(done + size == wanted.prompt_tokens)
        prompt += step_s(spec, size, wanted.depth + done, outputs, config, threads if size == 1 else batch)
        done += size
    step = step_s(spec, 1, wanted.depth + wanted.prompt_tokens, 1, config, threads) if wanted.answer_tokens else 0.0
    count = wanted.repetitions
    steps = (step,) * count if wanted.answer_tokens else ()
    return Timed(
        prompt_s=(prompt,) * count, answer_s=(step * wanted.answer_tokens,) * count, step_s=steps, cpu_s=(1.0,)
    )


class MadeUpShop(Workshop):
    """A workshop on that machine; no engine runs, and models are headers alone."""

    @contextmanager
    def model(self, shape: SyntheticShape, formats: Formats) -> Iterator[tuple[Path, ModelSpec]]:
        path = write_header_only(self.folder / "model.gguf", shape, formats)
        yield path, spec_from_gguf(check_gguf(path))
        path.unlink()

    def use(self, config: EngineConfig, run: Callable[..., object]) -> object:
        spec = spec_from_gguf(check_gguf(config.model_path))
        loaded = Loaded(seconds=0.1, memory={}, resident_bytes=0)
        return run(lambda wanted: timed(spec, config, wanted), loaded)

    def time(self, config: EngineConfig, wanted: Sequence[Measurement]) -> list[Timed]:
        spec = spec_from_gguf(check_gguf(config.model_path))
        return [timed(spec, config, one) for one in wanted]


def made_up_shop(folder: Path, seconds: float = 3600.0) -> MadeUpShop:
    """A workshop with so much time left."""
    return MadeUpShop(folder, 200_000_000, time.monotonic() + seconds)
