"""A torch model's greedy answers and choices, many prompts at a time: for examinations between steps of training.

Prompts that begin alike, as those under one system message do, share what the model computed for that beginning. Rows
are padded on the left, behind the shared beginning; positions are counted without padding, so an answer is the one the
prompt would have alone, up to the order in which sums are added. Rows that ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from statistics import median
from typing import Any

BATCH = 64
"""Prompts at a time: 64 rows of 250 tokens of a 7B's KV cache are 1 GB."""
MOST_LOGITS = 1 << 28
"""That options are judged by at a time: 1 GB in float32. A vocabulary of 152k and long options fill it soon."""
_SHARED = 0.8
"""Of the usual length that neighbours share: those that share less are not taken together."""
_LEAVE = 0.75
"""Rows that ended leave once only this share is still going."""


@dataclass(frozen=True, slots=True)
class _Read:
    """Prompts that the model has read."""

    logits: Any
    """(n, rows, n_vocab) after the last tokens of each."""
    cache: Any
    mask: Any
    """(n, length) 1 where a token is, 0 at padding."""
    positions: Any
    """(n, 1) of the next token."""


def greedy_answers(
    model: Any, prompts: Sequence[Sequence[int]], ends: Collection[int], max_tokens: int, *, batch: int = BATCH
) -> list[list[int]]:
    """The most likely next token, again and again, for each prompt; the token that ends the answer is left out."""
    import torch

    answers: list[list[int]] = [[] for _ in prompts]
    with torch.inference_mode(), _evaluating(model):
        for rows in batches(prompts, batch):
            found = _answers(model, [prompts[row] for row in rows], frozenset(ends), max_tokens)
            for row, answer in zip(rows, found, strict=True):
                answers[row] = answer
    return answers


def likeliest(model: Any, options: Sequence[Sequence[Sequence[int]]], *, batch: int = BATCH) -> list[int]:
    """For each question, the option whose tokens have the largest sum of log-probabilities.

    `options[n]` are texts of question n, prompt and option; the tokens that all of a question's share are left out.
    """
    import torch

    firsts = [_first_difference(question) for question in options]
    contexts = [question[0][:first] for question, first in zip(options, firsts, strict=True)]
    chosen = [0] * len(options)
    if not options:
        return []
    longest = max(len(text) - first for question, first in zip(options, firsts, strict=True) for text in question)
    texts = min(batch, MOST_LOGITS // (longest * int(model.config.vocab_size)))
    most = max(map(len, options))
    with torch.inference_mode(), _evaluating(model):
        for rows in batches(contexts, max(1, texts // most)):
            tails = [[list(text[firsts[row] :]) for text in options[row]] for row in rows]
            sums = iter(_sums(model, [contexts[row] for row in rows], tails))
            for row in rows:
                scores = [next(sums) for _ in options[row]]
                chosen[row] = scores.index(max(scores))
    return chosen


def _sums(model: Any, contexts: Sequence[Sequence[int]], tails: Sequence[Sequence[list[int]]]) -> list[float]:
    """Log-probability of each tail of each context, which is read once for all its tails."""
    import torch

    read = _read(model, contexts, 1)
    source = torch.tensor([row for row, ones in enumerate(tails) for _ in ones], device=read.mask.device)
    flat = [tail for ones in tails for tail in ones]
    width = max(map(len, flat))
    given = torch.tensor([tail + [0] * (width - len(tail)) for tail in flat], device=read.mask.device)
    lengths = torch.tensor([len(tail) for tail in flat], device=read.mask.device)
    inside = torch.arange(width, device=read.mask.device) < lengths[:, None]
    logits = read.logits[source]
    if width > 1:
        read.cache.batch_select_indices(source)
        steps = torch.arange(width - 1, device=read.mask.device)
        more = model(
            input_ids=given[:, :-1],
            attention_mask=torch.cat([read.mask[source], inside[:, :-1].to(read.mask.dtype)], dim=1),
            position_ids=read.positions[source] + steps,
            past_key_values=read.cache,
            use_cache=True,
        ).logits
        logits = torch.cat([logits, more], dim=1)
    logs = torch.log_softmax(logits.float(), dim=-1).gather(-1, given[:, :, None])[..., 0]
    found: list[float] = (logs.double() * inside).sum(dim=1).tolist()
    return found


def batches(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Numbers of the prompts that are read together: those that begin alike, by length."""
    order = sorted(range(len(prompts)), key=lambda row: list(prompts[row]))
    shared = [_shared([prompts[a], prompts[b]]) for a, b in pairwise(order)]
    least = _SHARED * median(shared) if shared else 0
    groups: list[list[int]] = [order[:1]]
    for row, length in zip(order[1:], shared, strict=True):
        if length < least:
            groups.append([])
        groups[-1].append(row)
    for group in groups:
        group.sort(key=lambda row: len(prompts[row]))
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _answers(model: Any, prompts: list[Sequence[int]], ends: frozenset[int], max_tokens: int) -> list[list[int]]:
    import torch

    answers: list[list[int]] = [[] for _ in prompts]
    going = list(range(len(prompts)))
    rows = list(range(len(prompts)))  # of the batch, by the prompt that each answers
    read = _read(model, prompts, 1)
    logits, cache, mask, positions = read.logits, read.cache, read.mask, read.positions
    for count in range(max_tokens):
        tokens = logits[:, -1].argmax(-1)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if row in going:
                if token in ends:
                    going.remove(row)
                else:
                    answers[row].append(token)
        if not going or count + 1 == max_tokens:
            break
        if len(going) <= _LEAVE * len(rows):
            kept = torch.tensor([place for place, row in enumerate(rows) if row in going], device=mask.device)
            cache.batch_select_indices(kept)
            mask, positions, tokens = mask[kept], positions[kept], tokens[kept]
            rows = [rows[place] for place in kept.tolist()]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        out = model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits, cache, positions = out.logits, out.past_key_values, positions + 1
    return answers


def _read(model: Any, prompts: Sequence[Sequence[int]], n_rows: int) -> _Read:
    """The prompts in the model, their common beginning once, with the logits after their last `n_rows` tokens."""
    import torch

    device = model.device
    given = [list(prompt) for prompt in prompts]
    shared = max(0, min(_shared(given), min(map(len, given)) - n_rows))
    cache = None
    if shared > 0:
        start = torch.tensor([given[0][:shared]], device=device)
        cache = model(input_ids=start, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(given))
    rest = [prompt[shared:] for prompt in given]
    length = max(map(len, rest))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rest], device=device)
    own = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rest], device=device)
    mask = torch.cat([own.new_ones(len(rest), shared), own], dim=1)
    positions = shared + (own.cumsum(1) - 1).clamp(min=0)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=n_rows,
    )
    return _Read(out.logits, out.past_key_values, mask, positions[:, -1:] + 1)


def _shared(texts: Sequence[Sequence[int]]) -> int:
    """How many tokens all of them begin with: what the first and the last in order have in common."""
    ordered = sorted(map(list, texts))
    pairs = zip(ordered[0], ordered[-1], strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(map(len, ordered)))


def _first_difference(texts: Sequence[Sequence[int]]) -> int:
    """The first token that is not the same in all of them."""
    return next(place for place, tokens in enumerate(zip_longest(*texts)) if len(set(tokens)) > 1)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout; afterwards as it was."""
    trains = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(trains)
