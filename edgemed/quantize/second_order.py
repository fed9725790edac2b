"""What each tensor loses in each format, estimated from gradients: minutes where measuring takes hours.

For small changes KL(parent || changed) is half the change's square in the Fisher information. With x a layer's input,
y = W x its output and g the gradient of log p(a next token drawn from the model) at y, taken as independent of x and
over rows of W (as in K-FAC, arXiv 1503.05671): KL = 1/2 sum_r E[g_r^2] (dW_r H dW_r^T), H = E[x x^T]. A token's weight
w enters as sqrt(w) times its log p: drawn next tokens are independent, so squares of gradients add up with w.

The model runs forward and backward once per draw and batch; after that a format costs one product of matrices. How far
it holds (g and x, and rows, do depend on each other; changes are not small) benchmarks/quantize/bench_sensitivity.py
measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemed.core.progress import Progress, SilentProgress
from edgemed.models.checkpoint import role_of
from edgemed.quantize.layer_replay import WeightedText, check_float32, counted_weight, padded_batches
from edgemed.quantize.sensitivity import FormatCost, Rounded, Sensitivity, SensitivityInputs, TensorSensitivity

Floats = npt.NDArray[np.float32]

DRAWS = 4
"""Next tokens drawn for every position."""
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(slots=True)
class OutputGradients:
    """Squares of gradients at the layers' outputs, summed over positions, as a share of the texts' weight."""

    rows: dict[str, Floats] = field(default_factory=dict)
    """(rows,) by checkpoint name; of a tied embedding, what it does as the head."""
    embedding: Floats | None = None
    """(vocabulary, hidden): of each token's embedding as the first layer's input; zero for tokens that never occur."""


def output_gradients(
    model: Any, texts: Sequence[WeightedText], *, draws: int = DRAWS, seed: int = 0, progress: Progress | None = None
) -> OutputGradients:
    """What the second-order estimate needs of a transformers model in float32, for every linear layer.

    Costs `draws` runs forward and backward over the texts; weights need no gradients, so memory is that of one batch's
    activations. Raises UsageError for texts without a token that counts.
    """
    import torch

    check_float32(model)
    batches = padded_batches(texts)
    weight = counted_weight(texts)
    generator = torch.Generator(device=model.device).manual_seed(seed)
    sums = _Sums(model)
    with (
        _weights_fixed(model),
        sums.watching(),
        (progress or SilentProgress()).task("Following gradients", draws * len(batches)) as task,
    ):
        for batch in batches:
            for _ in range(draws):
                sums.ids = batch.ids.to(model.device)
                _backward(model, sums.ids, batch.weights.to(model.device), generator)
                task.advance()
    scale = 1 / (draws * weight)
    rows = {name: (total * scale).cpu().numpy() for name, total in sums.rows.items()}
    if getattr(model.config, "tie_word_embeddings", False):
        rows[_EMBEDDING] = rows.pop(_HEAD)
    return OutputGradients(rows, (sums.embedding * scale).cpu().numpy())


def input_moments(model: Any, texts: Sequence[WeightedText]) -> dict[str, Floats]:
    """H = E[x x^T] (columns, columns) of every linear layer's input, by checkpoint name: for models small enough."""
    import torch

    totals: dict[str, Any] = {}
    real: Any = None
    count = 0

    def watch(name: str) -> Callable[..., None]:
        def add(_module: Any, positional: tuple[Any, ...]) -> None:
            inputs = positional[0][real]
            moments = inputs.T @ inputs
            totals[name] = moments + totals[name] if name in totals else moments

        return add

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in _linear(model)]
    try:
        with torch.inference_mode():
            for batch in padded_batches(texts):
                real = batch.real.to(model.device)
                count += int(real.sum())
                model(input_ids=batch.ids.to(model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    result = {name: (total / count).cpu().numpy() for name, total in totals.items()}
    if getattr(model.config, "tie_word_embeddings", False):
        result[_EMBEDDING] = result.pop(_HEAD)
    return result


def second_order_cost(lost: Floats, moments: Floats, gradients: Floats) -> float:
    """1/2 sum_r g2_r (d_r H d_r^T) in nats, for lost weights d (rows, columns), g2 (rows,), and H or its diagonal."""
    through = lost @ moments if moments.ndim == 2 else lost * moments
    squares = np.einsum("rc,rc->r", through, lost, dtype=np.float64)
    return float(max(0.0, 0.5 * float(squares @ gradients.astype(np.float64))))


def estimated_sensitivity(
    weights: Callable[[str], Floats],
    moments: Callable[[str], Floats],
    gradients: OutputGradients,
    formats: Mapping[str, Sequence[str]],
    rounded: Rounded,
    inputs: SensitivityInputs,
    n_tokens: int,
    progress: Progress | None = None,
) -> Sensitivity:
    """The sensitivity by the second-order estimate: `weights` and `moments` (H or its diagonal) by checkpoint name."""
    tensors = []
    total = sum(len(names) for names in formats.values())
    with (progress or SilentProgress()).task("Estimating what each tensor loses", total) as task:
        for name in sorted(formats):
            task.describe(name)
            parent = weights(name)
            costs = []
            for kind in formats[name]:
                lost = rounded(name, kind) - parent
                costs.append(FormatCost(format=kind, kl=_cost(name, lost, moments, gradients)))
                task.advance()
            tensors.append(TensorSensitivity(tensor=name, costs=tuple(costs)))
    return Sensitivity(inputs=inputs, n_tokens=n_tokens, tensors=tuple(tensors))


def _cost(name: str, lost: Floats, moments: Callable[[str], Floats], gradients: OutputGradients) -> float:
    cost = 0.0
    if role_of(name) == "embedding" and gradients.embedding is not None:
        cost += 0.5 * float(np.einsum("rc,rc,rc->", gradients.embedding, lost, lost, dtype=np.float64))
    if name in gradients.rows:
        cost += second_order_cost(lost, moments(name), gradients.rows[name])
    return cost


def _linear(model: Any) -> Iterator[tuple[str, Any]]:
    """The linear layers, by the checkpoint name of their weights."""
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            yield f"{name}.weight", module


class _Sums:
    """Adds up squares of gradients while the model runs backward."""

    def __init__(self, model: Any) -> None:
        import torch

        self._model = model
        self.rows: dict[str, Any] = {}
        self.embedding = torch.zeros_like(model.model.embed_tokens.weight)
        self.ids: Any = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on every linear layer and on the embedding, until the block ends."""
        hooks = [module.register_forward_hook(self._follow(name)) for name, module in _linear(self._model)]
        hooks.append(self._model.model.embed_tokens.register_forward_hook(self._follow_embedding))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _follow(self, name: str) -> Callable[..., None]:
        def add(gradient: Any) -> None:
            squares = gradient.flatten(0, -2).square().sum(0)
            self.rows[name] = squares + self.rows[name] if name in self.rows else squares

        def follow(_module: Any, _inputs: Any, output: Any) -> None:
            output.register_hook(add)

        return follow

    def _follow_embedding(self, module: Any, _inputs: Any, output: Any) -> Any:
        scale = float(getattr(module, "embed_scale", 1.0))  # Gemma multiplies its embedding's rows

        def add(gradient: Any) -> None:
            self.embedding.index_add_(0, self.ids.flatten(), gradient.flatten(0, 1).square() * scale**2)

        output.requires_grad_()
        output.register_hook(add)
        return output


@contextmanager
def _weights_fixed(model: Any) -> Iterator[None]:
    """Weights take no gradients until the block ends."""
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.requires_grad_(False)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted[name])


def _backward(model: Any, ids: Any, weights: Any, generator: Any) -> None:
    """Draw the next token of every position, and follow sqrt(weight) log p of it back."""
    import torch

    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    log_p = logits.flatten(0, 1).log_softmax(-1)
    drawn = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
    (log_p.gather(1, drawn)[:, 0] * weights[:, 1:].flatten().sqrt()).sum().backward()
