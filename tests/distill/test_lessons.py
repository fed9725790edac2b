"""Lessons against oracles: sums of tokens, the digit trie of all tokens, a student that is its own teacher."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="distillation needs torch")

from edgemed.core.errors import UsageError  # noqa: E402
from edgemed.distill import lessons as book_making  # noqa: E402
from edgemed.distill.config import KdForm, LossConfig  # noqa: E402
from edgemed.distill.digits import END, DigitTrie, numerals_of  # noqa: E402
from edgemed.distill.entity_spans import places_of  # noqa: E402
from edgemed.distill.examples import Example  # noqa: E402
from edgemed.distill.lesson import Lesson  # noqa: E402
from edgemed.distill.lesson_making import NO_ANSWER, NO_SCORE, OTHER_TOKENS, TOO_LONG  # noqa: E402
from edgemed.distill.lessons import LessonBook, lessons_of, lessons_without_teacher  # noqa: E402
from edgemed.distill.losses import chunk_kd, chunk_log_probs, med_kl, top_k_kl  # noqa: E402
from edgemed.distill.rendering import Side  # noqa: E402
from edgemed.distill.shards import ScoredAnswer  # noqa: E402

ANSWERS = (
    "Give amoxicillin 250 mg every 8 hours for 5 days \U0001f48a.",
    "Do not give 1250 mg.\r\nMaximum 48 mg/kg in a child of 12 kg.",
    "<think>12 kg x 40 mg/kg = 480 mg</think>Give 480 mg of amoxicillin.",
)
EXAMPLES = tuple(Example(id=str(n), question="Dose?", answer=answer) for n, answer in enumerate(ANSWERS))


@dataclass
class Scored:
    """Examples with scores, as a teacher's corpus gives them."""

    examples: Sequence[Example]
    answers: list[ScoredAnswer | None]

    def scored(self, number: int) -> ScoredAnswer | None:
        return self.answers[number]


def distributions(side: Side, answer: str, seed: int) -> npt.NDArray[np.float32]:
    """Log-probabilities (n, vocabulary) of a teacher made up."""
    shape = len(side.answer(answer).ids), len(side.vocabulary())
    logits = torch.tensor(np.random.default_rng(seed).normal(0, 3, shape))
    found: npt.NDArray[np.float32] = logits.log_softmax(-1).numpy().astype(np.float32)
    return found


def scored(side: Side, answer: str, seed: int = 0, k: int = 32) -> ScoredAnswer:
    rendered = side.answer(answer)
    log_probs = distributions(side, answer, seed)
    places = np.array(places_of(rendered), np.int32)
    ids = np.argsort(-log_probs[places], 1, kind="stable")[:, :k].astype(np.int32)
    actual = log_probs[np.arange(len(rendered.ids)), list(rendered.ids)]
    top = np.take_along_axis(log_probs[places], ids.astype(np.int64), 1)
    return ScoredAnswer(np.array(rendered.ids, np.int32), actual, places, ids, top.astype(np.float16))


def book(student: Side, teacher: Side, *, k: int = 32, max_tokens: int = 512, **loss: object) -> LessonBook:
    corpus = Scored(EXAMPLES, [scored(teacher, answer, seed, k) for seed, answer in enumerate(ANSWERS)])
    return lessons_of(student, teacher, corpus, LossConfig.model_validate(loss), max_tokens)


def answer_of(lesson: Lesson, side: Side) -> list[bytes]:
    words = side.vocabulary()
    return [words[token] for token in lesson.ids[lesson.n_prompt :]]


def entity_texts(lesson: Lesson, side: Side) -> dict[str, float]:
    """The text of each entity of a lesson, and its weight."""
    found: dict[int, bytes] = {}
    for data, chunk in zip(answer_of(lesson, side), lesson.chunks.tolist(), strict=True):
        if lesson.entities[chunk] >= 0:
            entity = int(lesson.entities[chunk])
            found[entity] = found.get(entity, b"") + data
    return {data.decode().strip(): float(lesson.entity_weights[entity]) for entity, data in found.items()}


