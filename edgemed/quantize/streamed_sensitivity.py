"""The second-order estimate of what each tensor loses, with one decoder layer of the checkpoint in memory at a time.

The texts run forward through the layers, and what enters each layer is kept (n_layers x n_tokens x hidden floats: 0.8
GB for 2,000 tokens of a 7B model). Then the gradient of a drawn next token's log p goes back: through the head in
slices, and layer by layer through its forward pass run once more. So every weight is read twice.

It is the estimate of second_order.py with one draw and with H's diagonal: errors of rounding to nearest hardly depend
on each other, so neither more draws nor the whole of H bring it nearer to the measured order
(benchmarks/quantize/bench_sensitivity.py). For errors that were compensated the diagonal would not do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemed.core.progress import Progress, SilentProgress
from edgemed.evaluate.streamed_model import HEAD_ROWS, StreamedModel
from edgemed.models.checkpoint import Checkpoint, TensorReader, role_of
from edgemed.quantize.layer_replay import WeightedText, counted_weight
from edgemed.quantize.second_order import second_order_cost
from edgemed.quantize.sensitivity import FormatCost, Sensitivity, SensitivityInputs, TensorSensitivity

Floats = npt.NDArray[np.float32]
Nearest = Callable[[Floats, str, str], Floats]
"""What some rows of a tensor become, rounded to nearest and read back as float32: of rows, format and tensor name."""

_ROWS = 8192
"""Rows of a matrix rounded at a time."""
_SILENT = SilentProgress()


def streamed_sensitivity(
    checkpoint: Checkpoint,
    texts: Sequence[WeightedText],
    formats: Mapping[str, Sequence[str]],
    nearest: Nearest,
    inputs: SensitivityInputs,
    progress: Progress = _SILENT,
) -> Sensitivity:
    """The estimated cost of every tensor of `formats` (checkpoint names) in its formats; `inputs.seed` draws tokens.

    Raises UsageError for texts without a token that counts, NotAccepted when transformers does not know the model.
    """
    weight = counted_weight(texts)
    texts = [text for text in texts if len(text.ids) > 1]
    with checkpoint.reader() as reader:
        run = _Run(checkpoint, reader, formats, nearest, weight)
        entering = run.forward(texts, progress)
        gradients = run.head(texts, entering.pop(), inputs.seed or 0, progress)
        with progress.task("Following gradients back", run.model.n_layers, "layers") as task:
            while entering:
                gradients = run.layer(len(entering) - 1, entering.pop(), gradients)
                task.advance()
        run.embedding(texts, gradients)
    return Sensitivity(
        inputs=inputs,
        n_tokens=sum(len(text.ids) for text in texts),
        tensors=tuple(run.result(name) for name in sorted(formats)),
    )


class _Run:
    """One pass forward and back; costs of tensors are added up as their layer is reached."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        reader: TensorReader,
        formats: Mapping[str, Sequence[str]],
        nearest: Nearest,
        weight: float,
    ) -> None:
        self.model = StreamedModel(checkpoint, reader)
        self._checkpoint = checkpoint
        self._reader = reader
        self._formats = formats
        self._nearest = nearest
        self._weight = weight
        self._costs = {name: dict.fromkeys(kinds, 0.0) for name, kinds in formats.items()}

    def result(self, name: str) -> TensorSensitivity:
        """What was added up for a tensor."""
        costs = tuple(FormatCost(format=kind, kl=cost) for kind, cost in self._costs[name].items())
        return TensorSensitivity(tensor=name, costs=costs)

    def forward(self, texts: Sequence[WeightedText], progress: Progress) -> list[list[Any]]:
        """Per layer, and for the final norm, what enters it of each text, (n_tokens, hidden)."""
        import torch

        with torch.no_grad(), progress.task("Running the model", self.model.n_layers, "layers") as task:
            entering = [[self.model.embed(text.ids) for text in texts]]
            for number in range(self.model.n_layers):
                with self.model.layer(number) as module:
                    entering.append([self.model.run(module, number, hidden) for hidden in entering[-1]])
                task.advance()
        return entering

    def head(self, texts: Sequence[WeightedText], entering: list[Any], seed: int, progress: Progress) -> list[Any]:
        """Draw the next tokens; the gradients at what enters the final norm, and the head's own costs."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        sums = _Squares()
        name = "lm_head.weight" if "lm_head.weight" in self._checkpoint.tensors else "model.embed_tokens.weight"
        gradients = []
        with progress.task("Drawing next tokens", len(texts), "texts") as task:
            for text, states in zip(texts, entering, strict=True):
                hidden = states.requires_grad_()
                normed = self.model.normed(hidden)
                logits = torch.from_numpy(self.model.head(normed.detach().numpy()))
                at_logits = _of_drawn(logits, text.weights, generator)
                sums.add(name, normed.detach(), at_logits)
                normed.backward(self._through_head(name, at_logits))
                gradients.append(hidden.grad)
                task.advance()
        if name in self._formats:
            self._add(name, *sums.of(name, self._weight))
        return gradients

    def layer(self, number: int, entering: list[Any], gradients: list[Any]) -> list[Any]:
        """The gradients at what enters the layer; its tensors' costs are added up."""
        with self.model.layer(number) as module:
            module.requires_grad_(False)
            with _watching(module, f"model.layers.{number}.") as sums:
                before = []
                for states, gradient in zip(entering, gradients, strict=True):
                    hidden = states.detach().requires_grad_()
                    self.model.run(module, number, hidden).backward(gradient)
                    before.append(hidden.grad)
        for name in sums.names:
            if name in self._formats:
                self._add(name, *sums.of(name, self._weight))
        return before

    def embedding(self, texts: Sequence[WeightedText], gradients: list[Any]) -> None:
        """The embedding's costs as the first layer's input, each token's row by the gradients where it stands."""
        name = next((name for name in self._formats if role_of(name) == "embedding"), None)
        if name is None:
            return
        squares: dict[int, Floats] = {}
        for text, gradient in zip(texts, gradients, strict=True):
            for token, row in zip(text.ids, gradient.square().numpy(), strict=True):
                squares[token] = squares[token] + row if token in squares else row
        tokens = sorted(squares)
        stored = self._checkpoint.tensors[name]
        rows = np.concatenate([self._reader.float32(stored, token, token + 1) for token in tokens])
        scale = float(self.model.embed(tokens[-1:])[0].norm()) / max(float(np.linalg.norm(rows[-1])), 1e-30)
        by_row = np.stack([squares[token] for token in tokens]) * (scale**2 / self._weight)
        for kind in self._formats[name]:
            lost = self._nearest(rows, kind, name) - rows
            self._costs[name][kind] += 0.5 * float(np.einsum("rc,rc,rc->", by_row, lost, lost, dtype=np.float64))

    def _add(self, name: str, moments: Floats, gradients: Floats) -> None:
        stored = self._checkpoint.tensors[name]
        for start in range(0, stored.shape[0], _ROWS):
            stop = min(start + _ROWS, stored.shape[0])
            rows = np.ascontiguousarray(self._reader.float32(stored, start, stop))
            for kind in self._formats[name]:
                lost = self._nearest(rows, kind, name) - rows
                self._costs[name][kind] += second_order_cost(lost, moments, gradients[start:stop])

    def _through_head(self, name: str, at_logits: Any) -> Any:
        import torch

        stored = self._checkpoint.tensors[name]
        result = torch.zeros(at_logits.shape[0], stored.shape[1])
        for start in range(0, stored.shape[0], HEAD_ROWS):
            stop = min(start + HEAD_ROWS, stored.shape[0])
            result += at_logits[:, start:stop] @ torch.from_numpy(np.array(self._reader.float32(stored, start, stop)))
        return result


