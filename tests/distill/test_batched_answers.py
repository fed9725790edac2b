"""Many prompts at a time against one at a time."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.core.progress import SilentProgress
from edgemed.demo import demo_checkpoint_path
from edgemed.distill.batched_answers import batches, greedy_answers, likeliest
from edgemed.evaluate.choices import answers, demo_choices
from edgemed.evaluate.comparison import spread
from edgemed.evaluate.prompts import demo_prompts
from edgemed.evaluate.token_text import TokenText
from edgemed.evaluate.torch_scorer import TorchScorer, ends_of, open_folder

pytestmark = pytest.mark.needs_torch


@pytest.fixture(scope="module")
def tiny() -> Any:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.Qwen2Config(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    return transformers.Qwen2ForCausalLM(config)


@pytest.fixture(scope="module")
def scorer() -> TorchScorer:
    pytest.importorskip("transformers")
    return open_folder(demo_checkpoint_path(), context_length=512)


def prompts(n: int) -> list[list[int]]:
    """Of two beginnings and all lengths."""
    random = np.random.default_rng(n)
    return [[3, 5, 7, 11, 13][: 5 - n % 2] + random.integers(0, 40, random.integers(1, 9)).tolist() for n in range(n)]


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_each_prompt_is_answered_as_if_alone(tiny: Any, batch: int) -> None:
    asked, ends = prompts(14), {4, 9, 21}
    scorer = TorchScorer(tiny, ends)
    alone = [scorer.greedy(prompt, 12) for prompt in asked]
    tiny.train()
    assert greedy_answers(tiny, asked, ends, 12, batch=batch) == alone
    assert tiny.training
    assert len({len(answer) for answer in alone}) > 2  # some end early, some never


def test_prompts_that_share_nothing_are_padded_from_their_beginning(tiny: Any) -> None:
    asked = [[n, *range(20 + n)] for n in range(0, 18, 5)]
    scorer = TorchScorer(tiny, {4})
    assert greedy_answers(tiny, asked, {4}, 6) == [scorer.greedy(prompt, 6) for prompt in asked]
    assert greedy_answers(tiny, [], {4}, 6) == []


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_the_likeliest_option_is_that_of_its_tokens_alone(
    tiny: Any, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(2)
    options = [
        [[*prompt, *random.integers(0, 40, random.integers(1, 6)).tolist()] for _ in range(3)] for prompt in prompts(9)
    ]
    scorer = TorchScorer(tiny, {4})
    chosen = []
    for question in options:
        first = next(n for n in range(99) if len({(*text, None)[n] for text in question}) > 1)
        rows = [(text, scorer.logits(text, first).astype(np.float64)) for text in question]
        sums = [
            sum(row[token] - np.log(np.exp(row).sum()) for row, token in zip(logits, text[first:], strict=True))
            for text, logits in rows
        ]
        chosen.append(int(np.argmax(sums)))
    assert likeliest(tiny, options, batch=batch) == chosen
    monkeypatch.setattr("edgemed.distill.batched_answers.MOST_LOGITS", 900)
    assert likeliest(tiny, options, batch=batch) == chosen
    assert likeliest(tiny, [], batch=batch) == []


def test_the_demonstration_model_answers_as_one_at_a_time(scorer: TorchScorer) -> None:
    tokens = TokenText(demo_checkpoint_path())
    asked = [tokens.prompt(prompt.question) for prompt in spread(demo_prompts("B"), 12)]
    found = greedy_answers(scorer._model, asked, ends_of(demo_checkpoint_path()), 80)
    assert found == [scorer.greedy(prompt, 80) for prompt in asked]


def test_the_demonstration_model_chooses_as_one_at_a_time(scorer: TorchScorer) -> None:
    tokens = TokenText(demo_checkpoint_path())
    choices = spread(demo_choices("B"), 6)
    texts = [[tokens.prompt(c.question, f"{c.opening}{option}") for option in c.options] for c in choices]
    with SilentProgress().task("", 1) as task:
        assert likeliest(scorer._model, texts) == answers(scorer, tokens, choices, task)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), max_size=30), st.integers(1, 8))
def test_batches_hold_every_prompt_once(asked: list[list[int]], size: int) -> None:
    found = list(batches(asked, size))
    assert sorted(row for rows in found for row in rows) == list(range(len(asked)))
    assert all(0 < len(rows) <= size for rows in found)


def test_prompts_of_one_beginning_are_read_together() -> None:
    first, second = list(range(50)), list(range(30)) + [99] * 20
    asked = [[*(first if n % 3 else second), 60 + n, *range(n)] for n in range(12)]
    found = list(batches(asked, 64))
    assert [sorted(rows) for rows in found] == [[n for n in range(12) if n % 3], [0, 3, 6, 9]]
    assert found[1] == sorted(found[1], key=lambda row: len(asked[row]))