def test_chunks_are_the_sums_of_the_teachers_tokens(deepseek: Side, llama3: Side) -> None:
    lessons = book(deepseek, llama3).lessons
    for seed, (lesson, answer) in enumerate(zip(lessons, ANSWERS, strict=True)):
        given = scored(llama3, answer, seed)
        assert lesson.teacher.sum() == pytest.approx(given.log_probs.sum(), rel=1e-5)
        assert lesson.measures["nll"] == pytest.approx(
            -given.log_probs.sum() / len(deepseek.answer(answer).text.encode()), rel=1e-5
        )
        assert set(lesson.chunks.tolist()) == set(range(len(lesson.teacher)))
        assert list(lesson.ids[lesson.n_prompt :]) == list(deepseek.answer(answer).ids)
        assert lesson.ids[-1] == deepseek.end


def test_one_vocabulary_gives_one_chunk_a_token(demo: Side) -> None:
    (lesson, *_) = book(demo, demo, kd="same").lessons
    np.testing.assert_array_equal(lesson.chunks, np.arange(len(lesson.teacher)))
    np.testing.assert_array_equal(lesson.teacher, scored(demo, ANSWERS[0]).log_probs)


@pytest.mark.parametrize("kd", ["same", "chunks"])
def test_a_student_that_is_its_own_teacher_has_nothing_to_learn(demo: Side, kd: KdForm) -> None:
    for number, lesson in enumerate(book(demo, demo, kd=kd).lessons):
        own = torch.tensor(distributions(demo, ANSWERS[number], number))
        tokens = own.gather(1, torch.tensor(lesson.ids[lesson.n_prompt :]).long().unsqueeze(1)).T
        chunks = torch.tensor(lesson.chunks).long().unsqueeze(0)
        ours = chunk_log_probs(tokens, chunks, len(lesson.teacher))
        teacher = torch.tensor(lesson.teacher).unsqueeze(0)
        assert chunk_kd(teacher, ours, torch.tensor(lesson.chunk_weights).unsqueeze(0)).mean().abs() < 1e-5

        entities = torch.tensor(lesson.entities).long().unsqueeze(0)
        sums = [chunk_log_probs(side, entities, len(lesson.entity_weights)) for side in (teacher, ours)]
        for form in ("l1", "bkl"):
            assert med_kl(*sums, torch.tensor(lesson.entity_weights).unsqueeze(0), form).mean().abs() < 1e-5

        rivals = torch.tensor(lesson.rival_ids).long()
        assert len(lesson.places)
        for row, place in enumerate(lesson.places.tolist()):
            there = rivals[row] >= 0
            at = torch.tensor(lesson.rival_log_probs[row])[there]
            # The likeliest are kept in float16: an error of some 0.004 in a log-probability of 8.
            assert top_k_kl(at, own[place][rivals[row][there]]).abs() < 1e-4


def test_what_places_teach_has_no_chunk_weight_and_nothing_is_lost(deepseek: Side, llama3: Side) -> None:
    for lesson in book(deepseek, llama3, entity_weight=2, think_weight=0.5).lessons:
        taught = set(lesson.chunks[lesson.places].tolist())
        assert taught
        for chunk in range(len(lesson.teacher)):
            assert (lesson.chunk_weights[chunk] == 0) == (chunk in taught)
        assert (lesson.place_weights > 0).all()
        assert (np.diff(lesson.places) > 0).all()


def test_rivals_have_the_same_bytes_on_both_sides(deepseek: Side, llama3: Side) -> None:
    """Where one token is one token and no numeral: each rival of the student's is one that the teacher kept."""
    (lesson, *_) = book(deepseek, llama3, digits=False).lessons
    given = scored(llama3, ANSWERS[0])
    theirs, ours = llama3.vocabulary(), deepseek.vocabulary()
    by_bytes = [
        {theirs[token]: value for token, value in zip(ids, values, strict=True)}
        for ids, values in zip(given.top_ids.tolist(), given.top_log_probs.tolist(), strict=True)
    ]
    words = answer_of(lesson, deepseek)
    for row, place in enumerate(lesson.places.tolist()):
        ids = lesson.rival_ids[row]
        kept = {ours[token] for token in ids[ids >= 0]}
        assert words[place] in kept
        assert any(kept - {words[place]} <= set(one) for one in by_bytes)
        assert np.isneginf(lesson.rival_log_probs[row][ids < 0]).all()
    assert np.exp(lesson.rival_log_probs).sum(1).max() < 1.01


@dataclass
class Packed:
    """A numeral of the teacher's, and where the student spells it."""

    digits: str
    token: int
    place: int


