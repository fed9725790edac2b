"""The teacher's stage: what is asked, kept, left out, resumed and refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_byte_level_tokenizer, write_checkpoint

from edgemed.core.errors import EdgemedError, UsageError
from edgemed.demo import demo_checkpoint_path
from edgemed.demo.questions import dose_examination
from edgemed.demo.table import fact_table
from edgemed.distill.backends import open_teacher
from edgemed.distill.backends.base import Generated, ToScore
from edgemed.distill.config import DataConfig, DistillConfig, StageConfig, StudentConfig, TeachConfig, TeacherConfig
from edgemed.distill.corpus import Corpus
from edgemed.distill.examples import Example
from edgemed.distill.rendering import Side
from edgemed.distill.shards import ScoredAnswer
from edgemed.distill.teach import TeachReport, teach

TOP_K = 4
EXAMPLES = tuple(
    Example(id=f"e{n}", question=f"What is the dose of paracetamol at {n} years?", answer=f"Paracetamol {n} mg/kg.")
    for n in range(1, 8)
)


class Counting:
    """A teacher that says what it is told to, and counts what it is asked."""

    digest = "a" * 64
    hidden_size = 0
    starts_slowly = False

    def __init__(self, says: Any = None, fails_at: int = -1) -> None:
        self.says = says
        self.fails_at = fails_at
        self.scored: list[ToScore] = []
        self.generated: list[tuple[int, int]] = []
        """Of each question its length, and the number of the first sample."""
        self.closed = False

    def score(self, items: Sequence[ToScore]) -> list[ScoredAnswer]:
        if self.fails_at == len(self.scored):
            raise KeyboardInterrupt
        self.scored += items
        found = []
        for item in items:
            n, m = len(item.answer), len(item.places)
            random = np.random.default_rng(list(item.answer))
            found.append(
                ScoredAnswer(
                    np.asarray(item.answer, np.int32),
                    -random.random(n, dtype=np.float32),
                    item.places,
                    random.integers(0, 99, (m, TOP_K), dtype=np.int32),
                    -random.random((m, TOP_K)).astype(np.float16),
                )
            )
        return found

    def generate(
        self, prompts: Sequence[list[int]], n: int, temperature: float, max_new_tokens: int, first: int = 0
    ) -> list[list[Generated]]:
        self.generated += [(len(prompt), first) for prompt in prompts]
        return [[self.says(prompt, sample) for sample in range(first, first + n)] for prompt in prompts]

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_byte_level_tokenizer(folder)
    return folder


def config_of(folder: Path, max_tokens: int = 2048, **teach_settings: Any) -> DistillConfig:
    step = StageConfig(steps=1)
    return DistillConfig(
        teacher=TeacherConfig(model=str(folder), batch=6),
        student=StudentConfig(model="none"),
        data=DataConfig(examples="none", max_tokens=max_tokens),
        teach=TeachConfig.model_validate({"top_k": TOP_K, "shard_examples": 3} | teach_settings),
        sft=step,
        kd=step,
    )


def test_every_example_is_scored_once_and_read_again(tokenizer: Path, tmp_path: Path) -> None:
    teacher = Counting()
    report = teach(config_of(tokenizer), EXAMPLES, tmp_path, teacher=teacher)
    assert (report.n_shards, report.n_made, report.n_kept, report.n_examples) == (3, 3, 7, 7)
    assert len(teacher.scored) == 7
    assert teacher.closed
    corpus, side = Corpus.open(tmp_path), Side(tokenizer)
    assert corpus.examples == EXAMPLES
    for number, example in enumerate(EXAMPLES):
        scored = corpus.scored(number)
        assert scored is not None
        assert scored.ids.tolist() == list(side.answer(example.answer).ids)
        assert len(scored.places) > 0
        (item,) = [one for one in teacher.scored if list(one.answer) == scored.ids.tolist()]
        assert list(item.prompt) == side.prompt(example.question)
        assert scored.places.tolist() == item.places.tolist()
    assert report.n_tokens == sum(len(item.answer) for item in teacher.scored)
    assert report.n_places == sum(len(item.places) for item in teacher.scored)


def test_all_places_are_all_tokens(tokenizer: Path, tmp_path: Path) -> None:
    report = teach(config_of(tokenizer, places="all"), EXAMPLES, tmp_path, teacher=Counting())
    assert report.n_places == report.n_tokens


def test_a_finished_corpus_is_not_asked_again(tokenizer: Path, tmp_path: Path) -> None:
    first = teach(config_of(tokenizer), EXAMPLES, tmp_path, teacher=Counting())
    teacher = Counting()
    again = teach(config_of(tokenizer), EXAMPLES, tmp_path, teacher=teacher)
    assert (again.n_made, teacher.scored) == (0, [])
    assert again.model_copy(update={"n_made": 3, "seconds": first.seconds}) == first


def test_a_cut_costs_the_shard_that_was_being_made_and_a_torn_one_is_made_again(
    tokenizer: Path, tmp_path: Path
) -> None:
    cut = Counting(fails_at=3)
    with pytest.raises(KeyboardInterrupt):
        teach(config_of(tokenizer), EXAMPLES, tmp_path, teacher=cut)
    assert cut.closed
    with pytest.raises(UsageError, match="2 of 3 shards are missing"):
        Corpus.open(tmp_path)
    torn = tmp_path / "shard-00000.safetensors"
    whole = torn.read_bytes()
    torn.write_bytes(whole[:-5])
    (tmp_path / ".shard-00001.safetensors.x.part").write_bytes(b"half")
    report = teach(config_of(tokenizer), EXAMPLES, tmp_path, teacher=Counting())
    assert report.n_made == 3
    assert torn.read_bytes() == whole
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("settings", "examples", "word"),
    [
        ({"top_k": 5}, EXAMPLES, "top_k"),
        ({"places": "all"}, EXAMPLES, "places"),
        ({"answers": "generated"}, EXAMPLES, "answers"),
        ({"max_tokens": 99}, EXAMPLES, "max_tokens"),
        ({}, EXAMPLES[:-1], "examples"),
    ],
)
def test_another_corpus_is_not_gone_on_with(
    settings: dict[str, Any], examples: tuple[Example, ...], word: str, tokenizer: Path, tmp_path: Path
) -> None:
    teach(config_of(tokenizer), EXAMPLES, tmp_path, teacher=Counting())
    with pytest.raises(UsageError, match=f"another.* {word}"):
        teach(config_of(tokenizer, **settings), examples, tmp_path, teacher=Counting())


def test_another_teacher_or_tokenizer_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    teach(config_of(tokenizer), EXAMPLES, tmp_path / "corpus", teacher=Counting())
    other = Counting()
    other.digest = "b" * 64
    with pytest.raises(UsageError, match="another teacher"):
        teach(config_of(tokenizer), EXAMPLES, tmp_path / "corpus", teacher=other)
    write_byte_level_tokenizer(tmp_path, split="words")
    with pytest.raises(UsageError, match="another tokenizer"):
        teach(config_of(tmp_path), EXAMPLES, tmp_path / "corpus", teacher=Counting())


def test_what_is_too_long_is_left_out_and_counted(tokenizer: Path, tmp_path: Path) -> None:
    side = Side(tokenizer)
    long = Example(id="long", question="Why?", answer="Because " * 200)
    limit = max(len(side.prompt(e.question)) + len(side.answer(e.answer).ids) for e in EXAMPLES)
    report = teach(config_of(tokenizer, limit), [*EXAMPLES, long], tmp_path, teacher=Counting())
    assert (report.n_kept, report.n_too_long, report.n_rejected) == (7, 1, 0)
    assert Corpus.open(tmp_path).scored(7) is None


def number_in(tokenizer: Path) -> dict[int, int]:
    """The number of the example by a digest of its prompt's tokens."""
    side = Side(tokenizer)
    return {hash(tuple(side.prompt(e.question))): n for n, e in enumerate(EXAMPLES, 1)}


