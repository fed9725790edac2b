"""A transformers model as a scorer, against the engine on the same weights."""

from pathlib import Path

import numpy as np
import pytest

from edgemed.core.errors import ModelRefused, UsageError
from edgemed.core.progress import SilentProgress
from edgemed.demo import demo_checkpoint_path, demo_model_path
from edgemed.evaluate.comparison import Questions, compare_answers, parent_part, spread
from edgemed.evaluate.divergence import summary
from edgemed.evaluate.engine_scorer import EngineScorer
from edgemed.evaluate.prompts import demo_prompts
from edgemed.evaluate.token_text import TokenText
from edgemed.evaluate.torch_scorer import TorchScorer, open_folder

pytestmark = pytest.mark.needs_torch


@pytest.fixture(scope="module")
def scorer() -> TorchScorer:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return open_folder(demo_checkpoint_path(), context_length=256)


def test_checkpoint_and_shipped_file_answer_alike(scorer: TorchScorer) -> None:
    pytest.importorskip("llama_cpp")
    tokens = TokenText(demo_checkpoint_path())
    questions = Questions(name="few", prompts=tuple(spread(demo_prompts("B"), 3)))
    part = parent_part(scorer, tokens, questions, SilentProgress())
    with EngineScorer(demo_model_path(), n_threads=1) as child:
        found = compare_answers(scorer, child, tokens, questions, part, SilentProgress())
        assert [tuple(child.greedy(tokens.prompt(p.question), 128)) for p in questions.prompts] == list(part.answers)
    assert found.changes == ()
    assert summary(found.found).kl_mean < 1e-3


def test_its_greedy_answer_is_what_its_logits_say(scorer: TorchScorer) -> None:
    tokens = TokenText(demo_checkpoint_path())
    prompt = tokens.prompt("Zinc for diarrhoea in a child: dose?")
    answer = scorer.greedy(prompt, 40)
    rows = scorer.logits([*prompt, *answer], len(prompt))
    assert rows.dtype == np.float32
    assert rows.argmax(axis=1).tolist() == answer
    assert scorer.logits(prompt, len(prompt)).shape == (0, rows.shape[1])


def test_it_refuses_what_does_not_fit(scorer: TorchScorer) -> None:
    with pytest.raises(UsageError, match="257"):
        scorer.logits([5] * 257, 1)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ModelRefused, match="does not load"):
        open_folder(tmp_path)
