"""POST /v1/embeddings: texts as vectors of length 1, by the served model itself."""

from __future__ import annotations

import asyncio
import base64
from array import array
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator
from starlette.requests import Request
from starlette.responses import JSONResponse

from edgemed.core.errors import EngineFailed, UsageError
from edgemed.core.prompt import PromptPart
from edgemed.engines.base import Engine
from edgemed.engines.embedding import EMBEDDED_TOKENS
from edgemed.serve.body import read_json_body
from edgemed.serve.errors import ApiError
from edgemed.serve.options import ServeOptions
from edgemed.serve.request_faults import Strict, read_request

MAX_TEXTS = 64


NEUTRAL: dict[str, tuple[Any, ...]] = {"dimensions": ()}
"""Options that edgemed lacks: a model's vectors cannot be shortened."""


_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_TEXTS}]}


class EmbeddingRequest(Strict):
    """OpenAI's request for embeddings, as far as edgemed supports it."""

    input: Annotated[list[str], WithJsonSchema(_TEXTS)] = Field(min_length=1, max_length=MAX_TEXTS)
    """One text or several."""
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and any(isinstance(text, int | list) for text in texts):
            raise ValueError("token numbers are not possible here; send texts")
        return texts


class EmbeddingRoute:
    """The route, over one engine. A text of more tokens than the engine embeds is refused, never cut."""

    def __init__(self, engine: Engine, options: ServeOptions) -> None:
        self._engine = engine
        self._options = options

    async def __call__(self, http: Request) -> JSONResponse:
        """The embeddings in the order of the texts."""
        body = await read_json_body(http, self._options.body_limit_bytes, self._options.body_timeout_s)
        request = read_request(body, EmbeddingRequest, NEUTRAL)
        if request.model not in (None, self._options.model_name):
            raise ApiError(
                404, f"Only {self._options.model_name!r} is served here.", code="model_not_found", param="model"
            )
        data, n_tokens = [], 0
        for index, text in enumerate(request.input):
            vector, n = await asyncio.to_thread(self._embed, text, index)
            n_tokens += n
            data.append({"object": "embedding", "index": index, "embedding": _form(vector, request.encoding_format)})
        usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        found = {"object": "list", "data": data, "model": self._options.model_name, "usage": usage}
        return JSONResponse(found, headers={"cache-control": "no-store"})

    def _embed(self, text: str, index: int) -> tuple[list[float], int]:
        try:
            ids = self._engine.tokenize([PromptPart(text, special=False)])
            if len(ids) > EMBEDDED_TOKENS:
                raise ApiError(
                    400,
                    f"input[{index}] has {len(ids)} tokens; {EMBEDDED_TOKENS} can be embedded. Split it.",
                    code="context_length_exceeded",
                    param="input",
                )
            return self._engine.embed(ids), len(ids)
        except EngineFailed as error:
            raise ApiError(503, str(error), code="engine_failed") from None
        except UsageError as error:
            raise ApiError(400, f"input[{index}]: {error}", code="invalid_value", param="input") from None


def _form(vector: list[float], encoding: str | None) -> Any:
    return base64.b64encode(array("f", vector).tobytes()).decode() if encoding == "base64" else vector