def test_of_the_samples_the_first_that_agrees_is_kept(tokenizer: Path, tmp_path: Path) -> None:
    asked = number_in(tokenizer)

    def says(prompt: list[int], sample: int) -> Generated:
        n = asked[hash(tuple(prompt))]
        right = f"Give paracetamol {n} mg/kg, sample {'abc'[sample]}."
        return Generated(right if sample >= n - 1 else f"Paracetamol {n} mcg/kg.", finished=n != 3)

    teacher = Counting(says)
    settings = config_of(tokenizer, answers="generated", samples=3)
    report = teach(settings, EXAMPLES, tmp_path, teacher=teacher)
    assert (report.n_kept, report.n_rejected) == (2, 5)
    corpus = Corpus.open(tmp_path)
    assert corpus.examples[0].answer == "Give paracetamol 1 mg/kg, sample a."
    assert corpus.examples[1].answer == "Give paracetamol 2 mg/kg, sample b."
    assert corpus.scored(2) is None  # all its answers were cut
    assert corpus.scored(3) is None
    assert corpus.examples[3] == EXAMPLES[3]
    assert sum(first == 2 for _, first in teacher.generated) == 5  # who agreed is not asked again
    scored = corpus.scored(1)
    assert scored is not None
    assert scored.ids.tolist() == list(Side(tokenizer).answer(corpus.examples[1].answer).ids)


