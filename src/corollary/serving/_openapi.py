"""The OpenAPI document, made from the models that check the bodies."""

import copy
from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from corollary.serving import _requests as r

BODIES = {
    "/v1/chat/completions": (r.ChatRequest, "A chat completion; `model` is corollary/auto or any listed model"),
    "/v1/completions": (r.CompletionRequest, "A text completion"),
    "/v1/embeddings": (r.EmbeddingRequest, "Embeddings by a named model"),
    "/v1/route": (r.RouteRequest, "The router's decision; no model is asked"),
    "/v1/feedback": (r.FeedbackRequest, "What an answer was worth, in [0, 1]"),
}
GETS = {
    "/v1/models": "The models that may be asked",
    "/v1/models/{model}": "One of them",
    "/v1/certificate": "The certificate of router and served models, as it stands",
    "/v1/status": "Spend, shares, quality, budgets: what the page shows",
    "/health": "The process lives",
    "/ready": "Ledger and an upstream can be used",
    "/metrics": "Prometheus",
    "/openapi.json": "This document",
    "/": "The live page",
}
OPEN = ("/health", "/ready", "/openapi.json", "/")
FORMS = {"/metrics": "text/plain", "/": "text/html"}
OPTIONS = (
    "Options of the gateway ride in the field `corollary` or in headers: x-corollary-price (quality per unit of cost), "
    "x-corollary-quality (take the cheapest model held to be worth this), x-corollary-heads (a, b)."
)
STREAMS = ("/v1/chat/completions", "/v1/completions")
TOLD = {
    "400": "The request is not valid, or asks for what the model cannot do",
    "401": "A valid key is needed",
    "403": "The key does not allow this",
    "404": "There is no such model, request or endpoint",
    "408": "The body did not come in time",
    "413": "The body is too large, or the upstream says so",
    "415": "The body is not application/json",
    "421": "The gateway is not called by this name",
    "422": "The upstream rejects the request",
    "429": "A budget has ended or too much is asked at once; Retry-After says when to come again",
    "502": "No upstream answered",
    "503": "The ledger cannot be written; nothing was sent",
}


def openapi(
    *, locked: bool, models: list[str], heads: Sequence[str] = (), images: bool = False, embeddings: bool = False
) -> dict[str, Any]:
    """The document of what this gateway can do.

    Args:
        locked: whether a key is needed.
        models: to name as examples.
        heads: that some model knows.
        images, embeddings: whether some model takes or gives them.
    """
    _, schemas = models_json_schema(
        [(model, "validation") for model, _ in BODIES.values()], ref_template="#/components/schemas/{model}"
    )
    found = copy.deepcopy(schemas["$defs"]) | {"Error": _error()}
    for name in ("ChatRequest", "CompletionRequest", "EmbeddingRequest"):
        found[name]["properties"]["model"]["examples"] = models[:4]
    if heads:
        found["Options"]["properties"]["heads"]["anyOf"][0]["items"] = {"enum": list(heads)}
    else:
        del found["Options"]["properties"]["heads"]
    if not images:
        found["Part"]["properties"]["type"]["enum"].remove("image_url")
    paths: dict[str, Any] = {}
    for path, (model, told) in BODIES.items():
        if path == "/v1/embeddings" and not embeddings:
            continue
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
        types = ["application/json", *(["text/event-stream"] if path in STREAMS else [])]
        operation = _operation(told, types, TOLD, locked=locked and path not in OPEN)
        operation["requestBody"] = {"required": True, "content": content}
        if path != "/v1/feedback":
            operation["description"] = OPTIONS
        paths[path] = {"post": operation}
    for path, told in GETS.items():
        codes = ["421", *(["401", "403"] if path not in OPEN else [])]
        codes += ["404"] if "{" in path else ["503"] if path == "/ready" else []
        problems = {code: TOLD[code] for code in codes}
        operation = _operation(
            told, [FORMS.get(path, "application/json")], problems, locked=locked and path not in OPEN
        )
        if path == "/ready":  # its 503 is no error document
            operation["responses"]["503"] = {"description": "Not ready", "content": {"application/json": {}}}
        if "{" in path:
            operation["parameters"] = [{
                "name": "model", "in": "path", "required": True,
                "schema": {"type": "string", "minLength": 1, "examples": models[:1]},
            }]  # fmt: skip
        paths[path] = {"get": operation}
    components: dict[str, Any] = {"schemas": found}
    if locked:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Corollary gateway", "version": "1", "description": "OpenAI's endpoints within a budget."},
        "paths": paths,
        "components": components,
    }


def _operation(told: str, types: list[str], problems: dict[str, str], *, locked: bool) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    good = {kind: {"schema": {"type": "object"} if kind == "application/json" else {}} for kind in types}
    responses: dict[str, Any] = {"200": {"description": "Done", "content": good}}
    responses |= {code: {"description": text, "content": error} for code, text in problems.items()}
    return {"summary": told, "responses": responses} | ({"security": [{"key": []}]} if locked else {})


def _error() -> dict[str, Any]:
    inner = {"message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": "null"}}
    inner["code"] = {"type": ["string", "null"]}  # type: ignore[dict-item]
    error = {"type": "object", "required": ["message", "type"], "properties": inner}
    return {"type": "object", "required": ["error"], "properties": {"error": error}}
