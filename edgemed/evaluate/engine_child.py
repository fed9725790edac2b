"""The process in which a GGUF is measured; its parent is EngineScorer.

Run as `python -m edgemed.evaluate.engine_child PATH CONTEXT_LENGTH THREADS`. It first says {"n_vocab": ...}; then a
JSON line on stdin is a question, and stdout has the answer:
    {"greedy": [ids], "max_tokens": n}  -> {"ids": [...]}
    {"logits": [ids], "first": n}       -> {"rows": n}, then so many rows of float32 (n_vocab,), as bytes
It ends when stdin ends, also in the middle of a computation.
"""

from __future__ import annotations

import json
import os
import sys
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any

from edgemed.core.privacy import forbid_core_dumps
from edgemed.core.settings import ENGINE_ENVIRONMENT, OFFLINE_ENVIRONMENT, set_environment


def main() -> None:
    """Open the model and answer until stdin ends."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing that native code prints may mix with the answers
    set_environment(ENGINE_ENVIRONMENT | OFFLINE_ENVIRONMENT)
    forbid_core_dumps()
    questions: SimpleQueue[dict[str, Any]] = SimpleQueue()
    Thread(target=_read, args=(questions,), name="questions", daemon=True).start()
    from edgemed.evaluate.exact_engine import ExactEngine, quiet_api

    path, context_length, n_threads = sys.argv[1:]
    engine = ExactEngine(quiet_api(), path, int(context_length), int(n_threads))
    _say(out, {"n_vocab": engine.n_vocab})
    while True:
        question = questions.get()
        if "greedy" in question:
            _say(out, {"ids": engine.greedy(question["greedy"], question["max_tokens"])})
            continue
        ids, first = question["logits"], question["first"]
        _say(out, {"rows": len(ids) - first})
        engine.logits(ids, first, lambda rows: out.write(rows.tobytes()))
        out.flush()


def _read(questions: SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        questions.put(json.loads(line))
    os._exit(0)  # the parent has closed, or is gone: whatever is being computed is of no use to anybody


def _say(out: IO[bytes], answer: dict[str, Any]) -> None:
    out.write(json.dumps(answer).encode() + b"\n")
    out.flush()


if __name__ == "__main__":
    main()