def test_what_was_generated_is_never_generated_again(tokenizer: Path, tmp_path: Path) -> None:
    def says(prompt: list[int], sample: int) -> Generated:
        return Generated(f"Paracetamol {number_in(tokenizer)[hash(tuple(prompt))]} mg/kg.", finished=True)

    settings = config_of(tokenizer, answers="generated")
    cut = Counting(says, fails_at=3)
    with pytest.raises(KeyboardInterrupt):
        teach(settings, EXAMPLES, tmp_path, teacher=cut)
    assert len(cut.generated) == 6
    again = Counting(says)
    assert teach(settings, EXAMPLES, tmp_path, teacher=again).n_kept == 7
    assert len(again.generated) == 1
    answers = tmp_path / "shard-00001.answers"
    content = json.loads(answers.read_text())
    answers.write_text(json.dumps(content | {"answers": ["Paracetamol 40 mg/kg.", *content["answers"][1:]]}))
    with pytest.raises(UsageError, match="1 of 3 shards"):
        Corpus.open(tmp_path)
    repaired = Counting(says)
    assert teach(settings, EXAMPLES, tmp_path, teacher=repaired).n_made == 1
    assert len(repaired.generated) == 3


def test_a_reasoning_teacher_thinks_first_and_its_thoughts_are_taught(deepseek: Side, tmp_path: Path) -> None:
    prompts = [[*deepseek.prompt(e.question, thinks=True), *deepseek.opening] for e in EXAMPLES[:3]]

    def says(prompt: list[int], sample: int) -> Generated:
        n = prompts.index(prompt) + 1
        closed = "</think>" if n < 3 else ""
        return Generated(
            f"Is it {n} mcg? No, mg.\n{closed}Paracetamol {n} {'mg' if n != 2 else 'mcg'}/kg.", finished=True
        )

    teacher = Counting(says)
    report = teach(config_of(deepseek.folder, answers="generated"), EXAMPLES[:3], tmp_path, teacher=teacher)
    assert (report.n_kept, report.n_rejected) == (1, 2)
    corpus = Corpus.open(tmp_path)
    assert corpus.examples[0].answer == "<think>\nIs it 1 mcg? No, mg.\n</think>Paracetamol 1 mg/kg."
    (item,) = teacher.scored
    assert list(item.prompt) == deepseek.prompt(EXAMPLES[0].question, thinks=True)
    assert list(item.answer) == list(deepseek.answer(corpus.examples[0].answer).ids)
    assert item.answer[: len(deepseek.opening)] == tuple(deepseek.opening)


