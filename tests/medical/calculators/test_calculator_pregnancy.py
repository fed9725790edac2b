"""Due date and age of a pregnancy."""

from datetime import date, timedelta

from calculator_samples import faults, values
from hypothesis import given
from hypothesis import strategies as st

from edgemed.medical.calculators import calculate

periods = st.dates(date(1990, 1, 1), date(2100, 12, 31))


def test_a_published_example() -> None:
    # a page on Naegele's rule: 12 February is exactly 280 days past 8 May (years in which 15 February is a Monday)
    assert values("due_date", {"last_period": "2009-05-08"})["due date"] == "2010-02-12"


@given(last=periods, cycle=st.integers(21, 45))
def test_the_due_date_agrees_with_the_count_of_days_and_nearly_with_the_calendar_rule(last: date, cycle: int) -> None:
    due = date.fromisoformat(str(values("due_date", {"last_period": last, "cycle_days": cycle})["due date"]))
    # computed here, by a second way: 40 weeks, one week at a time, from the period shifted by the cycle
    day = last + timedelta(days=cycle) - timedelta(weeks=4)
    for _ in range(40):
        day += timedelta(weeks=1)
    assert due == day
    if cycle == 28:
        month = (last.month + 8) % 12 + 1
        by_calendar = date(last.year + (last.month > 3), month, 1) + timedelta(days=last.day - 1 + 7)
        assert abs((due - by_calendar).days) <= 3


@given(last=periods, days=st.integers(0, 308))
def test_weeks_and_days_add_up(last: date, days: int) -> None:
    found = values("due_date", {"last_period": last, "cycle_days": 28, "on_date": last + timedelta(days=days)})
    weeks, rest = found["age of the pregnancy, completed weeks"], found["age of the pregnancy, days beyond them"]
    assert isinstance(weeks, int)
    assert isinstance(rest, int)
    assert weeks * 7 + rest == days
    assert rest < 7


def test_an_assumed_cycle_is_told() -> None:
    warnings = calculate("due_date", {"last_period": "2026-03-01"}).warnings
    assert "No cycle was given: 28 days were counted." in warnings
    assert all(
        "No cycle" not in text
        for text in calculate("due_date", {"last_period": "2026-03-01", "cycle_days": 28}).warnings
    )


def test_a_long_cycle_moves_the_due_date_and_the_age() -> None:
    inputs = {"last_period": "2026-03-01", "cycle_days": 35, "on_date": "2026-04-05"}
    found = values("due_date", inputs)
    assert found["due date"] == "2026-12-13"
    assert found["age of the pregnancy, completed weeks"] == 4
    early = calculate("due_date", inputs | {"on_date": "2026-03-03"})
    assert len(early.values) == 1
    assert "had not begun to count" in early.warnings[-1]


def test_dates_that_no_pregnancy_has_are_refused() -> None:
    inputs = {"last_period": "2026-03-01", "cycle_days": 28}
    for wrong in ("2026-02-28", "2027-01-04"):
        told = faults("due_date", inputs | {"on_date": wrong})
        assert told["on_date"] == "a date from 2026-03-01 to 2027-01-03 is needed"
    assert "1900-01-01" in faults("due_date", {"last_period": "1899-12-31"})["last_period"]
    assert "21 to 45 days" in faults("due_date", inputs | {"cycle_days": 20})["cycle_days"]


def test_a_passed_due_date_is_told() -> None:
    result = calculate("due_date", {"last_period": "2026-03-01", "cycle_days": 28, "on_date": "2026-12-16"})
    assert result.warnings[-1] == "The due date has passed by 10 days."