def packed(lesson: Lesson, student: Side, teacher: Side, answer: str) -> list[Packed]:
    words, found, place = answer_of(lesson, student), [], 0
    for token, piece in enumerate(teacher.answer(answer).pieces):
        if piece.data.isdigit():
            n = len(piece.data)
            place = next(at for at in range(place, len(words)) if b"".join(words[at : at + n]) == piece.data)
            found.append(Packed(piece.data.decode(), token, place))
            place += n
    return found


def rivals_at(lesson: Lesson, place: int) -> dict[int, float]:
    (row,) = np.flatnonzero(lesson.places == place)
    ids, values = lesson.rival_ids[row].tolist(), lesson.rival_log_probs[row].tolist()
    return {token: value for token, value in zip(ids, values, strict=True) if token >= 0}


@pytest.mark.parametrize("number", range(len(ANSWERS)))
def test_digits_of_a_packed_numeral_are_those_of_the_whole_trie(deepseek: Side, llama3: Side, number: int) -> None:
    """With every token kept: each digit's probabilities are the trie's, and with END the token's own."""
    lesson = book(deepseek, llama3, k=len(llama3.vocabulary())).lessons[number]
    trie = DigitTrie.of(numerals_of(llama3.vocabulary()))
    digits = [deepseek.answer(str(digit)).ids[0] for digit in range(10)]
    rendered = llama3.answer(ANSWERS[number])
    log_probs = torch.tensor(distributions(llama3, ANSWERS[number], number)).double()
    for one in packed(lesson, deepseek, llama3, ANSWERS[number]):
        here, chain = log_probs[one.token], 0.0
        for at, digit in enumerate(one.digits):
            found = rivals_at(lesson, one.place + at)
            whole = [float(trie.log_mass(here, one.digits[:at] + str(d))) for d in range(10)]
            given = float(trie.log_mass(here, one.digits[:at])) if at else 0.0
            # The likeliest are kept in float16: an error of up to 0.004 on each side.
            assert [found[token] + given for token in digits] == pytest.approx(whole, abs=1e-2)
            assert set(found) == set(digits)
            chain += found[digits[int(digit)]]
        begun = float(trie.log_mass(here, one.digits))
        assert chain == pytest.approx(begun, abs=1e-2)
        assert lesson.teacher[lesson.chunks[one.place]] == pytest.approx(begun, abs=1e-2)
        end = float(trie.next_digit(here, one.digits)[END])
        assert chain + end == pytest.approx(float(here[rendered.ids[one.token]]), abs=1e-2)


@pytest.mark.parametrize("number", range(len(ANSWERS)))
def test_that_a_numeral_ends_is_said_by_the_token_behind_it(deepseek: Side, llama3: Side, number: int) -> None:
    """Beside the digits that would go on. Digits and that token are together as likely as both are to the teacher."""
    lesson = book(deepseek, llama3, k=len(llama3.vocabulary())).lessons[number]
    trie = DigitTrie.of(numerals_of(llama3.vocabulary()))
    digits = [deepseek.answer(str(digit)).ids[0] for digit in range(10)]
    rendered, words = llama3.answer(ANSWERS[number]), answer_of(lesson, deepseek)
    log_probs = torch.tensor(distributions(llama3, ANSWERS[number], number)).double()
    checked = 0
    for one in packed(lesson, deepseek, llama3, ANSWERS[number]):
        behind, after = one.place + len(one.digits), rendered.pieces[one.token + 1].data
        if words[behind] != after or after.isdigit():
            continue
        found, end = rivals_at(lesson, behind), trie.next_digit(log_probs[one.token], one.digits)
        own = lesson.ids[lesson.n_prompt :].tolist()
        said = sum(rivals_at(lesson, place)[own[place]] for place in range(one.place, behind + 1))
        both = sum(float(log_probs[token, rendered.ids[token]]) for token in (one.token, one.token + 1))
        assert said == pytest.approx(both, abs=1e-4)  # what was kept in float16 cancels
        if len(one.digits) < 3:
            # A teacher made up may also begin another numeral behind this one.
            anew = log_probs[one.token + 1, [llama3.answer(str(digit)).ids[0] for digit in range(10)]]
            going_on = torch.logaddexp(end[:10], end[END] + anew).tolist()
            assert [found[token] for token in digits] == pytest.approx(going_on, abs=1e-2)
        checked += 1
    assert checked


