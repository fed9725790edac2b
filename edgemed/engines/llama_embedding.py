"""Embeddings by llama.cpp: a second small context on the weights that are already loaded.

The embedding is the mean of the model's last hidden states (after the final norm) over the text's tokens, made
unit length. The text is read in chunks, each one call: between two of them the batch may decode, and the buffers
stay small, because llama.cpp computes the logits of every token of an embedding call whether wanted or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgemed.core.errors import EngineFailed
from edgemed.engines.embedding import EMBEDDED_TOKENS, embedded_tokens, normalised

CHUNK = 8
"""Tokens per call: with 152,000 words, each costs 1.2 MB of buffers, and a decoding step waits for one call."""


def embedding_parameters(api: Any, parameters: Any) -> Any:
    """The answering context's `llama_context_params`, changed to the embedder's: a memory projection needs them too."""
    parameters.n_ctx = EMBEDDED_TOKENS
    parameters.n_seq_max = 1
    parameters.n_batch = parameters.n_ubatch = parameters.n_outputs_max = CHUNK
    parameters.embeddings = True
    parameters.pooling_type = api.LLAMA_POOLING_TYPE_MEAN
    return parameters


class Embedder:
    """Embeds one text at a time. All calls from one thread; `parameters` are those of the answering context."""

    def __init__(self, api: Any, model: Any, parameters: Any, reason: Callable[[], str]) -> None:
        self._api = api
        self._reason = reason
        self._context = api.llama_init_from_model(model, embedding_parameters(api, parameters))
        if not self._context:
            raise EngineFailed(f"This model cannot embed texts: {reason() or 'llama.cpp gave no reason'}")
        self._size: int = api.llama_model_n_embd_out(model)
        self._memory = api.llama_get_memory(self._context)
        self._tokens: list[int] = []
        self._at = 0
        self._sum: list[float] = []

    def begin(self, token_ids: Sequence[int]) -> None:
        """Take up a text and forget the one before."""
        self._tokens, self._at, self._sum = embedded_tokens(token_ids), 0, [0.0] * self._size
        self._api.llama_memory_clear(self._memory, True)

    def step(self) -> list[float] | None:
        """Read the next chunk; the embedding once the text is read. Raises EngineFailed."""
        api = self._api
        chunk = self._tokens[self._at : self._at + CHUNK]
        ids = (api.llama_token * len(chunk))(*chunk)
        code = api.llama_decode(self._context, api.llama_batch_get_one(ids, len(chunk)))
        mean = api.llama_get_embeddings_seq(self._context, 0) if code == 0 else None
        if not mean:
            raise EngineFailed(f"This model cannot embed this text: code {code}. {self._reason()}".strip())
        n_tokens = len(chunk)
        self._sum = [total + n_tokens * value for total, value in zip(self._sum, mean[: self._size], strict=True)]
        self._at += n_tokens
        if self._at < len(self._tokens):
            return None
        self._api.llama_memory_clear(self._memory, True)  # nothing of the text is kept
        return normalised(self._sum)

    def close(self) -> None:
        """Free the context, before the model is."""
        self._api.llama_free(self._context)
