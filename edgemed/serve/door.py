"""The door of a server that asks for its access token: every request shows it, or a cookie that was given for it.

A stranger gets the sign-in page with its three files, and of /health one word. Everything else is 401, and a browser
that opens a page is led to the sign-in page. A cookie is HttpOnly and SameSite=Strict, on TLS also Secure and bound to
this host (__Host-); a request from another site's page has been refused by the guard before it comes here.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edgemed.serve.body import parsed_json, read_json_body
from edgemed.serve.errors import ApiError
from edgemed.serve.rate_limits import Clock, FailedAttempts
from edgemed.serve.sign_ins import LIFETIME_S, SignIns

SIGN_IN_PAGE = "/login.html"
OPEN_FILES = frozenset({SIGN_IN_PAGE, "/login.js", "/login.css", "/icon.svg"})
SIGNED_IN = "edgemed.signed_in"
"""In the scope of a request that came in by its cookie: its page may offer to sign out."""

_BODY_BYTES = 4096
_BODY_S = 10.0


class _Login(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str = Field(min_length=1, max_length=1024)


class Door:
    """An ASGI application around the server's own. Raises ApiError for who may not come in."""

    def __init__(self, app: ASGIApp, token: str, healthy: Callable[[], bool], clock: Clock = time.monotonic) -> None:
        """`healthy` is all that a stranger is told of the server."""
        self._app = app
        self._digest = _digest(token)
        self._healthy = healthy
        self._failures = FailedAttempts(clock)
        self._sign_ins = SignIns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path == "/api/login" and method == "POST":
            response = await self._sign_in(Request(scope, receive))
            await response(scope, receive, send)
        elif self._signed_in(scope):
            scope[SIGNED_IN] = True
            if path == "/api/logout" and method == "POST":
                await self._sign_out(scope)(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        elif path in OPEN_FILES or self._shows_token(scope):
            await self._app(scope, receive, send)
        else:
            await self._to_stranger(scope)(scope, receive, send)

    async def _sign_in(self, request: Request) -> Response:
        body = await read_json_body(request, _BODY_BYTES, _BODY_S)
        try:
            token = _Login.model_validate(parsed_json(body)).token
        except ValidationError:
            raise ApiError(400, 'Send {"token": "..."}.', code="invalid_value", param="token") from None
        self._check(_address_of(request.scope), token.strip())
        response = JSONResponse({"expires_s": LIFETIME_S}, headers={"cache-control": "no-store"})
        _set_cookie(response, request.scope, self._sign_ins.begin(), LIFETIME_S)
        return response

    def _sign_out(self, scope: Scope) -> Response:
        self._sign_ins.end(_credential(scope))
        response = JSONResponse({}, headers={"cache-control": "no-store"})
        _set_cookie(response, scope, "", 0)
        return response

    def _signed_in(self, scope: Scope) -> bool:
        credential = _credential(scope)
        return bool(credential) and self._sign_ins.knows(credential)

    def _shows_token(self, scope: Scope) -> bool:
        """Whether it carries the right token; False without any. Raises ApiError for a wrong one."""
        shown = Headers(scope=scope).getlist("authorization")
        if not shown:
            return False
        kind, _, token = shown[0].partition(" ")
        if len(shown) > 1 or kind.lower() != "bearer":
            raise _refusal("Send one header: Authorization: Bearer TOKEN.")
        self._check(_address_of(scope), token.strip())
        return True

    def _check(self, address: str, token: str) -> None:
        """Raises ApiError 401 for a wrong token, 429 for whoever tried too often: then even the right one."""
        if wait_s := self._failures.wait_s(address):
            raise ApiError(
                429,
                f"Too many wrong access tokens came from this address. Try again in {wait_s} s.",
                code="too_many_attempts",
                retry_after_s=wait_s,
            )
        if not hmac.compare_digest(_digest(token), self._digest):
            self._failures.failed(address)
            raise _refusal("This is not the access token of this server.")
        self._failures.succeeded(address)

    def _to_stranger(self, scope: Scope) -> Response:
        if scope["path"] == "/health" and scope["method"] in ("GET", "HEAD"):
            good = self._healthy()
            status = {"status": "ok" if good else "not ok"}
            return JSONResponse(status, 200 if good else 503, headers={"cache-control": "no-store"})
        headers = Headers(scope=scope)
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            return RedirectResponse(SIGN_IN_PAGE, 303, headers={"cache-control": "no-store"})
        raise _refusal("This server asks for its access token.")


def _refusal(what: str) -> ApiError:
    return ApiError(
        401,
        f"{what} Sign in on its page, or send the token as Authorization: Bearer TOKEN. It lies in a file on the "
        "computer that runs edgemed.",
        code="invalid_api_key",
        headers={"WWW-Authenticate": 'Bearer realm="edgemed"'},
    )


def _digest(token: str) -> bytes:
    """Of equal length for all tokens, so that comparing takes equal time."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _address_of(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _cookie_name(scope: Scope) -> str:
    """Browsers share cookies between the ports of a host: each server has its own name."""
    prefix = "__Host-" if scope["scheme"] == "https" else ""
    return f"{prefix}edgemed-{scope['server'][1]}"


def _credential(scope: Scope) -> str:
    return Request(scope).cookies.get(_cookie_name(scope), "")


def _set_cookie(response: Response, scope: Scope, value: str, age_s: int) -> None:
    response.set_cookie(
        _cookie_name(scope),
        value,
        max_age=age_s,
        path="/",
        secure=scope["scheme"] == "https",
        httponly=True,
        samesite="strict",
    )
