"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from typing import TypedDict

from starlette.responses import JSONResponse


class ErrorBody(TypedDict):
    """The inside of OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ApiError(Exception):
    """A request that ends with an HTTP error; `message` says what to do next."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after_s: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)

    def body(self) -> dict[str, ErrorBody]:
        """The JSON body: also the form of an error event inside a stream."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The HTTP response."""
        return JSONResponse(self.body(), self.status, headers=self.headers)


def stopping() -> ApiError:
    """The server has been told to end."""
    return ApiError(
        503,
        "The server is being stopped; the answer is incomplete. Ask again when it runs again.",
        code="shutting_down",
        retry_after_s=10,
    )


def internal_fault() -> ApiError:
    """A fault of our own; its place is in the log, never the request's text."""
    return ApiError(
        500, "edgemed met a fault of its own. Ask again; if it stays, report the line in its log.", code="internal"
    )
