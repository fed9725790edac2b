"""gptqmodel against our own rounding: the same calibration texts, both results run by torch as the parent's weights.

    python benchmarks/quantize/bench_gptqmodel.py CHECKPOINT --texts facts|medquad [--data DATA] \
        --gptqmodel-python PATH [--seeds 3] [--methods "NAME;..."] [--doses N] [--work DIR]

PATH is the interpreter of an environment that has gptqmodel (measured: 7.6.0 with torch 2.13), because it does not live
in ours; `optimum` beside it lets transformers try the checkpoint that it wrote. Every method rounds the matrices of the
decoder layers, in a process of its own; embedding, norms and biases stay the parent's. What gptqmodel wrote is read
from its file in float32, and must agree with how it reads that itself. KL(parent || child) is the mean over all
predicted tokens of texts that share no fact (facts) or no disease (medquad) with those of calibration, in float32;
"entity" as in bench_kl.py. Bits per weight are those of codes, scales and zeros; what every matrix has alike (index of
groups, NF4's table) is left out. `--doses N` counts, for the first N seeds, the doses that each child changes in the
parent's answers to the questions of set B.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ATTENTION_8 = {"+:.*self_attn.*": {"bits": 8, "group_size": -1}}
"""gptqmodel's own way to give some modules other bits: 8, with one scale a row. Its default order of columns
(act_group_aware) refuses that, and gets groups there too."""
STATIC = {"desc_act": True, "act_group_aware": False, "static_groups": True}
SEARCHED = {**STATIC, "sym": False, "mse": 2.4}
"""Zeros and scales searched for the smallest error of the weights."""
THEIRS: dict[str, dict[str, Any]] = {
    "gptqmodel mixed, its defaults": {"dynamic": {"+:.*self_attn.*": {"bits": 8}}},
    "gptqmodel mixed": {"dynamic": ATTENTION_8, **STATIC},
    "gptqmodel mixed, searched": {"dynamic": ATTENTION_8, **SEARCHED},
    "gptqmodel 4 bits": STATIC,
    "gptqmodel 4 bits, searched": SEARCHED,
}
GROUP = 64
"""Weights of a row that share a scale, where nothing else is said."""
OURS: dict[str, tuple[str, str, bool]] = {
    "ours nf4-int8": ("int8", "nf4", False),
    "ours nf4-int8, entities weighted": ("int8", "nf4", True),
    "ours mixed on gptqmodel's grid": ("int8", "grid", False),
    "ours auto at nf4-int8's bits": ("5.125", "5.125", True),
    "ours 4 bits on gptqmodel's grid": ("grid", "grid", False),
    "ours auto at 4.31 bits": ("4.3125", "4.3125", True),
}
"""Formats of attention and feed-forward (a number: allocated to so many bits), and whether entities count more."""


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description="gptqmodel's rounding against ours.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--texts", choices=("facts", "medquad"), default="facts")
    parser.add_argument("--data", type=Path, help="folder that holds medquad/")
    parser.add_argument("--gptqmodel-python", type=Path, help="an interpreter that has gptqmodel")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", help="names, parted by semicolons; all without it")
    parser.add_argument("--doses", type=int, default=0, metavar="N", help="seeds whose doses are counted")
    parser.add_argument("--work", type=Path, help="folder for the files; a temporary one without it")
    parser.add_argument("--theirs", nargs=3, metavar=("METHOD", "IDS", "OUTPUT"), help=argparse.SUPPRESS)
    parser.add_argument("--ours", nargs=3, metavar=("METHOD", "SEED", "OUTPUT"), help=argparse.SUPPRESS)
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.theirs:
        round_theirs(options.checkpoint, options.theirs[0], *map(Path, options.theirs[1:]))
    elif options.load:
        load_plainly(options.checkpoint)
    else:
        with tempfile.TemporaryDirectory(prefix="edgemed-gptqmodel-") as temporary:
            options.checkpoint = options.checkpoint.absolute()
            options.work = (options.work or Path(temporary)).absolute()
            options.work.mkdir(parents=True, exist_ok=True)
            texts = Texts(options.checkpoint, options.texts, options.data, options.work)
            if options.ours:
                round_ours(texts, options.ours[0], int(options.ours[1]), Path(options.ours[2]))
            else:
                print(json.dumps(compare(options, texts), indent=1))


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of bench_kl.py for one checkpoint."""

    checkpoint: Path
    kind: str
    data: Path | None
    work: Path

    def calibration(self, seed: int, *, weighted: bool) -> Any:
        """The set of a seed; the tokens are the same whether they are weighted or not."""
        from bench_kl import CALIBRATION_TOKENS

        return self._set("calibration", CALIBRATION_TOKENS, seed, weighted=weighted)

    def held_out(self) -> Any:
        """What is measured on."""
        from bench_kl import EVALUATION_TOKENS

        return self._set("held_out", EVALUATION_TOKENS, 0, weighted=True)

    def _set(self, part: str, tokens: int, seed: int, *, weighted: bool) -> Any:
        from bench_kl import _texts_of_facts, _texts_of_medquad

        from edgemed.quantize.calibration_texts import PLAIN, TokenWeights, calibration_set

        file = self.work / f"{part}.jsonl"
        if not file.is_file():
            lines = _texts_of_facts(part) if self.kind == "facts" else _texts_of_medquad(part, self.data)
            file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        weights = TokenWeights() if weighted else PLAIN
        return calibration_set(self.checkpoint, file, tokens=tokens, least=768, weights=weights, seed=seed)


