"""What each tensor loses in each format: measured once, written to a file, used for any budget.

The loss is KL(parent || parent with only that tensor rounded) in nats, a mean over the predictions of calibration text
in which tokens of doses, drugs and negations count more. Losses of several tensors are then taken to add up
(allocation.py). `second_order.py` estimates the same figures for models on which measuring takes too long.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from edgemed.core.errors import EdgemedError, UsageError
from edgemed.core.files import write_text
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import Record, digest_of
from edgemed.models.checkpoint import Checkpoint
from edgemed.quantize.allocation import Option
from edgemed.quantize.layer_replay import LayerReplay, WeightedText

Floats = npt.NDArray[np.float32]
Rounded = Callable[[str, str], Floats]
"""The float32 values (rows, columns) that the tensor of that checkpoint name has in that format."""

_READ_BYTES = 1 << 24


class SensitivityInputs(Record):
    """All that decides the figures: files with equal inputs hold equal figures, up to the machine's rounding."""

    checkpoint: str
    """`checkpoint_digest`."""
    texts: str
    """Digest of token ids and weights."""
    rounding: str
    """How weights were rounded, such as "nearest" or "compensated", with its settings."""
    measure: Literal["kl", "second_order"] = "kl"
    seed: int | None = None
    """Of what was drawn; None when nothing was."""


class FormatCost(Record):
    """What one tensor loses in one format."""

    format: str
    kl: float
    """Nats per predicted token, by the texts' weights."""
    plain_kl: float | None = None
    """The same with all tokens alike; None where it was not measured."""


class TensorSensitivity(Record):
    """What one tensor loses."""

    tensor: str
    costs: tuple[FormatCost, ...]


class LayerAttention(Record):
    """How much of a layer's attention goes to medical terms, beside their share of what it can see (1 = just that)."""

    layer: int
    ratio: float
    heads: tuple[float, ...]
    """The same for each head."""


class Sensitivity(Record):
    """A sensitivity file."""

    schema_version: Literal[1] = 1
    inputs: SensitivityInputs
    n_tokens: int
    """Of the texts."""
    tensors: tuple[TensorSensitivity, ...]
    attention: tuple[LayerAttention, ...] = ()
    """Reported; costs are not changed by it."""

    def cost(self, tensor: str, name: str) -> float:
        """KL of that tensor in that format. Raises KeyError when it is not in the file."""
        return self._table()[tensor][name]

    def options(self, n_bytes: Callable[[str, str], int]) -> list[Option]:
        """Every tensor in every format, for allocation; `n_bytes` says what a tensor takes in a format."""
        return [
            Option(tensor=row.tensor, format=cost.format, n_bytes=n_bytes(row.tensor, cost.format), cost=cost.kl)
            for row in self.tensors
            for cost in row.costs
        ]

    def _table(self) -> dict[str, dict[str, float]]:
        return {row.tensor: {cost.format: cost.kl for cost in row.costs} for row in self.tensors}


def read_sensitivity(path: Path) -> Sensitivity:
    """The sensitivity file at `path`. Raises UsageError, with file and field, when it is none."""
    try:
        return Sensitivity.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"The sensitivity file {path} cannot be read: {error.strerror}.", next_step="check the path"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(
            f"{path} is no sensitivity file: {place}: {first['msg']}.", next_step="measure it again"
        ) from error


