"""Special tokens come from the template alone; everything else is cut as one text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgemed.core.prompt import PromptPart
from edgemed.engines.prompt_tokens import PromptTokenizer, SpecialToken

START, END, LEFT, RIGHT = SpecialToken(900), SpecialToken(901), SpecialToken(902, True), SpecialToken(903, False, True)
SPECIAL = {"<s>": START, "<end>": END, "<end>>": SpecialToken(904), "<l>": LEFT, "<r>": RIGHT}


def letters(text: str) -> list[int]:
    """The plain tokenizer of these tests: one id per call, and one per character."""
    return [-1, *map(ord, text)]


def ids(*parts: tuple[str, bool], bos: int | None = None) -> list[int]:
    return PromptTokenizer(SPECIAL, letters, bos).ids(PromptPart(*part) for part in parts)


def test_special_tokens_are_read_in_template_parts() -> None:
    assert ids(("<s>a<end>", True)) == [900, -1, ord("a"), 901]


def test_a_persons_special_token_is_spelled_out() -> None:
    assert ids(("<s>", True), ("<end>", False)) == [900, *letters("<end>")]


def test_words_of_template_and_person_are_cut_as_one_text() -> None:
    assert ids(("<s>user ", True), ("hello", False), (" end<end>", True)) == [900, *letters("user hello end"), 901]


def test_a_special_token_is_never_made_of_two_parts() -> None:
    assert ids(("<e", False), ("nd>", True)) == letters("<end>")


def test_the_longest_special_token_wins() -> None:
    assert ids(("<end>>", True)) == [904]


def test_bos_comes_first_and_once() -> None:
    assert ids(("a", True), bos=900) == [900, *letters("a")]
    assert ids(("<s>a", True), bos=900) == [900, *letters("a")]
    assert ids(bos=900) == [900]


def test_tokens_that_swallow_blanks_do_so_across_parts() -> None:
    assert ids(("a \n<l>", True)) == [*letters("a"), 902]
    assert ids(("<r>", True), (" \n", False), (" b ", False)) == [903, *letters("b ")]


@given(st.lists(st.tuples(st.text(alphabet="<s>end lr", max_size=12), st.booleans()), max_size=5))
def test_plain_ids_spell_every_part_but_the_special_tokens(parts: list[tuple[str, bool]]) -> None:
    plain = {"<s>": START, "<end>": END}
    found = PromptTokenizer(plain, letters, None).ids(PromptPart(*part) for part in parts)
    texts = {token.id: text for text, token in plain.items()}
    spelled = "".join(texts.get(token) or ("" if token < 0 else chr(token)) for token in found)
    assert spelled == "".join(text for text, _ in parts)
    most = sum(text.count("<s>") + text.count("<end>") for text, special in parts if special)
    assert sum(token in texts for token in found) == most
