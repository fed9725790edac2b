"""What one distillation is: the CONFIG.toml of `edgemed distill`, as records.

    [teacher]      the model that knows, and where it runs
    [student]      the model that learns: a folder, or a shape to begin from nothing
    [data]         what is taught, what is replayed, what must not be taught
    [teach]        the teacher's stage: answers, scores, what is kept
    [loss]         equation (6): the terms and their weights
    [adapter]      LoRA; without this table all of the student is trained
    [sft], [kd]    steps and learning rate of the two stages of training
    [curriculum]   in which order
    [training]     precision, memory, checkpoints
    [tune]         the grid of weights
    [ablate]       the arms that are compared, and how often

Every key has its default here. Paths are relative to the file's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from edgemed.core.records import Record

Backend = Literal["transformers", "vllm", "ray", "server"]
KdForm = Literal["none", "same", "chunks"]
"""Of knowledge distillation: none; token by token, for one vocabulary; by chunks of text, for any two."""
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DEMO = "demo"
"""As a model: the shipped checkpoint. As examples: questions made of its table of facts."""


class TeacherConfig(Record):
    """The model that knows."""

    model: str
    """A checkpoint's folder or "demo"; for a server the model's name there."""
    tokenizer: str = ""
    """A folder with the teacher's tokenizer, where `model` is none: of a server's model."""
    backend: Backend = "transformers"
    url: str = ""
    """Of an OpenAI-compatible server, up to and with /v1."""
    insecure: bool = False
    """Send texts to another machine's server without encryption."""
    timeout_s: float = Field(default=600, gt=0)
    """Of one request to the server."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the weights; auto is bfloat16 on a GPU, float32 else."""
    batch: int = Field(default=8, ge=1)
    """Texts at a time."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that share one copy (vllm, ray)."""
    replicas: int = Field(default=1, ge=1)
    """Copies (ray)."""


class NewStudent(Record):
    """A Qwen 2 model of random weights: for demonstrations and tests."""

    hidden_size: int = Field(ge=8)
    ffn_size: int = Field(ge=8)
    n_layers: int = Field(ge=1)
    n_heads: int = Field(ge=1)
    n_kv_heads: int = Field(ge=1)
    context_length: int = Field(default=1024, ge=16)
    tokenizer: str = ""
    """A folder with tokenizer.json and a chat template; the teacher's by default."""
    start_steps: int = Field(default=0, ge=0)
    """Of training on the part of the demo's table that is not taught (data.n_facts), before anything is: made once for
    all seeds and arms, and kept. With 0 the student begins from nothing."""


class StudentConfig(Record):
    """The model that learns: exactly one of both."""

    model: str = ""
    """A checkpoint's folder."""
    new: NewStudent | None = None

    @model_validator(mode="after")
    def _one(self) -> StudentConfig:
        if bool(self.model) == (self.new is not None):
            raise ValueError("give either student.model or [student.new]")
        return self


class DataConfig(Record):
    """What is taught. Files are JSON Lines as in examples.py."""

    examples: str
    """A file of questions and answers, or "demo"."""
    validation: str = ""
    """A file of the same kind that the weights are chosen on; held-out questions of the table for "demo"."""
    replay: str = ""
    """Examples of what the student knows already and should keep."""
    basic: str = ""
    """Examples of foundations, learned with priority early on."""
    examinations: tuple[str, ...] = ()
    """Files whose questions must not be taught; the shipped evaluation sets always are among them."""
    check_leaks: bool = True
    n_examples: int = Field(default=0, ge=0)
    """The first so many only; 0 is all, and for "demo" 4096."""
    n_facts: int = Field(default=0, ge=0)
    """With "demo": about so many dose facts, those of whole drugs; 0 is all."""
    max_tokens: int = Field(default=2048, ge=16)
    """Of prompt and answer; longer examples are left out and counted."""


class TeachConfig(Record):
    """The teacher's stage."""

    answers: Literal["given", "generated"] = "given"
    """given: the examples' answers are scored. generated: the teacher answers, and that is scored."""
    samples: int = Field(default=1, ge=1)
    """Answers to each question; the first that agrees with the example's answer is kept (generated)."""
    temperature: float = Field(default=0.6, ge=0)
    max_new_tokens: int = Field(default=1024, ge=1)
    top_k: int = Field(default=64, ge=1, le=1024)
    places: Literal["entities", "all"] = "entities"
    """Where the k likeliest tokens are kept: at clinical entities and numerals, or everywhere."""
    hidden: bool = False
    """Keep the teacher's last hidden states, for loss.mse: 2 bytes a unit and token."""
    shard_examples: int = Field(default=512, ge=1)


