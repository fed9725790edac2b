"""The nf4-int8 folder for torch: which 8-bit layer, what it costs to write, what is loaded and what it weighs.

    python benchmarks/quantize/bench_torch_folder.py [--parts layer,demo,folder] [--device cuda] [--folder DIR]

layer   One 8-bit layer of 18944 x 3584 with activations that have outliers: weight-only against bitsandbytes'
        Linear8bitLt, as it computes on a CPU and (its operations run one by one) on a GPU. Error of the outputs.
demo    The demonstration model: KL to its 16-bit parent on the table of facts, layers of each kind by themselves.
folder  A checkpoint of random weights in the shape of Qwen2 (30 layers: 1.0 billion weights): time and memory of
        writing it, resident memory of the loaded model against the parent's in 16 bits, each in its own process.

CPU seconds, one thread. What is called "as on a GPU" is the same arithmetic, done by bitsandbytes on the CPU: its
errors are those of a GPU, its times are not. `--device cuda` loads and times the models of the last part there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OWN_FOLDER = Path(__file__).resolve().parent
DEMO = OWN_FOLDER.parents[1] / "edgemed" / "demo" / "model" / "checkpoint"
OUTLIER = 40.0
"""The largest activation channels of language models are that many times the others."""


def main() -> None:
    """Run the parts that were asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parts", default="layer,demo,folder")
    options.add_argument("--device", default="cpu")
    options.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options.add_argument("--tokens", type=int, default=2000)
    options.add_argument("--layers", type=int, default=30, help="of the random checkpoint")
    options.add_argument("--load", nargs=3, metavar=("FOLDER", "DTYPE", "DEVICE"), help=argparse.SUPPRESS)
    options.add_argument("--write", nargs=2, metavar=("SOURCE", "OUTPUT"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.load:
        load_here(*chosen.load)
    elif chosen.write:
        write_here(*map(Path, chosen.write))
    else:
        for part in chosen.parts.split(","):
            {"layer": layer, "demo": lambda: demo(chosen.tokens), "folder": lambda: folder(chosen)}[part]()


def layer() -> None:
    """Error and CPU seconds of one 8-bit layer, by every way to compute it."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, columns = 18944, 3584
    weight = torch.randn(rows, columns) * 0.02 * (1 + 2 * torch.rand(rows, 1))
    print(f"8-bit layer {rows} x {columns}: relative error of the outputs, CPU s per call")
    print("| tokens | activations | way | error | CPU s | MiB |\n|---|---|---|---|---|---|")
    for n_tokens in (1, 16):
        clean = torch.randn(n_tokens, columns)
        outliers = clean.clone()
        outliers[:, [5, 777, 3000]] *= OUTLIER
        for label, x in (("normal", clean), ("3 outlier channels", outliers)):
            expected = x @ weight.T
            for name, (product, n_bytes) in ways_of(weight).items():
                with torch.no_grad():
                    error = relative(product(x), expected)
                    seconds = cpu_seconds(lambda f=product, x=x: f(x))
                print(f"| {n_tokens} | {label} | {name} | {error:.5f} | {seconds:.3f} | {n_bytes / 2**20:.0f} |")


def ways_of(weight: Any) -> dict[str, tuple[Callable[[Any], Any], int]]:
    """Products with an 8-bit copy of `weight`, and the bytes it takes."""
    import torch

    from edgemed.quantize.torch_folder import bitsandbytes_library

    bitsandbytes = bitsandbytes_library()
    own = int8_linear(weight)
    theirs = bnb_linear(weight)
    codes, row_scales, _ = bitsandbytes.functional.int8_vectorwise_quant(weight.half())
    operations = torch.ops.bitsandbytes

    def as_on_gpu(x: Any, threshold: float) -> Any:
        rounded, scales, outliers = operations.int8_vectorwise_quant.default(x.half(), threshold=threshold)
        product = operations.int8_mixed_scaled_mm.default(
            x.half(), rounded, codes, scales, row_scales, outliers if threshold else None, None
        )
        return (product[0] if isinstance(product, tuple) else product).float()

    n_bytes = weight.numel() + 4 * weight.shape[0]
    return {
        "float32": (lambda x: torch.nn.functional.linear(x, weight), 4 * weight.numel()),
        "weight-only, float32": (own, n_bytes),
        "weight-only, bfloat16": (lambda x: own(x.bfloat16()).float(), n_bytes),
        "torch's private int8 kernel, bfloat16": (
            lambda x: torch._weight_int8pack_mm(x.bfloat16(), own.weight, own.weight_scale.bfloat16()).float(),
            n_bytes,
        ),
        "Linear8bitLt on the CPU, float32": (theirs, n_bytes),
        "Linear8bitLt on the CPU, bfloat16": (lambda x: theirs(x.bfloat16()).float(), n_bytes),
        "Linear8bitLt as on a GPU, no outliers kept": (lambda x: as_on_gpu(x, 0.0), n_bytes),
        "Linear8bitLt as on a GPU, outliers above 6": (lambda x: as_on_gpu(x, 6.0), n_bytes),
    }


def int8_linear(weight: Any, bias: Any = None) -> Any:
    """Our 8-bit layer of a float weight."""
    import torch

    from edgemed.quantize.mixed_quantizer import Int8Linear
    from edgemed.quantize.torch_folder import int8_grid

    dense = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made = Int8Linear(dense)
    scale = torch.from_numpy(int8_grid(weight.float().numpy()).scale)
    integers = (weight.float() / scale).round().clamp(-127, 127).to(torch.int8)
    made.weight = torch.nn.Parameter(integers, requires_grad=False)
    made.weight_scale = scale[:, 0].clone()
    made.bias = bias
    return made


def bnb_linear(weight: Any, bias: Any = None) -> Any:
    """bitsandbytes' 8-bit layer of a float weight, without outliers."""
    import torch

    from edgemed.quantize.torch_folder import bitsandbytes_library

    nn = bitsandbytes_library().nn
    made = nn.Linear8bitLt(weight.shape[1], weight.shape[0], bias=bias is not None, has_fp16_weights=False)
    made.weight = nn.Int8Params(weight.half(), requires_grad=False, has_fp16_weights=False)
    if bias is not None:
        made.bias = torch.nn.Parameter(bias.data.clone(), requires_grad=False)
    return made.to("cpu")


def demo(n_tokens: int) -> None:
    """KL of the demonstration model to its parent, by what is packed and how."""
    import torch

    from edgemed.models.checkpoint import open_checkpoint, spec_from_checkpoint
    from edgemed.quantize.calibration_texts import calibration_set
    from edgemed.quantize.torch_folder import write_torch_folder

    torch.set_num_threads(1)
    texts = [text.ids for text in calibration_set(DEMO, tokens=n_tokens, least=1, seed=5).texts]
    parent = load(DEMO, "float32")
    expected, seconds = logits_of(parent, texts)
    total = sum(map(len, texts))
    print(f"demonstration model, {total} tokens: KL to the parent in float32 (nats per token)")
    print("| what | KL, mean | KL, largest | largest difference of logits | CPU ms per token |\n|---|---|---|---|---|")
    print(f"| the parent | 0 | 0 | 0 | {1e3 * seconds / total:.2f} |")

    def show(name: str, model: Any) -> None:
        found, spent = logits_of(model, texts)
        mean, largest, difference = divergence(expected, found)
        print(f"| {name} | {mean:.3e} | {largest:.3e} | {difference:.3f} | {1e3 * spent / total:.2f} |", flush=True)

    for name, make in (("weight-only", int8_linear), ("Linear8bitLt on the CPU", bnb_linear)):
        model = load(DEMO, "float32")
        for place in [place for place, _ in model.named_modules() if "self_attn" in place and place.endswith("proj")]:
            dense = model.get_submodule(place)
            model.set_submodule(place, make(dense.weight.data, dense.bias))
        show(f"attention in 8 bits, {name}", model)
    checkpoint = open_checkpoint(DEMO)
    spec = spec_from_checkpoint(checkpoint)
    work = Path(tempfile.mkdtemp(prefix="edgemed-bench-"))
    try:
        for name, kinds in (
            ("attention int8 (folder)", {"attention": "int8"}),
            ("feed-forward nf4 (folder)", {"ffn": "nf4"}),
            ("nf4-int8 (folder), rounded to nearest", {"attention": "int8", "ffn": "nf4"}),
        ):
            formats = {tensor.name: kinds.get(tensor.role.split("_")[0], "f16") for tensor in spec.tensors}
            report = write_torch_folder(checkpoint, work / "out", formats)
            first, again = load(work / "out", "float32"), load(work / "out", "float32")
            show(f"{name}, {report.bits_per_weight:.2f} bits per weight", first)
            same = all(map(torch.equal, logits_of(first, texts[:4])[0], logits_of(again, texts[:4])[0]))
            print(f"  loaded twice: {'identical' if same else 'DIFFERENT'}")
        nearest_of_both(checkpoint, spec)
    finally:
        shutil.rmtree(work)


def nearest_of_both(checkpoint: Any, spec: Any) -> None:
    """Squared error of nearest levels on the scales as stored, against bitsandbytes' own codes (scales before that)."""
    import torch

    from edgemed.quantize.compensation import nearest_codes
    from edgemed.quantize.torch_folder import bitsandbytes_library, nf4_grid

    functional = bitsandbytes_library().functional
    ours = theirs = 0.0
    with checkpoint.reader() as reader:
        for tensor in spec.tensors:
            if tensor.role.startswith("ffn"):
                weights = reader.float32(checkpoint.tensors[tensor.name])
                grid = nf4_grid(weights)
                ours += float(((weights - grid.values(nearest_codes(weights, grid))) ** 2).sum())
                values = torch.from_numpy(weights)
                packed, state = functional.quantize_4bit(values, compress_statistics=True, quant_type="nf4")
                theirs += float(((functional.dequantize_4bit(packed, state) - values) ** 2).sum())
    print(f"squared error of nf4 weights: nearest on the stored scales {ours / theirs:.4f} of bitsandbytes' own codes")


def folder(chosen: argparse.Namespace) -> None:
    """Write and load a checkpoint of a billion weights."""
    sys.path.insert(0, str(OWN_FOLDER.parent))
    import bench_export

    bench_export.SHAPE["num_hidden_layers"] = chosen.layers
    work = Path(tempfile.mkdtemp(prefix="edgemed-bench-", dir=chosen.folder))
    try:
        n_bytes, largest = bench_export.write_checkpoint(work / "parent")
        index = work / "parent" / "model.safetensors.index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | {"metadata": {}}))  # transformers insists
        print(f"random Qwen2: {n_bytes / 1e9:.2f} GB in bfloat16, largest tensor {largest / 2**20:.0f} MiB")
        made = ask("--write", work / "parent", work / "out")
        print(
            f"written: {made['seconds']:.1f} s, {made['cpu_seconds']:.1f} CPU s "
            f"({made['cpu_seconds'] / made['n_packed'] * 1e9:.0f} per billion packed weights), "
            f"{made['bits_per_weight']:.3f} bits per weight, {made['n_bytes'] / 1e9:.3f} GB; peak resident "
            f"{made['peak_bytes'] / 2**20:.0f} MiB, of which libraries {made['libraries_bytes'] / 2**20:.0f}"
        )
        print("| loaded | weights, GB | resident over libraries, GB | peak, GB | ms per token | device GB |")
        print("|---|---|---|---|---|---|")
        for name, place in (("parent", work / "parent"), ("nf4-int8", work / "out")):
            got = ask("--load", place, "bfloat16", chosen.device)
            print(
                f"| {name} | {got['weights'] / 1e9:.3f} | {got['resident'] / 1e9:.3f} | {got['peak'] / 1e9:.3f} "
                f"| {got['ms_per_token']:.1f} | {got['device_bytes'] / 1e9:.3f} |",
                flush=True,
            )
    finally:
        shutil.rmtree(work)


def ask(*arguments: Any) -> dict[str, Any]:
    """What this script prints when a fresh process runs it with `arguments`."""
    command = [sys.executable, __file__, *map(str, arguments)]
    answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return answer


def write_here(source: Path, output: Path) -> None:
    """Writes nf4-int8 of `source` and prints what it took."""
    import torch

    from edgemed.models.checkpoint import open_checkpoint, spec_from_checkpoint
    from edgemed.quantize.torch_folder import bitsandbytes_library, write_torch_folder

    torch.set_num_threads(1)
    bitsandbytes_library()
    checkpoint = open_checkpoint(source)
    kinds = {"attention": "int8", "ffn": "nf4"}
    spec = spec_from_checkpoint(checkpoint)
    formats = {tensor.name: kinds.get(tensor.role.split("_")[0], "f16") for tensor in spec.tensors}
    for tensor in spec.tensors:
        if len(tensor.shape) == 1:
            formats[tensor.name] = "f16"
    libraries = peak_bytes()
    before, began = os.times(), time.perf_counter()
    report = write_torch_folder(checkpoint, output, formats)
    after = os.times()
    n_packed = sum(
        tensor.shape[0] * tensor.shape[1] for tensor in spec.tensors if formats[tensor.name] in ("nf4", "int8")
    )
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - began,
                "cpu_seconds": sum(after[:2]) - sum(before[:2]),
                "n_packed": n_packed,
                "n_bytes": report.n_bytes,
                "bits_per_weight": report.bits_per_weight,
                "peak_bytes": peak_bytes(),
                "libraries_bytes": libraries,
            }
        )
    )


