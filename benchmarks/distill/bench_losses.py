"""What the whole distillation loss costs a step beside cross-entropy alone, and StableSVD beside a dense SVD.

    python benchmarks/distill/bench_losses.py [--positions N] [--vocabulary N] [--rounds N] [--only losses|svd]

A step here is the part of one that depends on the loss: from hidden states (float32) through the head to the gradients
of both, at Qwen2's vocabulary of 152,064 and a hidden size of 896. The full loss is CE, KD over the teacher's 64
likeliest tokens, binary KL of chunks, MedKL and hidden MSE, with the teacher's side given, as from a stored corpus;
"and retention" adds the full KL to the student before training on a fifth of the positions. CE alone is computed in two
ways: with the same chunked head, and as transformers does it, on all logits at once. Each form runs in a process of its
own, in turns; memory is the peak of the resident set above what it was with the inputs made (Linux). Goals: 1.5 times
the time and 1.3 times the memory of CE. Takes some 5 minutes and 10 GB on 2 cores; the dense SVD is half of it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from edgemed.core.units import format_bytes
from edgemed.distill.adapters import Factors, stable_svd
from edgemed.distill.losses import (
    Term,
    chunk_kd,
    chunk_log_probs,
    cross_entropy,
    full_kl,
    hidden_mse,
    log_probs_of,
    med_kl,
    token_log_probs,
    top_k_kl,
    weighted,
)
from edgemed.distill.vocabulary import over_vocabulary

HIDDEN, TEACHER_HIDDEN, TOP = 896, 2048, 64
CHUNKED, AT_ONCE = "CE, chunked head", "CE, transformers"
FORMS = (CHUNKED, AT_ONCE, "full loss", "full loss and retention")
SVD_SHAPE = (3584, 18944, 16)
RETAINED = 5
"""Every fifth position is replay."""


def main() -> None:
    """Both tables on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=152064)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--svd-shape", type=int, nargs=3, default=SVD_SHAPE, metavar=("D", "K", "RANK"))
    parser.add_argument("--only", choices=("losses", "svd"))
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.form:
        print(*_measured(asked.form, asked.positions, asked.vocabulary))
        return
    if asked.only != "svd":
        _compare_losses(asked.positions, asked.vocabulary, asked.rounds)
    if asked.only != "losses":
        _compare_svd(*asked.svd_shape)


def _compare_losses(positions: int, vocabulary: int, rounds: int) -> None:
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    peaks: dict[str, list[float]] = {form: [] for form in FORMS}
    for turn in range(rounds):
        for form in FORMS[:: 1 if turn % 2 == 0 else -1]:
            took, peak = _child(form, positions, vocabulary)
            seconds[form].append(took)
            peaks[form].append(peak)
            print(f"{form}: {took:.2f} s, {format_bytes(peak)}", file=sys.stderr, flush=True)
    print(f"{positions} positions, vocabulary {vocabulary}, {torch.get_num_threads()} threads, {rounds} rounds\n")
    print("| | CPU seconds of a step | peak memory beside the inputs | to CE, chunked head: time, memory ", end="")
    print("| to CE, transformers: time, memory |")
    print("|---|---|---|---|---|")
    for form in FORMS:
        ratios = [
            f"{_spread(_over(seconds[form], seconds[other]))}, {_spread(_over(peaks[form], peaks[other]))}"
            for other in (CHUNKED, AT_ONCE)
        ]
        size = format_bytes(statistics.median(peaks[form]))
        print(f"| {form} | {_spread(seconds[form])} | {size} | {' | '.join(ratios)} |", flush=True)


def _over(values: list[float], others: list[float]) -> list[float]:
    return [one / other for one, other in zip(values, others, strict=True)]


def _child(form: str, positions: int, vocabulary: int) -> tuple[float, float]:
    sizes = ["--positions", str(positions), "--vocabulary", str(vocabulary)]
    done = subprocess.run(
        [sys.executable, __file__, "--form", form, *sizes], capture_output=True, text=True, check=True
    )
    took, peak = done.stdout.split()
    return float(took), float(peak)


