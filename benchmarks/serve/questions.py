"""Questions for the server's benchmarks: of the demonstration's facts, all different, each in both servers' words."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from edgemed.demo.questions import dose_examination, statement_examination
from edgemed.demo.table import fact_table
from edgemed.medical.category import classify
from edgemed.medical.prompts import messages_for


def questions(seed: int = 1) -> Iterator[str]:
    """Thousands of them without a repeat, in an order that the seed decides; of several categories, mixed."""
    table = fact_table()
    texts = {example.question for example in (*dose_examination(table, seed), *statement_examination(table, seed))}
    ordered = sorted(texts)
    random.Random(seed).shuffle(ordered)
    yield from ordered
    number = 0
    while True:  # a number in front makes another question of it
        number += 1
        yield from (f"Patient {number}. {text}" for text in ordered)


def edgemed_body(question: str, n_tokens: int) -> dict[str, Any]:
    """What edgemed is asked: greedy, no saved answer."""
    return {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": n_tokens,
        "temperature": 0,
        "cache": "off",
    }


def llama_body(question: str, n_tokens: int, *, cache_prompt: bool = True) -> dict[str, Any]:
    """What llama-server is asked: the prompt that edgemed makes of the question; `cache_prompt` is its default."""
    messages = messages_for(question, category=classify(question).prompt_category)
    return {
        "messages": messages,
        "max_tokens": n_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": cache_prompt,
    }
