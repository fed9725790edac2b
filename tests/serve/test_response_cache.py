import threading
from pathlib import Path

import pytest
from cache_stand_ins import ANSWER, QUESTION, SAME, SECRET, StandInKey, answered, asked, context
from hypothesis import given
from hypothesis import strategies as st

from edgemed.core.errors import UsageError
from edgemed.serve.cache_disk import DiskLevel
from edgemed.serve.cache_entry import Kept, cosine, jaccard, pack, same_text, unit_vector, unpack, words_of
from edgemed.serve.response_cache import (
    Asked,
    CachedAnswer,
    CacheOptions,
    Miss,
    NotStored,
    ResponseCache,
    Stored,
    open_cache,
)

DAY_S = 86400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1.8e9

    def __call__(self) -> float:
        return self.now


def test_a_question_asked_again_in_other_words_gets_the_answer_and_when_it_was_made() -> None:
    clock = Clock()
    cache = ResponseCache(clock=clock)
    assert cache.lookup(asked()) == Miss("new")
    assert cache.store(asked(), answered(completion_tokens=30)) == Stored(on_disk=False)
    clock.now += 120
    given_answer = cache.lookup(asked(SAME))
    assert isinstance(given_answer, CachedAnswer)
    assert (given_answer.text, given_answer.level, given_answer.age_s) == (ANSWER, "memory", 120)
    assert (given_answer.made_at, given_answer.completion_tokens) == ("2027-01-15T08:00:00Z", 30)
    assert cache.stats().memory_hits == 1
    assert cache.stats().misses == {"new": 1}


def test_another_key_or_any_change_of_the_context_is_a_miss() -> None:
    cache = ResponseCache()
    cache.store(asked(), answered())
    assert cache.lookup(asked(mark="paracetamol adult fever dose")) == Miss("new")
    assert isinstance(cache.lookup(asked()), CachedAnswer)
    for field, value in {
        "model_digest": "c" * 64, "adapter": "x", "templates_digest": "d" * 64, "medical_version": "2",
        "language": "fr", "max_tokens": 255, "reasoning_tokens": 1, "temperature": 0.7, "top_p": 0.9, "top_k": 1,
        "min_p": 0.1, "seed": 1, "stop": ("\n",), "model_name": "other",
    }.items():  # fmt: skip
        cache.store(asked(), answered())
        assert isinstance(cache.lookup(asked(context=context(**{field: value}))), Miss), field


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"emergency": True}, "emergency"),
        ({"has_history": True}, "history"),
        ({"key": StandInKey(cacheable=False)}, "unread"),
        ({"question": "My patient Maria weighs 12 kg. How much paracetamol?"}, "name"),
        ({"context": context(language="sw")}, "no_word_list"),
    ],
)
def test_what_may_not_meet_the_cache_is_neither_answered_nor_kept(fields: dict[str, object], reason: str) -> None:
    cache = ResponseCache()
    cache.store(asked(), answered())
    one = asked(**fields)  # type: ignore[arg-type]
    assert cache.lookup(one) == Miss(reason)  # type: ignore[arg-type]
    assert cache.store(one, answered()) == NotStored(reason)  # type: ignore[arg-type]
    assert cache.stats().memory_entries == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (answered(finish_reason="length"), "unfinished"),
        (answered(finish_reason="deadline"), "unfinished"),
        (answered(numbers_clean=False), "numbers"),
        (answered(text=" \n"), "empty"),
        (answered(text="Ask Dr Otieno about paracetamol."), "name"),
        (answered(text="Give paracetamol until 12/05/2026."), "date"),
    ],
)
def test_an_answer_that_is_cut_unsupported_or_names_somebody_is_not_kept(answer: object, reason: str) -> None:
    cache = ResponseCache()
    assert cache.store(asked(), answer) == NotStored(reason)  # type: ignore[arg-type]
    assert cache.stats().not_stored == {reason: 1}
    assert cache.lookup(asked()) == Miss("new")


def test_names_only_twins_never_share_an_answer() -> None:
    cache = ResponseCache()
    for name in ("Maria", "Otieno", "rose", "Grace", "mercy", "JOY", "Kim"):
        question = f"{name} is a child of 12 kg with fever: how much paracetamol?"
        assert isinstance(cache.store(asked(question), answered()), NotStored), name
        assert isinstance(cache.lookup(asked(question)), Miss), name
    assert cache.stats().memory_entries == 0


def test_equal_keys_with_nothing_else_in_common_do_not_share() -> None:
    cache = ResponseCache()
    cache.store(asked(embedding=(1.0, 0.0)), answered())
    assert cache.lookup(asked("and now", embedding=(-1.0, 0.1))) == Miss("not_similar")
    assert cache.lookup(asked("and now")) == Miss("not_similar")  # by words alone


def test_the_most_similar_entry_of_a_key_is_given() -> None:
    cache = ResponseCache()
    cache.store(asked(embedding=(1.0, 0.0)), answered())
    cache.store(asked(embedding=(0.0, 1.0)), answered("Give 15 mg/kg."))
    found = cache.lookup(asked(SAME, embedding=(0.1, 1.0)))
    assert isinstance(found, CachedAnswer)
    assert found.text == "Give 15 mg/kg."


