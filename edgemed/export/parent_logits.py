"""Logits of a checkpoint in float32 by transformers, one layer in memory at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from edgemed.core.progress import Progress
from edgemed.core.units import format_bytes
from edgemed.evaluate.streamed_model import HEAD_ROWS, LIBRARIES_BYTES, NotAccepted, StreamedModel
from edgemed.models.checkpoint import Checkpoint, layer_of


class ParentNotRun(Exception):
    """The parent cannot be run here; the message says why. It is no fault of the exported file."""


def require_parent(checkpoint: Checkpoint) -> None:
    """Raise ParentNotRun unless torch is installed and one layer of the parent fits in free memory."""
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise ParentNotRun(
            f"{' and '.join(missing)} not installed; pip install 'edgemed[workstation]' to compare with the parent"
        )
    import psutil

    layers: Counter[int | None] = Counter()
    for name, tensor in checkpoint.tensors.items():
        if (layer := layer_of(name)) is not None:
            layers[layer] += 4 * math.prod(tensor.shape)
    head = 4 * HEAD_ROWS * checkpoint.config.integer("hidden_size")
    needed = LIBRARIES_BYTES + 2 * max(layers.values(), default=0) + head
    free = psutil.virtual_memory().available
    if free < needed:
        raise ParentNotRun(
            f"one layer of the parent needs {format_bytes(needed)} of memory, {format_bytes(free)} is free"
        )


def parent_logits(checkpoint: Checkpoint, prompt: Sequence[int], progress: Progress) -> npt.NDArray[np.float32]:
    """Float32 logits (n_prompt, vocabulary) of the parent for one prompt of token ids.

    Raises ParentNotRun when transformers does not accept the checkpoint's configuration.
    """
    import torch

    with checkpoint.reader() as reader, torch.inference_mode():
        try:
            model = StreamedModel(checkpoint, reader)
        except NotAccepted as error:
            raise ParentNotRun(error.what) from error
        hidden = model.embed(prompt)
        with progress.task("Running the parent", model.n_layers) as task:
            for number in range(model.n_layers):
                with model.layer(number) as layer:
                    hidden = model.run(layer, number, hidden)
                task.advance()
        return model.head(model.normed(hidden).numpy())
