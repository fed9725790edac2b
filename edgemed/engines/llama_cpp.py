"""llama.cpp through llama-cpp-python's low-level API: one model, one context, several sequences.

Facts about the library (0.3.36) that shape this file
    A batch larger than n_batch, more outputs than n_outputs_max, two threads in one context and some malformed
    files abort the whole process: this runs in the engine process only, behind the bounds-checked reader.
    The high-level `Llama` class is never imported: it is not safe with threads, and nothing here needs it.
    The KV cache is unified: one pool of n_slots * context_length cells, in which prompt chunks of one slot and
    decoding tokens of others share a batch. The limit per slot is the scheduler's to keep.
    In the unified cache a cell knows up to 256 sequences by number (LLAMA_MAX_SEQ), whatever n_seq_max says: that is
    the limit of those that a batch may read into, and makes buffers of logits and recurrent states larger. Sequences
    that are only kept, by seq_cp, are numbered above it and cost nothing.
    Reading the vocabulary (tokenize) is safe from another thread; everything on the context is not.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from edgemed.core.errors import EngineFailed, MissingExtra, ModelRefused, UsageError
from edgemed.core.prompt import PromptPart
from edgemed.core.units import format_bytes
from edgemed.engines.base import DrawnToken, EngineConfig, EngineInfo, KvType, Sampling
from edgemed.engines.llama_embedding import Embedder
from edgemed.engines.llama_logprobs import drawn_token
from edgemed.engines.llama_sampling import (
    Candidates,
    Grammar,
    GrammarSampler,
    Likeliest,
    forget_penalties,
    greedy_chain,
    has_penalties,
    new_chain,
)
from edgemed.engines.memory_breakdown import memory_by_place
from edgemed.engines.native_adapters import NativeAdapters
from edgemed.engines.native_library import start_backends
from edgemed.engines.native_log import NativeLog
from edgemed.engines.native_placement import place_weights
from edgemed.engines.pinned import ENGINE_VERSION, installed_version
from edgemed.engines.prompt_tokens import PromptTokenizer, SpecialToken
from edgemed.engines.scheduler import Chunk
from edgemed.engines.thinking import CLOSE, CLOSING, OPEN, is_reasoning
from edgemed.models.gguf import check_gguf

_GGML_TYPES: dict[KvType, int] = {"f16": 1, "q4_0": 2, "q8_0": 8}
"""enum ggml_type, ggml.h."""
_NO_TOKEN = -1
"""LLAMA_TOKEN_NULL, llama.h."""
_MOST_CELLS = 2**31 - 256
"""n_ctx is a 32-bit number, and positions are signed."""
_MOST_SEQUENCES = 256
"""LLAMA_MAX_SEQ, llama-cparams.h."""
_KEPT_SEQUENCES = 64
"""Templates and conversations that may wait in the cache; its cells are the narrower limit."""
_LONGEST_RUN = 50_000
"""Characters. Some models' words (Mistral's) are found with std::regex, which recurses at every character:
between 200,000 and 300,000 in a row overflow a stack of 64 MiB and end the process."""
_RUN = re.compile(r"\S+|\s+")


def load_api() -> Any:
    """The module of the binding's C functions, without the package's own `Llama` class.

    The package's __init__ would import that class with all it needs, and cost time and memory, so a bare package
    stands in for it. Call this only in a process where nobody else uses the package.
    Raises MissingExtra.
    """
    import importlib.util
    from types import ModuleType

    if "llama_cpp" not in sys.modules:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None:
            raise MissingExtra("llama-cpp-python", "llama-cpp")
        package = ModuleType("llama_cpp")
        package.__path__ = list(spec.submodule_search_locations or [])
        package.__spec__ = spec
        sys.modules["llama_cpp"] = package
    try:
        from llama_cpp import llama_cpp as api
    except (ImportError, RuntimeError, OSError) as error:
        raise EngineFailed(
            f"llama-cpp-python is installed, but its library cannot be loaded: {error}.",
            next_step="install it again: pip install --force-reinstall --no-cache-dir 'edgemed[llama-cpp]'",
        ) from error
    return api


def model_parameters(api: Any, config: EngineConfig) -> Any:
    """`llama_model_params` for `config`: what a memory projection has to use as well. Raises EngineFailed for a device
    that the engine does not have."""
    parameters = api.llama_model_default_params()
    parameters.n_gpu_layers = config.n_gpu_layers
    parameters.load_mode = api.LLAMA_LOAD_MODE_MMAP if config.use_mmap else api.LLAMA_LOAD_MODE_NONE
    if config.devices or config.tensor_places:
        place_weights(api, config, parameters)
    return parameters


def context_parameters(api: Any, config: EngineConfig) -> Any:
    """`llama_context_params` for `config`: what a memory projection has to use as well."""
    parameters = api.llama_context_default_params()
    parameters.n_ctx = config.n_slots * config.context_length
    parameters.n_seq_max = config.n_slots
    parameters.kv_unified = True
    parameters.n_batch = max(config.n_ubatch, config.n_slots)
    parameters.n_ubatch = config.n_ubatch
    parameters.n_outputs_max = config.n_slots
    parameters.n_threads = config.n_threads
    parameters.n_threads_batch = config.n_threads_batch or config.n_threads
    parameters.type_k = parameters.type_v = _GGML_TYPES[config.kv_type]
    parameters.flash_attn_type = (
        api.LLAMA_FLASH_ATTN_TYPE_AUTO if config.flash_attention else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    parameters.no_perf = True
    return parameters


class NativeHandles(NamedTuple):
    """The binding's functions and the C objects of one loaded engine, for a loop of one's own in its process."""

    api: Any
    model: Any
    context: Any


class LlamaCpp:
    """A StepEngine on llama.cpp. One thread at a time, except `tokenize`, which any thread may call.

    Raises EngineFailed or ModelRefused when the model cannot be loaded; `on_progress` is told the fraction read.
    """

    def __init__(self, config: EngineConfig, on_progress: Callable[[float], None] | None = None) -> None:
        began = time.monotonic()
        _check_config(config)
        self._config = config
        self._api = load_api()
        self._log = NativeLog(self._api)
        start_backends(self._api)
        self._model = self._load_model(on_progress or (lambda _: None))
        self._vocab = self._api.llama_model_get_vocab(self._model)
        self._adapters = self._load_adapters()
        self._context = self._open_context()
        self._adapters.use_context(self._context)
        self._memory = self._api.llama_get_memory(self._context)
        self._batch = self._api.llama_batch_init(self.n_batch, 0, 1)
        self._fields = tuple(getattr(self._batch, name) for name in ("token", "pos", "n_seq_id", "seq_id", "logits"))
        self._n_vocab = self._api.llama_vocab_n_tokens(self._vocab)
        self._greedy = greedy_chain(self._api)
        self._likeliest = Likeliest(self._api, self._context, self._n_vocab)
        self._samplers: list[Any] = [None] * config.n_slots
        self._penalised: set[int] = set()
        self._bound: dict[int, GrammarSampler] = {}
        """Slots whose answers follow a grammar."""
        self._candidates: Candidates | None = None
        self._output_at = [0] * config.n_slots
        """Where each slot's logits stand in the last step."""
        self._pieces: dict[int, bytes | None] = {}
        # The library leaves out what Qwen's own tokenizer does first; our exporter writes it down.
        self._composes = self._metadata("edgemed.tokenizer.normalization") == "NFC"
        self._tokenizer = self._new_tokenizer()
        self._embedder: Embedder | None = None
        self._embedded: int | None = None
        """Number of the text that the embedder is reading."""
        self._tags = self._find_tags()
        self.closing = self._closing()
        self.n_kept = 0
        """Sequences beside the slots that cells can be shared with."""
        self._check_forward()
        self.info = self._describe(time.monotonic() - began)

    @property
    def native(self) -> NativeHandles:
        """What the library knows this engine by."""
        return NativeHandles(self._api, self._model, self._context)

    @property
    def n_slots(self) -> int:
        return self._config.n_slots

    @property
    def n_batch(self) -> int:
        return max(self._config.n_ubatch, self._config.n_slots)

    @property
    def context_length(self) -> int:
        return self._config.context_length

    def tokenize(self, parts: Sequence[PromptPart]) -> list[int]:
        """Token ids of a rendered prompt; special tokens from template parts only."""
        return self._tokenizer.ids(parts)

    def embed_chunk(self, number: int, token_ids: Sequence[int]) -> list[float] | None:
        """Read a chunk of the text `number`: from its beginning when another was read last. Its embedding at the end.

        The context for it is set up when first asked for. Raises EngineFailed when the model cannot embed.
        """
        if self._embedder is None:
            parameters = context_parameters(self._api, self._config)
            self._embedder = Embedder(self._api, self._model, parameters, self._log.last)
        if self._embedded != number:
            self._embedder.begin(token_ids)
            self._embedded = number
        return self._embedder.step()

    def acquire(self, slot: int, sampling: Sampling) -> None:
        penalised = has_penalties(sampling)
        if sampling.temperature <= 0 and not penalised:
            self._samplers[slot] = self._greedy
            return
        self._samplers[slot] = new_chain(self._api, sampling, self._n_vocab, self.context_length)
        if penalised:
            self._penalised.add(slot)

    def bind(self, slot: int, grammar: str) -> None:
        if self._candidates is None:
            # Control tokens end an answer whatever a grammar says; it must not see their text.
            never = [token for token in self._special if self._ends_answer(token) and not self._is_end(token)]
            self._candidates = Candidates(self._api, self._n_vocab, never)
        opening = next((token for token, text in self._tags.items() if text == OPEN.encode()), None)
        rules = Grammar(self._api, self._vocab, grammar)
        self._bound[slot] = GrammarSampler(self._api, self._candidates, self._samplers[slot], rules, opening)

    def think(self, slot: int, thinking: bool) -> None:
        if slot in self._bound:
            self._bound[slot].think(thinking)
        if slot in self._penalised and not thinking:
            forget_penalties(self._api, self._samplers[slot])

    def drawn_token(self, slot: int, token: int, n_likeliest: int) -> DrawnToken:
        logits = self._api.llama_get_logits_ith(self._context, self._output_at[slot])
        return drawn_token(logits, self._n_vocab, token, n_likeliest, self._any_piece)

    def release(self, slot: int) -> None:
        self._penalised.discard(slot)
        if bound := self._bound.pop(slot, None):
            bound.free()
        sampler, self._samplers[slot] = self._samplers[slot], None
        if sampler is not None and sampler is not self._greedy:
            self._api.llama_sampler_free(sampler)
        self._api.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def share(self, source: int, target: int, n_tokens: int) -> bool:
        """No cell is copied: those of the first tokens of `source` belong to `target`, which was empty, as well."""
        api, memory = self._api, self._memory
        api.llama_memory_seq_cp(memory, source, target, 0, n_tokens)
        first, last = (api.llama_memory_seq_pos_min(memory, target), api.llama_memory_seq_pos_max(memory, target))
        if (first, last) == (0, n_tokens - 1):
            return True
        self.forget(target)
        return False

    def forget(self, sequence: int) -> None:
        self._api.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        token_of, position_of, n_sequences, sequences, wanted = self._fields
        n_tokens = sum([len(chunk.tokens) for chunk in chunks])
        if n_tokens > self.n_batch:  # the C arrays end there
            raise EngineFailed(f"A step of {n_tokens} tokens was asked for; {self.n_batch} fit.")
        n = 0
        outputs: list[tuple[int, int]] = []
        for chunk in chunks:
            slot, position = chunk.slot, chunk.position
            for token in chunk.tokens:
                token_of[n] = token
                position_of[n] = position
                n_sequences[n] = 1
                sequences[n][0] = slot
                wanted[n] = 0
                position += 1
                n += 1
            if chunk.wants_token:
                wanted[n - 1] = 1
                outputs.append((slot, n - 1))
        self._batch.n_tokens = n
        code = self._api.llama_decode(self._context, self._batch)
        if code != 0:
            raise EngineFailed(f"llama.cpp refused a step of {n} tokens with code {code}. {self._log.last()}".strip())
        return [self._draw(slot, at) for slot, at in outputs]

    def _draw(self, slot: int, at: int) -> int:
        """The next token of a slot, whose logits are the step's output `at`."""
        self._output_at[slot] = at
        sampler = self._samplers[slot]
        if slot in self._bound:
            return self._bound[slot].draw(self._context, at)
        if sampler is self._greedy:
            return self._likeliest.draw(at)
        return int(self._api.llama_sampler_sample(sampler, self._context, at))

    @property
    def adapters(self) -> frozenset[str]:
        return self._adapters.names

    def use_adapter(self, name: str) -> None:
        self._adapters.switch(name)

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        """Threads of the steps that follow, to decode and to read prompts; costs nothing, call it between two steps."""
        self._api.llama_set_n_threads(self._context, n_threads, n_threads_batch)

    def piece(self, token: int) -> bytes | None:
        try:
            return self._pieces[token]
        except KeyError:
            ends = self._ends_answer(token)
            piece = self._pieces[token] = None if ends else self._read_piece(token)
            return piece

    def _ends_answer(self, token: int) -> bool:
        """True for end-of-generation tokens, and for any other control token: a model that begins a turn of the
        user itself, "<|im_start|>user", has ended its answer, and what follows would be read as part of it."""
        if self._is_end(token):
            return True
        if token in self._tags:
            return False
        return bool(self._api.llama_vocab_get_attr(self._vocab, token) & self._api.LLAMA_TOKEN_ATTR_CONTROL)

    def _is_end(self, token: int) -> bool:
        return bool(self._api.llama_vocab_is_eog(self._vocab, token))

    def close(self) -> None:
        """Free the model and its memory; the engine is of no use afterwards."""
        for slot, sampler in enumerate(self._samplers):
            if sampler is not None:
                self.release(slot)
        self._api.llama_sampler_free(self._greedy)
        self._api.llama_batch_free(self._batch)
        if self._embedder is not None:
            self._embedder.close()
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)

    def _load_model(self, on_progress: Callable[[float], None]) -> Any:
        shown = -1

        def report(fraction: float, _: Any) -> bool:
            nonlocal shown
            percent = int(fraction * 100)
            if percent > shown:
                shown = percent
                on_progress(fraction)
            return True

        callback = self._api.llama_progress_callback(report)
        parameters = model_parameters(self._api, self._config)
        parameters.progress_callback = callback
        path = self._config.model_path
        model = self._api.llama_model_load_from_file(os.fsencode(path), parameters)
        if not model:
            raise ModelRefused(
                f"llama.cpp could not load {path.name}: {self._log.last() or 'it gave no reason'}",
                next_step="check that the file is complete and that its architecture is supported; export it again",
            )
        if not self._api.llama_model_has_decoder(model) or self._api.llama_model_has_encoder(model):
            self._api.llama_model_free(model)
            raise ModelRefused(f"{path.name} is no decoder-only language model; edgemed cannot answer with it.")
        return model

    def _load_adapters(self) -> NativeAdapters:
        """Before there is a context: the library sizes its graphs by them."""
        files = self._config.adapters
        try:
            base = check_gguf(self._config.model_path) if files else None
            return NativeAdapters(self._api, self._model, files, base)
        except ModelRefused:
            self._api.llama_model_free(self._model)
            raise

    def _open_context(self) -> Any:
        config = self._config
        context = self._api.llama_init_from_model(self._model, context_parameters(self._api, config))
        if not context:
            reason = self._log.last()
            self._api.llama_model_free(self._model)
            raise EngineFailed(
                f"llama.cpp could not set up {config.n_slots} x {config.context_length} tokens of {config.kv_type} "
                f"KV cache: {reason or 'it gave no reason'}",
                next_step="ask for fewer slots or a shorter context",
            )
        cells = self._api.llama_n_ctx(context)
        if cells < config.n_slots * config.context_length:
            raise EngineFailed(f"llama.cpp gave {cells} KV cells for {config.n_slots} x {config.context_length}.")
        return context

    def _check_forward(self) -> None:
        """Read one token with each adapter, so that a model of NaNs is found before a patient's question is; warms up
        as well."""
        for name in ("", *sorted(self.adapters)):
            self.use_adapter(name)
            self._check_step(name)
        self.use_adapter("")

    def _check_step(self, adapter: str) -> None:
        bos = self._api.llama_vocab_bos(self._vocab)
        token = bos if bos != _NO_TOKEN else 0
        self.acquire(0, Sampling())
        try:
            self.decode([Chunk(0, (token,), 0, wants_token=True)])
            logits = self._api.llama_get_logits_ith(self._context, 0)
            n_vocab = self._api.llama_vocab_n_tokens(self._vocab)
            if not logits or not all(map(math.isfinite, logits[:n_vocab])):
                what = f"{self._config.model_path.name} with the adapter {adapter}" if adapter else ""
                raise ModelRefused(
                    f"{what or self._config.model_path.name} computes values that are no numbers (NaN or infinite).",
                    next_step="export the model again from a sound checkpoint",
                )
            self.n_kept = self._count_kept()
        finally:
            self.release(0)

    def _count_kept(self) -> int:
        """How many sequences can be kept; slot 0 holds one token. None where the state cannot be shared or cut: that of
        recurrent layers is one for the whole sequence, and a sliding window drops what a shorter prompt would need."""
        api, model, memory = self._api, self._model, self._memory
        if api.llama_model_is_recurrent(model) or api.llama_model_is_hybrid(model) or api.llama_model_n_swa(model) > 0:
            return 0
        if installed_version() != ENGINE_VERSION:  # numbers above n_seq_max are no promise of the library
            return 0
        kept = min(_KEPT_SEQUENCES, _MOST_SEQUENCES - self.n_slots)
        if kept < 1 or not self.share(0, self.n_slots, 1):
            return 0
        cut = bool(api.llama_memory_seq_rm(memory, self.n_slots, 0, -1))
        gone = api.llama_memory_seq_pos_max(memory, self.n_slots) == -1
        return kept if cut and gone and api.llama_memory_seq_pos_max(memory, 0) == 0 else 0

    def _find_tags(self) -> dict[int, bytes]:
        """The tags of thinking that are single tokens, whatever kind of token the model's file makes of them."""
        found = {}
        for tag in (OPEN, CLOSE):
            ids = self.tokenize([PromptPart(tag, special=True)])
            if ids and self._token_text(ids[-1]) == tag:  # a BOS may stand before it
                found[ids[-1]] = tag.encode()
        return found

    def _closing(self) -> tuple[int, ...] | None:
        if not is_reasoning(self._template(), both_are_tokens=len(self._tags) == 2):
            return None
        before, _, after = CLOSING.partition(CLOSE)
        tag = [token for token, text in self._tags.items() if text == CLOSE.encode()] or self._encode(CLOSE)
        return (*self._encode(before), *tag, *self._encode(after))

    def _template(self) -> str:
        return (self._api.llama_model_chat_template(self._model, None) or b"").decode("utf-8", errors="replace")

    def _any_piece(self, token: int) -> bytes:
        """Bytes of a token, those that end an answer included: their own text."""
        piece = self.piece(token)
        return self._token_text(token).encode() if piece is None else piece

    def _read_piece(self, token: int) -> bytes:
        if token in self._tags:
            return self._tags[token]
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = self._api.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def _encode(self, text: str) -> list[int]:
        """Ids of plain text; the text of a special token is spelled out."""
        _check_runs(text)
        if self._composes:
            text = unicodedata.normalize("NFC", text)
        data = text.encode("utf-8", errors="replace")
        size = len(data) + 2  # one for SentencePiece's leading blank
        ids = (self._api.llama_token * size)()
        n = self._api.llama_tokenize(self._vocab, data, len(data), ids, size, False, False)
        if n < 0:
            raise EngineFailed(f"llama.cpp could not tokenize a text of {format_bytes(len(data))}.")
        return list(ids[:n])

    def _new_tokenizer(self) -> PromptTokenizer:
        api, vocab = self._api, self._vocab
        attribute_of = api.llama_vocab_get_attr
        special = {}
        for token in range(api.llama_vocab_n_tokens(vocab)):
            attributes = attribute_of(vocab, token)
            if attributes & (api.LLAMA_TOKEN_ATTR_CONTROL | api.LLAMA_TOKEN_ATTR_UNKNOWN):
                left, right = api.LLAMA_TOKEN_ATTR_LSTRIP, api.LLAMA_TOKEN_ATTR_RSTRIP
                strips = bool(attributes & left), bool(attributes & right)
                special[self._token_text(token)] = SpecialToken(token, *strips)
        self._special = [token.id for token in special.values()]
        bos = api.llama_vocab_bos(vocab) if api.llama_vocab_get_add_bos(vocab) else _NO_TOKEN
        return PromptTokenizer(special, self._encode, None if bos == _NO_TOKEN else bos)

    def _control_text(self, token: int) -> str:
        """Text of a special token; "" where llama.cpp's default for the vocabulary names an ordinary one."""
        api = self._api
        if token == _NO_TOKEN or not api.llama_vocab_get_attr(self._vocab, token) & api.LLAMA_TOKEN_ATTR_CONTROL:
            return ""
        return self._token_text(token)

    def _token_text(self, token: int) -> str:
        return (self._api.llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", errors="replace")

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(512)
        n = self._api.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", errors="replace") if n >= 0 else ""

    def _describe(self, load_seconds: float) -> EngineInfo:
        api = self._api
        buffers = self._log.buffer_bytes
        return EngineInfo(
            engine=f"llama.cpp (llama-cpp-python {installed_version()})",
            architecture=self._metadata("general.architecture"),
            model_name=self._metadata("general.name") or self._config.model_path.stem,
            context_length=self.context_length,
            n_slots=self.n_slots,
            vocab_size=api.llama_vocab_n_tokens(self._vocab),
            chat_template=self._template(),
            bos_token=self._control_text(api.llama_vocab_bos(self._vocab)),
            eos_token=self._control_text(api.llama_vocab_eos(self._vocab)),
            devices=tuple(dict.fromkeys(name.partition("_")[0] for name in buffers)),
            buffer_bytes=buffers,
            memory=memory_by_place(api, self._context),
            reasoning=self.closing is not None,
            load_seconds=load_seconds,
        )


def _check_config(config: EngineConfig) -> None:
    """Refuse what would make llama.cpp abort or fail without a reason."""
    faults = []
    if config.n_slots < 1 or config.context_length < 2 or config.n_ubatch < 1 or config.n_threads < 1:
        faults.append("slots, context, ubatch and threads must be positive")
    elif config.n_slots * config.context_length > _MOST_CELLS:
        faults.append(f"{config.n_slots} x {config.context_length} tokens of KV cache are beyond {_MOST_CELLS}")
    if config.kv_type != "f16" and not config.flash_attention:
        faults.append(f"a {config.kv_type} KV cache needs flash attention")
    if faults:
        raise EngineFailed(f"The engine cannot be set up so: {'; '.join(faults)}.", next_step="make a new plan")


def _check_runs(text: str) -> None:
    """Refuse a text that could overflow the library's stack. One pass: a clever text costs no more than another."""
    if len(text) <= _LONGEST_RUN:
        return
    longest = max(run.end() - run.start() for run in _RUN.finditer(text))
    if longest > _LONGEST_RUN:
        raise UsageError(
            f"The text holds {longest} characters in a row without a blank, or of blanks alone; {_LONGEST_RUN} may be.",
            next_step="send words",
        )