def test_an_embedding_is_made_only_when_it_is_needed() -> None:
    made: list[str] = []

    def embed(question: str) -> tuple[float, ...]:
        made.append(question)
        return (1.0, 0.0)

    cache = ResponseCache()
    cache.lookup(asked(embed=embed))
    cache.lookup(asked(emergency=True, embed=embed))
    cache.store(asked(embed=embed), answered())
    found = cache.lookup(asked(f" {QUESTION.upper()}\n", embed=embed))
    assert isinstance(found, CachedAnswer)
    assert found.similarity == 1
    assert made == [], "the same wording needs none"
    for _ in range(2):
        assert isinstance(cache.lookup(asked(SAME, embed=embed)), CachedAnswer)
    assert made == [SAME, QUESTION, SAME], "the kept question is embedded once"
    other = asked("and now", embed=lambda question: (-1.0, 0.1))
    assert cache.lookup(other) == Miss("not_similar")
    assert cache.store(other, answered()) == Stored(on_disk=False)
    assert isinstance(cache.lookup(asked("and then", embed=lambda question: (-1.0, 0.0))), CachedAnswer)


def test_an_engine_that_embeds_nothing_leaves_the_words(tmp_path: Path) -> None:
    cache = ResponseCache(disk=DiskLevel(tmp_path / "a", SECRET))
    cache.store(asked(), answered())
    assert isinstance(cache.lookup(asked(SAME, embed=lambda question: None)), CachedAnswer)
    assert cache.lookup(asked("and now", embed=lambda question: None)) == Miss("not_similar")
    cache.close()


def test_an_answer_grows_too_old_and_a_clock_set_back_gives_none() -> None:
    clock = Clock()
    cache = ResponseCache(CacheOptions(ttl_s=30 * DAY_S), clock=clock)
    cache.store(asked(), answered())
    clock.now += 30 * DAY_S
    assert isinstance(cache.lookup(asked()), CachedAnswer)
    clock.now += 1
    assert cache.lookup(asked()) == Miss("expired")
    clock.now -= 40 * DAY_S
    assert cache.lookup(asked()) == Miss("expired")


def test_forget_deletes_on_both_levels(tmp_path: Path) -> None:
    cache = ResponseCache(disk=DiskLevel(tmp_path / "a", SECRET))
    cache.store(asked(), answered())
    cache.store(asked(mark="another"), answered())
    assert cache.forget(asked(SAME)) == 1
    assert cache.lookup(asked()) == Miss("new")
    assert isinstance(cache.lookup(asked(mark="another")), CachedAnswer)
    assert cache.forget(asked()) == 0
    cache.close()


def test_the_memory_level_is_bounded_and_what_was_used_longest_ago_goes_first() -> None:
    cache = ResponseCache(CacheOptions(memory_entries=3))
    for mark in "abc":
        cache.store(asked(mark=mark), answered())
    cache.lookup(asked(mark="a"))
    cache.store(asked(mark="d"), answered())
    assert [isinstance(cache.lookup(asked(mark=mark)), CachedAnswer) for mark in "abcd"] == [True, False, True, True]
    small = ResponseCache(CacheOptions(memory_bytes=10_000))
    for mark in range(100):
        small.store(asked(mark=str(mark)), answered())
    assert 3 < small.stats().memory_entries < 12
    assert small.stats().memory_bytes <= 10_000


def test_a_new_model_file_sweeps_what_the_old_one_answered() -> None:
    cache = ResponseCache()
    cache.store(asked(), answered())
    cache.store(asked(context=context(language="en", model_name="second")), answered())
    cache.lookup(asked(context=context(model_digest="c" * 64)))
    assert cache.stats().memory_entries == 1


def test_an_answer_evicted_from_memory_comes_back_from_disk_and_outlives_the_server(tmp_path: Path) -> None:
    cache = ResponseCache(CacheOptions(memory_entries=1), DiskLevel(tmp_path / "a", SECRET))
    cache.store(asked(embedding=(0.6, 0.8)), answered(completion_tokens=9))
    cache.store(asked(mark="another"), answered())
    found = cache.lookup(asked(SAME, embedding=(0.6, 0.8)))
    assert isinstance(found, CachedAnswer)
    assert (found.level, found.text, found.completion_tokens) == ("disk", ANSWER, 9)
    found = cache.lookup(asked(SAME, embedding=(0.6, 0.8)))
    assert isinstance(found, CachedAnswer)
    assert found.level == "memory"
    cache.close()
    later = ResponseCache(disk=DiskLevel(tmp_path / "a", SECRET))
    assert isinstance(later.lookup(asked()), CachedAnswer)
    assert later.stats().disk_entries == 2
    later.close()


