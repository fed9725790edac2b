"""llama.cpp as an instrument of measurement: the CPU's reference kernels, an exact KV cache, one sequence.

For processes of their own only: a file that ends the engine ends the process.

The logits of a token depend on the tokens before it and on nothing else, to the last bit. llama.cpp does not promise
that: its kernels add in another order for one row than for many, and K-quants, which round activations, made 0.2 of
such a difference in a logit of the demonstration model. So a text is always cut at multiples of CHUNK tokens, the last
piece is filled up to whole TILEs, and logits are asked for in whole tiles. A chunk that the text before began with as
well is then still in the cache as it has to be, and is not read again.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemed.engines.native_adapters import set_adapter
from edgemed.evaluate.scorer import settled

CHUNK = 64
"""Tokens read at once, and rows of logits in memory at once: 39 MB for 152,000 tokens."""
TILE = 16
"""Rows; 8 were enough for the kernels of llama-cpp-python 0.3.36 on x86."""
_F32 = 0
"""GGML_TYPE_F32: an exact cache for keys and values."""

Rows = npt.NDArray[np.float32]


class ExactEngine:
    """A GGUF opened for measuring. Ends the process with a sentence (SystemExit) when it cannot be opened or run."""

    def __init__(self, api: Any, path: str, context_length: int, n_threads: int = 0, *, adapter: str = "") -> None:
        self._api = api
        self._model = load_exactly(api, path, vocab_only=False)
        lora = load_adapter(api, self._model, adapter) if adapter else None
        self._vocab = api.llama_model_get_vocab(self._model)
        self.n_vocab: int = api.llama_vocab_n_tokens(self._vocab)
        parameters = api.llama_context_default_params()
        parameters.n_ctx = _whole(context_length, CHUNK)  # the last piece is filled up
        parameters.n_batch = parameters.n_ubatch = parameters.n_outputs_max = CHUNK
        parameters.type_k = parameters.type_v = _F32
        parameters.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if n_threads:
            parameters.n_threads = parameters.n_threads_batch = n_threads
        self._context = api.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise SystemExit("the engine made no context")
        if lora is not None and set_adapter(api, self._context, lora, 1.0) != 0:
            raise SystemExit("the engine did not take the adapter")
        self._memory = api.llama_get_memory(self._context)
        self._batch = api.llama_batch_init(CHUNK, 0, 1)
        self._chunked: list[int] = []
        """The tokens that were read in chunks; whatever else is in the cache lies behind them."""

    def logits(self, ids: Sequence[int], first: int, each: Callable[[Rows], object]) -> None:
        """Give `each` the logits made after ids[:first], ids[:first + 1], ... ids[:-1], some rows at a time.

        The rows (n, n_vocab) are the engine's own memory: copy what must last.
        """
        n_read = len(ids) - 1
        tokens = [*ids[:n_read], *[0] * (_whole(n_read, TILE) - n_read)]
        for start in range(self._keep(tokens, first - 1), len(tokens), CHUNK):
            chunk = tokens[start : start + CHUNK]
            wanted = max(0, first - 1 - start)
            from_tile = wanted - wanted % TILE
            rows = self._decode(chunk, start, from_tile)
            self._chunked += chunk
            if wanted < len(chunk):
                each(rows[wanted - from_tile : n_read - start - from_tile])

    def greedy(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """The most likely tokens by `logits`, one by one, without the one that ends the answer."""

        def judge(answer: Sequence[int]) -> list[int]:
            found: list[int] = []
            ids = [*prompt, *answer, 0]
            self.logits(ids, len(prompt), lambda rows: found.extend(rows.argmax(axis=1).tolist()))
            return found

        def guess(answer: list[int]) -> list[int]:
            return self._guess(len(prompt), answer, max_tokens)

        return settled(judge, guess, self.ends_answer, max_tokens)

    def ends_answer(self, token: int) -> bool:
        """True for the tokens that end an answer: the model's own, and any other control token."""
        api = self._api
        if api.llama_vocab_is_eog(self._vocab, token):
            return True
        return bool(api.llama_vocab_get_attr(self._vocab, token) & api.LLAMA_TOKEN_ATTR_CONTROL)

    def close(self) -> None:
        """Free the model."""
        self._api.llama_batch_free(self._batch)
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)

    def _guess(self, n_prompt: int, answer: list[int], max_tokens: int) -> list[int]:
        """The answer carried on, token by token, from its last, until it ends."""
        place = n_prompt + len(answer) - 1
        if not self._forget_from(place):  # a cache that only grows: then every token is read as `logits` reads
            return answer
        while len(answer) < max_tokens:
            token = int(self._decode([answer[-1]], place, 0)[0].argmax())
            if self.ends_answer(token):
                break
            answer.append(token)
            place += 1
        return answer

    def _keep(self, tokens: Sequence[int], most: int) -> int:
        """Forget what the cache holds beyond the chunks that `tokens` begins with; the number of tokens kept."""
        pairs = zip(self._chunked, tokens, strict=False)
        common = next((n for n, (old, new) in enumerate(pairs) if old != new), min(len(self._chunked), len(tokens)))
        keep = min(common, most) // CHUNK * CHUNK
        return keep if self._forget_from(keep) else 0

    def _forget_from(self, place: int) -> bool:
        """False when the engine could not forget a part, and has forgotten all."""
        done: bool = self._api.llama_memory_seq_rm(self._memory, 0, place, -1)
        if not done:
            self._api.llama_memory_clear(self._memory, True)
        del self._chunked[place if done else 0 :]
        return done

    def _decode(self, tokens: Sequence[int], start: int, wanted_from: int) -> Rows:
        """Logits (n, n_vocab) after each of `tokens` from the place `wanted_from` on; none when that is beyond."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.logits[place] = token, start + place, place >= wanted_from
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        if (code := self._api.llama_decode(self._context, batch)) != 0:
            raise SystemExit(f"the engine refused {len(tokens)} tokens at place {start}, code {code}")
        n_rows = len(tokens) - wanted_from
        if n_rows <= 0:
            return np.empty((0, self.n_vocab), np.float32)
        values = self._api.llama_get_logits(self._context)
        return np.ctypeslib.as_array(values, (n_rows, self.n_vocab))


def quiet_api() -> Any:
    """The binding's C functions, ready and silent. See engines.llama_cpp.load_api."""
    from edgemed.engines.llama_cpp import load_api

    api = load_api()
    api.edgemed_silence = api.llama_log_callback(lambda _level, _text, _data: None)  # kept alive with the module
    api.llama_log_set(api.edgemed_silence, ctypes.c_void_p(0))
    api.llama_backend_init()
    return api


def load_adapter(api: Any, model: Any, path: str) -> Any:
    """The adapter, which lives as long as the model. Raises SystemExit when the engine cannot load it."""
    lora = api.llama_adapter_lora_init(model, os.fsencode(path))
    if not lora:
        raise SystemExit("the engine could not load the adapter")
    return lora


def load_exactly(api: Any, path: str, *, vocab_only: bool) -> Any:
    """The model, for the CPU's reference kernels. Raises SystemExit when the engine cannot load it."""
    parameters = api.llama_model_default_params()
    parameters.vocab_only = vocab_only
    parameters.n_gpu_layers = 0  # the CPU's kernels are the reference
    # Mapped, and without a second, repacked copy of the weights: a file larger than memory can still be checked.
    parameters.load_mode = api.LLAMA_LOAD_MODE_MMAP
    parameters.use_extra_bufts = False
    model = api.llama_model_load_from_file(os.fsencode(path), parameters)
    if not model:
        raise SystemExit("the engine could not load the file")
    return model


def _whole(number: int, unit: int) -> int:
    return -(-number // unit) * unit