def compare(options: argparse.Namespace, texts: Texts) -> dict[str, Any]:
    """Every method with every seed: KL, bits, time, memory, doses; median, lowest, highest."""
    import torch

    torch.set_num_threads(1)
    names = options.methods.split(";") if options.methods else [*THEIRS, *OURS]
    children = Children(texts, doses=options.doses > 0)
    found: dict[str, Any] = {"evaluation_tokens": children.evaluation.n_tokens, "methods": {}}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for seed in range(options.seeds):
        for name in names:
            output = options.work / "rounded.safetensors"
            row = made(options, texts, name, seed, output)
            rows[name].append(row | children.measured(output, doses=seed < options.doses))
            print(name, seed, rows[name][-1], file=sys.stderr, flush=True)
    for name, measured in rows.items():
        values = {key: [row[key] for row in measured if key in row] for key in measured[0]}
        found["methods"][name] = {key: [statistics.median(each), min(each), max(each)] for key, each in values.items()}
    found["plain transformers"] = {
        f"{name} in {label}": asked(python, [str(folder_of(options.work, name)), "--load"], options.work)
        for name in names
        if name in THEIRS
        for label, python in (("our environment", sys.executable), ("gptqmodel's", options.gptqmodel_python.absolute()))
    }
    return found


def made(options: argparse.Namespace, texts: Texts, name: str, seed: int, output: Path) -> dict[str, Any]:
    """What it took to round with one method; the weights stand in `output`."""
    if name in OURS:
        own = [str(options.checkpoint), "--texts", options.texts, "--work", str(options.work)]
        own += ["--data", str(options.data.absolute())] if options.data else []
        return asked(sys.executable, [*own, "--ours", name, str(seed), str(output)], options.work)
    ids = options.work / f"calibration-{seed}.json"
    ids.write_text(json.dumps([text.ids for text in texts.calibration(seed, weighted=False).texts]))
    arguments = [str(options.checkpoint), "--theirs", name, str(ids), str(output)]
    return asked(options.gptqmodel_python.absolute(), arguments, options.work)


