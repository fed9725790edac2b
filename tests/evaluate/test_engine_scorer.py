"""The engine as a measuring instrument: equal questions, equal answers, and an end of its process is a sentence."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import SPECIAL_TOKENS, vocabulary, write_tiny_qwen2

from edgemed.core.errors import EngineFailed, ModelRefused, UsageError
from edgemed.evaluate.engine_scorer import EngineScorer

N_VOCAB = len(vocabulary())
TEXT = np.random.default_rng(3).integers(0, N_VOCAB - len(SPECIAL_TOKENS), 230).tolist()


@pytest.fixture(scope="module")
def whole(tiny_scorer: EngineScorer) -> np.ndarray:
    return tiny_scorer.logits(TEXT, 1)


def test_a_row_belongs_to_the_token_that_it_predicts(tiny_scorer: EngineScorer, whole: np.ndarray) -> None:
    assert whole.shape == (len(TEXT) - 1, N_VOCAB)
    assert whole.dtype == np.float32
    (row,) = tiny_scorer.logits([*TEXT[:7], 0], 7)
    assert np.array_equal(row, whole[6])


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 230), first=st.integers(1, 229), before=st.integers(0, 229))
def test_a_prediction_depends_on_the_tokens_before_it_to_the_last_bit_and_on_nothing_else(
    tiny_scorer: EngineScorer, whole: np.ndarray, n: int, first: int, before: int
) -> None:
    first = min(first, n - 1)
    tiny_scorer.logits([*TEXT[:before], *TEXT[60:120]], before + 20)  # leaves something else in the cache
    assert np.array_equal(tiny_scorer.logits(TEXT[:n], first), whole[first - 1 : n - 1])


def test_a_greedy_answer_is_what_its_own_logits_say(tiny_scorer: EngineScorer) -> None:
    for start in range(0, 60, 10):
        prompt = TEXT[start : start + 45]
        answer = tiny_scorer.greedy(prompt, 70)
        judged = tiny_scorer.logits([*prompt, *answer, 0], len(prompt)).argmax(axis=1).tolist()
        assert judged[:-1] == answer
        assert len(answer) == 70 or judged[-1] >= N_VOCAB - len(SPECIAL_TOKENS)
        assert all(token < N_VOCAB - len(SPECIAL_TOKENS) for token in answer)


def test_no_rows_are_asked_for_without_asking_the_engine(tiny_scorer: EngineScorer) -> None:
    assert tiny_scorer.logits(TEXT[:5], 5).shape == (0, N_VOCAB)


def test_what_does_not_fit_is_refused_with_the_numbers(tiny_scorer: EngineScorer) -> None:
    with pytest.raises(UsageError, match=r"301 tokens.*300 fit"):
        tiny_scorer.logits([5] * 301, 300)
    with pytest.raises(UsageError, match="301"):
        tiny_scorer.greedy([5] * 300, 1)
    assert tiny_scorer.logits([5] * 300, 299).shape == (1, N_VOCAB)
    with pytest.raises(ValueError, match="no prediction"):
        tiny_scorer.logits([5, 5], 0)


def test_a_process_that_is_killed_is_an_error_with_a_next_step_and_stays_one(tiny_gguf: Path) -> None:
    with EngineScorer(tiny_gguf, context_length=64) as scorer:
        os.kill(scorer._process.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(EngineFailed, match=r"tiny.gguf.*signal 9.*Next: "):
                scorer.logits(TEXT[:9], 2)


def test_an_answer_that_takes_too_long_ends_the_process(tiny_gguf: Path) -> None:
    with EngineScorer(tiny_gguf, context_length=64, longest_seconds=20) as scorer:
        os.kill(scorer._process.pid, signal.SIGSTOP)
        scorer._longest_seconds = 0.05
        with pytest.raises(EngineFailed, match=r"no answer about tiny.gguf in 0.05 s"):
            scorer.greedy(TEXT[:9], 2)


def test_a_damaged_file_never_reaches_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelRefused):
        EngineScorer(path)


def test_a_file_that_the_engine_refuses_leaves_no_process(tmp_path: Path) -> None:
    path = write_tiny_qwen2(tmp_path / "odd.gguf", pre="no-such-rule")
    with pytest.raises(EngineFailed, match="could not load"):
        EngineScorer(path)
    assert not [child for child in psutil.Process().children() if "evaluate.engine_child" in " ".join(child.cmdline())
                and str(path) in child.cmdline()]  # fmt: skip


def test_its_process_ends_when_closed_and_when_its_parent_dies(tiny_gguf: Path) -> None:
    scorer = EngineScorer(tiny_gguf, context_length=64)
    own = psutil.Process(scorer._process.pid)
    scorer.close()
    assert not own.is_running()
    script = (
        "from pathlib import Path; import os, sys\n"
        "from edgemed.evaluate.engine_scorer import EngineScorer\n"
        f"scorer = EngineScorer(Path({str(tiny_gguf)!r}), context_length=64)\n"
        "print(scorer._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    end = time.monotonic() + 30
    with suppress(psutil.NoSuchProcess):
        orphan = psutil.Process(int(done.stdout))
        while orphan.status() != psutil.STATUS_ZOMBIE:  # nobody may be there to bury it
            assert time.monotonic() < end
            with suppress(psutil.TimeoutExpired):
                orphan.wait(0.1)
