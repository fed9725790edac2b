"""What drawing a token costs: greedy, with filters, penalties, log-probabilities, and by a grammar.

    python benchmarks/bench_drawing.py [--vocabulary 151936] [--tokens 200] [--repeats 3]

A made-up model of one narrow layer with a vocabulary as large as a real one's answers; what it computes is the same for
every row, so what a row costs above "greedy" is the drawing. Prints CPU milliseconds per token, the best of the
repeats, as JSON. "refused": a grammar that refuses the model's own choice at every token, and so looks at all of them;
"followed": one that never does. The model is unsure of everything, so "top_p alone" sorts the whole vocabulary: a
worst case, as "any JSON" is, in which nearly every choice is refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import tiny_models

from edgemed.engines.base import DoneEvent, EngineConfig, GenerationRequest, Sampling
from edgemed.engines.llama_cpp import LlamaCpp
from edgemed.engines.scheduler import Scheduler
from edgemed.serve.json_grammar import json_grammar, schema_grammar

_PROMPT = tuple(range(40, 60))
_DRAWN = Sampling(temperature=0.7, top_p=0.9, top_k=40, seed=1)
_FORM = {"properties": {name: {"type": "string", "maxLength": 900} for name in ("a", "b", "c")}, "required": ["a"]}
_ROWS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "top_p, top_k": {"sampling": _DRAWN},
    "top_p alone": {"sampling": Sampling(temperature=0.7, top_p=0.9, seed=1)},
    "penalties": {"sampling": Sampling(presence_penalty=0.5, frequency_penalty=0.5)},
    "logprobs": {"top_logprobs": 0},
    "top_logprobs 20": {"top_logprobs": 20},
    "grammar, followed": {"grammar": "root ::= [^\\x00]*"},
    "grammar, refused": {"grammar": "root ::= [0-9]*"},
    "grammar, any JSON": {"grammar": json_grammar()},
    "grammar, strings of 900": {"grammar": schema_grammar(_FORM)},
}


def main() -> None:
    """Measure, then print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = _made_up(Path(folder) / "wide.gguf", asked.vocabulary)
        engine = LlamaCpp(EngineConfig(model_path=model, context_length=asked.tokens + 64))
        costs: dict[str, list[float]] = {name: [] for name in _ROWS}
        for _ in range(asked.repeats):
            for name, wish in _ROWS.items():
                costs[name].append(_cost(engine, asked.tokens, wish))
        engine.close()
    best = {name: min(found) for name, found in costs.items()}
    told = {
        name: {"ms_per_token": round(cost, 3), "above_greedy_ms": round(cost - best["greedy"], 3)}
        for name, cost in best.items()
    }
    print(json.dumps({"vocabulary": asked.vocabulary, "tokens": asked.tokens, "rows": told}, indent=2))


def _cost(engine: LlamaCpp, n_tokens: int, wish: dict[str, Any]) -> float:
    """CPU milliseconds of each token but the first."""
    scheduler = Scheduler(engine, time.monotonic)
    scheduler.submit(GenerationRequest("r", _PROMPT, n_tokens, **wish))
    scheduler.admit()
    events = scheduler.step()
    began = time.process_time()
    while not scheduler.idle:
        scheduler.admit()
        events += scheduler.step()
    seconds = time.process_time() - began
    done = events[-1][1]
    assert isinstance(done, DoneEvent), done
    return seconds * 1000 / max(1, done.completion_tokens - 1)


def _made_up(path: Path, n_vocabulary: int) -> Path:
    """One narrow layer; words of the vocabulary beyond the bytes are five letters or digits."""
    letters = "etaoinshrdlucm0123456789"
    n_more = n_vocabulary - 256 - len(tiny_models.MERGES) - len(tiny_models.SPECIAL_TOKENS)
    words = []
    for n in range(n_more):
        word, rest = "", n + 24**4
        while rest:
            rest, letter = divmod(rest, len(letters))
            word += letters[letter]
        words.append(word)
    bytes_and_merges = tiny_models.vocabulary()[: -len(tiny_models.SPECIAL_TOKENS)]
    usual = tiny_models.vocabulary
    tiny_models.vocabulary = lambda: [*bytes_and_merges, *words, *tiny_models.SPECIAL_TOKENS]
    kept, tiny_models.MERGES = tiny_models.MERGES, (*tiny_models.MERGES, *("e t" for _ in words))
    try:
        return tiny_models.write_tiny_qwen2(path, shape=tiny_models.TinyShape(n_layers=1, hidden_size=32))
    finally:
        tiny_models.vocabulary, tiny_models.MERGES = usual, kept


if __name__ == "__main__":
    main()
