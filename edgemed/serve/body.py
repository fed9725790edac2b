"""The body of a request, read within limits of kind, size and time."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from edgemed.core.units import MIB, format_bytes
from edgemed.serve.errors import ApiError

_DRAIN_BYTES = 64 * MIB
"""Read and dropped of a body that is too large: a connection closed over unread bytes is reset, and its reply lost."""


async def read_json_body(request: Request, limit_bytes: int, timeout_s: float) -> bytes:
    """The raw bytes of a JSON body. Raises ApiError 415, 413, 408 or 400."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _checked(request, limit_bytes)
    except TimeoutError:
        raise ApiError(408, f"The body did not arrive within {timeout_s:g} s.", code="body_timeout") from None
    except ClientDisconnect:
        raise ApiError(400, "The connection closed before the body was complete.", code="body_incomplete") from None


def parsed_json(body: bytes) -> Any:
    """What a JSON body says. Raises ApiError 400; infinities and NaN are no JSON."""
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}.", code="invalid_json") from None


async def _checked(request: Request, limit_bytes: int) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Without this, any web page could post a form to us without the browser asking first.
        raise ApiError(415, "Send the body as Content-Type: application/json.", code="invalid_content_type")
    declared = request.headers.get("content-length", "")
    too_large = declared.isdecimal() and int(declared) > limit_bytes
    if too_large and "expect" in request.headers:  # the client asks before it sends: nothing is on its way
        raise _too_large(limit_bytes)
    body, n_bytes = bytearray(), 0
    async for chunk in request.stream():
        n_bytes += len(chunk)
        too_large = too_large or n_bytes > limit_bytes
        if not too_large:
            body += chunk
        elif n_bytes > _DRAIN_BYTES:
            break
    if too_large:
        raise _too_large(limit_bytes)
    return bytes(body)


def _too_large(limit_bytes: int) -> ApiError:
    return ApiError(413, f"The body is larger than {format_bytes(limit_bytes)}.", code="body_too_large")
