"""Equation 7: which way to serve several specialities, against brute force and by its own laws."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgemed.core.errors import PlanInfeasible
from edgemed.plan.deployment import STICK_BYTES_PER_S, Mix, ModeFigures, ModeWeights, choose_mode

GB = 10**9


def mode(name: str = "one", **changes: object) -> ModeFigures:
    usual: dict[str, object] = {
        "name": name,
        "mode": "adapter",
        "question_s": 10.0,
        "change_s": 0.0,
        "memory_bytes": 4 * GB,
        "memory_limit_bytes": 8 * GB,
        "disk_bytes": 5 * GB,
        "disk_limit_bytes": 50 * GB,
        "load_s": 20.0,
    }
    return ModeFigures.model_validate(usual | changes)


@st.composite
def figures(draw: st.DrawFn) -> ModeFigures:
    return mode(
        question_s=draw(st.floats(0.1, 100)),
        change_s=draw(st.floats(0, 100)),
        memory_bytes=draw(st.integers(0, 10)) * GB,
        disk_bytes=draw(st.integers(1, 60)) * GB,
        load_s=draw(st.floats(0, 300)),
    )


@st.composite
def several(draw: st.DrawFn) -> list[ModeFigures]:
    found = draw(st.lists(figures(), min_size=1, max_size=5))
    return [one.model_copy(update={"name": f"mode {number}"}) for number, one in enumerate(found)]


mixes = st.builds(Mix, n_specialities=st.just(3), switch_share=st.floats(0, 1))
weights = st.builds(ModeWeights, perf=st.floats(0, 1), fit=st.floats(0, 1), cost=st.floats(0, 1))


def by_hand(modes: list[ModeFigures], mix: Mix, w: ModeWeights) -> dict[str, float]:
    """Scores by the formula as it is written, of the feasible modes."""
    left = [m for m in modes if m.memory_bytes <= m.memory_limit_bytes and m.disk_bytes <= m.disk_limit_bytes]
    terms = {
        m.name: (
            1 / (m.question_s + mix.switch_share * m.change_s),
            min(
                (m.memory_limit_bytes - m.memory_bytes) / m.memory_limit_bytes,
                (m.disk_limit_bytes - m.disk_bytes) / m.disk_limit_bytes,
            ),
            m.disk_bytes / STICK_BYTES_PER_S + m.load_s,
        )
        for m in left
    }
    scores = {}
    for name, own in terms.items():
        score = 0.0
        for k, weight in enumerate((w.perf, w.fit, -w.cost)):
            column = [values[k] for values in terms.values()]
            if max(column) > min(column):
                score += weight * (own[k] - min(column)) / (max(column) - min(column))
        scores[name] = score
    return scores


@given(several(), mixes, weights)
def test_it_is_the_best_by_brute_force(modes: list[ModeFigures], mix: Mix, w: ModeWeights) -> None:
    scores = by_hand(modes, mix, w)
    if not scores:
        with pytest.raises(PlanInfeasible):
            choose_mode(modes, mix, w)
        return
    choice = choose_mode(modes, mix, w)
    assert scores[choice.chosen.name] >= max(scores.values()) - 1e-9
    for one in choice.modes:
        assert one.feasible == (one.figures.name in scores)
        if one.score is not None:
            assert one.score == pytest.approx(scores[one.figures.name], abs=1e-9)
    assert [one.figures.name for one in choice.modes if one.chosen] == [choice.chosen.name]


@given(several(), mixes, weights)
def test_the_order_of_the_modes_says_nothing(modes: list[ModeFigures], mix: Mix, w: ModeWeights) -> None:
    assume(any(one.feasible for one in modes))
    orders = itertools.islice(itertools.permutations(modes), 12)
    choices = {choose_mode(list(order), mix, w).model_dump_json() for order in orders}
    assert len(choices) == 1


@given(several(), mixes, weights, st.sampled_from(["question_s", "change_s", "memory_bytes", "disk_bytes", "load_s"]))
def test_a_chosen_mode_that_gets_better_stays_chosen(
    modes: list[ModeFigures], mix: Mix, w: ModeWeights, field: str
) -> None:
    assume(any(one.feasible for one in modes))
    before = choose_mode(modes, mix, w)
    value = getattr(before.chosen, field)
    better = before.chosen.model_copy(update={field: value // 2 if isinstance(value, int) else value / 2})
    after = choose_mode([better if one.name == better.name else one for one in modes], mix, w)
    scores = {one.figures.name: one.score for one in after.modes if one.score is not None}
    assert scores[better.name] >= max(scores.values()) - 1e-9  # a tie may go to another


@given(several(), mixes, weights)
def test_what_does_not_fit_changes_nothing(modes: list[ModeFigures], mix: Mix, w: ModeWeights) -> None:
    assume(any(one.feasible for one in modes))
    too_large = mode("huge", question_s=0.001, memory_bytes=9 * GB, disk_bytes=1, load_s=0)
    without, with_it = choose_mode(modes, mix, w), choose_mode([*modes, too_large], mix, w)
    assert without.chosen == with_it.chosen
    assert without.modes == tuple(one for one in with_it.modes if one.figures.name != "huge")


def test_a_single_mode_is_taken_and_ties_go_to_the_faster_then_the_smaller() -> None:
    mix = Mix(n_specialities=2)
    assert choose_mode([mode()], mix).chosen.name == "one"
    equal = [mode("b"), mode("a")]
    assert choose_mode(equal, mix).chosen.name == "a"
    nothing = ModeWeights(perf=0, fit=0, cost=0)
    assert choose_mode([mode("slow"), mode("fast", question_s=9.0)], mix, nothing).chosen.name == "fast"
    assert choose_mode([mode("large", memory_bytes=5 * GB), mode("small")], mix, nothing).chosen.name == "small"


def test_many_changes_turn_the_choice_from_loading_to_switching() -> None:
    adapters = mode("adapters", question_s=11.0, change_s=0.004, memory_bytes=5 * GB, disk_bytes=6 * GB)
    one_loaded = mode(
        "one loaded", mode="merged", question_s=10.0, change_s=30.0, memory_bytes=5 * GB, disk_bytes=6 * GB
    )
    seldom, often = (Mix(n_specialities=3, switch_share=share) for share in (0.01, 0.5))
    assert choose_mode([adapters, one_loaded], seldom).chosen.name == "one loaded"
    assert choose_mode([adapters, one_loaded], often).chosen.name == "adapters"


def test_nothing_fits_says_what_each_lacks() -> None:
    with pytest.raises(PlanInfeasible, match=r"one takes 8\.38 GiB of memory, 7\.45 GiB may be taken"):
        choose_mode([mode(memory_bytes=9 * GB), mode("two", disk_bytes=60 * GB)], Mix(n_specialities=1))


def test_the_choice_is_explained_in_words() -> None:
    slow = mode("merged models, all loaded", question_s=9.0, memory_bytes=7 * GB)
    choice = choose_mode(
        [mode("adapters on one base"), slow], Mix(n_specialities=2), ModeWeights(perf=0.1, fit=0.9, cost=0)
    )
    assert choice.chosen.name == "adapters on one base"
    assert "better in seconds of a question, which weighs less" in choice.explanation
    assert "the default" in choice.explanation
