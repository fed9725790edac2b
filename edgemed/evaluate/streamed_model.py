"""Runs a checkpoint in float32 by transformers, one decoder layer in memory at a time.

The module tree is built on torch's "meta" device, which holds no numbers. A layer gets its weights from the
checkpoint's own files when it is opened and loses them after, so a 7B model needs the memory of one layer (0.9 GiB in
float32) and of a slice of its head. The embedding is read row by row: only the tokens that occur.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import EdgemedError
from edgemed.core.settings import ENGINE_ENVIRONMENT, OFFLINE_ENVIRONMENT, set_environment
from edgemed.models.checkpoint import Checkpoint, TensorReader

HEAD_ROWS = 16_384
"""Rows of the head multiplied at a time."""
LIBRARIES_BYTES = 700 * 1024 * 1024
"""What torch and transformers take before they hold any weight."""
_EMBEDDING = "model.embed_tokens.weight"


class NotAccepted(EdgemedError):
    """transformers does not accept the checkpoint's configuration."""


class StreamedModel:
    """One checkpoint; `reader` must stay open while it is used. Needs torch and transformers."""

    def __init__(self, checkpoint: Checkpoint, reader: TensorReader) -> None:
        set_environment(ENGINE_ENVIRONMENT | OFFLINE_ENVIRONMENT)  # torch's OpenMP threads spin too, see there
        self._checkpoint = checkpoint
        self._reader = reader
        self._model = _skeleton(checkpoint)
        self._body = self._model.model
        self._arguments: dict[int, list[dict[str, Any]]] = {}

    @property
    def n_layers(self) -> int:
        """Decoder layers."""
        return len(self._body.layers)

    def embed(self, ids: Sequence[int]) -> Any:
        """The embeddings (n_tokens, hidden) of token ids, as the first layer receives them."""
        import torch

        stored = self._checkpoint.tensors[_EMBEDDING]
        rows = {token: self._reader.float32(stored, token, token + 1).copy() for token in sorted(set(ids))}
        embedded = torch.from_numpy(np.concatenate([rows[token] for token in ids]))
        if getattr(self._body.embed_tokens, "embed_scale", None) is not None:  # Gemma: the root of the hidden size
            embedded *= self._body.config.hidden_size**0.5
        return embedded

    @contextmanager
    def layer(self, number: int, replaced: Mapping[str, npt.NDArray[np.float32]] | None = None) -> Iterator[Any]:
        """Decoder layer `number` as a torch module with its weights, until the block ends.

        `replaced` gives float32 weights by checkpoint name (rounded ones) instead of the checkpoint's own.
        """
        module = self._body.layers[number]
        self._load(module, f"model.layers.{number}.", replaced or {})
        try:
            yield module
        finally:
            module.to("meta")

    def run(self, module: Any, number: int, hidden: Any) -> Any:
        """What the opened layer `number` makes of one text's hidden states (n_tokens, hidden)."""
        n_tokens = hidden.shape[0]
        if n_tokens not in self._arguments:
            self._arguments[n_tokens] = self._layer_arguments(hidden)
        output = module(hidden[None], **self._arguments[n_tokens][number])
        return (output[0] if isinstance(output, tuple) else output)[0]

    def normed(self, hidden: Any) -> Any:
        """The final norm of hidden states (n_tokens, hidden)."""
        self._load(self._body.norm, "model.norm.", {})
        try:
            return self._body.norm(hidden)
        finally:
            self._body.norm.to("meta")

    def head(self, hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits (n_tokens, vocabulary) of normed hidden states."""
        config = self._model.config
        tied = getattr(config, "tie_word_embeddings", False)
        stored = self._checkpoint.tensors[_EMBEDDING if tied else "lm_head.weight"]
        n_vocab = stored.shape[0]
        logits = np.empty((hidden.shape[0], n_vocab), np.float32)
        for start in range(0, n_vocab, HEAD_ROWS):
            stop = min(start + HEAD_ROWS, n_vocab)
            logits[:, start:stop] = hidden @ self._reader.float32(stored, start, stop).T
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else np.tanh(logits / np.float32(cap)) * np.float32(cap)

    def _load(self, module: Any, prefix: str, replaced: Mapping[str, npt.NDArray[np.float32]]) -> None:
        import torch

        weights = {}
        for name, _ in module.named_parameters():
            full = prefix + name
            own = replaced.get(full)
            values = np.array(self._reader.float32(self._checkpoint.tensors[full])) if own is None else own
            weights[name] = torch.from_numpy(values)
        module.load_state_dict(weights, assign=True, strict=False)

    def _layer_arguments(self, hidden: Any) -> list[dict[str, Any]]:
        """What the body hands each layer beside the hidden states of so many tokens: mask, rotary tables."""
        import torch

        seen: list[dict[str, Any]] = []

        class Recorder(torch.nn.Module):  # type: ignore[misc]
            def forward(self, hidden_states: Any, **arguments: Any) -> Any:
                seen.append(arguments)
                return hidden_states

        layers, norm = self._body.layers, self._body.norm
        self._body.layers = torch.nn.ModuleList(Recorder() for _ in layers)
        self._body.norm = torch.nn.Identity()
        try:
            self._body(inputs_embeds=hidden[None], use_cache=False)
        finally:
            self._body.layers, self._body.norm = layers, norm
        return seen


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
        raise NotAccepted(f"transformers does not accept its config.json: {str(error)[:200]}") from error
    model.eval()
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)  # its tables are computed, not stored
    return model
