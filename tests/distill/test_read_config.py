"""CONFIG.toml: its paths hold, its faults are named by key and line, and keys that do not agree are told together."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemed.core.errors import UsageError
from edgemed.demo import demo_checkpoint_path
from edgemed.distill.read_config import read_config, shipped_configs

GOOD = """
[teacher]
model = "demo"

[student]
model = "small"

[data]
examples = "taught.jsonl"

[sft]
steps = 10

[kd]
steps = 20
"""


def read(folder: Path, text: str) -> None:
    (folder / "mine.toml").write_text(text)
    read_config(str(folder / "mine.toml"))


def test_paths_are_relative_to_the_files_folder_and_the_output_to_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.toml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    config = read_config("configs/mine.toml")
    assert config.student.model == str(tmp_path / "configs" / "small")
    assert config.data.examples == str(tmp_path / "configs" / "taught.jsonl")
    assert config.teacher.model == str(demo_checkpoint_path())
    assert config.output == tmp_path / "runs" / "mine"
    (tmp_path / "configs" / "mine.toml").write_text('output = "here"\n' + GOOD)
    assert read_config("configs/mine.toml").output == tmp_path / "configs" / "here"


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_shipped_configuration_can_be_read_by_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_config(name).output == tmp_path / "runs" / name


def test_a_file_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="demo, medquad, r1-70b-to-7b"):
        read_config(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("[sft]\nsteps = 10", "[sft]\nstepps = 10", r"sft.stepps \(line 12\) is not known; .* steps"),
        ("[sft]\nsteps = 10", "", r"sft is missing"),
        ("[kd]\nsteps = 20", "[kd]\nsteps = 2.5", r"kd.steps \(line 15\) must be a whole number"),
        ("[kd]\nsteps = 20", "[kd]\nsteps = 20\nrate = nan", r"kd.rate \(line 16\) must be a number"),
        ("[kd]\nsteps = 20", "[kd]\nsteps = 20\nbetas = [0.9]", r"kd.betas"),
        ('model = "small"', 'model = "small"\n[student.new]\nhidden_size = 64', r"student.new.ffn_size is missing in"),
        ('model = "small"', "", r"student \(line 5\) cannot be used: give either student.model or"),
        ('model = "demo"', 'model = "demo"\nbackend = "gpt"', r"teacher.backend .* must be 'transformers', 'vllm'"),
        ('model = "demo"', 'model = "demo"\nbackend = "server"', r"teacher.url must .*teacher.tokenizer "),
        ("[kd]\nsteps = 20", "[kd]\nsteps = 0\n[loss]\nmse = 1.0", "loss.mse compares hidden states"),
        ("[kd]\nsteps = 20", '[kd]\nsteps = 9\n[loss]\nkd = "none"\nmed_kl = 0', "leaves the teacher nothing to say"),
        ("[kd]\nsteps = 20", "[kd]\nsteps = 9\n[loss]\nretention = 1", "loss.retention needs data.replay"),
        ("[kd]\nsteps = 20", "[kd]\nsteps = 9\nwarmup_steps = 9", "kd.warmup_steps leave nothing of its 9 steps"),
        ("[kd]\nsteps = 20", '[kd]\nsteps = 9\n[adapter]\nmodules = ["w_proj"]', "adapter.modules must be some of q_"),
        ("steps = 10\n\n[kd]\nsteps = 20", "steps = 0\n\n[kd]\nsteps = 0", "nothing would be learned"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert before in GOOD
    with pytest.raises(UsageError, match=said) as refused:
        read(tmp_path, GOOD.replace(before, after))
    assert refused.value.next_step
    for word in ("Input", "Extra inputs", "valid", "permitted"):
        assert word not in refused.value.what


def test_faults_of_several_tables_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        read(tmp_path, GOOD.replace("steps = 10", "steps = -1").replace('examples = "taught.jsonl"', "n_examples = -1"))
    for key in ("sft.steps", "data.n_examples", "data.examples is missing"):
        assert key in refused.value.what