def test_what_is_replayed_keeps_its_answer(tokenizer: Path, tmp_path: Path) -> None:
    replay = EXAMPLES[0].model_copy(update={"kind": "replay"})
    teacher = Counting(lambda prompt, sample: Generated("No.", finished=True))
    report = teach(config_of(tokenizer, answers="generated"), [replay, EXAMPLES[1]], tmp_path, teacher=teacher)
    assert (report.n_kept, report.n_rejected, len(teacher.generated)) == (1, 1, 1)
    assert Corpus.open(tmp_path).examples[0].answer == replay.answer


def test_a_teacher_that_starts_slowly_is_asked_for_everything_at_once(tokenizer: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    class Slow(Counting):
        starts_slowly = True

        def generate(self, prompts: Sequence[list[int]], n: int, *rest: Any, **more: Any) -> list[list[Generated]]:
            calls.append(len(prompts) * n)
            return super().generate(prompts, n, *rest, **more)

    settings = config_of(tokenizer, answers="generated", samples=4, shard_examples=7)
    teach(settings, EXAMPLES, tmp_path, teacher=Slow(lambda prompt, sample: Generated("No.", finished=True)))
    assert calls == [28]


@pytest.mark.parametrize("value", [np.nan, -np.inf, 0.5])
def test_numbers_that_are_no_log_probabilities_are_refused(value: float, tokenizer: Path, tmp_path: Path) -> None:
    class Broken(Counting):
        def score(self, items: Sequence[ToScore]) -> list[ScoredAnswer]:
            found = super().score(items)
            found[-1].log_probs[0] = value
            return found

    with pytest.raises(EdgemedError, match="no log-probabilities"):
        teach(config_of(tokenizer), EXAMPLES, tmp_path, teacher=Broken())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teach": {"hidden": True}, "teacher": {"model": "m", "backend": "vllm"}}, "Hidden states"),
        ({"teacher": {"model": "m", "backend": "server", "url": "http://127.0.0.1"}}, "its tokenizer"),
        ({"teach": {"answers": "generated", "samples": 2, "temperature": 0}}, "all the same"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_once(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    given = config_of(tmp_path).model_dump()
    settings = DistillConfig.model_validate(
        {k: {**v, **changes.get(k, {})} if k in changes else v for k, v in given.items()}
    )
    with pytest.raises(UsageError, match=words):
        teach(settings, EXAMPLES, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_answers_that_never_come_to_their_point_are_named_before_anything_is_asked(
    tokenizer: Path, tmp_path: Path
) -> None:
    endless = Example(id="e8", question="Why?", answer="<think>It never ends")
    empty = Example(id="e9", question="Why?", answer="<think>It ends.</think> ")
    fine = Example(id="e10", question="Why?", answer="Write <think> for it.")
    teacher = Counting()
    with pytest.raises(UsageError, match="e8, e9 hold") as refused:
        teach(config_of(tokenizer), [*EXAMPLES, endless, empty, fine], tmp_path / "one", teacher=teacher)
    assert "e10" not in str(refused.value)
    assert teacher.scored == []
    assert teach(config_of(tokenizer), [fine], tmp_path / "other", teacher=teacher).n_kept == 1


def test_a_question_that_is_too_long_is_not_asked(tokenizer: Path, tmp_path: Path) -> None:
    long = Example(id="long", question="Why? " * 300, answer="Because.")
    teacher = Counting(lambda prompt, sample: Generated("Because.", finished=True))
    limit = len(Side(tokenizer).prompt(long.question))
    report = teach(config_of(tokenizer, limit, answers="generated"), [long], tmp_path, teacher=teacher)
    assert (report.n_too_long, report.n_rejected, teacher.generated) == (1, 0, [])


@pytest.mark.needs_torch
def test_a_model_teaches_with_its_own_scores(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = write_checkpoint(tmp_path / "model", "qwen2", dtype="float32")
    settings = config_of(folder, hidden=True)
    teach(settings, EXAMPLES, tmp_path / "corpus")
    corpus, side = Corpus.open(tmp_path / "corpus"), Side(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder)).eval()
    for number, example in enumerate(EXAMPLES):
        scored = corpus.scored(number)
        assert scored is not None
        ids = [*side.prompt(example.question), *scored.ids.tolist()]
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_hidden_states=True)
        rows = out.logits[0, -len(scored.ids) - 1 : -1].log_softmax(-1)
        expected = rows[range(len(scored.ids)), scored.ids.tolist()]
        np.testing.assert_allclose(scored.log_probs, expected.numpy(), atol=1e-4)
        states = out.hidden_states[-1][0, -len(scored.ids) :]
        np.testing.assert_allclose(scored.hidden, states.numpy(), rtol=2e-3, atol=2e-3)
    other = write_checkpoint(tmp_path / "other", "qwen2", dtype="bfloat16")
    with pytest.raises(UsageError, match="another teacher"):
        teach(config_of(other, hidden=True), EXAMPLES, tmp_path / "corpus")


@pytest.mark.needs_torch
def test_the_demonstration_model_finds_its_own_facts_likely_and_says_them(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    asked = dose_examination(fact_table(), seed=9)[:6]
    examples = [Example(id=str(n), question=one.question, answer=one.answer) for n, one in enumerate(asked)]
    for answers in ("given", "generated"):
        settings = config_of(
            demo_checkpoint_path(), answers=answers, temperature=0, max_new_tokens=48, shard_examples=6
        )
        report = teach(settings, examples, tmp_path / answers)
        assert report.n_kept >= 5
        corpus = Corpus.open(tmp_path / answers)
        scored = [corpus.scored(number) for number in range(6)]
        surprise = [-float(one.log_probs.mean()) for one in scored if one is not None]
        assert np.median(surprise) < 0.02


@pytest.mark.needs_torch
def test_generated_answers_are_the_same_in_every_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = write_checkpoint(tmp_path / "model", "qwen2", dtype="float32")
    settings = config_of(folder, answers="generated", max_new_tokens=6)
    side = Side(folder)
    prompts = [side.prompt(example.question) for example in EXAMPLES[:2]]
    runs = []
    for _ in range(2):
        teacher = open_teacher(settings)
        runs.append(teacher.generate(prompts, 2, 0.8, 6))
        teacher.close()
    assert runs[0] == runs[1]


_SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from distill.test_teach import EXAMPLES, Counting, config_of
from edgemed.distill.teach import teach

class Slow(Counting):
    def score(self, items):
        if len(self.scored) >= 3:
            print("second shard", flush=True)
            sys.stdin.read()
        return super().score(items)

teach(config_of(Path({folder!r})), EXAMPLES, Path({corpus!r}), teacher=Slow())
"""


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_loses_one_shard(number: signal.Signals, tokenizer: Path, tmp_path: Path) -> None:
    tests = str(Path(__file__).parents[1])
    script = _SCRIPT.format(tests=tests, folder=str(tokenizer), corpus=str(tmp_path))
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"second shard\n"
    child.send_signal(number)
    child.wait(30)
    child.stdout.close()
    assert child.stdin is not None
    child.stdin.close()
    teacher = Counting()
    report: TeachReport = teach(config_of(tokenizer), EXAMPLES, tmp_path, teacher=teacher)
    assert (report.n_made, len(teacher.scored)) == (2, 4)
    assert not list(tmp_path.glob(".*"))
