"""The lookup service's own server around an application that has its answers ready: what HTTP alone costs.

    python -m benchmarks.lookup_floor --row_bytes 400

GET answers one row of so many bytes; POST reads the body and answers as many rows as ``--rows``. Protocol, loop and
limits are those of ``serving.app``; what is left out is everything behind them.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from transforms.cli import ArgumentParser, exit_code, whole_number

_ROW = b'{"customer_id":"%b"}'


def run(argv: list[str] | None = None) -> None:
    """Serves until it is told to end. Raises: UsageError for an unusable argument."""
    parser = ArgumentParser("python -m benchmarks.lookup_floor", description=__doc__)
    parser.add_argument("--row_bytes", type=whole_number(len(_ROW)), default=400, help="bytes of a row")
    parser.add_argument("--rows", type=whole_number(1), default=100, help="rows that a POST is answered")
    options = parser.parse_args(argv)
    asyncio.run(_serve(options.row_bytes, options.rows))


async def _serve(row_bytes: int, rows: int) -> None:
    from serving import app, app_options

    served = app.server(app_options.parse(["--serving", "sqlite:///never/opened.db", "--no_auth", "--port", "0"]))
    row = _ROW % (b"x" * (row_bytes - len(_ROW) + len("%b")))
    many = b'{"generation":"none","found":[%b],"missing":[]}' % b",".join([row] * rows)
    served.config.app = _application(row, many)
    serving = asyncio.create_task(served.serve())
    while not served.started and not serving.done():
        await asyncio.sleep(0.01)
    if served.started:
        port = served.servers[0].sockets[0].getsockname()[1]
        print(f"answering on http://127.0.0.1:{port}", file=sys.stderr, flush=True)
    await serving


def _application(row: bytes, many: bytes) -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        body = row
        if scope["method"] == "POST":
            while (await receive())["more_body"]:
                pass
            body = many
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application


async def _lifespan(receive: Any, send: Any) -> None:
    for _ in range(2):
        message = await receive()
        await send({"type": f"{message['type']}.complete"})


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
