"""Everything that can be known to fail before the first slow step, found together."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edgemed_converters import converter_for
from edgemed_converters.adapter import plan_adapter
from edgemed_converters.card import ModelCard, card_metadata, read_card
from edgemed_converters.plan import ConversionPlan
from edgemed_converters.tokenizer import TokenizerPlan, plan_tokenizer

from edgemed import __version__
from edgemed.core.errors import EdgemedError, ModelRefused, UsageError
from edgemed.core.tensor_types import BY_NAME, Role
from edgemed.core.units import format_bytes
from edgemed.export.engine_question import require_engine
from edgemed.export.merged_weights import merged
from edgemed.export.report import Fallback
from edgemed.formats.recipes import Bound, QuantRecipe, bind, find_recipe
from edgemed.formats.targets import file_type
from edgemed.models.adapter import MERGED_KEY, file_digest
from edgemed.models.chat_template import render_chat
from edgemed.models.checkpoint import Checkpoint, open_checkpoint, spec_from_checkpoint
from edgemed.models.gguf_header import MAGIC
from edgemed.models.gguf_values import Value, text, u32
from edgemed.models.gguf_writer import Layout, OutputTensor, lay_out
from edgemed.models.lora_folder import WEIGHTS_FILE, LoraFolder, open_lora
from edgemed.models.spec import ModelSpec, TensorSpec
from edgemed.models.tokenizer import open_tokenizer

_NEEDED_RAM = 300 * 1024 * 1024
"""The interpreter with numpy, a tokenizer of 152,000 tokens, and a few MiB of buffers; measured, with some to spare."""

_T = TypeVar("_T")

_SPARE_BYTES = 16 * 1024 * 1024
"""What else a file system takes for a file: its own tables, a directory entry."""


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """All that is decided before the first byte is written."""

    checkpoint: Checkpoint
    spec: ModelSpec
    conversion: ConversionPlan
    tokenizer: TokenizerPlan
    card: ModelCard
    recipe: QuantRecipe
    parts: tuple[TensorSpec, ...]
    """Every tensor of the file, with its role and the size it will have."""
    layout: Layout
    fallbacks: tuple[Fallback, ...]
    notes: tuple[str, ...]

    @property
    def matrix_types(self) -> frozenset[str]:
        """The types that its matrices get."""
        return frozenset(part.type for part in self.parts if len(part.shape) > 1)


def prepare(
    source: Path,
    output: Path,
    recipe: str | QuantRecipe,
    assignment: Mapping[str, str] | None = None,
    merge: Path | None = None,
) -> ExportPlan:
    """The plan of one export to `output`; `assignment` names formats for tensors of the GGUF, before the recipe's.

    With `merge`, the folder of a PEFT adapter, the plan's checkpoint is the one with that adapter in it. Raises
    MissingExtra without the engine that verifies it; UsageError or ModelRefused naming all faults together: of the
    checkpoint, its tokenizer, the adapter, the output's place and its disk.
    """
    require_engine()
    chosen = find_recipe(recipe) if isinstance(recipe, str) else recipe
    if not source.is_dir():
        raise UsageError(f"{source} is no folder; a checkpoint is one.", next_step="name a Hugging Face folder")
    checkpoint = open_checkpoint(source)
    faults: list[EdgemedError] = []
    conversion = _gather(faults, lambda: converter_for(checkpoint).plan(checkpoint))
    spec = _gather(faults, lambda: spec_from_checkpoint(checkpoint))
    vocab_size = _gather([], lambda: checkpoint.config.integer("vocab_size")) or 0
    tokenizer = _gather(faults, lambda: plan_tokenizer(source, vocab_size, checkpoint.config.values))
    if tokenizer is not None:
        _gather(faults, lambda: open_tokenizer(source))
    adapter = None if merge is None or conversion is None else _gather(faults, lambda: _adapter(merge, conversion))
    _gather(faults, lambda: check_output(output))
    _gather(faults, _check_memory)
    if conversion is None or spec is None or tokenizer is None:
        raise _together(faults)
    card = read_card(source, dict(checkpoint.config.values))
    unbound = _unbound(conversion)
    bound = _gather(faults, lambda: bind(chosen, unbound, spec.n_layers, assignment=assignment))
    if bound is None:
        raise _together(faults)
    parts = tuple(map(_with_type, unbound, bound))
    tensors = [OutputTensor(part.name, BY_NAME[part.type], part.shape) for part in parts]
    metadata = _metadata(conversion, tokenizer, card, spec, chosen, file_type(_main_type(unbound, bound)))
    if adapter is not None:
        metadata[MERGED_KEY] = text(file_digest(adapter.folder / WEIGHTS_FILE))
    layout = lay_out(metadata, tensors)
    _gather(faults, lambda: _check_space(output, layout.file_bytes))
    if faults:
        raise _together(faults)
    notes = (*conversion.notes, *tokenizer.notes, *_notes(card, tokenizer))
    if adapter is not None and merge is not None:
        checkpoint = merged(checkpoint, adapter)
        notes = (*notes, f"with the adapter {merge.resolve().name} merged into {len(adapter.modules)} matrices")
    return ExportPlan(checkpoint, spec, conversion, tokenizer, card, chosen, parts, layout, _fallbacks(bound), notes)


def _adapter(folder: Path, conversion: ConversionPlan) -> LoraFolder:
    """The adapter, which the base has every module of."""
    found = open_lora(folder)
    plan_adapter(found, conversion)
    return found


def _notes(card: ModelCard, tokenizer: TokenizerPlan) -> list[str]:
    """What does not stand in the way, but should be known."""
    notes = [] if card.licence else ["the checkpoint states no licence"]
    template = tokenizer.metadata.get("tokenizer.chat_template")
    if template is None:
        return [*notes, "the checkpoint has no chat template: it can complete text, but not hold a conversation"]
    try:
        render_chat(template.value, [{"role": "user", "content": "What is the dose?"}])
    except ModelRefused as error:
        notes.append(error.what)
    return notes


def _unbound(conversion: ConversionPlan) -> tuple[TensorSpec, ...]:
    """The tensors of the file in its order, in no format yet."""
    parts: list[tuple[str, tuple[int, ...], Role, int | None]] = [
        (tensor.name, tensor.shape, tensor.role, tensor.layer) for tensor in conversion.tensors
    ]
    parts += [(tensor.name, tensor.values.shape, "rope", None) for tensor in conversion.computed]
    return tuple(
        TensorSpec(name=name, shape=shape, type="", role=role, layer=layer, n_bytes=0)
        for name, shape, role, layer in parts
    )


def _with_type(part: TensorSpec, bound: Bound) -> TensorSpec:
    n_bytes = OutputTensor(part.name, BY_NAME[bound.type], part.shape).n_bytes
    return part.model_copy(update={"type": bound.type, "n_bytes": n_bytes})


def _fallbacks(bound: Sequence[Bound]) -> tuple[Fallback, ...]:
    return tuple(
        Fallback(tensor=one.name, wanted=one.wanted, got=one.type, reason=one.reason) for one in bound if one.reason
    )


def _main_type(unbound: Sequence[TensorSpec], bound: Sequence[Bound]) -> str:
    """The type that the recipe wants for most weights of the layers; a large vocabulary does not change it."""
    weights: Counter[str] = Counter()
    for part, one in zip(unbound, bound, strict=True):
        if part.layer is not None:
            weights[one.wanted] += math.prod(part.shape)
    return weights.most_common(1)[0][0]


def _metadata(
    conversion: ConversionPlan,
    tokenizer: TokenizerPlan,
    card: ModelCard,
    spec: ModelSpec,
    recipe: QuantRecipe,
    file_type: int,
) -> dict[str, Value]:
    general = {
        "general.architecture": text(conversion.architecture),
        "general.type": text("model"),
        **card_metadata(card),
        "general.file_type": u32(file_type),
        "general.quantization_version": u32(2),
    }
    general["general.name"] = text(_engine_safe_name(card.name, strips=tokenizer.strips_after_special))
    own = {
        "edgemed.version": text(__version__),
        "edgemed.source.spec_digest": text(spec.digest()),
        "edgemed.recipe": text(recipe.name),
        "edgemed.recipe_digest": text(recipe.digest()),
    }
    return {**general, **conversion.metadata, **tokenizer.metadata, **own}


def _engine_safe_name(name: str, *, strips: bool) -> str:
    """llama.cpp drops white space after role tokens where a model's name holds "phi-3", and nowhere else.

    So the name says it exactly when the original tokenizer does that.
    """
    if strips:
        return name if any(mark in name.lower() for mark in ("phi-3", "phi3")) else f"{name} (phi-3)"
    for mark in ("phi-3", "phi3"):
        while (place := name.lower().find(mark)) >= 0:
            name = f"{name[:place]}phi 3{name[place + len(mark) :]}"
    return name


def check_output(output: Path) -> None:
    """Raise UsageError for a folder, and for a file that is no GGUF."""
    if output.is_dir():
        raise UsageError(f"{output} is a folder.", next_step="name a .gguf file with --output")
    if output.exists():
        with output.open("rb") as file:
            if file.read(4) != MAGIC:
                raise UsageError(
                    f"{output} exists and is no GGUF file; it is left as it is.", next_step="choose another --output"
                )


def _check_memory() -> None:
    import psutil

    free = psutil.virtual_memory().available
    if free < _NEEDED_RAM:
        raise UsageError(
            f"{format_bytes(free)} of memory is free; an export takes {format_bytes(_NEEDED_RAM)}.",
            next_step="close other programs",
        )


def _check_space(output: Path, file_bytes: int) -> None:
    folder = output.absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < file_bytes + _SPARE_BYTES:
        raise UsageError(
            f"The disk of {output} has {format_bytes(free)} free; the file takes {format_bytes(file_bytes)}.",
            next_step="free space there, or choose another disk with --output",
        )


def _gather(faults: list[EdgemedError], work: Callable[[], _T]) -> _T | None:
    try:
        return work()
    except EdgemedError as error:
        faults.append(error)
        return None


def _together(faults: list[EdgemedError]) -> EdgemedError:
    """One error for several, each said once; a refused model outweighs a wrong argument."""
    faults = list({fault.what: fault for fault in faults}.values())
    if len(faults) == 1:
        return faults[0]
    refused = [fault for fault in faults if isinstance(fault, ModelRefused)]
    kind = ModelRefused if refused else UsageError
    first = (refused or faults)[0]
    lines = "".join(f"\n  - {fault.what}" for fault in faults)
    return kind(f"{len(faults)} things stand in the way:{lines}", next_step=first.next_step)