def _measured(form: str, positions: int, vocabulary: int) -> tuple[float, int]:
    """CPU seconds of a step, the better of two, and the bytes that the process grows by at most."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    made = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, HIDDEN, generator=made).requires_grad_()
    head = torch.randn(vocabulary, HIDDEN, generator=made).mul_(HIDDEN**-0.5).requires_grad_()
    tokens = torch.randint(0, vocabulary, (positions,), generator=made)
    full = _full_loss(hidden, head, tokens, made)
    retention = _retention(hidden, head, made)
    forms: dict[str, Callable[[], Tensor]] = {
        CHUNKED: lambda: cross_entropy(
            over_vocabulary(hidden, head, token_log_probs, tokens), torch.ones(positions)
        ).mean(),
        AT_ONCE: lambda: ForCausalLMLoss(hidden @ head.T, None, vocabulary, shift_labels=tokens),
        "full loss": full,
        "full loss and retention": lambda: full() + retention(),
    }
    # What torch imports at a first use is no memory of a step.
    few, words = hidden[:4].detach().requires_grad_(), head[:8].detach()
    over_vocabulary(few, words, token_log_probs, tokens[:4] % 8, chunk=2).sum().backward()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is that from here on
    before = _resident("VmRSS")
    took = []
    for _ in range(2):
        hidden.grad = head.grad = None
        began = time.process_time()
        forms[form]().backward()
        took.append(time.process_time() - began)
    return min(took), _resident("VmHWM") - before


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


def _retention(hidden: Tensor, head: Tensor, made: torch.Generator) -> Callable[[], Tensor]:
    before = torch.randn(hidden[::RETAINED].shape, generator=made)

    def kl(logits: Tensor, states: Tensor) -> Tensor:
        return full_kl(states @ head.detach().T, logits)

    return lambda: over_vocabulary(hidden[::RETAINED], head, kl, before).mean()


def _compare_svd(d: int, k: int, rank: int) -> None:
    """Ill-conditioned factors in float64: ours, and the same formula on the dense product."""
    made = torch.Generator().manual_seed(0)
    falling = torch.logspace(0, -5, rank, dtype=torch.float64)
    factors = Factors(
        torch.randn(d, rank, generator=made, dtype=torch.float64) * falling,
        torch.randn(rank, k, generator=made, dtype=torch.float64),
    )
    ours = []
    for _ in range(5):
        began = time.process_time()
        found = stable_svd(factors)
        ours.append(time.process_time() - began)
    assert found is not None
    print(f"now a dense SVD of {d} x {k}, which may take minutes", file=sys.stderr, flush=True)
    began = time.process_time()
    product = factors.product
    u, s, v_t = torch.linalg.svd(product, full_matrices=False)
    kept = int((s > 1e-6 * s[0]).sum())
    u, s, v_t = u[:, :kept], s[:kept], v_t[:kept]
    damping = (s[0] / 1e3) ** 2 * (s[0] / s[-1] / 1e3 - 1).clamp(0, 1)
    expected = (u * (s**3 / (s**2 + damping))) @ v_t
    dense = time.process_time() - began
    apart = float((found.factors.product - expected).norm() / expected.norm())
    changed = float((expected - product).norm() / product.norm())
    print(
        f"\nStableSVD, {d} x {k}, rank {rank}, condition {found.condition:.3g}: {_spread(ours)} CPU s; "
        f"by a dense SVD {dense:.3g} CPU s, {dense / statistics.median(ours):.3g} times as long. "
        f"The results are {apart:.1e} apart, {changed:.1e} from the product before; {found.rank} and {kept} kept."
    )


def _resident(which: Literal["VmRSS", "VmHWM"]) -> int:
    """Bytes of memory that this process has now, or had at most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:")) * 1024


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()
