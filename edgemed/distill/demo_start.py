"""Where the demonstration's students begin: a small model that reads and writes, and knows nothing of what is taught.

A model of a million parameters learns nothing from nothing within a minute. So it is trained once on the part of the
table that a run leaves out, by the demonstration's own training, and kept by the digest of all that went into it: every
seed and every arm begins from the same weights.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from edgemed.core.progress import Progress
from edgemed.core.records import digest_of
from edgemed.core.settings import data_dir
from edgemed.demo.table import FactTable
from edgemed.demo.train import Packer, TrainingSettings
from edgemed.distill.config import DistillConfig, NewStudent
from edgemed.distill.demo_data import other_table
from edgemed.medical.prompts import templates_digest

_SEED = 43
_ROWS = 8
"""Packed rows of 512 tokens in a step."""


def start_of(config: DistillConfig, tokenizer: Path, progress: Progress) -> Path:
    """The folder of the start that the configuration asks for, made where it is not there yet.

    `tokenizer` is a folder with the student's. It lies in the data directory, under a name of its content.
    """
    new = config.student.new
    assert new is not None
    table = other_table(config.data.n_facts)
    settings = _settings(new)
    content = {
        "settings": asdict(settings),
        "facts": table.digest(),
        "templates": templates_digest(),
        "tokenizer": digest_of((tokenizer / "tokenizer.json").read_text(encoding="utf-8")),
    }
    folder = data_dir() / "distill" / f"start-{digest_of(content)[:16]}"
    if not (folder / "config.json").is_file():
        _make(table, settings, tokenizer, folder, progress)
    return folder


def _settings(new: NewStudent) -> TrainingSettings:
    return TrainingSettings(
        seed=_SEED,
        vocab_size=0,  # the tokenizer's
        hidden_size=new.hidden_size,
        ffn_size=new.ffn_size,
        n_layers=new.n_layers,
        n_heads=new.n_heads,
        n_kv_heads=new.n_kv_heads,
        context_length=new.context_length,
        rows=_ROWS,
        steps=new.start_steps,
    )


def _make(table: FactTable, settings: TrainingSettings, tokenizer: Path, folder: Path, progress: Progress) -> None:
    """Train and save; the folder appears whole or not at all, so a cut costs this training."""
    from edgemed.distill.student import require_training, save_student

    require_training()
    import torch
    from tokenizers import Tokenizer

    from edgemed.demo.train import build_model, optimizers_of, packed_rows, set_rates, train_step

    cutter = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    settings = replace(settings, vocab_size=cutter.get_vocab_size())
    with torch.random.fork_rng(devices=[]):
        model = build_model(settings)
    optimizers = optimizers_of(model, settings)
    rows = packed_rows(table, Packer(cutter, settings.pack_length, settings.question_weight), settings)
    with progress.task("Making the students' start, once", settings.steps, "steps") as task:
        for step in range(settings.steps):
            set_rates(optimizers, step, step / settings.steps, settings)
            loss = train_step(model, optimizers, [next(rows) for _ in range(settings.rows)], "cpu")
            task.advance()
            task.describe(f"Making the students' start, once: loss {loss:.2f}")
    save_student(model, tokenizer, folder, "float32")
