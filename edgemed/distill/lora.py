"""LoRA around the student, by PEFT: which modules, which rank each (ALORA), StableSVD while it is trained, and the end.

h = W0 x + s B A x        s = alpha / sqrt(rank) with rsLoRA, else alpha / rank (equations 3 and 4)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import TrainerCallback

from edgemed.core.errors import UsageError
from edgemed.core.files import whole_folder
from edgemed.core.records import Record
from edgemed.distill.adapters import Factors, allocate_ranks, alpha_pattern, stable_svd
from edgemed.distill.config import AdapterConfig
from edgemed.distill.gradient_scores import GradientScores

logger = logging.getLogger(__name__)

MOST_RANKS = 3
"""No module gets more than so many times `rank`."""
_OVERSAMPLED = 8
_PROBE = 64
_ADAPTER = "default"


class MergeError(Record):
    """What rounding cost when an adapter was merged."""

    weights: float
    """Largest over the modules of |W' - (W + s B A)| / |s B A| (Frobenius): what is lost of what was learned."""
    logits: float
    """Largest difference of a logit on random tokens, in standard deviations of the logits."""


class Found(NamedTuple):
    """What StableSVD saw in one module."""

    rank: int
    condition: float
    damping: float


class Pass(Record):
    """One pass of StableSVD over all modules; those whose B is zero are not in it."""

    step: int
    modules: dict[str, Found]


def wrap(model: Any, adapter: AdapterConfig, gradients: Callable[[], None] | None = None, seed: int = 0) -> Any:
    """A PeftModel around `model`, which computes the same as before: B is zero.

    Everything else is frozen; what is trained is float32. `gradients`, needed for allocation "gradient", runs the first
    step's forward and backward passes on `model`; every process has to give the same step. Raises UsageError for
    modules that the model lacks, and for a 4-bit adapter on a model that was not loaded in 4 bits.
    """
    from peft import LoraConfig, get_peft_model

    modules = adapted_modules(model, adapter.modules)
    if adapter.base_bits == 4:
        model = _prepared(model)
    for weights in model.parameters():
        weights.requires_grad_(False)
    patterns: dict[str, Any] = {}
    if adapter.allocation == "gradient":
        if gradients is None:
            raise ValueError("allocation by gradients needs the first step")
        patterns = _patterns(adapter, _allocated(modules, adapter, gradients, seed))
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        use_rslora=adapter.stabilised,
        target_modules=list(adapter.modules),
        lora_dropout=0.0,
        task_type="CAUSAL_LM" if hasattr(model, "prepare_inputs_for_generation") else None,
        **patterns,
    )
    on_gpu = next(iter(modules.values())).weight.is_cuda
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def adapted_modules(model: Any, wanted: tuple[str, ...]) -> dict[str, torch.nn.Linear]:
    """The model's linear modules, by name, whose names end with one of `wanted`. Raises UsageError for one without."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    endings = {name: f".{name}" for name in wanted}
    lacking = [name for name in wanted if not any(f".{one}".endswith(endings[name]) for one in linear)]
    if lacking:
        there = sorted({name.rpartition(".")[2] for name in linear})
        raise UsageError(
            f"adapter.modules names {', '.join(lacking)}, which the student does not have.",
            next_step=f"name some of {', '.join(there)}" if there else "train all of it: leave [adapter] out",
        )
    return {name: module for name, module in linear.items() if f".{name}".endswith(tuple(endings.values()))}


def quantization(adapter: AdapterConfig | None, device: str) -> Any:
    """What from_pretrained takes as `quantization_config`: NF4 where the adapter asks for it, else None.

    Raises UsageError on anything but an NVIDIA GPU.
    """
    if adapter is None or adapter.base_bits == 16:
        return None
    if device != "cuda":
        raise UsageError(
            f"adapter.base_bits = 4 needs an NVIDIA GPU; this training runs on the {device.upper()}.",
            next_step="set adapter.base_bits = 16, or train on a machine with a GPU",
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def merged(model: Any) -> tuple[Any, MergeError]:
    """The model with the adapter in its weights, in place and without PEFT, and what rounding did.

    Raises UsageError for a 4-bit base, whose weights cannot take it.
    """
    if getattr(model.get_base_model(), "is_loaded_in_4bit", False):
        raise UsageError(
            "Weights of 4 bits cannot take an adapter in without a loss.",
            next_step="save the adapter and merge it into the 16-bit checkpoint: edgemed export MODEL --adapter DIR",
        )
    probe = _probe(model)
    before = _logits(model, probe)
    lost = 0.0
    for _, layer in _layers(model):
        weights = layer.get_base_layer().weight
        old = weights.detach().clone()
        layer.merge(safe_merge=True)
        lost = max(lost, _lost(old, weights.detach(), layer))
    plain = model.unload()
    after = _logits(plain, probe)
    return plain, MergeError(weights=lost, logits=float((after - before).abs().max() / before.std()))


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter as PEFT's own folder, whole or not at all."""
    with whole_folder(folder) as part:
        # "auto" would look the base up on a hub
        model.save_pretrained(part, save_embedding_layers=False)


