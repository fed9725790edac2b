"""Importing this module lets transformers load folders of the quantization method "edgemed_mixed".

    import edgemed.quantize.mixed_quantizer
    model = AutoModelForCausalLM.from_pretrained(folder)

Weights stay packed in memory and are multiplied by bitsandbytes' kernels (NF4) or unpacked for the product (8 bits).
Two layers of our own hold them. bitsandbytes' configuration cannot have both kinds in one model, and:

- its Linear8bitLt rounds the activations too on a GPU, so that outputs err 1.2 to 10 times as much, and on a CPU takes
  four times the time in bfloat16 (benchmarks/quantize/bench_torch_folder.py);
- its Linear4bit repacks the weights at the first step on CPUs with AVX512-BF16, with scales rounded to bfloat16, and
  cannot restore them: logits would depend on the CPU, and a model saved after use would not be the one loaded. Its
  folders also keep what is not packed in the stored type whatever type is asked for, and once loaded cannot be saved
  (transformers 5.23).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from edgemed.core.errors import EdgemedError, ModelRefused, UsageError
from edgemed.quantize.torch_folder import LAYOUT, METHOD, NESTED_BLOCK, NF4_BLOCK, bitsandbytes_library

_HEADROOM = 128
"""A power of two, so dividing by it is exact: keeps sums of integers within float16's 65504."""


class Int8Linear(torch.nn.Linear):  # type: ignore[misc]
    """A linear layer of 8-bit integer weights, one scale for each row: y = scale * (weight x) + bias.

    The integers are exact in every float type, so activations are all that is rounded. `weight` (out, in) int8,
    `weight_scale` (out,) float32.
    """

    def __init__(self, dense: torch.nn.Linear) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = dense.in_features, dense.out_features
        device = dense.weight.device
        empty = torch.empty(dense.weight.shape, dtype=torch.int8, device=device)
        self.weight = torch.nn.Parameter(empty, requires_grad=False)
        self.register_buffer("weight_scale", torch.empty(dense.out_features, dtype=torch.float32, device=device))
        self.bias = _frozen_bias(dense)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., out) of `x` (..., in), in the type of `x`."""
        y: torch.Tensor = _Int8Product.apply(x, self.weight, self.weight_scale)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class Nf4Linear(torch.nn.Linear):  # type: ignore[misc]
    """A linear layer of 4-bit weights in bitsandbytes' storage: NF4 in blocks of 64, scales in 8 bits.

    `weight` holds two codes a byte, (out * in / 2, 1) uint8, the first one in the high half. The buffers are those of
    bitsandbytes' QuantState; one is made of them for each product, so that they move between devices with the layer.
    """

    def __init__(self, dense: torch.nn.Linear) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = dense.in_features, dense.out_features
        device = dense.weight.device
        packed = torch.empty((dense.weight.numel() // 2, 1), dtype=torch.uint8, device=device)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        blocks = dense.weight.numel() // NF4_BLOCK
        self.register_buffer("weight_absmax", torch.empty(blocks, dtype=torch.uint8, device=device))
        for name, size in (("absmax_scale", -(-blocks // NESTED_BLOCK)), ("absmax_code", 256), ("absmax_offset", 1)):
            self.register_buffer(f"weight_{name}", torch.empty(size, dtype=torch.float32, device=device))
        self.bias = _frozen_bias(dense)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., out) of `x` (..., in), computed in the type of `x`."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        product: torch.Tensor = bitsandbytes_library().matmul_4bit(x, self.weight, quant_state=self.state(), bias=bias)
        return product

    def state(self) -> Any:
        """bitsandbytes' QuantState, of the buffers themselves."""
        quant_state = bitsandbytes_library().functional.QuantState
        scales = quant_state(
            self.weight_absmax_scale, code=self.weight_absmax_code, blocksize=NESTED_BLOCK, dtype=torch.float32
        )
        return quant_state(
            self.weight_absmax,
            shape=torch.Size((self.out_features, self.in_features)),
            blocksize=NF4_BLOCK,
            quant_type="nf4",
            dtype=torch.float32,
            offset=self.weight_absmax_offset[0],
            state2=scales,
        )


