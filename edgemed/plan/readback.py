"""What a loaded engine takes against what was predicted for it: by place and part, and the process as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgemed.engines.memory_breakdown import RAM, Sizes
from edgemed.plan.record import Difference, MemoryNeed, MemoryReadback, Part


def compare_memory(
    needs: Sequence[MemoryNeed],
    memory: Mapping[str, tuple[int, int, int]],
    resident_bytes: int = 0,
    *,
    embeds: bool = False,
) -> MemoryReadback:
    """`needs` of a plan or an estimate against `memory`, which a loaded engine says of itself (EngineInfo.memory).

    `resident_bytes` is its process's; `embeds` says that a text was embedded, so that the context for it is open.
    """
    parts, places = [], []
    asked: tuple[Part, ...] = ("weights", "kv_cache", "compute")
    for place in dict.fromkeys((*memory, *(need.place for need in needs if need.part in asked))) if memory else ():
        predicted = [sum(need.n_bytes for need in needs if (need.place, need.part) == (place, part)) for part in asked]
        real = memory.get(place, Sizes())
        parts += [_difference(place, *row) for row in zip(asked, predicted, real, strict=True)]
        places.append(_difference(place, None, sum(predicted), sum(real)))
    resident = None
    if resident_bytes:
        in_ram = sum(need.n_bytes for need in needs if need.place == RAM and (embeds or need.part != "embedding"))
        resident = _difference(RAM, None, in_ram, resident_bytes)
    return MemoryReadback(parts=tuple(parts), places=tuple(places), resident=resident)


def _difference(place: str, part: Part | None, predicted: int, real: int) -> Difference:
    return Difference(
        place=place,
        part=part,
        predicted_bytes=predicted,
        real_bytes=real,
        difference_bytes=real - predicted,
        difference_percent=100 * (real - predicted) / predicted if predicted else None,
    )
