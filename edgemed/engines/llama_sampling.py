"""How llama.cpp draws a token: chains of its samplers, and answers that must follow a grammar.

Facts about the library (0.3.36) that shape this file
    `llama_sampler_sample` draws and lets every sampler of the chain take note; apply and accept do one each.
    A grammar that is told of a token it does not allow throws a C++ exception, which ends the process: a token is shown
    to it alone first. Where it allows nothing at all, a chain draws some forbidden token: the same check finds it.
    Its parser returns null for a grammar without a root, with an unknown rule or with a rule that begins with itself;
    it recurses at every parenthesis (100,000 overflow the stack) and prints a faulty grammar to stderr.
    A rule that begins with something that may be empty and then itself is taken, and recurses without end when used:
    whoever writes grammars must not write that one.
    Control tokens have a text in the eyes of a grammar: inside of a JSON string it would allow "<|im_start|>".
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Sequence
from typing import Any

from edgemed.core.errors import UsageError
from edgemed.core.native_output import discarded_output
from edgemed.engines.base import NO_TOKEN, Sampling

LONGEST_GRAMMAR = 64 * 1024
"""Characters. One of this length is read in some 5 ms."""
_DEEPEST_GRAMMAR = 64
"""Parentheses inside each other."""
_RANDOM_SEED = 0xFFFFFFFF
"""LLAMA_DEFAULT_SEED asks for a random one; a request's seed never becomes it."""
_MOST_TRIES = 8
"""Draws before a grammar is asked about every token."""
_STDERR = 2
_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]')


def greedy_chain(api: Any) -> Any:
    """The sampler of the most likely token; it keeps nothing, so all sequences may share it."""
    chain = _new_chain(api)
    api.llama_sampler_chain_add(chain, api.llama_sampler_init_greedy())
    return chain


class Likeliest:
    """Draws the most likely token, the first of equals, as the greedy sampler does: in some 25 microseconds of 152,000
    words, where llama.cpp takes 170 to copy them into a table first."""

    def __init__(self, api: Any, context: Any, n_vocab: int) -> None:
        import numpy as np  # 0.1 s and 9 MiB, once

        self._logits = api.llama_get_logits_ith
        self._context = context
        self._row = ctypes.c_float * n_vocab
        self._view: Any = np.frombuffer

    def draw(self, at: int) -> int:
        """The token by the logits at output `at` of the last step."""
        logits = self._logits(self._context, at)
        row = self._row.from_address(ctypes.addressof(logits.contents))
        return int(self._view(row, "f4").argmax())


def has_penalties(sampling: Sampling) -> bool:
    """Whether what an answer holds already counts for its next token."""
    return bool(sampling.presence_penalty or sampling.frequency_penalty)