class _Int8Product(torch.autograd.Function):  # type: ignore[misc]
    """scale * (weight x). Keeps the integers for the gradient, where autograd would keep a float copy of each layer."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(weight, scale)
        sums = torch.nn.functional.linear(x / _HEADROOM, weight.to(x.dtype))
        return (sums * (scale * _HEADROOM)).to(x.dtype)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        weight, scale = context.saved_tensors
        scaled = (gradient * (scale * _HEADROOM)).to(gradient.dtype)
        return (scaled / _HEADROOM) @ weight.to(gradient.dtype), None, None


@register_quantization_config(METHOD)
class MixedConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """`quantization_config` of such a folder: the layers of each kind by name, and the recipe they come from."""

    def __init__(
        self,
        nf4: Sequence[str] = (),
        int8: Sequence[str] = (),
        layout: int = LAYOUT,
        recipe: str = "",
        recipe_digest: str = "",
        **unknown: Any,
    ) -> None:
        unknown.pop("quant_method", None)  # transformers chose this class by it
        if unknown or layout != LAYOUT:
            what = f"keys {', '.join(sorted(unknown))}" if unknown else f"layout {layout}"
            raise ModelRefused(
                f"This folder's quantization_config has {what}, which this version does not know.",
                next_step="update edgemed, or quantize the parent again with this version",
            )
        self.quant_method = METHOD
        self.nf4, self.int8 = list(nf4), list(int8)
        self.layout, self.recipe, self.recipe_digest = layout, recipe, recipe_digest


@register_quantizer(METHOD)
class MixedQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts packed layers in the places of linear ones before transformers loads the weights."""

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Raise MissingExtra without bitsandbytes, UsageError for weights that are not packed yet."""
        del args, kwargs
        if not self.pre_quantized:
            raise UsageError(
                f"{METHOD} loads weights that were quantized before; it does not quantize while loading.",
                next_step="edgemed quantize MODEL --target torch, then load the folder it writes",
            )
        if self.quantization_config.nf4:
            bitsandbytes_library()

    def is_serializable(self) -> bool:
        """save_pretrained writes the packed weights again."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters can be trained on it (lora_targets); the packed weights themselves cannot."""
        return True

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        del kwargs
        dense = {name: module for name, module in model.named_modules() if type(module) is torch.nn.Linear}
        config = self.quantization_config
        if missing := [name for name in (*config.nf4, *config.int8) if name not in dense]:
            raise ModelRefused(
                f"The folder names {len(missing)} packed layers that {type(model).__name__} does not have, "
                f"first {missing[0]}.",
                next_step="use the version of transformers it was written for, or quantize the parent again",
            )
        for name in config.nf4:
            model.set_submodule(name, Nf4Linear(dense[name]))
        for name in config.int8:
            model.set_submodule(name, Int8Linear(dense[name]))
        return model


def packed_layers(model: Any) -> dict[str, str]:
    """The packed layers of a loaded model, in its order: name to "nf4" or "int8"."""
    kinds = {Nf4Linear: "nf4", Int8Linear: "int8"}
    return {name: kinds[type(module)] for name, module in model.named_modules() if type(module) in kinds}


def lora_targets(model: Any) -> list[str]:
    """Full names of the packed layers that adapters go on, for PEFT's `target_modules`; a packed head is none."""
    head = model.get_output_embeddings()
    return [name for name in packed_layers(model) if model.get_submodule(name) is not head]


def check_adapters(adapted: Any, targets: Sequence[str]) -> None:
    """Raise EdgemedError unless PEFT put an adapter on every one of `targets`, and on nothing else.

    DoRA is refused: PEFT would take the norm of the packed integers for that of the weights.
    """
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in adapted.named_modules()
        if getattr(module, "lora_A", None)
    }
    if dora := [name for name, module in layers.items() if getattr(module, "lora_magnitude_vector", None)]:
        raise EdgemedError(
            f"DoRA reads the weights of {dora[0]}, which are packed.",
            next_step="use LoRA or rsLoRA, or train on the 16-bit parent",
        )
    found = set(layers)
    if found != set(targets):
        missing, more = sorted(set(targets) - found), sorted(found - set(targets))
        raise EdgemedError(
            f"Of {len(targets)} layers {len(missing)} have no adapter ({', '.join(missing[:3]) or 'none'}); "
            f"{len(more)} others have one ({', '.join(more[:3]) or 'none'}).",
            next_step="give PEFT target_modules=lora_targets(model)",
        )


def _frozen_bias(dense: torch.nn.Linear) -> Any:
    return None if dense.bias is None else torch.nn.Parameter(dense.bias.data, requires_grad=False)
