"""The runtime's parts, each left out in turn, on a mixed workload: 10 % repeats, 10 % paraphrases, 80 % new questions.

    python benchmarks/serve/ablation.py [--questions 120] [--clients 4] [--rounds 3] [--threads 2]
                                        [--long-questions 24] [--long-rounds 2]

Questions and their order come from the demonstration's facts by the seed; so many clients ask them, each the next one
as soon as it has its answer. The arms take turns, each over a fresh server with an empty cache:

    everything              pinned templates, flash attention, two-level answer cache, limits per class, slots
    no prefix reuse         no template is shared, every prompt is read whole
    no flash attention      attention as a chain of products
    no answer cache         every question is asked of the model
    no limits per class     every answer may be the longest
    no batching             one slot: one question at a time, the others wait

The demonstration model's answers end by themselves after some 40 tokens, so limits cannot matter with it. The second
part asks a model of random weights (four layers of a 0.5B), whose answers never end before their limit: an upper bound
of what limits can save. Mean seconds to the whole answer, to its first text, answers and tokens per second; ratios by
"everything" of the same round. Takes about 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench_ablation import Asked, workload
from clients import Timed, ask
from made_up import HALF_B, filled_vocabulary
from servers import Setting, edgemed
from streams import summary

from edgemed.demo import demo_model_path
from edgemed.hardware.synthetic_model import MIXES, write_synthetic

_CONTEXT = 2048


def arms(whole: Setting) -> dict[str, Setting]:
    """Every arm by its name; `whole` has everything."""
    return {
        "everything": whole,
        "no prefix reuse": replace(whole, pins=False),
        "no flash attention": replace(whole, flash_attention=False),
        "no answer cache": replace(whole, saved_answers=False),
        "no limits per class": replace(whole, paced=False),
        "no batching": replace(whole, slots=1),
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=120)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long-questions", type=int, default=24, help="of the second part; 0 leaves it out")
    parser.add_argument("--long-rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    asked_of = workload(max(asked.questions, asked.long_questions), asked.seed)
    found: dict[str, Any] = {"clients": asked.clients, "threads": asked.threads}

    def compare(model: Path, questions: list[Asked], rounds: int) -> dict[str, Any]:
        whole = Setting(str(model), asked.threads, asked.clients, _CONTEXT, saved_answers=True)
        mix = Counter(question.kind for question in questions)
        return {"mix": mix} | compare_arms(arms(whole), questions, asked.clients, rounds)

    if asked.questions:
        found["demonstration model"] = compare(demo_model_path(), asked_of[: asked.questions], asked.rounds)
    if asked.long_questions:
        with tempfile.TemporaryDirectory() as folder:
            shape = replace(HALF_B, n_layers=4, vocab_size=32768)
            vocabulary = filled_vocabulary(shape.vocab_size)
            model = write_synthetic(Path(folder) / "random.gguf", shape, MIXES["nf4-int8"], vocabulary=vocabulary)
            first = asked_of[: asked.long_questions]
            found["random weights, no answer ends early"] = compare(model, first, asked.long_rounds)
    print(json.dumps(found, indent=2))


def compare_arms(settings: dict[str, Setting], questions: list[Asked], n_clients: int, rounds: int) -> dict[str, Any]:
    """Every arm's figures, and their ratios by the first arm's of the same round."""
    names = list(settings)
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            with edgemed(settings[name]) as server:
                ask(server.port, _body("What is malaria?"))  # the first question reads lists that later ones find read
                before, began = server.cpu_s(), time.monotonic()
                answers = asked_by(server.port, questions, n_clients)
                found = figures(answers, time.monotonic() - began)
                found["cpu_s_per_answer"] = (server.cpu_s() - before) / len(answers)
            turns[name].append(found)
            print(f"round {turn + 1}, {name}: {found}", file=sys.stderr, flush=True)
    whole = turns[names[0]]
    return {
        name: {figure: summary([turn[figure] for turn in turns[name]]) for figure in whole[0]}
        | {
            f"{figure}, by everything": summary(
                [turn[figure] / full[figure] for turn, full in zip(turns[name], whole, strict=True)]
            )
            for figure in ("latency_s", "first_text_s", "tokens_per_s")
        }
        for name in names
    }


def asked_by(port: int, questions: list[Asked], n_clients: int) -> list[Timed]:
    """Every answer; each client asks the next question as soon as it has its answer."""
    left: Iterator[Asked] = iter(questions)
    lock = threading.Lock()
    answers: list[Timed] = []
    failures: list[BaseException] = []

    def client() -> None:
        try:
            while True:
                with lock:
                    question = next(left, None)
                if question is None:
                    return
                answers.append(ask(port, _body(question.text)))
        except BaseException as error:  # a thread's end is not heard otherwise
            failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return answers


def figures(answers: list[Timed], seconds: float) -> dict[str, float]:
    """What one arm did in one round."""
    return {
        "latency_s": statistics.mean(answer.ended - answer.asked for answer in answers),
        "first_text_s": statistics.mean(answer.ttft_s for answer in answers if answer.texts),
        "answers_per_s": len(answers) / seconds,
        "tokens_per_s": sum(answer.answer_tokens for answer in answers) / seconds,
        "saved": sum(answer.saved for answer in answers),
    }


def _body(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


if __name__ == "__main__":
    main()
