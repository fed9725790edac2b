"""GET /api/calculators and POST /api/calculators/{name}: forms out, inputs in, results out; no model is asked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from edgemed.core.errors import UsageError
from edgemed.serve.body import parsed_json, read_json_body
from edgemed.serve.errors import ApiError
from edgemed.serve.options import ServeOptions

_NO_STORE = {"cache-control": "no-store"}


class CalculatorRoutes:
    """The two routes."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options

    def routes(self) -> list[Route]:
        """For the application's table."""
        return [
            Route("/api/calculators", self.forms, methods=["GET"]),
            Route("/api/calculators/{name}", self.calculate, methods=["POST"]),
        ]

    async def forms(self, _request: Request) -> JSONResponse:
        """Every form, in the order in which they are shown."""
        from edgemed.medical.calculators import calculators

        forms = [calculator.form.model_dump(mode="json") for calculator in calculators().values()]
        return JSONResponse({"calculators": forms}, headers=_NO_STORE)

    async def calculate(self, request: Request) -> JSONResponse:
        """The result for {"inputs": {...}}. Raises ApiError 404 for an unknown name, 400 that names every fault."""
        from edgemed.medical.calculators import InputsRefused, calculate, calculators

        name = request.path_params["name"]
        if name not in calculators():
            known = ", ".join(calculators())
            raise ApiError(
                404, f"There is no calculator {name[:60]!r}. Use one of {known}.", code="calculator_not_found"
            )
        body = await read_json_body(request, self._options.body_limit_bytes, self._options.body_timeout_s)
        try:
            result = await asyncio.to_thread(calculate, name, _inputs(body))
        except InputsRefused as error:
            refusal = ApiError(400, str(error), code="inputs_refused", param=error.faults[0].name).body()
            faults = [fault.model_dump() for fault in error.faults]
            return JSONResponse({"error": {**refusal["error"], "faults": faults}}, 400, headers=_NO_STORE)
        except UsageError as error:
            raise ApiError(400, str(error), code="inputs_refused", param="inputs") from None
        return JSONResponse(json.loads(result.model_dump_json()), headers=_NO_STORE)


def _inputs(body: bytes) -> dict[str, Any]:
    content = parsed_json(body)
    inputs = content.get("inputs") if isinstance(content, dict) else None
    if not isinstance(inputs, dict) or set(content) != {"inputs"}:
        raise ApiError(400, 'The body must be {"inputs": {"field": value, ...}}.', code="invalid_type", param="inputs")
    return inputs
