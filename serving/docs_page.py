"""The page that describes the interface: OpenAPI, shown by Swagger UI from files of our own."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response

_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
_VERSION = "3.0.3"  # the newest that this Swagger UI reads
_HTML = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Customer lifetime value: interface</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
"""
_START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true});\n'
_HEADERS = {
    # Swagger UI sets style attributes.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-cache",
}


def add(app: FastAPI, with_tokens: bool) -> None:
    """Adds /docs and /openapi.json.

    Args:
      with_tokens: whether callers need one.
    """
    from swagger_ui_bundle import swagger_ui_path

    app.openapi_version = _VERSION
    files = {name: (Path(swagger_ui_path) / name).read_bytes() for name in _FILES}
    documents = {
        "/docs": (_HTML.encode(), "text/html"),
        "/docs/start.js": (_START.encode(), "text/javascript"),
        **{f"/docs/{name}": (content, _FILES[name]) for name, content in files.items()},
    }
    for path, document in documents.items():
        app.add_route(path, _route(*document), include_in_schema=False)

    @functools.cache
    def described() -> bytes:
        import orjson

        return orjson.dumps(_described(app.openapi(), with_tokens))

    async def openapi(request: Request) -> Response:
        return Response(described(), media_type="application/json")

    app.add_route("/openapi.json", openapi, include_in_schema=False)


def _described(document: dict[str, Any], with_tokens: bool) -> Any:
    if with_tokens:
        document.setdefault("components", {})["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer", "bearerFormat": "Google ID token"}
        }
        document["security"] = [{"token": []}]
    return _as_3_0(document)


def _as_3_0(node: Any) -> Any:
    """Without what FastAPI writes of 3.1: types "null", and lists of examples."""
    if isinstance(node, list):
        return [_as_3_0(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {name: _as_3_0(each) for name, each in node.items()}
    if kept.get("anyOf", [])[1:] == [{"type": "null"}]:
        kept |= kept.pop("anyOf")[0] | {"nullable": True}
    if isinstance(kept.get("examples"), list):
        kept["example"] = kept.pop("examples")[0]
    return kept


def _route(content: bytes, media_type: str) -> Any:
    async def answer(request: Request) -> Response:
        return Response(content, media_type=f"{media_type}; charset=utf-8", headers=_HEADERS)

    return answer
