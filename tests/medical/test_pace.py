"""The limits of an answer follow the class of its question and danger; a caller's own values go first."""

import pytest

from edgemed.core.errors import UsageError
from edgemed.medical.language import Category
from edgemed.medical.pace import PaceChange, pace_of, read_pace, shipped_pace


@pytest.mark.parametrize("category", list(Category))
def test_a_danger_sign_makes_any_question_short_greedy_and_without_thinking(category):
    pace = pace_of(category, danger=True)
    assert (pace.max_tokens, pace.temperature, pace.reasoning_tokens) == (256, 0.0, 0)


def test_every_category_has_a_pace_with_a_reason():
    for category in Category:
        assert len(pace_of(category, danger=False).reason) > 30


def test_emergencies_are_the_shortest_and_differentials_the_longest():
    tokens = {category: pace_of(category, danger=False).max_tokens for category in Category}
    assert min(tokens, key=tokens.__getitem__) == Category.EMERGENCY
    assert max(tokens, key=tokens.__getitem__) == Category.DIAGNOSIS
    assert pace_of(Category.EMERGENCY, danger=False).reasoning_tokens == 0
    assert pace_of(Category.DIAGNOSIS, danger=False).reasoning_tokens == 1024


def test_a_dose_never_depends_on_chance():
    assert pace_of(Category.MEDICATION, danger=False).temperature == 0


def test_the_callers_own_values_go_first_nought_included():
    pace = pace_of(Category.DIAGNOSIS, danger=False).asked(max_tokens=9, temperature=0.0)
    assert (pace.max_tokens, pace.temperature, pace.top_p) == (9, 0.0, 0.9)


def test_settings_replace_single_values_of_one_class_only():
    changes = {"diagnosis": PaceChange(max_tokens=2048)}
    pace = pace_of(Category.DIAGNOSIS, danger=False, changes=changes)
    assert (pace.max_tokens, pace.reasoning_tokens) == (2048, 1024)
    assert pace_of(Category.GENERAL, danger=False, changes=changes) == pace_of(Category.GENERAL, danger=False)


def test_a_damaged_table_is_refused_with_its_field():
    with pytest.raises(UsageError, match=r"pace\.toml.*pace\.danger\.max_tokens"):
        read_pace('[pace.danger]\nmax_tokens=0\ntemperature=0\ntop_p=1\nreasoning_tokens=0\nreason="x"', "pace.toml")
    with pytest.raises(UsageError, match="no pace for emergency"):
        read_pace('[pace.danger]\nmax_tokens=1\ntemperature=0\ntop_p=1\nreasoning_tokens=0\nreason="x"', "p")
    with pytest.raises(UsageError, match="cannot be read"):
        read_pace("[pace", "p")


def test_the_shipped_table_names_nothing_else():
    assert set(shipped_pace().pace) == {"danger", *(category.value for category in Category)}
