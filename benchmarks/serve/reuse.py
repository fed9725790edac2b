"""What reading a beginning only once saves, and what kept sequences cost those who decode.

    python benchmarks/serve/reuse.py [MODEL] [--layers 24] [--rounds 9] [--template 120] [--question 40] [--turn 600]
        [--context 2048] [--slots 4] [--threads 1] [--tokens 48]

Without MODEL a synthetic 0.5B of Qwen2 shape (q8_0) is written to a temporary folder and removed afterwards. The engine
runs in its own process, as it serves; all figures are taken in turns, round by round, in one process:

    template_ttft_ratio     time to first token of a question whose template of so many tokens is pinned, by that of one
                            with a template that is not
    turn_ttft_ratio         the same for the next turn of a conversation of `turn` tokens, with its session and without
    kept_step_ratio         milliseconds per token of one stream while kept sessions hold half of the cells, which is
                            the most, by those while none is kept

Medians over the rounds, with the lowest and the highest of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

from edgemed.engines.base import DoneEvent, EngineConfig, ErrorEvent, Event, GenerationRequest
from edgemed.engines.supervisor import EngineProcess

sys.path.insert(0, str(Path(__file__).parents[1]))

from synthetic import SHAPES, write_synthetic

_END_S = 300.0


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    for name, default in (("layers", 24), ("rounds", 9), ("template", 120), ("question", 40), ("turn", 600)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("context", 2048), ("slots", 4), ("threads", 1), ("tokens", 48)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = asked.model
        if model is None:
            model = Path(folder) / "synthetic.gguf"
            shape = SHAPES["qwen2-0.5b"]
            write_synthetic(model, replace(shape, n_layers=asked.layers), "q8_0")
        config = EngineConfig(
            model_path=model, context_length=asked.context, n_slots=asked.slots, n_threads=asked.threads
        )
        engine = EngineProcess(config)
        engine.start()
        try:
            print(json.dumps(Reuse(engine, asked).measure(), indent=1))
        finally:
            engine.close()


class Reuse:
    """The three comparisons on one engine."""

    def __init__(self, engine: EngineProcess, asked: argparse.Namespace) -> None:
        self._engine = engine
        self._asked = asked
        self._n = 0

    def measure(self) -> dict[str, object]:
        """Every figure, by name."""
        ratios: dict[str, list[float]] = {"template_ttft_ratio": [], "turn_ttft_ratio": [], "kept_step_ratio": []}
        times: dict[str, list[float]] = {}
        for number in range(self._asked.rounds):
            for name, pair in (
                ("template_ttft_ratio", self._template(number)),
                ("turn_ttft_ratio", self._turn(number)),
                ("kept_step_ratio", self._kept(number)),
            ):
                ratios[name].append(pair[0] / pair[1])
                times.setdefault(f"{name} ms", []).append(pair[0])
                times.setdefault(f"{name} ms, by", []).append(pair[1])
        return {name: [round(f(found), 3) for f in (statistics.median, min, max)] for name, found in ratios.items()} | {
            name: round(statistics.median(found), 2) for name, found in times.items()
        }

    def _template(self, number: int) -> tuple[float, float]:
        """Milliseconds to the first token, with the template pinned and with one that is not."""
        asked = self._asked
        pinned, other = (self._words(asked.template, 2 * number + i) for i in range(2))
        self._engine.pin([pinned])
        self._ask((*pinned, *self._words(asked.question, 1000 + number)))  # reads it, if nothing has
        question = self._words(asked.question, 2000 + number)
        found = [self._ask((*template, *question)) for template in (pinned, other)]
        assert found[0].cached_tokens == asked.template, "the template was not shared"
        self._engine.pin([])
        return found[0].ttft_ms, found[1].ttft_ms

    def _turn(self, number: int) -> tuple[float, float]:
        asked = self._asked
        before, question = self._words(asked.turn, 3000 + number), self._words(asked.question, 4000 + number)
        self._ask(before, session="turn")
        found = [self._ask((*before, *question), session=session) for session in ("turn", "")]
        assert found[0].cached_tokens >= asked.turn, "the conversation was not found"
        self._engine.forget_session("turn")
        return found[0].ttft_ms, found[1].ttft_ms

    def _kept(self, number: int) -> tuple[float, float]:
        """Milliseconds per token, with sessions kept in half of the cells and with none."""
        asked = self._asked
        n_tokens = asked.context - 8
        sessions = [f"kept{i}" for i in range(asked.slots // 2)]
        for i, session in enumerate(sessions):
            self._ask(self._words(n_tokens, 5000 + i), session=session)
        question = self._words(asked.question, 6000 + number)
        found = [self._ask(question, asked.tokens)]
        for session in sessions:
            self._engine.forget_session(session)
        found.append(self._ask(question, asked.tokens))
        first, second = ((done.total_ms - done.ttft_ms) / (done.completion_tokens - 1) for done in found)
        return first, second

    def _words(self, n_tokens: int, seed: int) -> tuple[int, ...]:
        vocab = self._engine.info.vocab_size - 16
        return tuple((seed * 7919 + i * 104729 + 11) % vocab for i in range(n_tokens))

    def _ask(self, prompt: Sequence[int], n_tokens: int = 2, session: str = "") -> DoneEvent:
        events: SimpleQueue[Event] = SimpleQueue()
        self._n += 1
        request = GenerationRequest(str(self._n), tuple(prompt), n_tokens, session=session)
        self._engine.submit(request, events.put)
        end = time.monotonic() + _END_S
        while True:
            event = events.get(timeout=end - time.monotonic())
            if isinstance(event, ErrorEvent):
                raise SystemExit(event.message)
            if isinstance(event, DoneEvent):
                return event


if __name__ == "__main__":
    main()
