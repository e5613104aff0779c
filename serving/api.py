"""The lookup service's interface: what each path answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import BaseRoute

from serving.api_models import (
    ACCEPTED_ID,
    LookupAnswer,
    LookupRequest,
    Prediction,
    ProblemDetails,
    ServedGeneration,
    is_customer_id,
)
from serving.http_gate import RETRY_SECONDS, Application, Receive, Scope, Send
from serving.problems import MEDIA_TYPE, Problem
from serving.reader import Answer, Reader
from serving.service_metrics import MEDIA_TYPE as METRICS_MEDIA_TYPE
from serving.service_metrics import ServiceMetrics
from serving.store import Generation, StoreFailed
from transforms.errors import UsageError, one_line

JSON = "application/json"
MOST_BODY_BYTES = 2 * 1024 * 1024  # 1,000 ids of 1,500 bytes fit
BODY_SECONDS = 10.0
# An answer may be kept, but must be asked for again before it is shown: what is served can change at any moment.
_CACHE = "private, no-cache"
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_PAGE_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
_log = logging.getLogger("serving")


class _CustomerId(Convertor[str]):
    """Any text between the parts of a path: an id may hold slashes and line ends."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("customer_id", _CustomerId())


class DirectRoutes:
    """Answers the routes of a router by calling their functions with the request, and leaves all others to ``others``.

    The framework describes these routes, but its layers and the working out of a function's arguments would take longer
    than all the rest of an answer from memory. What the functions raise is for whoever called.
    """

    def __init__(self, routes: Iterable[BaseRoute], others: Application) -> None:
        self._routes = [(route, route.methods or set()) for route in routes if isinstance(route, APIRoute)]
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path, method = scope["path"], "GET" if scope["method"] == "HEAD" else scope["method"]
            if path.endswith("\n"):  # the framework's patterns would pass over it
                raise Problem("no_such_page", "/docs says what there is")
            for route, methods in self._routes:
                found = route.path_regex.fullmatch(path)
                if found and method in methods:
                    scope["route"], scope["path_params"] = route, found.groupdict()
                    response = await route.endpoint(Request(scope, receive, send))
                    await response(scope, receive, send)
                    return
        await self._others(scope, receive, send)


def router(reader: Reader, metrics: ServiceMetrics) -> APIRouter:
    """The interface; its functions take nothing but the request, for ``DirectRoutes``."""
    routes = APIRouter()

    @routes.get(
        "/v1/customers/{customer_id:customer_id}/value",
        summary="One customer's prediction", response_model=Prediction, tags=["customers"],
        description="The `ETag` names the generation: with it in `If-None-Match` an unchanged prediction is answered by 304.",
        openapi_extra={"parameters": [_ID_PARAMETER, _ETAG_PARAMETER]},
        responses={304: {"description": "Not modified"}, **_problems(400, 401, 403, 404, 503)},
    )  # fmt: skip
    async def value(request: Request) -> Response:
        customer_id = _customer_id(request)
        with _store_problems():
            answer = await reader.look_up((customer_id,))
        generation = _require(answer.generation)
        if customer_id not in answer.rows:
            raise Problem("no_prediction", f"generation {generation.name} has no prediction for {_quoted(customer_id)}")
        if _names(request.headers.getlist("if-none-match"), generation):
            return Response(status_code=304, headers=_headers(generation))
        return Response(answer.rows[customer_id], media_type=JSON, headers=_headers(generation))

    @routes.post(
        "/v1/customers:lookup",
        summary="Up to 1,000 customers' predictions", response_model=LookupAnswer, tags=["customers"],
        openapi_extra={"requestBody": {"required": True, "content": {JSON: {"schema": LookupRequest.model_json_schema()}}}},
        responses=_problems(400, 401, 403, 404, 408, 413, 415, 503),
    )  # fmt: skip
    async def lookup(request: Request) -> Response:
        wanted = _parse(await _body(request))
        with _store_problems():
            answer = await reader.look_up(wanted)
        generation = _require(answer.generation)
        return Response(
            _found_and_missing(generation, wanted, answer), media_type=JSON, headers={"cache-control": "no-store"}
        )

    @routes.get(
        "/v1/generation",
        summary="What is being served", response_model=ServedGeneration, tags=["customers"],
        responses=_problems(400, 401, 403, 404, 503),
    )  # fmt: skip
    async def generation(request: Request) -> Response:
        with _store_problems():
            served = _require(await reader.served())
        # No ETag: a replay and a rollback change what is said of a generation, not the rows that its ETag stands for.
        return Response(orjson.dumps(_described(served)), media_type=JSON, headers={"cache-control": _CACHE})

    @routes.get("/health/live", summary="Whether the process answers", tags=["operation"])
    async def live(request: Request) -> Response:
        return Response(b'{"status": "live"}', media_type=JSON)

    @routes.get(
        "/health/ready", summary="Whether the store answers; true too where nothing is published yet", tags=["operation"],
        responses=_problems(503),
    )  # fmt: skip
    async def ready(request: Request) -> Response:
        with _store_problems():
            served = await reader.served()
        return Response(orjson.dumps({"status": "ready", "generation": served and served.name}), media_type=JSON)

    @routes.get(
        "/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse, tags=["operation"],
        responses=_problems(400, 401, 403, 503),
    )  # fmt: skip
    async def figures(request: Request) -> Response:
        return Response(metrics.page(), media_type=METRICS_MEDIA_TYPE)

    return routes


