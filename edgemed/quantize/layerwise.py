"""Rounds a model layer by layer, each layer on the inputs that the rounded layers before it make.

The way of one layer
    1  its weights are read in float32, every calibration text runs through it, and the second moments of each matrix's
       inputs are summed, token by token, with the tokens' weights
    2  each matrix is rounded so that its errors cancel on those inputs, and written to the work folder
    3  every text runs through the rounded layer: what comes out is the next layer's input
A layer whose file is in the work folder is not rounded again: a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import ModelRefused
from edgemed.core.files import whole_file, write_text
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import digest_of
from edgemed.evaluate.streamed_model import StreamedModel
from edgemed.models.checkpoint import Checkpoint, spec_from_checkpoint
from edgemed.quantize.calibration_texts import CalibrationSet
from edgemed.quantize.rounding import Rounding

Floats = npt.NDArray[np.float32]
_SILENT = SilentProgress()
_NAMED = 5  # matrices that a report names


@dataclass(frozen=True, slots=True)
class RoundedTensor:
    """One finished matrix in the work folder."""

    name: str
    """In the checkpoint."""
    format: str
    path: Path
    method: str
    errors: dict[str, float]
    """Relative mean squared error of its outputs on the calibration texts, by method (rounding.RoundedMatrix)."""

    def stored(self) -> npt.NDArray[np.uint8]:
        """What its format stores (rounding.RoundedMatrix)."""
        with np.load(self.path) as file:
            stored: npt.NDArray[np.uint8] = file[self.name]
        return stored


def worst(finished: Mapping[str, RoundedTensor]) -> tuple[str, ...]:
    """The matrices whose outputs lost most, worst first: those that more bits would help most."""
    by_loss = sorted(finished.values(), key=lambda tensor: -tensor.errors[tensor.method])
    return tuple(tensor.name for tensor in by_loss[:_NAMED])


def round_layers(
    checkpoint: Checkpoint,
    assignment: Mapping[str, Rounding],
    calibration: CalibrationSet,
    work: Path,
    *,
    progress: Progress = _SILENT,
    device: str = "cpu",
) -> dict[str, RoundedTensor]:
    """Every matrix of `assignment` (by checkpoint name) that lies in a decoder layer, rounded.

    They are kept in a folder of `work` that checkpoint, assignment and calibration name: what an earlier run for the
    same ones left there is used. Raises ModelRefused for weights or inputs that are zero or not finite, EdgemedError
    for a full disk.
    """
    import torch

    work = work / f"layers-{_digest(checkpoint, assignment, calibration)[:12]}"
    finished: dict[str, RoundedTensor] = {}
    with checkpoint.reader() as reader, torch.inference_mode():
        model = StreamedModel(checkpoint, reader)
        hidden = [model.embed(text.ids) for text in calibration.texts]
        with progress.task("Rounding layers", model.n_layers, "layers") as task:
            for number in range(model.n_layers):
                task.describe(f"layer {number + 1} of {model.n_layers}")
                layer = _read(work, number)
                if layer is None:
                    layer = _round_layer(model, number, hidden, calibration, assignment, work, device)
                finished |= layer
                rounded = {
                    name: assignment[name].values(tensor.stored(), reader.float32(checkpoint.tensors[name]))
                    for name, tensor in layer.items()
                }
                with model.layer(number, rounded) as module:
                    hidden = [model.run(module, number, states) for states in hidden]
                task.advance()
    return finished


def _round_layer(
    model: StreamedModel,
    number: int,
    hidden: list[Any],
    calibration: CalibrationSet,
    assignment: Mapping[str, Rounding],
    work: Path,
    device: str,
) -> dict[str, RoundedTensor]:
    prefix = f"model.layers.{number}."
    stored: dict[str, npt.NDArray[np.uint8]] = {}
    about: dict[str, Any] = {}
    with model.layer(number) as module:
        wanted = {
            prefix + name + ".weight": part
            for name, part in module.named_modules()
            if prefix + name + ".weight" in assignment
        }
        with _moments_of(wanted) as moments:
            for text, states in zip(calibration.texts, hidden, strict=True):
                moments.weights = text.weights
                model.run(module, number, states)
        for name, part in wanted.items():
            rounding = assignment[name]
            result = rounding.round(part.weight.numpy(), moments.mean(name), name, device)
            stored[name] = result.stored
            about[name] = {"format": rounding.name, "method": result.method, "errors": result.errors}
    path = work / f"layer-{number:03d}.npz"
    with whole_file(path) as part_file, part_file.open("wb") as file:
        np.savez(file, allow_pickle=False, **stored)
    write_text(path.with_suffix(".json"), json.dumps(about))
    return _read(work, number) or {}


class _Moments:
    """Weighted second moments of the inputs of some matrices; those that share an input share the sum."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self.weights: npt.NDArray[np.float32] = np.ones(1, np.float32)
        self._sums: dict[str, Any] = {}
        self._total: dict[str, float] = {}
        self._owner = {name: name for name in wanted}
        self._last: tuple[Any, str] = (None, "")

    def add(self, name: str, inputs: Any) -> None:
        """Add one text's inputs (1, n_tokens, columns) of the matrix `name`."""
        import torch

        if self._last[0] is inputs:  # gate and up, or query, key and value
            self._owner[name] = self._last[1]
            return
        self._last = (inputs, name)
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        weights = torch.from_numpy(self.weights)
        scaled = rows * weights.sqrt()[:, None]
        if name not in self._sums:
            self._sums[name] = torch.zeros(rows.shape[1], rows.shape[1])
            self._total[name] = 0.0
        self._sums[name].addmm_(scaled.T, scaled)
        self._total[name] += float(weights.sum())

    def mean(self, name: str) -> Floats:
        """The weighted mean of x x^T, (columns, columns). Raises ModelRefused when nothing was seen."""
        owner = self._owner[name]
        if owner not in self._sums:
            raise ModelRefused(f"No calibration text reached {name}.", next_step="report this model")
        self._sums[owner] /= self._total[owner]  # in place: the widest takes 1.4 GB in a 7B model
        self._total[owner] = 1.0
        result: Floats = self._sums[owner].numpy()
        return result


@contextmanager
def _moments_of(wanted: Mapping[str, Any]) -> Iterator[_Moments]:
    """Sums the second moments of what these modules are given, while the block runs."""
    moments = _Moments(wanted)

    def hook(name: str) -> Any:
        return lambda _module, arguments: moments.add(name, arguments[0])

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in wanted.items()]
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()


def _digest(checkpoint: Checkpoint, assignment: Mapping[str, Rounding], calibration: CalibrationSet) -> str:
    """What a work folder is good for."""
    files = sorted(
        {(t.path.name, t.path.stat().st_size, t.path.stat().st_mtime_ns) for t in checkpoint.tensors.values()}
    )
    return digest_of(
        {
            "spec": spec_from_checkpoint(checkpoint).digest(),
            "files": [list(file) for file in files],
            "formats": {name: rounding.name for name, rounding in assignment.items()},
            "calibration": calibration.digest,
        }
    )


def _read(work: Path, number: int) -> dict[str, RoundedTensor] | None:
    """The finished matrices of a layer; None when it is still to be rounded."""
    path = work / f"layer-{number:03d}.npz"
    about = path.with_suffix(".json")
    if not (path.is_file() and about.is_file()):
        return None
    entries = json.loads(about.read_text(encoding="utf-8"))
    return {
        name: RoundedTensor(name, entry["format"], path, entry["method"], entry["errors"])
        for name, entry in entries.items()
    }