def asked(python: Any, arguments: list[str], work: Path) -> Any:
    """The last line that this script prints, run by an interpreter. Raises SystemExit, with the end of its words.

    It runs in `work`, because gptqmodel leaves a folder of logs where it is started.
    """
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "GPTQMODEL_CPU_WORKERS": "2",  # on two cores it takes one, and then refuses to start with one
    }
    command = [str(python), __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=work, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments} failed: {done.stdout[-2000:]} {done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


class Children:
    """The parent in float32, and its matrices replaced by rounded ones to measure what they lose."""

    def __init__(self, texts: Texts, *, doses: bool) -> None:
        from edgemed.core.progress import SilentProgress
        from edgemed.evaluate.torch_scorer import ends_of, open_folder
        from edgemed.quantize.gate import Judge

        self.evaluation = texts.held_out()
        self._checkpoint, self._ends = texts.checkpoint, ends_of(texts.checkpoint)
        with_parent = open_folder(texts.checkpoint, context_length=2048)
        self._parent = [with_parent.logits(text.ids, 1) for text in self.evaluation.texts]
        self._model = with_parent._model
        judge = Judge(texts.checkpoint, texts.work, lambda: open_folder(texts.checkpoint), SilentProgress())
        self._judge = judge if doses else None

    def measured(self, rounded: Path, *, doses: bool) -> dict[str, float]:
        """KL and entity KL of the parent with these matrices, and the doses that it changes."""
        import numpy as np
        from bench_kl import ENTITY_WEIGHT
        from safetensors.torch import load_file

        from edgemed.evaluate.divergence import divergence, joined
        from edgemed.evaluate.torch_scorer import TorchScorer

        parameters = dict(self._model.named_parameters())
        for name, values in load_file(rounded).items():
            parameters[name].data.copy_(values)
        scorer = TorchScorer(self._model, self._ends, context_length=2048)
        parts, entity = [], []
        for text, parent in zip(self.evaluation.texts, self._parent, strict=True):
            parts.append(divergence(parent, scorer.logits(text.ids, 1), text.ids[1:]))
            entity.append(text.weights[1:] >= ENTITY_WEIGHT)
        kl = joined(parts).kl
        found = {"kl": float(kl.mean()), "entity_kl": float(kl[np.concatenate(entity)].mean())}
        if self._judge and doses:
            child = TorchScorer(self._model, self._ends)
            found["changed_doses"] = self._judge.changes(lambda: child, "B")
        return found


def round_theirs(checkpoint: Path, method: str, ids: Path, output: Path) -> None:
    """In gptqmodel's environment: quantize, write the checkpoint beside `output`, and its weights into `output`."""
    import torch
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
    from safetensors import safe_open
    from safetensors.torch import save_file

    settings: dict[str, Any] = {"bits": 4, "group_size": GROUP, **THEIRS[method]}
    libraries = peak_bytes()
    began, before = time.perf_counter(), cpu_seconds()
    config = QuantizeConfig(**settings, device="cpu", offload_to_disk=False)
    model = GPTQModel.load(str(checkpoint), config, dtype=torch.float32)
    texts = [
        {"input_ids": torch.tensor([text]), "attention_mask": torch.ones(1, len(text), dtype=torch.long)}
        for text in json.loads(ids.read_text())
    ]
    model.quantize(texts, batch_size=1)
    folder = folder_of(output.parent, method)
    model.save(str(folder))
    spent = {"cpu_s": cpu_seconds() - before, "wall_s": time.perf_counter() - began}
    spent |= {"peak_mib": peak_bytes() / 2**20, "libraries_mib": libraries / 2**20}
    with safe_open(folder / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    again = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.GPTQ_TORCH, dtype=torch.float16)
    packed = {name: module for name, module in again.model.named_modules() if hasattr(module, "qweight")}
    weights = {}
    for name, module in packed.items():
        weights[f"{name}.weight"] = values = unpacked(stored, name)
        theirs = module.dequantize_weight().T.float()
        assert torch.allclose(values, theirs, rtol=2**-9, atol=1e-6), f"{name} is read otherwise by gptqmodel"
    save_file(weights, output)
    n_bytes = sum(values.nbytes for name, values in stored.items() if name.endswith((".qweight", ".qzeros", ".scales")))
    spent["bits_per_weight"] = 8 * n_bytes / sum(values.numel() for values in weights.values())
    print(f"\n{json.dumps(spent)}", flush=True)
    os._exit(0)  # its worker threads do not end by themselves


def unpacked(stored: Mapping[str, Any], name: str) -> Any:
    """The weights (rows, columns) of one matrix in float32, from what gptqmodel stores: words of 32 bits, zeros less 1.

    gptqmodel itself reads them in 16 bits, which rounds once more.
    """
    import torch

    words, zeros, scales, groups = (stored[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx"))
    columns, rows = len(groups), scales.shape[1]
    bits = 32 * words.shape[0] // columns
    shifts = torch.arange(0, 32, bits)
    codes = (words.long()[:, None] >> shifts[None, :, None] & 2**bits - 1).reshape(columns, rows)
    offsets = (zeros.long()[:, :, None] >> shifts & 2**bits - 1).reshape(len(scales), rows) + 1
    return ((codes - offsets[groups.long()]) * scales.float()[groups.long()]).T.contiguous()


def folder_of(work: Path, method: str) -> Path:
    """Where the checkpoint stands that gptqmodel wrote last with one method."""
    return work / method.replace(", ", "_").replace(" ", "_")


def round_ours(texts: Texts, method: str, seed: int, output: Path) -> None:
    """Round as edgemed does, and write the weights."""
    import torch
    from safetensors.torch import save_file

    from edgemed.models.checkpoint import open_checkpoint, spec_from_checkpoint
    from edgemed.quantize.layerwise import round_layers

    torch.set_num_threads(1)
    attention, feed_forward, weighted = OURS[method]
    checkpoint = open_checkpoint(texts.checkpoint)
    matrices = [
        tensor for tensor in spec_from_checkpoint(checkpoint).tensors if tensor.layer is not None and tensor.shape[1:]
    ]
    libraries = peak_bytes()
    began, before = time.perf_counter(), cpu_seconds()
    calibration = texts.calibration(seed, weighted=weighted)
    with tempfile.TemporaryDirectory(dir=texts.work) as layers:
        if attention[0].isdigit():
            formats = allocated(texts, calibration, float(attention), Path(layers))
        else:
            formats = {t.name: attention if t.role.startswith("attention") else feed_forward for t in matrices}
        roundings = {name: rounding_of(kind) for name, kind in formats.items()}
        finished = round_layers(checkpoint, roundings, calibration, Path(layers))
        with checkpoint.reader() as reader:
            weights = {
                name: torch.from_numpy(
                    roundings[name].values(tensor.stored(), reader.float32(checkpoint.tensors[name]))
                ).contiguous()
                for name, tensor in finished.items()
            }
    spent = {"cpu_s": cpu_seconds() - before, "wall_s": time.perf_counter() - began}
    spent |= {"peak_mib": peak_bytes() / 2**20, "libraries_mib": libraries / 2**20}
    save_file(weights, output)
    bits = sum(bits_of(formats[t.name], t.shape) for t in matrices)
    spent["bits_per_weight"] = bits / sum(values.numel() for values in weights.values())
    print(json.dumps(spent))


def allocated(texts: Texts, calibration: Any, bits: float, work: Path) -> dict[str, str]:
    """Formats by `auto`'s estimate, of the decoder layers' matrices alone, for so many bits per weight of theirs."""
    from edgemed.core.progress import SilentProgress
    from edgemed.core.tensor_types import BY_NAME
    from edgemed.export.allocate import estimated_losses
    from edgemed.export.compress import AUTO_BASE
    from edgemed.export.preflight import prepare
    from edgemed.models.checkpoint import layer_of
    from edgemed.quantize.allocation import allocate

    plan = prepare(texts.checkpoint, work / "child.gguf", AUTO_BASE)
    losses = estimated_losses(plan, calibration, work / "sensitivity.json", SilentProgress())
    shapes: Mapping[str, tuple[int, ...]] = {tensor.source: tensor.shape for tensor in plan.conversion.tensors}

    def n_bytes(name: str, kind: str) -> int:
        return shapes[name][0] * BY_NAME[kind].row_bytes(shapes[name][1])

    options = [option for option in losses.options(n_bytes) if layer_of(option.tensor) is not None]
    n_weights = sum(shapes[name][0] * shapes[name][1] for name in {option.tensor for option in options})
    return dict(allocate(options, int(bits * n_weights / 8)).formats)


def rounding_of(kind: str) -> Any:
    """Our rounding to a format: of torch's folder, of GGUF, or gptqmodel's own symmetric grid."""
    from edgemed.core.tensor_types import BY_NAME
    from edgemed.quantize.rounding import BlockRounding, CodeRounding
    from edgemed.quantize.torch_folder import int8_grid, nf4_grid

    grids = {"nf4": nf4_grid, "int8": int8_grid, "grid": symmetric_grid}
    return CodeRounding(kind, grids[kind]) if kind in grids else BlockRounding(BY_NAME[kind])


def symmetric_grid(weights: Any) -> Any:
    """gptqmodel's 4-bit grid with its settings: 16 even steps, one scale in 16 bits a group, no offset."""
    import numpy as np

    from edgemed.formats.blocks import Grid

    rows, columns = weights.shape
    largest = np.abs(weights.reshape(rows, columns // GROUP, GROUP)).max(axis=2)
    scale = (2 * largest / 15).astype(np.float16).astype(np.float32)
    return Grid(np.arange(-8, 8, dtype=np.float32), GROUP, scale, np.zeros_like(scale))


def bits_of(kind: str, shape: tuple[int, ...]) -> float:
    """Bits of a matrix in one of our formats: codes, scales and zeros."""
    from edgemed.core.tensor_types import BY_NAME

    rows, columns = shape
    n_weights = rows * columns
    by_kind = {
        "int8": 8 * n_weights + 32 * rows,
        "nf4": n_weights * (4 + 8 / 64 + 32 / (64 * 256)),
        "grid": n_weights * (4 + (16 + 4) / GROUP),  # its zeros are stored, though they are all the same
    }
    return by_kind[kind] if kind in by_kind else 8 * rows * BY_NAME[kind].row_bytes(columns)


def load_plainly(folder: Path) -> None:
    """Prints whether transformers loads a checkpoint that gptqmodel wrote."""
    import contextlib
    import io

    import torch
    from transformers import AutoModelForCausalLM

    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words), contextlib.redirect_stdout(words):
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        result = "loaded"
    except Exception as error:  # whatever it says is what is reported
        result = f"{type(error).__name__}: {str(error)[:300]}"
    print(f"\n{json.dumps(result)}", flush=True)
    os._exit(0)


def cpu_seconds() -> float:
    """Of this process and its children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def peak_bytes() -> int:
    """The most memory that was resident; `getrusage` would count what the process held that started this one."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
