"""A numeral spelled digit by digit is as likely as its token."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="distillation needs torch")

from edgemed.distill.digits import END, DigitTrie, numerals_of  # noqa: E402

NUMERALS = {n: str(n) for n in range(1000)} | {1000: "00", 1001: "05", 1002: "007"}
TRIE = DigitTrie.of(NUMERALS)


def log_probs(seed: int = 0) -> torch.Tensor:
    scores = torch.randn(2, 1100, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scores.log_softmax(-1)


@pytest.mark.parametrize("digits", ["0", "7", "25", "250", "999", "05", "007"])
def test_the_product_over_the_digits_is_the_tokens_probability(digits: str) -> None:
    found = log_probs()
    token = next(token for token, text in NUMERALS.items() if text == digits)
    assert torch.allclose(TRIE.spelled(found, digits).sum(-1), found[:, token])


@pytest.mark.parametrize("prefix", ["0", "1", "25", "250", "00"])
def test_what_may_follow_a_digit_adds_up_to_one(prefix: str) -> None:
    assert torch.allclose(TRIE.next_digit(log_probs(), prefix).exp().sum(-1), torch.ones(2, dtype=torch.float64))


def test_behind_three_digits_the_numeral_ends() -> None:
    assert torch.allclose(TRIE.next_digit(log_probs(), "250")[:, END], torch.zeros(2, dtype=torch.float64))


def test_first_digits_share_the_mass_of_all_numerals() -> None:
    found = log_probs()
    first = sum(TRIE.log_mass(found, str(digit)).exp() for digit in range(10))
    assert torch.allclose(first, TRIE.log_mass(found, "").exp())


def test_a_numeral_that_the_vocabulary_cannot_spell_is_refused() -> None:
    with pytest.raises(KeyError):
        TRIE.spelled(log_probs(), "1234")


def test_numerals_are_tokens_of_digits_alone() -> None:
    assert numerals_of([b"12", b" 12", b"", b"3mg", b"7", "²".encode()]) == {0: "12", 4: "7"}