def pages() -> APIRouter:
    """The page for a person: three files, read once."""
    routes = APIRouter(include_in_schema=False)
    for name, media_type in _PAGE_TYPES.items():
        content = (files("serving") / "page" / name).read_bytes()

        async def page(request: Request, content: bytes = content, media_type: str = media_type) -> Response:
            return Response(content, media_type=media_type, headers=_PAGE_HEADERS)

        routes.add_api_route("/" if name == "index.html" else f"/page/{name}", page)
    return routes


@contextmanager
def _store_problems() -> Iterator[None]:
    """What a store that fails means to a caller; our own log has the reason."""
    try:
        yield
    except (StoreFailed, UsageError) as error:
        _log.warning("the store failed: %s", error)
        raise Problem(
            "store_unavailable", "the store did not answer as it should", {"retry-after": RETRY_SECONDS}
        ) from error


def _require(generation: Generation | None) -> Generation:
    if generation is None:
        raise Problem("nothing_published", "nothing is published yet, or what was has expired")
    return generation


def _customer_id(request: Request) -> str:
    customer_id: str = request.path_params["customer_id"]
    if "\ufffd" in customer_id:  # what the server makes of bytes that are no UTF-8, unless they were there
        from urllib.parse import unquote_to_bytes

        try:
            unquote_to_bytes(request.scope["raw_path"]).decode()
        except UnicodeDecodeError:
            raise Problem("invalid_request", f"the customer id is not UTF-8: {ACCEPTED_ID}") from None
    if not is_customer_id(customer_id):
        raise Problem("invalid_request", f"{_quoted(customer_id)} cannot be a customer id: {ACCEPTED_ID}")
    return customer_id


async def _body(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise Problem("unsupported_media_type", f"accepted is a body with Content-Type: {JSON}")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MOST_BODY_BYTES:
        raise _too_large()
    received = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                received += chunk
                if len(received) > MOST_BODY_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise Problem(
            "too_slow", f"the body did not arrive within {BODY_SECONDS:g} s", {"connection": "close"}
        ) from None
    return bytes(received)


def _too_large() -> Problem:
    return Problem("too_large", f"accepted is a body of up to {MOST_BODY_BYTES:,} bytes", {"connection": "close"})


def _parse(body: bytes) -> list[str]:
    """The customers to look up, each once."""
    try:
        wanted = LookupRequest.model_validate_json(body).customer_ids
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Problem("invalid_request", f"{one_line(place, 60) or 'the body'}: {one_line(first['msg'])}") from None
    for index, customer_id in enumerate(wanted):
        if not is_customer_id(customer_id):
            raise Problem(
                "invalid_request",
                f"customer_ids.{index}: {_quoted(customer_id)} cannot be a customer id: {ACCEPTED_ID}",
            )
    return list(dict.fromkeys(wanted))


def _found_and_missing(generation: Generation, wanted: list[str], answer: Answer) -> bytes:
    found = b",".join(answer.rows[customer_id] for customer_id in wanted if customer_id in answer.rows)
    missing = orjson.dumps([customer_id for customer_id in wanted if customer_id not in answer.rows])
    return b'{"generation":%b,"found":[%b],"missing":%b}' % (orjson.dumps(generation.name), found, missing)


def _described(generation: Generation) -> dict[str, Any]:
    return {
        "generation": generation.name, "as_of": generation.as_of, "horizon_days": generation.horizon_days,
        "model_version": generation.model_version, "rows": generation.content.rows,
        "published_at": generation.published_at, "expires_at": generation.expires_at,
    }  # fmt: skip


def _headers(generation: Generation) -> dict[str, str]:
    return {"etag": _etag(generation), "cache-control": _CACHE}


def _etag(generation: Generation) -> str:
    return f'"{generation.rows_id()}"'


def _names(wanted: list[str], generation: Generation) -> bool:
    """Whether If-None-Match names the generation, or any there is."""
    tags = [each.strip().removeprefix("W/") for each in ",".join(wanted).split(",")]
    return _etag(generation) in tags or tags == ["*"]


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    from serving.problems import TITLES

    return {
        status: {
            "description": "; ".join(
                f"{title} (`{code}`)" for code, (known, title) in TITLES.items() if known == status
            ),
            "content": {MEDIA_TYPE: {"schema": ProblemDetails.model_json_schema()}},
        }
        for status in statuses
    }


_ID_PARAMETER = {
    "name": "customer_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1},
    "description": f"exactly as published, percent-encoded; {ACCEPTED_ID}", "example": "12347",
}  # fmt: skip
_ETAG_PARAMETER = {
    "name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"},
    "description": "an earlier answer's ETag",
}  # fmt: skip