def checkpoint_digest(checkpoint: Checkpoint, progress: Progress | None = None) -> str:
    """SHA-256 of the weights, however they are sharded, and of the configuration; reads every byte once."""
    content = hashlib.sha256(json.dumps(checkpoint.config.values, sort_keys=True).encode())
    total = sum(tensor.n_bytes for tensor in checkpoint.tensors.values())
    with checkpoint.reader() as reader, (progress or SilentProgress()).task("Reading the weights", total, "B") as task:
        for name in sorted(checkpoint.tensors):
            tensor = checkpoint.tensors[name]
            content.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            rows = tensor.shape[0] if tensor.shape else 1
            step = max(1, _READ_BYTES * rows // max(1, tensor.n_bytes))
            for start in range(0, rows, step):
                content.update(np.ascontiguousarray(reader.rows(tensor, start, min(start + step, rows))).data)
            task.advance(tensor.n_bytes)
    return content.hexdigest()


def texts_digest(texts: Sequence[WeightedText]) -> str:
    """SHA-256 of token ids and weights."""
    return digest_of([[list(map(int, text.ids)), [round(float(w), 6) for w in text.weights]] for text in texts])


def measured_sensitivity(
    model: Any,
    texts: Sequence[WeightedText],
    formats: Mapping[str, Sequence[str]],
    rounded: Rounded,
    inputs: SensitivityInputs,
    output: Path,
    progress: Progress | None = None,
) -> Sensitivity:
    """The sensitivity file `output`, measured where it does not hold it yet.

    `model` is a transformers model in float32 on any device; `formats` names those to be tried for every tensor, by
    checkpoint name. What was measured is kept tensor by tensor beside `output` and taken up again after a kill, as long
    as `inputs` are the same. Costs one run of the layers from the changed one on for every tensor and format.
    """
    kept = _Kept(output, inputs)
    rows = kept.read()
    missing = {name: wanted for name, names in formats.items() if (wanted := _not_in(rows.get(name), names))}
    if missing:
        progress = progress or SilentProgress()
        replay = LayerReplay(model, texts, progress=progress)
        work = {name: replay.n_layers + 1 - max(0, replay.first_layer(name)) for name in missing}
        total = sum(work[name] * len(names) for name, names in missing.items())
        with progress.task("Measuring what each tensor loses", total, "layer runs") as task:
            for name, names in missing.items():
                task.describe(name)
                found = []
                for kind in names:
                    lost = replay.divergence({name: rounded(name, kind)})
                    found.append(FormatCost(format=kind, kl=lost.weighted, plain_kl=lost.plain))
                    task.advance(work[name])
                before = rows[name].costs if name in rows else ()
                rows[name] = TensorSensitivity(tensor=name, costs=(*before, *found))
                kept.append(rows[name])
    result = Sensitivity(
        inputs=inputs,
        n_tokens=sum(len(text.ids) for text in texts),
        tensors=tuple(rows[name] for name in sorted(rows)),
        attention=kept.attention,
    )
    write_sensitivity(output, result)
    kept.remove()
    return result


def write_sensitivity(output: Path, sensitivity: Sensitivity) -> None:
    """Write the file, whole."""
    write_text(output, sensitivity.model_dump_json(indent=1) + "\n")


def _not_in(row: TensorSensitivity | None, names: Sequence[str]) -> list[str]:
    known = {cost.format for cost in row.costs} if row else set()
    return [name for name in names if name not in known]


class _Kept:
    """What has been measured already: the finished file, and the lines of an interrupted run."""

    def __init__(self, output: Path, inputs: SensitivityInputs) -> None:
        self._output = output
        self._lines = output.with_name(output.name + ".part")
        self._inputs = inputs
        self.attention: tuple[LayerAttention, ...] = ()

    def read(self) -> dict[str, TensorSensitivity]:
        """Rows by tensor, those of other inputs left out."""
        rows: dict[str, TensorSensitivity] = {}
        if self._output.is_file():
            with suppress(UsageError):
                before = read_sensitivity(self._output)
                if before.inputs == self._inputs:
                    rows = {row.tensor: row for row in before.tensors}
                    self.attention = before.attention
        lines = self._read_lines()
        if lines and lines[0] == self._inputs.digest():
            for line in lines[1:]:
                with suppress(ValidationError):  # the line that a kill cut off
                    row = TensorSensitivity.model_validate_json(line)
                    rows[row.tensor] = row
        else:
            self._lines.unlink(missing_ok=True)
        return rows

    def append(self, row: TensorSensitivity) -> None:
        """Keep one more tensor. A line begins with its line end, so that one cut off by a kill spoils no other."""
        try:
            self._lines.parent.mkdir(parents=True, exist_ok=True)
            head = "" if self._lines.exists() else self._inputs.digest()
            with self._lines.open("a", encoding="utf-8") as file:
                file.write(f"{head}\n{row.model_dump_json()}")
        except OSError as error:
            raise EdgemedError(
                f"{self._lines} could not be written: {error.strerror or error}.",
                next_step="free space on that disk, or name another place",
            ) from error

    def remove(self) -> None:
        """The finished file holds it all."""
        self._lines.unlink(missing_ok=True)

    def _read_lines(self) -> list[str]:
        if not self._lines.is_file():
            return []
        return self._lines.read_text(encoding="utf-8", errors="replace").splitlines()
