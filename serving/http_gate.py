"""What happens to every request before and after the application: limits, who calls, problems, figures."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from starlette.requests import ClientDisconnect

from serving.problems import MEDIA_TYPE, Problem
from serving.service_metrics import ServiceMetrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

RETRY_SECONDS = "1"
# Pages that give no customer away; all others ask for a token.
OPEN_PATHS = ("/", "/docs", "/openapi.json", "/health/live", "/health/ready")
OPEN_FOLDERS = ("/page/", "/docs/")
HEALTH = "/health/"
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_log = logging.getLogger("serving")


class Tokens(Protocol):
    async def check(self, authorization: str | None) -> str:
        """The caller's name.

        Raises:
          Problem: there is none, or one that may not call.
        """


class Gate:
    """The outermost application.

    Args:
      inner: answers what gets through.
      tokens: who is asked for one; None takes everybody, and only requests that name this machine as their host:
        a page from elsewhere that a browser here shows must not reach us through a name of its own.
      most_requests: answered at a time.
      request_seconds: after which a request is given up.
      body_seconds: how much longer one with a body may take, which has to arrive first.
    """

    def __init__(
        self,
        inner: Application,
        tokens: Tokens | None,
        metrics: ServiceMetrics,
        most_requests: int,
        request_seconds: float,
        body_seconds: float,
    ) -> None:
        self._inner, self._tokens, self._metrics = inner, tokens, metrics
        self._most_requests = most_requests
        self._request_seconds, self._body_seconds = request_seconds, body_seconds
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        counted = not scope["path"].startswith(HEALTH)  # who asks for our health must hear that we are alive

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), _NOSNIFF]
            await send(message)

        self._under_way += counted
        try:
            await self._answer(scope, receive, sending)
        except Problem as problem:
            self._metrics.problem(problem.code)
            if not status:
                await send_problem(sending, problem)
        except asyncio.CancelledError:  # the service ends before the store has answered
            if not status:
                await send_problem(sending, _closing())
        except ClientDisconnect:
            pass  # who went away before the request was complete gets no answer, and is no failure
        except Exception:
            _log.exception("%s %s failed", scope["method"], _route(scope))
            if not status:
                await send_problem(sending, Problem("internal_error", "the service's log says more"))
        finally:
            self._under_way -= counted
            self._metrics.answered(_route(scope), scope["method"], status, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if self._under_way > self._most_requests and not path.startswith(HEALTH):
            _log.warning("overloaded: more than %d requests at a time", self._most_requests)
            raise Problem(
                "overloaded",
                f"more than {self._most_requests} requests are being answered",
                {"retry-after": RETRY_SECONDS},
            )
        await self._check_caller(scope, path)
        seconds = self._request_seconds + (self._body_seconds if scope["method"] == "POST" else 0.0)
        try:
            async with asyncio.timeout(seconds):
                await self._inner(scope, receive, send)
        except TimeoutError:
            _log.warning(
                "no answer of %s within %g s: the store hangs, or this machine is too busy", _route(scope), seconds
            )
            raise Problem(
                "store_unavailable", f"no answer within {seconds:g} s", {"retry-after": RETRY_SECONDS}
            ) from None

    async def _check_caller(self, scope: Scope, path: str) -> None:
        if self._tokens is None:
            _require_local_name(_headers(scope, b"host"))
        elif path not in OPEN_PATHS and not path.startswith(OPEN_FOLDERS):
            await self._tokens.check(_one_header(scope, b"authorization"))


def _route(scope: Scope) -> str:
    """The path's pattern: of these there are few, however many paths are asked for."""
    path: str = getattr(scope.get("route"), "path_format", "none")
    return path


def _closing() -> Problem:
    return Problem("store_unavailable", "the service is being closed", {"retry-after": RETRY_SECONDS})


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _one_header(scope: Scope, name: bytes) -> str | None:
    found = _headers(scope, name)
    if len(found) > 1:
        raise Problem("invalid_request", f"the header {name.decode()} was sent {len(found)} times: accepted is once")
    return found[0] if found else None


def _require_local_name(hosts: list[str]) -> None:
    from serving.app_options import LOOPBACK

    host = hosts[0].lower() if len(hosts) == 1 else ""
    name = host if host.endswith("]") else host.rsplit(":", 1)[0]
    if name.strip("[]") not in LOOPBACK:
        raise Problem(
            "invalid_request", f"without tokens only this machine is answered: accepted are hosts {', '.join(LOOPBACK)}"
        )


async def send_problem(send: Send, problem: Problem) -> None:
    body = problem.body()
    headers = {
        "content-type": MEDIA_TYPE,
        "content-length": str(len(body)),
        "cache-control": "no-store",
        **problem.headers,
    }
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