def test_without_digits_a_packed_numeral_is_taught_as_a_chunk(deepseek: Side, llama3: Side) -> None:
    (lesson, *_) = book(deepseek, llama3, digits=False).lessons
    words = answer_of(lesson, deepseek)
    two = next(at for at in range(len(words)) if words[at : at + 3] == [b"2", b"5", b"0"])
    assert two not in lesson.places
    assert lesson.chunk_weights[lesson.chunks[two]] == 1


def test_the_numerals_of_a_dose_are_in_an_entity_of_weight_5(deepseek: Side, llama3: Side) -> None:
    first, second, third = (entity_texts(lesson, deepseek) for lesson in book(deepseek, llama3).lessons)
    assert first["250 mg"] == first["every 8 hours"] == first["5 days"] == 5
    assert first["amoxicillin"] == 3
    assert (second["1250 mg"], second["48 mg/kg"], second["Do not give"]) == (5, 5, 4)
    assert third["480 mg"] == 5


def test_entities_without_a_common_boundary_are_left_out_and_counted(deepseek: Side, llama3: Side) -> None:
    """ "%)." is one token of the student's."""
    example = Example(question="Risk?", answer="Give zinc (amoxicillin) in few (2%).")
    found = lessons_of(deepseek, llama3, Scored([example], [scored(llama3, example.answer)]), LossConfig(), 512)
    assert (found.entities, found.entities_left_out) == ({"drug": 2}, {"number": 1})
    assert entity_texts(found.lessons[0], deepseek) == {"zinc": 3, "amoxicillin": 3}


def test_weights_of_thinking_and_of_entities(deepseek: Side, llama3: Side) -> None:
    *_, lesson = book(deepseek, llama3, kd="none", think_weight=0.25, entity_weight=3).lessons
    thinking = np.array(deepseek.answer(ANSWERS[2]).thinking)
    np.testing.assert_array_equal(lesson.token_weights, np.where(thinking, 0.25, 1).astype(np.float32))
    words = answer_of(lesson, deepseek)
    weights = lesson.chunk_weights[lesson.chunks]
    drug = next(n for n, word in enumerate(words) if word == b" am")
    assert weights[drug] == 3
    assert weights[words.index(b"kg") if b"kg" in words else words.index(b" kg")] == 0.75
    assert weights[0] == 0.25  # the tag
    assert weights[-1] == 1
    assert not len(lesson.places)
    assert lesson.measures["reasoning"] == thinking.sum()


def test_two_vocabularies_are_not_taught_token_by_token(demo: Side, llama3: Side) -> None:
    with pytest.raises(UsageError, match='kd = "chunks"'):
        book(demo, llama3, kd="same")


def test_what_cannot_be_taught_is_left_out_and_counted(demo: Side) -> None:
    examples = [
        Example(question="Dose?", answer=text) for text in ("Give 5 mg.", "a", "b", "c", "<think>x", "e " * 600)
    ]
    answers: list[ScoredAnswer | None] = [scored(demo, example.answer) for example in (*examples[:4], examples[0])]
    answers.append(scored(demo, examples[5].answer))
    answers[1] = None
    answers[2] = scored(demo, "other tokens")
    broken = scored(demo, "c")
    broken.log_probs[0] = np.nan
    answers[3] = broken
    found = lessons_of(demo, demo, Scored(examples, answers), LossConfig(), 512)
    assert [lesson.example for lesson in found.lessons] == [0]
    assert {NO_ANSWER: 1, OTHER_TOKENS: 1, NO_SCORE: 1, TOO_LONG: 1}.items() <= found.left_out.items()
    assert found.left_out.total() == 5


def test_a_corpus_of_which_nothing_can_be_taught_is_refused(demo: Side) -> None:
    with pytest.raises(UsageError, match="3 longer than"):
        lessons_without_teacher(demo, EXAMPLES, LossConfig(), 16)