def with_adapter(base: Any, folder: Path) -> Any:
    """A PeftModel of `base` and a saved adapter: how one that was trained on 4 bits comes to the 16-bit weights."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base, folder, local_files_only=True)


class StableSvdCallback(TrainerCallback):  # type: ignore[misc]
    """StableSVD every so many steps, after the optimizer's own and before the step is saved.

    The optimizer's state of changed factors begins anew: it was that of another basis. The scale stays. A summary goes
    to the trainer's log history, each module's rank and condition to `record`.
    """

    def __init__(self, every: int, record: Callable[[Pass], None] | None = None) -> None:
        self.every = every
        self._record = record

    def on_step_end(self, _args: Any, state: Any, _control: Any, **given: Any) -> None:
        """See TrainerCallback."""
        if self.every == 0 or state.global_step % self.every:
            return
        done = Pass(step=state.global_step, modules=stabilise(given["model"], given.get("optimizer")))
        if done.modules:
            state.log_history.append({"step": done.step} | summary(done))
            logger.info("StableSVD: %s", summary(done))
        if self._record is not None:
            self._record(done)


def summary(done: Pass) -> dict[str, float]:
    """A pass in a few numbers, for a log."""
    ranks = [one.rank for one in done.modules.values()]
    return {
        "stable_svd_modules": len(ranks),
        "stable_svd_smallest_rank": min(ranks),
        "stable_svd_mean_rank": sum(ranks) / len(ranks),
        "stable_svd_largest_condition": max(one.condition for one in done.modules.values()),
        "stable_svd_damped": sum(one.damping > 0 for one in done.modules.values()),
    }


def stabilise(model: Any, optimizer: Any = None) -> dict[str, Found]:
    """Equation (4) on every adapter of `model`, in place; what was found, by module. Works on sharded factors too."""
    found = {}
    for name, layer in _layers(model):
        a, b = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
        done = stable_svd(Factors(_whole(b), _whole(a)))
        if done is None:
            continue
        found[name] = Found(done.rank, done.condition, done.damping)
        for weights, values in ((a, done.factors.a), (b, done.factors.b)):
            _replace(weights, values)
            if optimizer is not None:
                _begin_anew(optimizer.state.get(weights, {}))
    return found


def _begin_anew(state: dict[str, Any]) -> None:
    """As before the first step, in place: savers of sharded optimizers expect a state for every parameter."""
    for name, value in state.items():
        if isinstance(value, Tensor):
            value.zero_()
        elif name == "step":
            state[name] = 0


def _whole(weights: Any) -> Tensor:
    """Of a parameter; of one that FSDP2 keeps in shards, all of it, which every process has to ask for."""
    whole: Tensor = weights.full_tensor() if hasattr(weights, "full_tensor") else weights
    return whole.detach()


def _replace(weights: Any, values: Tensor) -> None:
    if hasattr(weights, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        values = distribute_tensor(values, weights.device_mesh, weights.placements)
    with torch.no_grad():
        weights.copy_(values)


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Every adapted module, by its name in the student."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and _ADAPTER in module.lora_A:
            yield name.rpartition("base_model.model.")[2], module


def _prepared(model: Any) -> Any:
    if not getattr(model, "is_loaded_in_4bit", False):
        raise UsageError(
            "adapter.base_bits is 4, but the student's weights are not in 4 bits.",
            next_step="set adapter.base_bits = 16, or train on an NVIDIA GPU",
        )
    from peft import prepare_model_for_kbit_training

    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _allocated(
    modules: dict[str, torch.nn.Linear], adapter: AdapterConfig, gradients: Callable[[], None], seed: int
) -> dict[str, int]:
    most = MOST_RANKS * adapter.rank
    found = GradientScores(modules, most + _OVERSAMPLED, seed).measure(gradients)
    sizes = {name: (module.out_features, module.in_features) for name, module in modules.items()}
    budget = adapter.rank * sum(map(sum, sizes.values()))
    ranks = allocate_ranks({name: values[:most] for name, values in found.items()}, sizes, budget)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        told = [ranks]  # rounding may differ between machines; shapes must not
        torch.distributed.broadcast_object_list(told, src=0)
        (ranks,) = told
    return ranks


def _patterns(adapter: AdapterConfig, ranks: dict[str, int]) -> dict[str, Any]:
    """PEFT's settings for ranks by module, all with the scale that `rank` has everywhere. Keys are patterns there."""
    root = adapter.rank**0.5 if adapter.stabilised else adapter.rank
    alphas = alpha_pattern(ranks, adapter.alpha / root, stabilised=adapter.stabilised)
    escaped = {name: name.replace(".", r"\.") for name in ranks}
    return {
        "rank_pattern": {escaped[name]: rank for name, rank in ranks.items()},
        "alpha_pattern": {escaped[name]: alpha for name, alpha in alphas.items()},
    }


def _probe(model: Any) -> Tensor:
    config = model.get_base_model().config
    length = min(_PROBE, config.max_position_embeddings)
    made = torch.Generator().manual_seed(0)
    return torch.randint(0, config.vocab_size, (1, length), generator=made).to(model.device)


def _logits(model: Any, probe: Tensor) -> Tensor:
    was = model.training
    with torch.no_grad():
        logits: Tensor = model.eval()(probe).logits[0].float()
    model.train(was)
    return logits


def _lost(old: Tensor, new: Tensor, layer: Any, rows: int = 1024) -> float:
    """|new - (old + s B A)| / |s B A| in float64, some rows at a time; 0 where B is."""
    a, b = (half[_ADAPTER].weight.detach().double() for half in (layer.lora_A, layer.lora_B))
    wrong = change = 0.0
    for start in range(0, len(b), rows):
        at = slice(start, start + rows)
        learned = layer.scaling[_ADAPTER] * b[at] @ a
        wrong += float((new[at].double() - old[at].double() - learned).square().sum())
        change += float(learned.square().sum())
    return float((wrong / change) ** 0.5) if change else 0.0
