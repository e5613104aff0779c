"""The lookup service: customers' current predictions over HTTP.

request -> BoundedProtocol -> Gate -> api -> Reader -> store
           how large, slow    who      what   from memory, or by threads
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import socket
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from serving import app_options, problems
from serving.app_options import AppOptions
from serving.problems import Problem
from serving.seldom import Seldom
from transforms.cli import exit_code
from transforms.errors import JobFailed, UsageError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI, Response

    from serving.http_gate import Gate

TITLE = "Customer lifetime value"
ABOUT = """\
What each customer will be worth: predictions made in batches, published as a whole, looked up by customer id.

All of one answer is of one generation, the published set of predictions that it names. A publish or a rollback is
seen within {seconds:g} seconds. Where the store does not answer, the answer is 503 and says when to come again."""
# Longer than Google's front ends keep theirs (600): they must not send a request into a connection that is just closed.
KEEP_ALIVE_SECONDS = 620
_OWN_PACKAGES = ("fastapi", "uvicorn", "httptools", "uvloop", "orjson", "prometheus_client", "swagger_ui_bundle")
CLOSING_SECONDS = 7  # for answers under way when the service is told to end; Cloud Run kills it after 10


def create_app(options: AppOptions) -> Gate:
    """The ASGI application; its store is opened when it starts.

    Raises:
      UsageError: no credentials.
    """
    from functools import partial

    from serving import api
    from serving.bearer import Bearer
    from serving.http_gate import Gate
    from serving.reader import Reader
    from serving.service_metrics import ServiceMetrics
    from serving.store import open_store

    opened = partial(open_store, options.serving, patience_seconds=options.store_seconds)
    reader = Reader(opened, options.threads, options.pointer_seconds, options.rows_kept)
    metrics = ServiceMetrics(reader)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        reader.threads.start()
        yield
        reader.threads.stop()

    app, interface, pages = _described_app(options, lifespan), api.router(reader, metrics), api.pages()
    for routes in (interface, pages):
        app.include_router(routes)
    tokens = Bearer(options.audience, options.callers) if options.audience else None
    # The pointer is read, perhaps twice, and the rows between: each within the store's time.
    seconds = 4 * options.store_seconds
    direct = api.DirectRoutes([*interface.routes, *pages.routes], app)
    return Gate(direct, tokens, metrics, options.most_requests, seconds, api.BODY_SECONDS)


def _described_app(options: AppOptions, lifespan: Any) -> FastAPI:
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException

    from serving import docs_page
    from transforms.version import VERSION

    app = FastAPI(
        title=TITLE, version=VERSION, description=ABOUT.format(seconds=options.pointer_seconds), lifespan=lifespan,
        docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.add_exception_handler(HTTPException, _refused)
    docs_page.add(app, with_tokens=options.audience is not None)
    return app


async def _refused(_: Any, error: Any) -> Response:
    """What the framework refuses, as a problem like any other. A coroutine: others it hands to a pool of threads."""
    from fastapi import Response

    if error.status_code == 405:
        problem = Problem("method_not_allowed", f"accepted is {error.headers['Allow']}", error.headers)
    else:
        problem = Problem("no_such_page" if error.status_code == 404 else "invalid_request", "/docs says what there is")
    headers = {"cache-control": "no-store", **problem.headers}
    return Response(problem.body(), problem.status, headers, problems.MEDIA_TYPE)


def server(options: AppOptions) -> uvicorn.Server:
    import uvicorn

    from serving.http_protocol import BoundedProtocol

    config = uvicorn.Config(
        create_app(options), host=options.host, port=options.port, loop="uvloop", http=BoundedProtocol, ws="none",
        lifespan="on", access_log=False, log_config=None, server_header=False, proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=CLOSING_SECONDS,
    )  # fmt: skip
    return uvicorn.Server(config)


def run(argv: list[str] | None = None) -> None:
    """Serves until it is told to end.

    Raises:
      UsageError: unusable arguments, or a store that cannot be opened.
      JobFailed: the port cannot be had.
    """
    options = app_options.parse(argv)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("serving").addFilter(Seldom())
    _require_installed()
    _require_readable(options)
    served, listening = server(options), _listen(options)
    with listening, asyncio.Runner(loop_factory=served.config.get_loop_factory()) as runner:
        runner.run(_serve(served, listening, options))


def _require_installed() -> None:
    """Raises: UsageError where only the pipelines' packages are there."""
    missing = [name for name in _OWN_PACKAGES if not importlib.util.find_spec(name)]
    if missing:
        raise UsageError(
            f"the lookup service needs {', '.join(missing)}, which the pipelines do not: accepted is an environment of "
            "serving/requirements.lock"
        )


def _require_readable(options: AppOptions) -> None:
    """Raises: UsageError for what no waiting mends; a store that is only away just now may come back."""
    from serving.store import StoreFailed, open_store

    try:
        with open_store(options.serving, patience_seconds=options.store_seconds) as store:
            store.current()
    except StoreFailed as error:
        print(f"warning: {error}; serving all the same, not ready until it does", file=sys.stderr)


def _listen(options: AppOptions) -> socket.socket:
    """Not left to the server, which would log the error and end the process."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise JobFailed(f"--host {options.host} --port {options.port} cannot be listened on: {reason}") from error


async def _serve(served: uvicorn.Server, listening: socket.socket, options: AppOptions) -> None:
    saying = asyncio.create_task(_say_where(served, options))
    try:
        await served.serve([listening])
    finally:
        saying.cancel()


async def _say_where(served: uvicorn.Server, options: AppOptions) -> None:
    while not served.started:
        await asyncio.sleep(0.01)
    port = served.servers[0].sockets[0].getsockname()[1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"serving {options.serving} on http://{host}:{port}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
