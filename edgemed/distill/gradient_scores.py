"""How much each matrix's first gradient has to say: its leading singular values, without holding the gradient.

The gradient of W (d, k) is dY^T X: dY (n, d) the gradient of a linear module's n outputs, X (n, k) its inputs. What
is kept of it are q rows of each, so that their product is its best approximation of rank q; each further part of the
step is added to those. The factors of all modules take 4 q sum(d + k) bytes; at q = 3 rank + 8 that is 0.6 GB for a 7B
at rank 16, no more than AdamW will need for the adapter, where all gradients would take 26 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from edgemed.core.errors import EdgemedError

_POWERS = 2
"""Passes of subspace iteration; singular values that fall slowly need them."""


class GradientScores:
    """Sums the gradients of some linear modules over backward passes, as factors of rank `kept`."""

    def __init__(self, modules: Mapping[str, torch.nn.Linear], kept: int, seed: int) -> None:
        self._parts = {
            name: _Part(min(kept, module.in_features, module.out_features), seed + number)
            for number, (name, module) in enumerate(modules.items())
        }
        self._modules = modules

    def measure(self, gradients: Callable[[], None]) -> dict[str, list[float]]:
        """Singular values of each module's gradient, falling, after `gradients` has run the step's backward passes.

        The modules' own weights need no gradient and get none. Raises EdgemedError where there is no finite gradient.
        """
        hooks = [module.register_forward_hook(self._parts[name].watch) for name, module in self._modules.items()]
        try:
            with torch.enable_grad():
                gradients()
        finally:
            for hook in hooks:
                hook.remove()
        if faults := [name for name, part in self._parts.items() if part.lost]:
            raise EdgemedError(
                f"The first step's gradient of {faults[0]} is no number.",
                next_step="look at the data and the loss's weights, or train without adapter.allocation",
            )
        return {name: part.values() for name, part in self._parts.items()}


class _Part:
    """The gradient of one module so far: left^T right, (kept, d) and (kept, k)."""

    def __init__(self, kept: int, seed: int) -> None:
        self.kept, self.seed = kept, seed
        self.left: Tensor | None = None
        self.right: Tensor | None = None
        self.lost = False
        """Whether something was no number."""

    def watch(self, _module: Any, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A forward hook: the output, that tells of its gradient. A frozen model's first outputs need none yet."""
        reached = output if output.requires_grad else output.detach().requires_grad_()
        watched: Tensor = _Watched.apply(given[0], reached, self)
        return watched

    def add(self, d_output: Tensor, given: Tensor) -> None:
        """One backward pass: (..., d) and (..., k)."""
        left, right = d_output.flatten(0, -2).float(), given.detach().flatten(0, -2).float()
        if not bool(left.isfinite().all() and right.isfinite().all()):
            self.lost = True
            return
        if self.left is not None and self.right is not None:
            left, right = torch.cat((self.left, left)), torch.cat((self.right, right))
        u, s, v = leading(left, right, self.kept, self.seed)
        self.left, self.right = (u * s).T.contiguous(), v.T.contiguous()

    def values(self) -> list[float]:
        if self.left is None:
            return [0.0] * self.kept
        found: list[float] = self.left.norm(dim=1).tolist()
        return found


class _Watched(torch.autograd.Function):  # type: ignore[misc]
    """The identity on a module's output; its inputs are saved as autograd saves them, so checkpointing still works."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, output: Tensor, part: _Part) -> Tensor:
        ctx.save_for_backward(given)
        ctx.part = part
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[None, Tensor, None]:
        (given,) = ctx.saved_tensors
        with torch.no_grad():
            ctx.part.add(d_output, given)
        return None, d_output, None


def leading(left: Tensor, right: Tensor, kept: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """U (d, kept), S (kept,) and V (k, kept) of left^T right, (n, d) and (n, k), without forming it.

    Randomised subspace iteration (Halko, Martinsson and Tropp 2011), O(n (d + k) kept); exact where `kept` is a side.
    """
    made = torch.Generator().manual_seed(seed)
    start = torch.randn(right.shape[1], kept, generator=made).to(right)
    basis = torch.linalg.qr(left.T @ (right @ start))[0]
    for _ in range(_POWERS):
        across = torch.linalg.qr(right.T @ (left @ basis))[0]
        basis = torch.linalg.qr(left.T @ (right @ across))[0]
    u, s, v_t = torch.linalg.svd((left @ basis).T @ right, full_matrices=False)
    return basis @ u, s, v_t.T
