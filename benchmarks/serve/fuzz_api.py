"""schemathesis against a real server: no 5xx, and every answer as the server's own OpenAPI document says.

    python benchmarks/serve/fuzz_api.py [--examples 100] [--seed 1] [--only /v1/completions]

A server over the engine without a model listens on loopback; schemathesis (a "dev" extra) reads its /openapi.json and
makes requests from it, for each operation `--examples` that follow the document, as many that break it in one place,
and as many from a narrower document whose requests get further: the served model's name, one question, forms that
answers can be held to. Those that break it must be refused with a 4xx. The engine's ready answer is "{}", so that any
JSON that may be asked for is there; nobody else asks, so that no queue is full. Prints how often each operation gave
each status, and the failures, each with the request that shows it; exits with 1 when there are any.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import FailureGroup, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from serving import serving

from edgemed.engines.fake import FakeEngine
from edgemed.serve.care import WarmUp

_CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]


def main() -> None:
    """Run, then print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100, help="per operation and kind of request")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="operations whose path holds this")
    asked = parser.parse_args()
    WarmUp(lambda _question: ()).wait(every_language=True)
    began = time.monotonic()
    statuses: dict[str, Counter[int]] = defaultdict(Counter)
    failures: list[str] = []
    with serving(FakeEngine("{}", n_slots=4, context_length=4096)) as server, requests.Session() as session:
        session.trust_env = False
        document = session.get(f"{server.url}/openapi.json", timeout=10).json()
        forms = session.get(f"{server.url}/api/calculators", timeout=10).json()["calculators"]
        names = [form["name"] for form in forms]
        for name, described in (("", document), (" (narrow)", _narrowed(document, names))):
            for found in schemathesis.openapi.from_dict(described).get_all_operations():
                operation = found.ok()
                if asked.only not in operation.path or (name and not operation.body):
                    continue
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)[: 1 if name else 2]:
                    _fuzz(operation, name, mode, asked, server.url, session, statuses, failures)
    told = {name: dict(sorted(counts.items())) for name, counts in statuses.items()}
    n_requests = sum(sum(counts.values()) for counts in statuses.values())
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"requests": n_requests, "seconds": seconds, "statuses": told, "failures": failures}, indent=2))
    sys.exit(1 if failures else 0)


def _narrowed(document: dict[str, Any], calculators: list[str]) -> dict[str, Any]:
    """The document with fields that a random value never fits."""
    narrow: dict[str, Any] = json.loads(json.dumps(document))
    models = narrow["components"]["schemas"]
    for model in ("ChatRequest", "CompletionRequest", "EmbeddingRequest"):
        models[model]["properties"]["model"] = {"enum": ["fake", None]}
    said = models["ChatRequest"]["properties"]
    question = {"role": {"const": "user"}, "content": {"type": "string", "pattern": "^[a-z]"}}
    message = {"type": "object", "properties": question, "required": ["role", "content"], "additionalProperties": False}
    said["messages"] = {"type": "array", "items": message, "minItems": 1, "maxItems": 1}
    said["language"] = {"enum": ["en", "fr", None]}
    said["session"] = {"const": None}
    said["calculations"] = {"enum": [None, []]}
    held = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"properties": {"a": {"type": "integer"}}}}}
    said["response_format"] = {"enum": [None, {"type": "text"}, {"type": "json_object"}, held]}
    for fields in (said, models["CompletionRequest"]["properties"]):
        fields["max_tokens"] = {"enum": [None, 1, 2, 100]}
    said["max_completion_tokens"] = {"const": None}
    narrow["paths"]["/api/calculators/{name}"]["post"]["parameters"][0]["schema"] = {"enum": calculators}
    return narrow


def _fuzz(
    operation: Any,
    which: str,
    mode: GenerationMode,
    asked: argparse.Namespace,
    url: str,
    session: requests.Session,
    statuses: dict[str, Counter[int]],
    failures: list[str],
) -> None:
    """One operation with requests of one kind; the first failure ends it, in its smallest form."""
    name = f"{operation.method.upper()} {operation.path}{which}"
    strategy = _strategy(operation, mode)
    if strategy is None:
        return
    checks = [*_CHECKS, negative_data_rejection] if mode is GenerationMode.NEGATIVE else _CHECKS

    @seed(asked.seed)
    @settings(
        max_examples=asked.examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def ask(case: Any) -> None:
        response = case.call(base_url=url, session=session, timeout=20)
        statuses[name][response.status_code] += 1
        case.validate_response(response, checks=checks)

    try:
        ask()
    except (Exception, FailureGroup) as error:  # whatever schemathesis or hypothesis raise, with its smallest request
        inside = [str(one) for one in getattr(error, "exceptions", ())]
        failures.append(f"{name} ({mode.value}): {' '.join(inside) or error}")


def _strategy(operation: Any, mode: GenerationMode) -> Any:
    """None where an operation takes nothing that could be wrong."""
    if mode is GenerationMode.NEGATIVE and not operation.body:
        return None
    return operation.as_strategy(generation_mode=mode)


if __name__ == "__main__":
    main()
