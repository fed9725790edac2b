"""What every inference engine offers, in the words of the one who asks it.

The life of a request
    1  `Engine.tokenize` turns the parts of a rendered prompt into token ids; the caller checks the length.
    2  `Engine.submit` queues it; `on_event` will be called from another thread.
    3  The scheduler gives it a slot when one is free, reads its prompt in chunks, then decodes with the others.
    4  Each step that yields text sends a TextEvent; the last event, exactly one, is a DoneEvent or an ErrorEvent.
    5  `Engine.cancel` ends it early (the client left); it still gets its DoneEvent, with reason "cancelled".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field

from edgemed.core.prompt import PromptPart
from edgemed.core.records import Record

KvType = Literal["f16", "q8_0", "q4_0"]
Lane = Literal["emergency", "normal"]
"""Of two requests that wait, one of the emergency lane goes first, whoever came first."""
FinishReason = Literal["stop", "length", "cancelled", "deadline"]


class TensorPlace(Record):
    """Weights that lie on another device than their layer."""

    pattern: str
    """Regular expression (ECMAScript's, as in llama.cpp's `--override-tensor`) that finds a part of their names."""
    device: str
    """The engine's name of the device, such as "CPU" or "CUDA0"."""


class AdapterFile(Record):
    """A LoRA adapter as a GGUF beside its model."""

    name: str
    """What a request calls it."""
    path: Path
    scale: float = 1.0


class EngineConfig(Record):
    """How one engine process loads one model; made by a plan."""

    model_path: Path
    context_length: int = 2048
    """Tokens of prompt and answer together, per slot."""
    n_slots: int = 1
    """Requests that decode side by side; the KV cache holds n_slots * context_length tokens."""
    n_threads: int = 1
    n_threads_batch: int = 0
    """Threads that read prompts; 0 is as many as decode."""
    n_gpu_layers: int = 0
    """The head is the first of them, then the last layers."""
    devices: tuple[str, ...] = ()
    """The engine's names of the devices that layers may go to, in order; empty for all it has."""
    device_shares: tuple[float, ...] = ()
    """Share of the GPU layers that each of `devices` takes; empty shares by free memory."""
    tensor_places: tuple[TensorPlace, ...] = ()
    """Weights placed apart from their layer; of several patterns that match, the first counts."""
    kv_type: KvType = "f16"
    n_ubatch: int = 128
    """Prompt tokens per step: the compute buffer grows with it."""
    flash_attention: bool = True
    use_mmap: bool = False
    """Mapping keeps a second copy of repacked weights, and a stick pulled out kills the process."""
    adapters: tuple[AdapterFile, ...] = ()
    """Loaded beside the model; requests of one adapter share a step, those of two never do."""
    offline: bool = True
    """Refuse every outgoing connection inside the engine's process."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. Temperature 0 is greedy: the most likely token, always."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all."""
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    """Taken off the logit of every token that the answer already holds."""
    frequency_penalty: float = 0.0
    """Taken off for each time that it does."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One question on its way through an engine."""

    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings; they are never part of it."""
    deadline_s: float | None = None
    """Seconds from submission after which it ends with reason "deadline"."""
    reasoning_limit: int | None = None
    """Tokens a reasoning model may think before the engine ends its thinking; 0 is none, None no limit.

    With a limit, `max_tokens` is the answer's alone and the thinking comes on top, as far as the context holds
    both; without one it counts both. Other models are not touched by it."""
    lane: Lane = "normal"
    client: str = ""
    """Whose turn it is: those that wait in one lane are served in turns, client by client."""
    session: str = ""
    """Key of a conversation, random and given by the server: what its last turn left in the KV cache may be used by
    its next one, and by nobody else. Empty: nothing is kept."""
    grammar: str = ""
    """GBNF that the answer must follow; empty for free text."""
    top_logprobs: int | None = None
    """Log-probabilities of each token and of so many likely ones; None gives none."""
    adapter: str = ""
    """One of the configuration's adapters; empty for the model alone."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its log-probability (natural), before temperature and filters."""

    piece: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class DrawnToken:
    """A token of the answer, and the likeliest ones in its place, in falling order."""

    drawn: TokenLogprob
    likeliest: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class PlaceEvent:
    """The request's place in the queue has changed; it has not begun."""

    place: int
    """From 1: requests that begin before it, and itself."""


@dataclass(frozen=True, slots=True)
class TextEvent:
    """New text of the answer; always whole characters, never the start of a stop string."""

    text: str
    n_tokens: int
    """Tokens this text was made of."""
    reasoning: bool = False
    """What a reasoning model says to itself: no part of the answer."""
    tokens: tuple[DrawnToken, ...] = ()
    """One by one, where log-probabilities were asked for."""


