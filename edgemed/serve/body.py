"""The body of a request, read within limits of kind, size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from edgemed.core.units import format_bytes
from edgemed.serve.errors import ApiError


async def read_json_body(request: Request, limit_bytes: int, timeout_s: float) -> bytes:
    """The raw bytes of a JSON body. Raises ApiError 415, 413, 408 or 400."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Without this, any web page could post a form to us without the browser asking first.
        raise ApiError(415, "Send the body as Content-Type: application/json.", code="invalid_content_type")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(request, limit_bytes)
    except TimeoutError:
        raise ApiError(408, f"The body did not arrive within {timeout_s:g} s.", code="body_timeout") from None
    except ClientDisconnect:
        raise ApiError(400, "The connection closed before the body was complete.", code="body_incomplete") from None


async def _read(request: Request, limit_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
    return bytes(body)


def _too_large(limit_bytes: int) -> ApiError:
    return ApiError(413, f"The body is larger than {format_bytes(limit_bytes)}.", code="body_too_large")