def test_lessons_without_a_teacher_have_tokens_and_weights_alone(demo: Side) -> None:
    given = EXAMPLES[0].model_copy(update={"kind": "replay", "specialty": "eyes"})
    (lesson,) = lessons_without_teacher(demo, [given], LossConfig(), 512).lessons
    assert (lesson.kind, lesson.specialty) == ("replay", "eyes")
    assert set(lesson.chunks.tolist()) == {-1}
    assert len(lesson.chunks) == len(lesson.token_weights) == len(lesson.ids) - lesson.n_prompt
    assert not any(map(len, (lesson.teacher, lesson.chunk_weights, lesson.entities, lesson.entity_weights)))
    assert lesson.rival_ids.shape == lesson.hidden.shape == (0, 0)
    assert lesson.ids[: lesson.n_prompt].tolist() == demo.prompt("Dose?")


def test_measures_tell_what_is_rare_and_what_has_many_numbers(demo: Side) -> None:
    texts = ["Give zinc.", "Give zinc.", "Give zinc.", "Give artesunate 120 mg and 60 mg for malaria."]
    examples = [Example(question="Dose?", answer=text) for text in texts]
    measures = [lesson.measures for lesson in lessons_without_teacher(demo, examples, LossConfig(), 512).lessons]
    assert measures[0] == measures[1]
    assert all(set(one) == {"concepts", "rarity", "reasoning", "numbers", "nll"} for one in measures)
    assert measures[0]["rarity"] == pytest.approx(np.log(4 / 3))
    assert measures[3]["rarity"] == pytest.approx(np.log(4))
    assert (measures[0]["concepts"], measures[3]["concepts"], measures[3]["numbers"]) == (1, 2, 2)


def same(one: Lesson, other: Lesson) -> bool:
    names = [name for name in Lesson.__slots__ if isinstance(getattr(one, name), np.ndarray)]
    assert len(names) == 12
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names) and (
        one.measures == other.measures
    )


def test_several_processes_make_the_same_lessons_in_the_same_order(demo: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = book(demo, demo)
    monkeypatch.setattr(book_making, "_n_processes", lambda _: 2)
    monkeypatch.setattr(book_making, "_BLOCK_EXAMPLES", 1)
    together = book(demo, demo)
    assert all(map(same, alone.lessons, together.lessons))
    assert (alone.entities, alone.left_out) == (together.entities, together.left_out)


def test_lessons_in_a_file_are_the_same_and_can_be_written_to(demo: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch warns of arrays that cannot be written to."""
    near = book(demo, demo).lessons
    monkeypatch.setattr(book_making, "_SHELF_BYTES", 1)
    far = book(demo, demo).lessons
    assert far[0].ids.base is not None
    assert all(map(same, near, far))
    torch.from_numpy(far[0].ids)[0] = 1


def test_hidden_states_are_those_of_a_chunks_last_token(deepseek: Side, llama3: Side) -> None:
    given = scored(llama3, ANSWERS[0])
    numbered = np.arange(len(given.ids), dtype=np.float16)[:, None].repeat(4, 1)
    corpus = Scored(EXAMPLES[:1], [replace(given, hidden=numbered)])
    (lesson,) = lessons_of(deepseek, llama3, corpus, LossConfig(), 512).lessons
    found = lesson.hidden[:, 0].astype(int).tolist()
    assert len(found) == len(lesson.teacher)
    assert found == sorted(set(found))
    assert found[-1] == len(given.ids) - 1
    pieces = llama3.answer(ANSWERS[0]).pieces
    bytes_up_to = [sum(len(piece.data) for piece in pieces[: token + 1]) for token in found]
    words, ours = answer_of(lesson, deepseek), np.zeros(len(found), int)
    np.add.at(ours, lesson.chunks, [len(word) for word in words])
    assert bytes_up_to == ours.cumsum().tolist()


LESSONS_OF_THE_DEMO = """
from edgemed.demo import demo_checkpoint_path
from edgemed.distill.checkpoints import digest_of_lessons
from edgemed.distill.config import LossConfig
from edgemed.distill.demo_data import demo_data
from edgemed.distill.lessons import lessons_without_teacher
from edgemed.distill.rendering import Side

made = lessons_without_teacher(Side(demo_checkpoint_path()), demo_data((), 150), LossConfig(), 256)
print(digest_of_lessons(made.lessons))
"""


def test_another_process_makes_the_same_lessons() -> None:
    """To the last digit, or a training that was cut would not be gone on with."""
    command = [sys.executable, "-c", LESSONS_OF_THE_DEMO]
    found = {
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, timeout=100, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
