"""Says a plan in words: how the weights are stored, the engine's own command, and the ways out when nothing fits."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgemed.core.errors import PlanInfeasible
from edgemed.core.units import format_bytes
from edgemed.engines.base import EngineConfig
from edgemed.engines.memory_breakdown import RAM
from edgemed.models.spec import ModelSpec
from edgemed.plan.memory import Estimate, estimate_memory, formula_sizes

SMALLER_TYPES = (("q8_0", 8.5), ("nf4-int8", 5.0), ("q4_k_m", 4.85), ("iq4_nl", 4.5), ("q2_k", 3.0))
"""Recipes of `edgemed export` and their bits per weight, largest first: block sizes of ggml-common.h; the mixed ones
about, because it depends on the shares of attention and embedding."""


def recipe_of(spec: ModelSpec) -> str:
    """How the weights are stored, by share of bytes: "q8_0 97 %, f32 3 %"."""
    by_type: dict[str, int] = {}
    for tensor in spec.tensors:
        by_type[tensor.type] = by_type.get(tensor.type, 0) + tensor.n_bytes
    total = max(1, sum(by_type.values()))
    shares = sorted(by_type.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{name} {100 * n_bytes / total:.3g} %" for name, n_bytes in shares)


def server_command(config: EngineConfig) -> str:
    """The same configuration as a command line of llama.cpp's server."""
    words = ["llama-server", "-m", str(config.model_path)]
    words += ["-c", str(config.context_length * config.n_slots), "-np", str(config.n_slots), "--kv-unified"]
    words += ["-t", str(config.n_threads), "-tb", str(config.n_threads_batch or config.n_threads)]
    words += ["-ngl", str(config.n_gpu_layers)]
    if config.devices:
        words += ["-dev", ",".join(config.devices)]
    if config.device_shares:
        words += ["-ts", ",".join(f"{share:g}" for share in config.device_shares)]
    if config.tensor_places:
        words += ["-ot", ",".join(f"{place.pattern}={place.device}" for place in config.tensor_places)]
    if config.adapters:
        words += ["--lora", ",".join(str(file.path) for file in config.adapters), "--lora-init-without-apply"]
    words += ["-b", str(max(config.n_ubatch, config.n_slots)), "-ub", str(config.n_ubatch)]
    words += ["-ctk", config.kv_type, "-ctv", config.kv_type, "-fa", "auto" if config.flash_attention else "off"]
    return shlex.join(words if config.use_mmap else [*words, "--no-mmap"])


def infeasible(
    spec: ModelSpec, model_path: Path, estimates: Sequence[Estimate], limits: Mapping[str, int], *, by_user: bool
) -> PlanInfeasible:
    """The error of a model that fits in no way: the gap of the first wish, and the cheapest ways out.

    `by_user`: the limit of main memory is the user's own, not the machine's.
    """
    wish, offered = estimates[0], limits[RAM]
    needed = wish.bytes_in(RAM)
    asked = f"{wish.config.n_slots} x {wish.config.context_length} tokens"
    gap = needed - offered
    who = "--max-ram allows" if by_user else "this machine offers"
    what = (
        f"{model_path.name} with {asked} needs {format_bytes(needed)} ({needed:,} bytes) of main memory; {who} "
        f"{format_bytes(offered)}: {format_bytes(gap)} ({gap:,} bytes) too little."
    )
    ways = [*_smaller_requests(spec, wish, offered), *_smaller_types(spec, wish, estimates[-1], offered)]
    if not ways:
        ways = _last_ways(spec, estimates[-1], offered, by_user)
    return PlanInfeasible(what, next_step="; or ".join(ways))


def _last_ways(spec: ModelSpec, least: Estimate, offered: int, by_user: bool) -> list[str]:
    """Where this model fits in no way: how large another may be, and more memory."""
    needed = least.bytes_in(RAM)
    rest = offered - (needed - formula_sizes(spec, least.config).weights)
    with_it = f"with {least.config.n_slots} x {least.config.context_length} tokens"
    ways = [f"a smaller model: {with_it} its weights may take {format_bytes(rest)}"] if rest > 0 else []
    more = f"raise --max-ram: {with_it} this one needs {format_bytes(needed)}"
    return [*ways, more if by_user else "close other programs"]


def _smaller_requests(spec: ModelSpec, wish: Estimate, offered: int) -> list[str]:
    """The most slots, and the most context, with which the same file would fit; less of both where that is needed."""
    config = wish.config
    fewer = [config.model_copy(update={"n_slots": slots}) for slots in range(config.n_slots - 1, 0, -1)]
    contexts = [size for size in (8192, 4096, 2048, 1024, 512, 256) if size < config.context_length]
    shorter = [config.model_copy(update={"context_length": size}) for size in contexts]
    ways = []
    if found := _first_that_fits(spec, fewer, offered):
        ways.append(f"fewer slots: --slots {found.config.n_slots} needs {format_bytes(found.bytes_in(RAM))}")
    if found := _first_that_fits(spec, shorter, offered):
        ways.append(
            f"a smaller context: --context {found.config.context_length} needs {format_bytes(found.bytes_in(RAM))}"
        )
    both = [smaller.model_copy(update={"n_slots": 1}) for smaller in shorter]
    if not ways and config.n_slots > 1 and (found := _first_that_fits(spec, both, offered)):
        size = format_bytes(found.bytes_in(RAM))
        ways.append(f"a smaller context: --slots 1 --context {found.config.context_length} needs {size}")
    return ways


def _first_that_fits(spec: ModelSpec, configs: Sequence[EngineConfig], offered: int) -> Estimate | None:
    return next((found for found in estimate_memory(spec, configs) if found.bytes_in(RAM) <= offered), None)


def _smaller_types(spec: ModelSpec, wish: Estimate, least: Estimate, offered: int) -> list[str]:
    """The largest type that would fit with the same wish, else with the least configuration looked at."""
    weights = formula_sizes(spec, wish.config).weights
    for estimate in (wish, least):
        rest = estimate.bytes_in(RAM) - weights
        for name, bits in SMALLER_TYPES:
            size = round(spec.n_parameters * bits / 8)
            if size < weights and size + rest <= offered:
                config = estimate.config
                with_it = f" with {config.n_slots} x {config.context_length} tokens" if estimate is least else ""
                how = f"edgemed export CHECKPOINT --target gguf --recipe {name}"
                return [f"weights as {name}, about {format_bytes(size + rest)} in all{with_it}: {how}"]
    return []
