"""Asks the engine about a finished file, in a process of its own: a file that ends the engine must not end us.

Run as `python -m edgemed.export.engine_probe`; a JSON question on stdin, a JSON answer on stdout:
    {"path": ..., "strings": [...]}                      -> {"ids": [[...], ...], "add_bos": [...]}
    {"path": ..., "prompt": [ids], "logits": "file"}     -> {"n_vocab": ...}; float32 (n_prompt, n_vocab) in that file
    the same with "adapter": "file"                      -> the same, with that adapter beside the model
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

from edgemed.core.settings import ENGINE_ENVIRONMENT, OFFLINE_ENVIRONMENT, set_environment
from edgemed.evaluate.exact_engine import ExactEngine, load_exactly, quiet_api


def main() -> None:
    """Answer one question."""
    answer_file = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing that native code prints may mix with the answer
    set_environment(ENGINE_ENVIRONMENT | OFFLINE_ENVIRONMENT)
    question = json.load(sys.stdin)
    api = quiet_api()
    answer = _logits(api, question) if "prompt" in question else _token_ids(api, question)
    json.dump(answer, answer_file)
    answer_file.close()


def _token_ids(api: Any, question: dict[str, Any]) -> dict[str, Any]:
    model = load_exactly(api, question["path"], vocab_only=True)
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
    engine = ExactEngine(api, question["path"], len(prompt), adapter=question.get("adapter", ""))
    with Path(question["logits"]).open("wb") as file:
        engine.logits([*prompt, 0], 1, lambda rows: file.write(rows.tobytes()))
    engine.close()
    return {"n_vocab": engine.n_vocab}


if __name__ == "__main__":
    main()
