"""What the whole distillation loss costs a step beside cross-entropy alone, and StableSVD beside a dense SVD.

    python benchmarks/distill/bench_losses.py [--positions N] [--vocabulary N] [--rounds N] [--svd-only]

A step here is the part of one that depends on the loss: from hidden states (float32) through the head to the gradients
of both, at Qwen2's vocabulary of 152,064 and a hidden size of 896. The full loss is CE, KD over the teacher's 64
likeliest tokens, binary KL of chunks, MedKL and hidden MSE, with the teacher's side given, as from a stored corpus.
Each form runs in a process of its own, in turns; memory is the peak of the resident set above that of a process that
has made the inputs. "At once" is CE on all logits, as transformers does it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from edgemed.core.units import format_bytes
from edgemed.distill.adapters import Factors, stable_svd
from edgemed.distill.losses import (
    Term,
    chunk_kd,
    chunk_log_probs,
    cross_entropy,
    hidden_mse,
    log_probs_of,
    med_kl,
    token_log_probs,
    top_k_kl,
    weighted,
)
from edgemed.distill.vocabulary import over_vocabulary

HIDDEN, TEACHER_HIDDEN, TOP = 896, 2048, 64
FORMS = ("at once", "CE alone", "full loss")
SVD_SHAPE = (3584, 18944, 16)


def main() -> None:
    """Both tables on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=152064)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--svd-only", action="store_true")
    parser.add_argument("--form", choices=("inputs", *FORMS), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.form:
        print(*_measured(asked.form, asked.positions, asked.vocabulary))
        return
    if not asked.svd_only:
        _compare_losses(asked.positions, asked.vocabulary, asked.rounds)
    _compare_svd(asked.rounds)


def _compare_losses(positions: int, vocabulary: int, rounds: int) -> None:
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    peaks: dict[str, list[float]] = {form: [] for form in FORMS}
    base = _child("inputs", positions, vocabulary)[1]
    for turn in range(rounds):
        for form in FORMS[:: 1 if turn % 2 == 0 else -1]:
            took, peak = _child(form, positions, vocabulary)
            seconds[form].append(took)
            peaks[form].append(peak - base)
            print(f"{form}: {took:.2f} s, {format_bytes(peak - base)}", file=sys.stderr, flush=True)
    print(f"{positions} positions, vocabulary {vocabulary}, {torch.get_num_threads()} threads, {rounds} rounds\n")
    print("| | CPU seconds of a step | peak memory beside the inputs | time to CE alone | memory to CE alone |")
    print("|---|---|---|---|---|")
    for form in FORMS:
        times = [one / other for one, other in zip(seconds[form], seconds["CE alone"], strict=True)]
        sizes = [one / other for one, other in zip(peaks[form], peaks["CE alone"], strict=True)]
        print(
            f"| {form} | {_spread(seconds[form])} | {format_bytes(statistics.median(peaks[form]))} "
            f"| {_spread(times)} | {_spread(sizes)} |"
        )


def _child(form: str, positions: int, vocabulary: int) -> tuple[float, float]:
    sizes = ["--positions", str(positions), "--vocabulary", str(vocabulary)]
    done = subprocess.run(
        [sys.executable, __file__, "--form", form, *sizes], capture_output=True, text=True, check=True
    )
    took, peak = done.stdout.split()
    return float(took), float(peak)


def _measured(form: str, positions: int, vocabulary: int) -> tuple[float, int]:
    """CPU seconds of a step, the better of two, and the peak of the resident set in bytes."""
    made = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, HIDDEN, generator=made).requires_grad_()
    head = (torch.randn(vocabulary, HIDDEN, generator=made) * HIDDEN**-0.5).requires_grad_()
    tokens = torch.randint(0, vocabulary, (positions,), generator=made)
    forms: dict[str, Callable[[], Tensor]] = {
        "at once": lambda: cross_entropy(token_log_probs(hidden @ head.T, tokens), torch.ones(positions)).mean(),
        "CE alone": lambda: cross_entropy(
            over_vocabulary(hidden, head, token_log_probs, tokens), torch.ones(positions)
        ).mean(),
        "full loss": _full_loss(hidden, head, tokens, made),
    }
    if form == "inputs":
        return 0.0, _peak()
    took = []
    for _ in range(2):
        hidden.grad = head.grad = None
        began = time.process_time()
        forms[form]().backward()
        took.append(time.process_time() - began)
    return min(took), _peak()


def _full_loss(hidden: Tensor, head: Tensor, tokens: Tensor, made: torch.Generator) -> Callable[[], Tensor]:
    positions, vocabulary = len(tokens), len(head)
    top_ids = torch.randint(0, vocabulary, (positions, TOP), generator=made)
    top = torch.randn(positions, TOP + 1, generator=made).log_softmax(-1)[:, :TOP]
    chunks = (torch.arange(positions) // 2).unsqueeze(0)
    n_chunks = int(chunks.max()) + 1
    teacher_chunks = -torch.rand(1, n_chunks, generator=made) * 3
    entities = torch.where(torch.arange(n_chunks) % 10 < 3, torch.arange(n_chunks) // 10, -1).unsqueeze(0)
    n_entities = int(entities.max()) + 1
    teacher_hidden = torch.randn(1, n_chunks, TEACHER_HIDDEN, generator=made)
    projection = (torch.randn(TEACHER_HIDDEN, HIDDEN, generator=made) * HIDDEN**-0.5).requires_grad_()

    ids = torch.cat((tokens.unsqueeze(-1), top_ids), -1)

    def loss() -> Tensor:
        found = over_vocabulary(hidden, head, log_probs_of, ids)
        lp, kl = found[:, 0], top_k_kl(top, found[:, 1:])
        student = chunk_log_probs(lp.unsqueeze(0), chunks, n_chunks)
        terms: list[Term] = [
            cross_entropy(lp, torch.ones(positions)),
            weighted(kl, torch.ones(positions)),
            chunk_kd(teacher_chunks, student, torch.ones(1, n_chunks)),
            med_kl(
                chunk_log_probs(teacher_chunks, entities, n_entities),
                chunk_log_probs(student, entities, n_entities),
                torch.full((1, n_entities), 5.0),
                "bkl",
            ),
            hidden_mse(hidden[1::2].unsqueeze(0), teacher_hidden, projection, torch.ones(1, n_chunks)),
        ]
        return torch.stack([term.mean() for term in terms]).sum()

    return loss


def _compare_svd(rounds: int) -> None:
    d, k, rank = SVD_SHAPE
    made = torch.Generator().manual_seed(0)
    factors = Factors(torch.randn(d, rank, generator=made), torch.randn(rank, k, generator=made))
    ours = []
    for _ in range(rounds):
        began = time.process_time()
        found = stable_svd(factors)
        ours.append(time.process_time() - began)
    began = time.process_time()
    values = torch.linalg.svdvals(factors.product)[:rank].double()  # float32, once: float64 takes minutes
    dense = time.process_time() - began
    assert found is not None
    apart = (found.factors.product - factors.product).norm() / factors.product.norm()
    kept = torch.linalg.svdvals(
        torch.linalg.qr(found.factors.b.double())[1] @ torch.linalg.qr(found.factors.a.double().T)[1].T
    )
    values_apart = float(((kept - values).abs() / values).max())
    times = dense / statistics.median(ours)
    print(
        f"\nStableSVD, {d} x {k}, rank {rank}: {_spread(ours)} CPU s; a dense matrix's singular values {dense:.3g} s, ",
        end="",
    )
    print(f"{times:.3g} times as long; singular values within {values_apart:.1e}, product within {float(apart):.1e}.")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()