class _Squares:
    """Squares of inputs and of gradients at the outputs, summed over tokens."""

    def __init__(self) -> None:
        self._inputs: dict[str, Any] = {}
        self._gradients: dict[str, Any] = {}
        self._count: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """The tensors that were reached."""
        return list(self._gradients)

    def add(self, name: str, inputs: Any, gradients: Any) -> None:
        """Add some tokens' inputs and gradients."""
        self.add_inputs(name, inputs)
        self.add_gradients(name, gradients)

    def add_inputs(self, name: str, inputs: Any) -> None:
        """(..., columns)."""
        rows = inputs.detach().flatten(0, -2)
        self._inputs[name] = self._inputs.get(name, 0) + rows.square().sum(0)
        self._count[name] = self._count.get(name, 0) + len(rows)

    def add_gradients(self, name: str, gradients: Any) -> None:
        """(..., rows)."""
        self._gradients[name] = self._gradients.get(name, 0) + gradients.flatten(0, -2).square().sum(0)

    def of(self, name: str, weight: float) -> tuple[Floats, Floats]:
        """Mean squares of inputs (columns,), and squares of gradients (rows,) as a share of the texts' weight."""
        moments, gradients = self._inputs[name] / self._count[name], self._gradients[name] / weight
        return moments.numpy(), gradients.numpy()


@contextmanager
def _watching(module: Any, prefix: str) -> Iterator[_Squares]:
    """Sums over every linear layer in `module`, while the block runs."""
    import torch

    sums = _Squares()

    def watch(name: str) -> Callable[..., None]:
        def follow(_module: Any, given: tuple[Any, ...], output: Any) -> None:
            sums.add_inputs(name, given[0])
            output.register_hook(lambda gradient: sums.add_gradients(name, gradient))

        return follow

    hooks = [
        part.register_forward_hook(watch(f"{prefix}{name}.weight"))
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear)
    ]
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


def _of_drawn(logits: Any, weights: Floats, generator: Any) -> Any:
    """Gradients (n_tokens, vocabulary) of sqrt(weight) log p of drawn next tokens; 0 behind the last token."""
    import torch

    likely = logits[:-1].softmax(-1)
    drawn = torch.multinomial(likely, 1, generator=generator)
    roots = torch.from_numpy(np.array(weights[1:], np.float32)).sqrt()[:, None]
    gradients = torch.zeros_like(logits)
    gradients[:-1] = -likely * roots
    gradients[:-1].scatter_add_(1, drawn, roots)
    return gradients
