"""The terms of equation (6) of the method paper, as pure functions of log-probabilities.

Every term is a `Term`: a sum and the weight it has to be divided by. Batches differ in how many tokens, chunks and
entities they hold; sums are added over all batches and processes of a step and divided once, or long texts would count
less than short ones. Log-probabilities are natural, in float32 or wider.

    CE      -lp of the actual token
    KD      teacher and student of one tokenizer: full KL, or of the k likeliest tokens and the rest as one
            of two: binary KL of the log-probability of a chunk, the text between two common boundaries (alignment.py)
    MSE     hidden states at the ends of chunks
    MedKL   w_e D(p_s(e), p_t(e)) over key clinical entities, D the paper's |.| or the binary KL
    Ret     full KL from the student without its adapter, on replayed text
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MedKlForm = Literal["l1", "bkl"]
_LEAST = -1e-6
"""Log-probabilities are held at or below this: the other side of a binary KL, 1 - p, must not vanish."""
_LN2 = math.log(2)


@dataclass(frozen=True, slots=True)
class Term:
    """One term of the loss for a part of a step."""

    total: Tensor
    """Sum of what each token, chunk or entity adds; a scalar with gradient."""
    weight: Tensor
    """Sum of their weights, without gradient; 0 where there was none."""

    def __add__(self, other: Term) -> Term:
        return Term(self.total + other.total, self.weight + other.weight)

    def mean(self) -> Tensor:
        """The term by itself; 0 where there was nothing."""
        return self.total / self.weight.clamp(min=torch.finfo(self.weight.dtype).tiny)


def weighted(values: Tensor, weights: Tensor) -> Term:
    """`values` and `weights` of one shape; values without weight may be anything, also NaN."""
    used = torch.where(weights > 0, values, torch.zeros_like(values))
    return Term((weights * used).sum(), weights.sum().detach())


def log_probs_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities (..., k) of chosen tokens (..., k) under logits (..., vocabulary), in float32 or wider."""
    wide = _wide(logits)
    return wide.gather(-1, ids) - wide.logsumexp(-1, keepdim=True)


def token_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability (...) of each actual token (...) under logits (..., vocabulary), in float32 or wider."""
    return log_probs_of(logits, tokens.unsqueeze(-1)).squeeze(-1)


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def log1m_exp(log_p: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, exact at both ends."""
    near_zero = log_p > -_LN2
    # Each branch sees arguments that it can stand, or the other one's gradient would be NaN.
    small = torch.where(near_zero, log_p, torch.full_like(log_p, -1.0))
    large = torch.where(near_zero, torch.full_like(log_p, -1.0), log_p)
    return torch.where(near_zero, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


def binary_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL of "this text or another": element by element, of log-probabilities of equal shape. At least 0."""
    t, s = teacher.clamp(max=_LEAST), student.clamp(max=_LEAST)
    return t.exp() * (t - s) - torch.expm1(t) * (log1m_exp(t) - log1m_exp(s))


def full_kl(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(teacher || student) over the last axis, (...) of logits (..., vocabulary), in float32 or wider."""
    t, s = (_wide(logits).log_softmax(-1) for logits in (teacher_logits, student_logits))
    return (t.exp() * (t - s)).sum(-1)


def top_k_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL over the teacher's k likeliest tokens and all others taken as one: a lower bound of the full KL.

    Both are log-probabilities (..., k) of the same tokens.
    """
    t_rest, s_rest = (log1m_exp(log_p.logsumexp(-1).clamp(max=_LEAST)) for log_p in (teacher, student))
    return (teacher.exp() * (teacher - student)).sum(-1) + t_rest.exp() * (t_rest - s_rest)


def chunk_log_probs(log_probs: Tensor, chunks: Tensor, n_chunks: int) -> Tensor:
    """Sums (batch, n_chunks) of the tokens' log-probabilities (batch, length); a token of chunk -1 counts nowhere.

    In the same way chunks add up to entities.
    """
    sums = log_probs.new_zeros(log_probs.shape[0], n_chunks + 1)  # and a last one for what counts nowhere
    return sums.scatter_add(1, torch.where(chunks < 0, n_chunks, chunks), log_probs)[:, :n_chunks]


def cross_entropy(log_probs: Tensor, weights: Tensor) -> Term:
    """CE over tokens with weight."""
    return weighted(-log_probs, weights)


def chunk_kd(teacher: Tensor, student: Tensor, weights: Tensor) -> Term:
    """KD across tokenizers: chunk log-probabilities (batch, chunks), and a weight for each, 0 where there is none."""
    return weighted(binary_kl(teacher, student), weights)


def hidden_mse(student: Tensor, teacher: Tensor, projection: Tensor, weights: Tensor) -> Term:
    """Mean square over hidden units of (projection of the student - teacher), at chunk ends.

    `student` (batch, chunks, Hs), `teacher` (batch, chunks, Ht), `projection` (Ht, Hs).
    """
    apart = student @ projection.T - teacher
    return weighted(apart.square().mean(-1), weights)


def med_kl(teacher: Tensor, student: Tensor, weights: Tensor, form: MedKlForm) -> Term:
    """MedKL over entities: log-probabilities of whole entities given the true text before them, and their weights.

    "l1" is the paper's form. Its gradient with respect to log p_s is about p_s: it hardly teaches what the student
    does not know. "bkl" has the same minimum without that weakness.
    """
    if form == "bkl":
        return weighted(binary_kl(teacher, student), weights)
    return weighted((teacher.exp() - student.exp()).abs(), weights)
