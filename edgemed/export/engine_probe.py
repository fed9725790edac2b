"""Asks the engine about a finished file, in a process of its own: a file that ends the engine must not end us.

Run as `python -m edgemed.export.engine_probe`; a JSON question on stdin, a JSON answer on stdout:
    {"path": ..., "strings": [...]}                      -> {"ids": [[...], ...], "add_bos": [...]}
    {"path": ..., "prompt": [ids], "logits": "file"}     -> {"n_vocab": ...}; float32 (n_prompt, n_vocab) in that file
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

from edgemed.core.settings import ENGINE_ENVIRONMENT, OFFLINE_ENVIRONMENT, set_environment

_F32 = 0
"""GGML_TYPE_F32: an exact cache for keys and values."""


def main() -> None:
    """Answer one question."""
    answer_file = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing that native code prints may mix with the answer
    set_environment(ENGINE_ENVIRONMENT | OFFLINE_ENVIRONMENT)
    question = json.load(sys.stdin)
    from edgemed.engines.llama_cpp import load_api

    api = load_api()
    quiet = api.llama_log_callback(lambda _level, _text, _data: None)
    api.llama_log_set(quiet, ctypes.c_void_p(0))
    api.llama_backend_init()
    answer = _logits(api, question) if "prompt" in question else _token_ids(api, question)
    json.dump(answer, answer_file)
    answer_file.close()


def _token_ids(api: Any, question: dict[str, Any]) -> dict[str, Any]:
    model = _load(api, question["path"], vocab_only=True)
    vocab = api.llama_model_get_vocab(model)
    ids = [_tokenize(api, vocab, string) for string in question["strings"]]
    with_bos = _tokenize(api, vocab, "a", add_special=True)
    api.llama_model_free(model)
    return {"ids": ids, "with_special": with_bos}


def _tokenize(api: Any, vocab: Any, string: str, *, add_special: bool = False) -> list[int]:
    raw = string.encode("utf-8")
    room = len(raw) + 8
    tokens = (ctypes.c_int32 * room)()
    count = api.llama_tokenize(vocab, raw, len(raw), tokens, room, add_special, True)
    if count < 0:
        raise SystemExit(f"a text of {len(raw)} bytes became {-count} tokens")
    return list(tokens[:count])


def _logits(api: Any, question: dict[str, Any]) -> dict[str, Any]:
    prompt = question["prompt"]
    model = _load(api, question["path"], vocab_only=False)
    parameters = api.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = parameters.n_outputs_max = len(prompt)
    parameters.type_k = parameters.type_v = _F32
    parameters.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = api.llama_init_from_model(model, parameters)
    if not context:
        raise SystemExit("the engine made no context")
    batch = api.llama_batch_init(len(prompt), 0, 1)
    batch.n_tokens = len(prompt)
    for place, token in enumerate(prompt):
        batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
    if (code := api.llama_decode(context, batch)) != 0:
        raise SystemExit(f"the engine refused the prompt, code {code}")
    n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    values = api.llama_get_logits(context)
    Path(question["logits"]).write_bytes(ctypes.string_at(values, len(prompt) * n_vocab * 4))
    api.llama_batch_free(batch)
    api.llama_free(context)
    api.llama_model_free(model)
    return {"n_vocab": n_vocab}


def _load(api: Any, path: str, *, vocab_only: bool) -> Any:
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


if __name__ == "__main__":
    main()