def test_many_threads_may_use_one_cache(tmp_path: Path) -> None:
    cache = ResponseCache(CacheOptions(memory_entries=5), DiskLevel(tmp_path / "a", SECRET))
    faults: list[str] = []

    def work(number: int) -> None:
        for turn in range(30):
            mark = str((number + turn) % 12)
            one = asked(mark=mark)
            found = cache.lookup(one)
            if isinstance(found, CachedAnswer) and not found.text.endswith(f" {mark} mg."):
                faults.append(found.text)
            cache.store(one, answered(f"Give {mark} mg."))
            if turn % 7 == 0:
                cache.forget(one)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults
    assert cache.warning == ""
    stats = cache.stats()
    assert stats.memory_hits + stats.disk_hits + sum(stats.misses.values()) == 180
    cache.close()


def test_without_a_secret_there_is_only_memory_and_the_cache_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgemed.serve.response_cache.keyring_secret", lambda: None)
    cache = open_cache(CacheOptions(), tmp_path)
    assert "EDGEMED_CACHE_PASSPHRASE_FILE" in cache.warning
    assert not cache.stats().disk
    assert list(tmp_path.iterdir()) == []
    assert open_cache(CacheOptions(), tmp_path, on_disk=False).warning == ""


def test_a_passphrase_file_opens_the_disk_level_and_a_poor_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "phrase"
    file.write_text("four words of nonsense\n")
    file.chmod(0o600)
    cache = open_cache(CacheOptions(), tmp_path, passphrase_file=file)
    assert isinstance(cache.store(asked(), answered()), Stored)
    assert cache.stats().disk_entries == 1
    cache.close()
    file.write_text("short\n")
    with pytest.raises(UsageError, match="5 characters"):
        open_cache(CacheOptions(), tmp_path, passphrase_file=file)
    with pytest.raises(UsageError, match="cannot be read"):
        open_cache(CacheOptions(), tmp_path, passphrase_file=tmp_path / "none")


texts = st.text(max_size=60)
vectors = st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3).map(tuple)


@given(texts, texts, st.none() | vectors, st.none() | vectors)
def test_similarity_is_symmetric_within_its_bounds_and_one_for_the_same(
    first: str, second: str, one: tuple[float, ...] | None, two: tuple[float, ...] | None
) -> None:
    cache = ResponseCache()
    a, b = (Kept(t, "", 0, 0, unit_vector(v)) for t, v in ((first, one), (second, two)))
    there = cache.similarity(asked(first, embedding=one), b)
    back = cache.similarity(asked(second, embedding=two), a)
    assert there == pytest.approx(back)
    assert -0.5 <= there[0] <= 1
    assert cache.similarity(asked(first, embedding=one), a)[0] == pytest.approx(1, abs=1e-6)


@given(texts, texts, st.none() | vectors, st.floats(0, 4e9), st.integers(0, 9999))
def test_an_entry_comes_back_from_its_bytes(
    question: str, answer: str, vector: tuple[float, ...] | None, made: float, tokens: int
) -> None:
    kept = Kept(question, answer, made, tokens, unit_vector(vector))
    back = unpack(pack(kept))
    assert (back.question, back.answer, back.made, back.completion_tokens) == (question, answer, made, tokens)
    if kept.embedding is None:
        assert back.embedding is None
    else:
        assert back.embedding is not None
        assert cosine(kept.embedding, back.embedding) == pytest.approx(1, abs=1e-3)


@given(st.text() | st.text(alphabet=st.characters(categories=["Cs", "Cc", "Nd", "Lo"])))
def test_no_question_makes_the_cache_raise(text: str) -> None:
    cache = ResponseCache()
    cache.lookup(asked(text))
    cache.store(asked(text), answered(text))


def test_the_same_text_differs_in_blanks_and_case_alone() -> None:
    assert same_text("Dose of  ZINC?\n", "dose of zinc?")
    assert not same_text("dose of zinc", "dose of zinc?")
    assert not same_text("dose of zinc 1 0 mg", "dose of zinc 10 mg")


def test_jaccard_is_shared_words_over_all_words() -> None:
    assert jaccard(words_of("dose of PARACETAMOL"), words_of("paracetamol dose, please")) == 2 / 4
    assert words_of("0.5 g, 1,5 mg") == {"0.5", "g", "1,5", "mg"}
    assert QUESTION != SAME


def test_with_real_clinical_keys_a_paraphrase_hits_and_a_tenfold_dose_another_age_and_a_negation_do_not() -> None:
    from edgemed.medical.clinical_key import clinical_key

    cache = ResponseCache()

    def ask(question: str) -> Asked:
        return asked(question, key=clinical_key(question))

    assert cache.store(ask(QUESTION), answered()) == Stored(on_disk=False)
    assert isinstance(cache.lookup(ask(SAME)), CachedAnswer)
    for other in (
        "What is the dose of paracetamol for fever in a child of 120 kg?",
        "What is the dose of paracetamol for fever in an adult of 12 kg?",
        "What is the dose of paracetamol for a child of 12 kg without fever?",
        "What is the dose of ibuprofen for fever in a child of 12 kg?",
        "What are the side effects of paracetamol for fever in a child of 12 kg?",
    ):
        assert isinstance(cache.lookup(ask(other)), Miss), other