def new_chain(api: Any, sampling: Sampling, n_vocab: int, n_tokens: int) -> Any:
    """A sampler of one sequence: penalties, filters, then temperature, then the draw: llama.cpp's own order.

    Penalties count the last `n_tokens` that were drawn, never the prompt's. Looking each word of the vocabulary up
    among them costs some 0.6 ms a token with 152,000 words (benchmarks/bench_drawing.py).
    """
    chain = _new_chain(api)
    add = api.llama_sampler_chain_add
    if has_penalties(sampling):
        frequency, presence = sampling.frequency_penalty, sampling.presence_penalty
        add(chain, api.llama_sampler_init_penalties(n_vocab, n_tokens, 1.0, frequency, presence))
    if sampling.temperature <= 0:
        add(chain, api.llama_sampler_init_greedy())
        return chain
    if sampling.top_k > 0:
        add(chain, api.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        add(chain, api.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        add(chain, api.llama_sampler_init_min_p(sampling.min_p, 1))
    add(chain, api.llama_sampler_init_temp(sampling.temperature))
    add(chain, api.llama_sampler_init_dist(sampling.seed % _RANDOM_SEED))
    return chain


def forget_penalties(api: Any, chain: Any) -> None:
    """Make a chain with penalties begin anew; its random numbers go on."""
    api.llama_sampler_reset(api.llama_sampler_chain_get(chain, 0))


class Candidates:
    """Every token with its logit, as samplers want them: 12 bytes a token, filled by numpy in some 0.3 ms at 152,000.

    One for all sequences of an engine: it is filled anew for each draw.
    """

    def __init__(self, api: Any, n_vocab: int, never: Sequence[int]) -> None:
        """`never` are tokens that no grammar may see."""
        import numpy as np  # imported with the first grammar: 0.1 s

        self._api = api
        self._n_vocab = n_vocab
        self._never = np.array(sorted(never), dtype=np.int64)
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._table = np.zeros(n_vocab, dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._data = self._table.ctypes.data_as(api.llama_token_data_p)

    def fill(self, context: Any, at: int, refused: Sequence[int] = ()) -> Any:
        """A `llama_token_data_array` of the logits at output `at` of the last step, some tokens ruled out."""
        import numpy as np

        logits = self._api.llama_get_logits_ith(context, at)
        self._table["id"] = self._ids
        self._table["logit"] = np.ctypeslib.as_array(logits, shape=(self._n_vocab,))
        self._table["logit"][self._never] = -np.inf
        if refused:
            self._table["logit"][list(refused)] = -np.inf
        return self._api.llama_token_data_array(self._data, self._n_vocab, -1, False)

    def likeliest(self) -> int:
        """The token with the largest logit; NO_TOKEN when each is ruled out."""
        best = self._table[int(self._table["logit"].argmax())]
        return int(best["id"]) if math.isfinite(best["logit"]) else NO_TOKEN


class Grammar:
    """A grammar and how far an answer has followed it. Raises UsageError for one that cannot be used."""

    def __init__(self, api: Any, vocab: Any, text: str) -> None:
        _check_grammar(text)
        self._api = api
        with discarded_output(_STDERR):  # the parser prints what it refuses, and it may hold a person's words
            self.sampler = api.llama_sampler_init_grammar(vocab, text.encode("ascii"), b"root")
        if not self.sampler:
            raise UsageError("The engine cannot read the grammar that the answer should follow.")
        self._one = (api.llama_token_data * 1)()
        self._alone = api.llama_token_data_array(self._one, 1, -1, False)

    def allows(self, token: int) -> bool:
        """Whether the answer may go on with this token."""
        self._one[0] = self._api.llama_token_data(token, 0.0, 0.0)
        self._alone.selected, self._alone.size = -1, 1
        self._api.llama_sampler_apply(self.sampler, self._alone)
        return math.isfinite(self._one[0].logit)

    def accept(self, token: int) -> None:
        """Go on behind a token that it allows."""
        self._api.llama_sampler_accept(self.sampler, token)

    def free(self) -> None:
        """Give its memory back."""
        self._api.llama_sampler_free(self.sampler)


class GrammarSampler:
    """Draws the tokens of one sequence so that they follow a grammar.

    A token is drawn from all of them first. One that the grammar refuses is ruled out and another one drawn: the first
    that it allows comes from the same distribution as if all had been asked about. Only after some refusals are they:
    a draw takes 0.3 ms, to ask about 152,000 words 14 to 20 ms, and 0.1 s or more where a form has hundreds of ways to
    go on (benchmarks/bench_drawing.py).
    """

    def __init__(self, api: Any, candidates: Candidates, chain: Any, grammar: Grammar, opening: int | None) -> None:
        """`opening` is the token "<think>", which may stand before the grammar's first token."""
        self._api = api
        self._candidates = candidates
        self._chain = chain
        self._grammar = grammar
        self._opening = opening
        self._thinking = False

    def think(self, thinking: bool) -> None:
        """Whether the next tokens are thinking, which follows no grammar."""
        self._thinking = thinking
        if not thinking:
            self._opening = None

    def draw(self, context: Any, at: int) -> int:
        """The next token, or NO_TOKEN where the grammar allows none of the vocabulary."""
        if self._thinking:
            return int(self._api.llama_sampler_sample(self._chain, context, at))
        token = self._choose(context, at)
        if token not in (self._opening, NO_TOKEN):
            self._grammar.accept(token)
            self._api.llama_sampler_accept(self._chain, token)
            self._opening = None
        return token

    def free(self) -> None:
        """Give the grammar back; the chain is its owner's."""
        self._grammar.free()

    def _choose(self, context: Any, at: int) -> int:
        refused: list[int] = []
        for _ in range(_MOST_TRIES):
            token = self._apply(self._candidates.fill(context, at, refused))
            if token == self._opening or self._grammar.allows(token):
                return token
            refused.append(token)
        array = self._candidates.fill(context, at)
        self._api.llama_sampler_apply(self._grammar.sampler, array)
        likeliest = self._candidates.likeliest()
        if likeliest == NO_TOKEN:
            return NO_TOKEN
        token = self._apply(array)
        return token if self._grammar.allows(token) else likeliest  # a draw may end on one of probability 0

    def _apply(self, array: Any) -> int:
        self._api.llama_sampler_apply(self._chain, array)
        return int(array.data[max(0, array.selected)].id)


def _new_chain(api: Any) -> Any:
    parameters = api.llama_sampler_chain_default_params()
    parameters.no_perf = True
    return api.llama_sampler_chain_init(parameters)


def _check_grammar(text: str) -> None:
    """Refuse what would hurt the parser."""
    if len(text) > LONGEST_GRAMMAR or not text.isascii() or "\0" in text:
        raise UsageError(f"A grammar of {len(text)} characters was given; {LONGEST_GRAMMAR} of ASCII are possible.")
    depth = 0
    for sign in re.findall(r"[()]", _LITERAL.sub("", text)):
        depth += 1 if sign == "(" else -1
        if depth > _DEEPEST_GRAMMAR:
            raise UsageError(f"A grammar has more than {_DEEPEST_GRAMMAR} parentheses inside each other.")