@dataclass(frozen=True, slots=True)
class DoneEvent:
    """The answer has ended."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    ttft_ms: float
    """From submission to the first token; 0 when none came."""
    total_ms: float
    reasoning_tokens: int = 0
    """Those of `completion_tokens` that were thinking."""
    cached_tokens: int = 0
    """Those of `prompt_tokens` that stood in the KV cache already and were not read again."""


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """The request failed; asking again is safe when `retryable`."""

    message: str
    retryable: bool
    too_long: bool = False
    """The prompt does not fit the context that the engine has now; the message has both numbers."""


NO_TOKEN = -1
"""Drawn where a grammar allows no token of the vocabulary."""

Event = PlaceEvent | TextEvent | DoneEvent | ErrorEvent
OnEvent = Callable[[Event], None]


class EngineInfo(Record):
    """What an engine says of the model it has loaded."""

    engine: str
    """Name and version, such as "llama.cpp 0.3.36"."""
    architecture: str
    model_name: str
    context_length: int
    """Per slot."""
    n_slots: int
    vocab_size: int
    chat_template: str
    bos_token: str = ""
    eos_token: str = ""
    reasoning: bool = False
    """The model knows "<think>" and may reason before it answers."""
    devices: tuple[str, ...] = ()
    """The engine's names of the devices that hold a part of the model, such as "CPU" or "CUDA0"."""
    buffer_bytes: dict[str, int] = Field(default_factory=dict)
    """Memory by the engine's own account, per kind of buffer: weights, KV cache and compute together."""
    memory: dict[str, tuple[int, int, int]] = Field(default_factory=dict)
    """Bytes of weights, KV cache and compute buffers by place ("RAM", "CUDA0"), asked of the engine after loading;
    empty where it cannot be asked."""
    load_seconds: float = 0.0
    warm_up_tokens: int = 0
    """Prompt tokens that were read once before the engine called itself ready."""


Cause = Literal["memory", "device", "fault"]
"""Why an engine was lost or left: memory ran short, a device such as a GPU is gone, or anything else."""


class Pace(Record):
    """How fast answers are written now: medians over the last seconds of decoding."""

    tokens_per_s: float
    """All streams together."""
    tokens_per_s_per_stream: float
    n_threads: int
    """Threads that decode now; fewer than planned while other programs take the cores."""
    expected_tokens_per_s: float | None
    """All streams together, from the plan, or from the engine's own first minute; None before that is over."""
    ratio: float | None
    """Measured by expected; None without the latter."""
    slow: bool
    """The ratio has stayed low for long enough to be said."""


class EngineHealth(Record):
    """Recent progress, not mere life."""

    state: Literal["starting", "ready", "restarting", "failed", "closed"]
    running: int = 0
    waiting: int = 0
    restarts: int = 0
    seconds_since_progress: float | None = None
    """None while there is nothing to do."""
    detail: str = ""
    rung: int = 0
    """Step of the plan's ladder that runs: 0 is the plan itself, each further one needs less."""
    cause: Cause | None = None
    """Why it runs on a lower rung; None on the plan's own."""
    reason: str = ""
    """The same in words, with the numbers."""
    pace: Pace | None = None
    """None before the first answer, and after a long silence."""
    pid: int | None = None
    """Of the process that computes; None while there is none of its own."""
    kv_used: int | None = None
    """Cells of the KV cache that hold a token; None where the engine does not tell."""
    kv_cells: int | None = None
    """All of them."""


class Engine(Protocol):
    """One loaded model that answers several requests side by side. Every method is thread-safe."""

    @property
    def info(self) -> EngineInfo:
        """What is loaded. Raises EngineFailed when loading failed."""

    def tokenize(self, parts: list[PromptPart]) -> list[int]:
        """Token ids, with the model's own BOS rule. Raises EngineFailed."""

    def embed(self, token_ids: Sequence[int]) -> list[float]:
        """A text's embedding by the model itself: the mean of its last hidden states, of length 1.

        Of long texts only the first `embedding.EMBEDDED_TOKENS` count. Raises UsageError for no tokens, EngineFailed
        when the model cannot embed, EngineLost when asking again may help.
        """

    def submit(self, request: GenerationRequest, on_event: OnEvent) -> None:
        """Queue a request; events arrive from another thread. Raises EngineFailed when the engine is closed."""

    def cancel(self, request_id: str) -> None:
        """End a request early; unknown and finished ids are ignored."""

    def pin(self, prefixes: Sequence[Sequence[int]]) -> None:
        """Beginnings of prompts that hold no person's words, such as the project's templates: each is read once, and
        any request that begins with the same tokens shares what the KV cache holds of it. Never waits."""

    def forget_session(self, session: str) -> None:
        """Erase what the KV cache keeps of a session; unknown ones are ignored. Never waits."""

    def health(self) -> EngineHealth:
        """The state now, without waiting for the engine."""

    def close(self) -> None:
        """End the engine; running requests get an ErrorEvent. Returns within 5 seconds."""