class LossConfig(Record):
    """Equation (6): a CE + b KD + g MSE + d MedKL + r Ret."""

    ce: float = Field(default=1.0, ge=0)
    kd: KdForm = "chunks"
    kd_weight: float = Field(default=1.0, ge=0)
    mse: float = Field(default=0.0, ge=0)
    med_kl: float = Field(default=0.1, ge=0)
    med_kl_form: Literal["l1", "bkl"] = "bkl"
    retention: float = Field(default=0.0, ge=0)
    entity_weight: float = Field(default=1.0, ge=1)
    """Of KD within clinical entities, beside 1 elsewhere."""
    digits: bool = True
    """Teach numerals digit by digit where the teacher packs several into a token (kd = "chunks")."""
    think_weight: float = Field(default=1.0, ge=0)
    """Of the tokens of reasoning in CE and KD, beside 1 for those of the answer."""


class AdapterConfig(Record):
    """LoRA over the student's layers."""

    rank: int = Field(default=16, ge=1)
    """Of each module; with allocation the mean that the budget stands for."""
    alpha: float = Field(default=32.0, gt=0)
    stabilised: bool = True
    """rsLoRA: scale by alpha / sqrt(rank) instead of alpha / rank."""
    modules: tuple[str, ...] = MODULES
    allocation: Literal["uniform", "gradient"] = "uniform"
    """gradient: ALORA, ranks by the singular values of the first step's gradients."""
    stable_svd_every: int = Field(default=0, ge=0)
    """Steps between two StableSVD passes; 0 is none."""
    base_bits: Literal[4, 16] = 16
    """4: the frozen weights in NF4 (QLoRA), on a GPU."""


class StageConfig(Record):
    """Steps of one stage of training, and its learning rate: equation (5)."""

    steps: int = Field(ge=0)
    """0 leaves the stage out."""
    examples_per_step: int = Field(default=32, ge=1)
    rate: float = Field(default=2e-4, gt=0)
    lowest_rate: float = Field(default=0.0, ge=0)
    restarts: int = Field(default=1, ge=1)
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)


class CurriculumConfig(Record):
    """Progressive batch distillation; all off is a plain shuffle."""

    progressive: bool = True
    """Easy examples first."""
    start_competence: float = Field(default=0.1, gt=0, le=1)
    basic_first: bool = True
    """Foundations with priority in the first half: their weight falls from `basic_weight` to 1."""
    basic_weight: float = Field(default=3.0, ge=1)
    specialised: bool = True
    """In the last part, specialties of few examples are drawn more often, beside some replay."""
    specialised_share: float = Field(default=0.2, ge=0, le=1)
    """That last part of the steps."""
    replay_share: float = Field(default=0.2, ge=0, lt=1)
    """Of its examples that are replay, where there is any."""


class TrainingConfig(Record):
    """How it is computed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the computation; auto is bfloat16 on a GPU, float32 else. Weights that are trained stay float32."""
    micro_batches: int = Field(default=1, ge=1)
    """Parts of a step that are computed one after the other, all processes together; the result is the same."""
    gradient_checkpointing: bool = False
    save_every: int = Field(default=100, ge=1)
    """Steps between two checkpoints: what a power cut costs at most."""
    keep_checkpoints: int = Field(default=2, ge=1)
    threads: int = Field(default=0, ge=0)
    """CPU threads; 0 leaves torch its own number."""


class TuneConfig(Record):
    """The staged grid of the loss's weights (a = 1)."""

    kd_weights: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    med_kl_weights: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0)
    mse_weights: tuple[float, ...] = (0.0, 0.1)
    share: float = Field(default=0.25, gt=0, le=1)
    """Of the steps that a trial of the first round takes."""
    finalists: int = Field(default=3, ge=1)
    seeds: int = Field(default=3, ge=1)
    """Of each finalist, at full length."""


class AblateConfig(Record):
    """The paper's table."""

    seeds: int = Field(default=30, ge=2)
    arms: tuple[str, ...] = ()
    """Names of ablate.py; all by default."""
    workers: int = Field(default=1, ge=1)
    """Arms at a time, each a process of its own."""


class DistillConfig(Record):
    """One distillation."""

    schema_version: Literal[1] = 1
    seed: int = Field(default=1, ge=0)
    output: Path | None = None
    """Default: runs/ and the file's name."""
    teacher: TeacherConfig
    student: StudentConfig
    data: DataConfig
    teach: TeachConfig = TeachConfig()
    loss: LossConfig = LossConfig()
    adapter: AdapterConfig | None = None
    sft: StageConfig
    kd: StageConfig
    curriculum: CurriculumConfig = CurriculumConfig()
    training: TrainingConfig = TrainingConfig()
    tune: TuneConfig = TuneConfig()
    ablate: AblateConfig = AblateConfig()
