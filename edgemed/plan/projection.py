"""Asks the engine what it would allocate, without loading a model: exact, and in about a second for 7B.

llama.cpp's `no_alloc` builds model, KV cache and graphs and only adds up their sizes; no weight is read, so a
file that holds nothing but its header (sparse, of the right length) is enough. Everything happens in a child
process: what goes wrong there is a ProjectionFailed here, and the formula of `memory.py` takes over.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edgemed.core.errors import EdgemedError
from edgemed.core.settings import ENGINE_ENVIRONMENT, OFFLINE_ENVIRONMENT, set_environment
from edgemed.engines.base import EngineConfig
from edgemed.engines.memory_breakdown import BreakdownReader, Sizes, highest_resident_bytes
from edgemed.engines.native_library import start_backends
from edgemed.engines.pinned import ENGINE_VERSION, installed_version

_MOST_BYTES = 1 << 50
_TIMEOUT_S = 120.0


class ProjectionFailed(Exception):
    """The engine could not be asked, or its answer made no sense; the message says which."""


@dataclass(frozen=True, slots=True)
class Projection:
    """The engine's answer for one configuration."""

    places: dict[str, Sizes]
    """By place: "RAM", "CUDA0"."""
    process_bytes: int
    """Resident memory of a process with the library, the vocabulary and no weights; 0 where it cannot be read."""
    embedding: dict[str, Sizes] = field(default_factory=dict)
    """By place: the context that reads texts for their embeddings. Its weights are the others'; empty where the model
    cannot embed."""
    repacked_bytes: int = 0
    """Of the weights in main memory: copies in an order of their kernels' own."""


def project(configs: Sequence[EngineConfig]) -> list[Projection | None]:
    """What the engine would allocate for each configuration; None for one that it refuses.

    All configurations are of the same model. Raises ProjectionFailed.
    """
    if installed_version() != ENGINE_VERSION:
        raise ProjectionFailed(
            f"it needs llama-cpp-python {ENGINE_VERSION}; {installed_version() or 'none'} is installed"
        )
    if not sys.platform.startswith("linux"):
        raise ProjectionFailed("the engine's answer has a known layout on Linux only")
    question = json.dumps([config.model_dump(mode="json") for config in configs])
    command = [sys.executable, "-P", "-m", "edgemed.plan.projection"]
    try:
        done = subprocess.run(command, input=question.encode(), capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProjectionFailed(f"the engine did not answer within {_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise ProjectionFailed(f"the engine's process ended with {done.returncode}: {said[0]}")
    return parse_answer(done.stdout, len(configs))


def parse_answer(text: bytes, expected: int) -> list[Projection | None]:
    """The child's answer as projections. Raises ProjectionFailed when it makes no sense."""
    try:
        answer = json.loads(text)
        process_bytes = int(answer["process_bytes"])
        found = [_projection(entry, process_bytes) for entry in answer["projections"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProjectionFailed(f"the engine's answer could not be read: {error}") from error
    if len(found) != expected:
        raise ProjectionFailed(f"{len(found)} answers came for {expected} questions")
    return found


def _projection(entry: dict[str, Any] | None, process_bytes: int) -> Projection | None:
    if entry is None:
        return None
    repacked = int(entry["repacked"])
    if not 0 <= repacked < _MOST_BYTES:
        raise ValueError(f"{repacked} repacked bytes")
    return Projection(_sizes(entry["places"]), process_bytes, _sizes(entry["embedding"]), repacked)


def _sizes(entry: dict[str, list[int]]) -> dict[str, Sizes]:
    places = {place: Sizes(*(int(n_bytes) for n_bytes in sizes)) for place, sizes in entry.items()}
    for sizes in places.values():
        if not all(0 <= n_bytes < _MOST_BYTES for n_bytes in sizes):
            raise ValueError(f"sizes out of range: {sizes}")
    return places


def main() -> None:
    """Answer the questions of stdin on stdout; the body of the child process."""
    answer_to = os.dup(1)
    os.dup2(2, 1)  # the engine and its drivers print; the answer must stay alone on stdout
    set_environment(ENGINE_ENVIRONMENT | OFFLINE_ENVIRONMENT)
    configs = [EngineConfig.model_validate(entry) for entry in json.loads(sys.stdin.read())]
    from edgemed.engines.llama_cpp import load_api

    api = load_api()
    start_backends(api)
    asker = _Asker(api)
    found = [asker.ask(config) for config in configs]
    content = {"projections": found, "process_bytes": asker.process_bytes}
    os.write(answer_to, json.dumps(content).encode())
    os._exit(0)  # some drivers crash while they unload; the answer is out


class _Asker:
    """Opens models and contexts that allocate nothing, and reads what they would have taken.

    Neighbours whose weights lie alike share one look at the file.
    """

    def __init__(self, api: Any) -> None:
        self._api = api
        self._reader = BreakdownReader(api)
        self._model: Any = None
        self._loaded: object = None
        self._embedding: tuple[object, dict[str, list[int]]] = (None, {})
        self.process_bytes = 0
        """Largest resident memory with one model and its contexts open; later ones find the heap of earlier ones."""

    def ask(self, config: EngineConfig) -> dict[str, Any] | None:
        """The answer for one configuration; None for one that the engine refuses."""
        from edgemed.engines.llama_cpp import context_parameters

        places = (config.n_gpu_layers, config.devices, config.device_shares, config.tensor_places)
        if self._loaded != places:
            if self._model:
                self._api.llama_model_free(self._model)
            self._model = self._open(config)
            self._loaded = places
        if not self._model:
            return None
        context = self._api.llama_init_from_model(self._model, context_parameters(self._api, config))
        if not context:
            return None
        found = {
            "places": _lists(self._reader.read(context)),
            "repacked": self._reader.repacked_bytes(context),
            "embedding": self._ask_embedding(config),
        }
        self.process_bytes = self.process_bytes or highest_resident_bytes()
        self._api.llama_free(context)
        return found

    def _open(self, config: EngineConfig) -> Any:
        from edgemed.engines.llama_cpp import model_parameters

        try:
            parameters = model_parameters(self._api, config)
        except EdgemedError:  # a device that is not here
            return None
        parameters.no_alloc = True
        parameters.load_mode = self._api.LLAMA_LOAD_MODE_NONE  # mapping would count the file's pages as no memory
        return self._api.llama_model_load_from_file(os.fsencode(config.model_path), parameters)

    def _ask_embedding(self, config: EngineConfig) -> dict[str, list[int]]:
        """What the embedder takes beside the answering context, which is open as it is then."""
        from edgemed.engines.llama_cpp import context_parameters
        from edgemed.engines.llama_embedding import embedding_parameters

        same = (self._loaded, config.kv_type, config.flash_attention)
        if self._embedding[0] != same:
            parameters = embedding_parameters(self._api, context_parameters(self._api, config))
            context = self._api.llama_init_from_model(self._model, parameters)
            found = self._reader.read(context) if context else {}
            # The weights are those of the answering context.
            self._embedding = (same, _lists({place: Sizes(0, *sizes[1:]) for place, sizes in found.items()}))
            if context:
                self._api.llama_free(context)
        return self._embedding[1]


def _lists(places: dict[str, Sizes]) -> dict[str, list[int]]:
    return {place: list(sizes) for place, sizes in places.items()}


if __name__ == "__main__":
    main()
