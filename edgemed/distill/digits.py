"""A teacher's numeral, told digit by digit.

Llama 3 packs up to three digits into a token, Qwen 2 spells every digit: "250" is one choice of the teacher's and three
of the student's. The trie of the teacher's numerals turns the one into the three without loss:

    p(d1) = mass("d1"),  p(d2 | d1) = mass("d1 d2") / mass("d1"),  p(END | digits) = p(exactly these) / mass(digits)

with mass(prefix) the probability of all numerals that begin with it. The product is the token's own probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

END = 10
"""Behind the digits 0 to 9: the numeral ends here."""
_NOTHING = float("-inf")


@dataclass(frozen=True)
class DigitTrie:
    """Which tokens of a vocabulary are numerals, by what they begin with."""

    tokens: Mapping[str, Tensor]
    """Ids of the numerals that begin with a prefix; the empty one is all of them."""
    exact: Mapping[str, int]
    """Id of each numeral."""

    @staticmethod
    def of(numerals: Mapping[int, str]) -> DigitTrie:
        """`numerals` gives the digits of each token that is made of digits alone."""
        under: dict[str, list[int]] = {"": []}
        for token, digits in sorted(numerals.items()):
            for length in range(len(digits) + 1):
                under.setdefault(digits[:length], []).append(token)
        found = {prefix: torch.tensor(ids, dtype=torch.long) for prefix, ids in under.items()}
        return DigitTrie(found, {digits: token for token, digits in numerals.items()})

    def log_mass(self, log_probs: Tensor, prefix: str) -> Tensor:
        """Log-probability (...) that the next token is a numeral that begins so, of log_probs (..., vocabulary)."""
        ids = self.tokens.get(prefix)
        if ids is None or not len(ids):
            return log_probs.new_full(log_probs.shape[:-1], _NOTHING)
        return log_probs.index_select(-1, ids.to(log_probs.device)).logsumexp(-1)

    def next_digit(self, log_probs: Tensor, prefix: str) -> Tensor:
        """Log-probabilities (..., 11) of each further digit and of END behind a prefix that is not empty.

        Raises KeyError for a prefix that no numeral of the vocabulary begins with.
        """
        if not prefix or prefix not in self.tokens:
            raise KeyError(prefix)
        ways = [self.log_mass(log_probs, prefix + str(digit)) for digit in range(10)]
        exact = self.exact.get(prefix)
        none = log_probs.new_full(log_probs.shape[:-1], _NOTHING)
        ways.append(none if exact is None else log_probs[..., exact])
        return torch.stack(ways, -1) - self.log_mass(log_probs, prefix).unsqueeze(-1)

    def spelled(self, log_probs: Tensor, digits: str) -> Tensor:
        """Log-probabilities (..., len(digits) + 1) of a numeral's digits and of its END; they add up to the token's.

        The first is mass(first digit), beside every token that is no numeral. Raises KeyError as `next_digit`.
        """
        found = [self.log_mass(log_probs, digits[0])]
        for length in range(1, len(digits) + 1):
            way = int(digits[length]) if length < len(digits) else END
            found.append(self.next_digit(log_probs, digits[:length])[..., way])
        return torch.stack(found, -1)


def numerals_of(pieces: Sequence[bytes]) -> dict[int, str]:
    """The tokens that are ASCII digits alone, by id: `pieces` are the bytes of each token."""
    return {token: piece.decode() for token, piece in enumerate(pieces) if piece.isdigit()}