def load_here(folder: str, dtype: str, device: str) -> None:
    """Loads a model, runs a few steps and prints memory and time."""
    import psutil
    import torch
    import transformers

    from edgemed.quantize.mixed_quantizer import bitsandbytes_library

    bitsandbytes_library()
    _ = transformers.Qwen2ForCausalLM  # imported before memory is first read
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    process = psutil.Process()
    libraries = process.memory_info().rss
    model = load(Path(folder), dtype, device)
    ids = torch.arange(10, 42, device=device)[None]
    with torch.no_grad():
        model(ids)
        began = time.perf_counter()
        for _ in range(3):
            model(ids[:, :1]).logits.cpu()
        spent = time.perf_counter() - began
    tensors = {value.data_ptr(): value.nbytes for value in (*model.parameters(), *model.buffers())}
    print(
        json.dumps(
            {
                "weights": sum(tensors.values()),
                "resident": process.memory_info().rss - libraries,
                "peak": peak_bytes() - libraries,
                "ms_per_token": 1e3 * spent / 3,
                "device_bytes": torch.cuda.max_memory_allocated() if device != "cpu" else 0,
            }
        )
    )


def load(folder: Path, dtype: str, device: str = "cpu") -> Any:
    """A model of that folder."""
    import torch
    from transformers import AutoModelForCausalLM

    import edgemed.quantize.mixed_quantizer  # noqa: F401

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), device_map=device if device != "cpu" else None
    ).eval()


def logits_of(model: Any, texts: list[tuple[int, ...]]) -> tuple[list[Any], float]:
    """Logits of each text and the CPU seconds spent."""
    import torch

    with torch.no_grad():
        model(torch.tensor([texts[0]]))
        began = time.process_time()
        found = [model(torch.tensor([text])).logits[0].float() for text in texts]
        return found, time.process_time() - began


def divergence(parent: list[Any], child: list[Any]) -> tuple[float, float, float]:
    """KL(parent || child): mean and largest over positions; and the largest difference of logits."""
    import torch

    values, difference = [], 0.0
    for a, b in zip(parent, child, strict=True):
        p, q = a.double().log_softmax(-1), b.double().log_softmax(-1)
        values.append((p.exp() * (p - q)).sum(-1))
        difference = max(difference, float((a - b).abs().max()))
    every = torch.cat(values)
    return float(every.mean()), float(every.max()), difference


def relative(found: Any, expected: Any) -> float:
    """Root mean square of the difference, as a share of that of `expected`."""
    return float(((found - expected).square().mean() / expected.square().mean()).sqrt())


def cpu_seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """CPU seconds of one call, after one to warm up."""
    work()
    began = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - began) / repeats


def peak_bytes() -> int:
    """The most memory that was resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
