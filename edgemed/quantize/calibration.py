"""What a calibration takes: packages, memory, and as many texts as the model's widest layer needs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from edgemed.core.errors import MissingExtra, UsageError
from edgemed.core.units import format_bytes
from edgemed.evaluate.streamed_model import LIBRARIES_BYTES
from edgemed.models.checkpoint import Checkpoint, layer_of
from edgemed.quantize.calibration_texts import CalibrationSet, calibration_set

NO_CALIBRATION = "none"
"""In place of a file of texts: round to nearest."""
LEAST_TOKENS = 16_000
"""Tokens to calibrate on, at least; more for layers with more inputs than that."""
_TOKENS_PER_INPUT = 1.25
_LAYER_COPIES, _MOMENT_COPIES = 2, 4
"""In memory at once, at most: a layer's own weights and rounded ones; sums, their order, two factors."""


def require_calibration() -> None:
    """Raise MissingExtra where a checkpoint cannot be run."""
    for module in ("torch", "transformers"):
        if find_spec(module) is None:
            raise MissingExtra(module, "workstation")


def texts_for(checkpoint: Checkpoint, matrices: Iterable[str], file: str | None) -> CalibrationSet:
    """Texts to calibrate these matrices (checkpoint names) on, from `file` or the table of facts.

    Raises UsageError for texts that cannot serve, and when a layer with its statistics does not fit the free memory.
    """
    widest = max((checkpoint.tensors[name].shape[1] for name in matrices), default=1)
    wanted = max(LEAST_TOKENS, math.ceil(_TOKENS_PER_INPUT * widest))
    _check_memory(checkpoint, widest, wanted)
    return calibration_set(checkpoint.folder, None if file is None else Path(file), tokens=wanted, least=widest)


def _check_memory(checkpoint: Checkpoint, widest: int, n_tokens: int) -> None:
    import psutil

    layers: Counter[int | None] = Counter()
    for name, tensor in checkpoint.tensors.items():
        if (layer := layer_of(name)) is not None:
            layers[layer] += 4 * math.prod(tensor.shape)
    hidden = 4 * n_tokens * checkpoint.config.integer("hidden_size")
    largest = max(layers.values(), default=0)
    needed = LIBRARIES_BYTES + _LAYER_COPIES * largest + _MOMENT_COPIES * 4 * widest * widest + hidden
    free = psutil.virtual_memory().available
    if free < needed:
        raise UsageError(
            f"Calibrating takes {format_bytes(needed)} of memory; {format_bytes(free)} is free.",
            next_step="close other programs, or round to nearest: --calibration none",
        )
