"""Chemicals and diseases known by how their names are made."""

from __future__ import annotations

from itertools import pairwise

import pytest
from cpu_time import fastest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.medical.terms.morphology import mentions_of


def said(text: str) -> list[tuple[str, str]]:
    return [(mention.label, text[mention.start : mention.end]) for mention in mentions_of(text)]


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("left ventricular dysfunction", [("disease", "left ventricular dysfunction")]),
        ("acute tubular lesions", [("disease", "acute tubular lesions")]),
        ("nephrotoxicity", [("disease", "nephrotoxicity")]),
        ("sialadenopathy", [("disease", "sialadenopathy")]),
        ("dichloroacetate", [("chemical", "dichloroacetate")]),
        ("heparin-induced thrombocytopenia", [("chemical", "heparin"), ("disease", "thrombocytopenia")]),
        ("severe pain", [("disease", "pain")]),
        ("2-chloroprocaine", [("chemical", "2-chloroprocaine")]),
        ("mk-801", [("chemical", "mk-801")]),
        ("the side effects of the routine", []),
        ("examine and determine the baseline", []),
        ("a diagnosis and its prognosis", []),
    ],
)
def test_a_name_is_known_by_its_making(text: str, mentions: list[tuple[str, str]]) -> None:
    assert said(text) == mentions


def test_an_abbreviation_counts_where_the_text_explains_it() -> None:
    text = "cyclosporine (CsA) was stopped; CsA levels fell. A CS was made."
    assert said(text) == [("chemical", "cyclosporine"), ("chemical", "CsA"), ("chemical", "CsA")]


def test_a_listed_name_says_so_and_a_rule_says_so_too() -> None:
    assert [mention.listed for mention in mentions_of("malaria with sialadenopathy")] == [True, False]


@given(st.text(max_size=300))
def test_any_text_gives_mentions_in_order_and_apart(text: str) -> None:
    mentions = mentions_of(text)
    assert all(0 <= mention.start < mention.end <= len(text) for mention in mentions)
    assert all(one.end <= other.start for one, other in pairwise(mentions))


@pytest.mark.parametrize(
    "text",
    ["a-" * 50_000, "renal " * 16_000 + "failure", "malaria (M) " * 8_000, "1,1,1-" * 16_000, "acute failure " * 7_000,
     "x" * 100_000, "ethyl-" * 16_000 + "chloroprocaine", "toxicityitis" * 8_000],
)  # fmt: skip
def test_a_hostile_text_is_read_in_linear_time(text: str) -> None:
    mentions_of("")
    assert fastest(lambda: mentions_of(text), 1.5) < 1.5
