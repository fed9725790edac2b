"""Logits of a checkpoint in float32 by transformers, one layer in memory at a time.

The module tree is built on torch's "meta" device, which holds no numbers. Each layer gets its weights from the
checkpoint's own files just before it runs and loses them after, so a 7B parent needs the memory of one layer
(0.9 GiB in float32) and of a slice of its head. The embedding is read row by row: only the prompt's tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemed.core.progress import Progress
from edgemed.core.settings import ENGINE_ENVIRONMENT, OFFLINE_ENVIRONMENT, set_environment
from edgemed.core.units import format_bytes
from edgemed.models.checkpoint import Checkpoint, TensorReader, layer_of

_HEAD_ROWS = 16_384
"""Rows of the head multiplied at a time."""
_LIBRARIES_BYTES = 700 * 1024 * 1024
"""What torch and transformers take before they hold any weight."""


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
    head = 4 * _HEAD_ROWS * checkpoint.config.integer("hidden_size")
    needed = _LIBRARIES_BYTES + 2 * max(layers.values(), default=0) + head
    free = psutil.virtual_memory().available
    if free < needed:
        raise ParentNotRun(
            f"one layer of the parent needs {format_bytes(needed)} of memory, {format_bytes(free)} is free"
        )


def parent_logits(checkpoint: Checkpoint, prompt: Sequence[int], progress: Progress) -> npt.NDArray[np.float32]:
    """Float32 logits (n_prompt, vocabulary) of the parent for one prompt of token ids.

    Raises ParentNotRun when transformers does not accept the checkpoint's configuration.
    """
    set_environment(ENGINE_ENVIRONMENT | OFFLINE_ENVIRONMENT)  # torch's OpenMP threads spin too, see there
    import torch

    model = _skeleton(checkpoint)
    body = model.model
    with checkpoint.reader() as reader, torch.inference_mode():
        _embed_rows(body, checkpoint, reader, prompt)
        with progress.task("Running the parent", len(body.layers)) as task:
            for number, layer in enumerate(body.layers):
                _load_around(layer, f"model.layers.{number}.", checkpoint, reader, lambda: task.advance())
            _load_around(body.norm, "model.norm.", checkpoint, reader, lambda: None)
            ids = torch.arange(len(prompt)).unsqueeze(0)  # rows of the small embedding, see _embed_rows
            hidden = body(input_ids=ids, use_cache=False).last_hidden_state[0]  # (n_prompt, hidden)
        return _head(model, checkpoint, reader, hidden.numpy())


def _skeleton(checkpoint: Checkpoint) -> Any:
    """The model of the checkpoint's configuration without weights, in float32, never with the checkpoint's code."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(checkpoint.folder), trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, trust_remote_code=False, dtype=torch.float32, attn_implementation="eager"
            )
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ParentNotRun(f"transformers does not accept its config.json: {str(error)[:200]}") from error
    model.eval()
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)  # its tables are computed, not stored
    return model


def _embed_rows(body: Any, checkpoint: Checkpoint, reader: TensorReader, prompt: Sequence[int]) -> None:
    """Shrink the embedding to the prompt: row i is the embedding of token i of the prompt."""
    import torch

    stored = checkpoint.tensors["model.embed_tokens.weight"]
    rows = np.concatenate([reader.float32(stored, token, token + 1) for token in prompt])
    table = body.embed_tokens
    table.weight = torch.nn.Parameter(torch.from_numpy(rows), requires_grad=False)
    table.padding_idx = None
    if getattr(table, "embed_scale", None) is not None:  # Gemma multiplies by the root of the hidden size
        table.embed_scale = torch.tensor(body.config.hidden_size**0.5)


def _load_around(module: Any, prefix: str, checkpoint: Checkpoint, reader: TensorReader, done: Any) -> None:
    import torch

    names = [name for name, _ in module.named_parameters()]

    def load(_module: Any, _args: Any, _kwargs: Any) -> None:
        weights = {
            name: torch.from_numpy(np.array(reader.float32(checkpoint.tensors[prefix + name]))) for name in names
        }
        module.load_state_dict(weights, assign=True, strict=False)

    def unload(_module: Any, _args: Any, _kwargs: Any, _output: Any) -> None:
        module.to("meta")
        done()

    module.register_forward_pre_hook(load, with_kwargs=True)
    module.register_forward_hook(unload, with_kwargs=True)


def _head(
    model: Any, checkpoint: Checkpoint, reader: TensorReader, hidden: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    tied = getattr(model.config, "tie_word_embeddings", False)
    stored = checkpoint.tensors["model.embed_tokens.weight" if tied else "lm_head.weight"]
    n_vocab = stored.shape[0]
    logits = np.empty((hidden.shape[0], n_vocab), np.float32)
    for start in range(0, n_vocab, _HEAD_ROWS):
        stop = min(start + _HEAD_ROWS, n_vocab)
        logits[:, start:stop] = hidden @ reader.float32(stored, start, stop).T
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else np.tanh(logits / np.float32(cap)) * np.float32(cap)
