"""The command line of the lookup service."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from serving.store import ACCEPTED_URIS, resolve
from transforms.cli import ArgumentParser, number, whole_number
from transforms.errors import UsageError, rejected

DESCRIPTION = """\
Serves the current predictions over HTTP: one customer by GET /v1/customers/ID/value, up to 1,000 by
POST /v1/customers:lookup. / is a page for a person, /docs describes the interface, /metrics is for Prometheus,
/health/live and /health/ready are for whoever starts and stops the service.

Callers show a Google ID token whose audience is --audience and whose account is a --caller. Without tokens the
service only answers this machine: --no_auth.

examples:
  python -m serving.app --serving sqlite://work/demo/serving.db --no_auth
  python -m serving.app --serving datastore://my-project --host 0.0.0.0 --audience https://clv.example.com \\
      --caller shop-frontend@my-project.iam.gserviceaccount.com"""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANYBODY = "anybody"
_seconds = number(0.05, 3600, "seconds")
_PORT = "PORT"  # how Cloud Run names the port to listen on


@dataclass(frozen=True)
class AppOptions:
    """How the service runs.

    Attributes:
      audience: what tokens must be for; None where none is asked for.
      callers: accounts whose tokens are taken; None for every account's.
      pointer_seconds: how long a switch may stay unnoticed.
      store_seconds: how long the store may take to answer.
      rows_kept: rows remembered.
      threads: calls to the store at a time.
      most_requests: requests answered at a time; others are turned away.
    """

    serving: str
    host: str
    port: int
    audience: str | None
    callers: frozenset[str] | None
    pointer_seconds: float
    store_seconds: float
    rows_kept: int
    threads: int
    most_requests: int


def parser() -> ArgumentParser:
    result = ArgumentParser("python -m serving.app", description=DESCRIPTION)
    result.add_argument("--serving", required=True, metavar="URI", help=f"the serving store: {ACCEPTED_URIS}")
    result.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; 0.0.0.0 is all of this machine's"
    )
    result.add_argument(
        "--port", type=whole_number(0, 65_535), default=os.environ.get(_PORT) or "8080",
        help="the port to listen on, 0 for any that is free; the variable PORT says it too",
    )  # fmt: skip
    result.add_argument(
        "--audience", metavar="URL", help="what callers' tokens must be for: most often this service's URL"
    )
    result.add_argument(
        "--caller", action="append", default=[], metavar="EMAIL",
        help=f"an account that may call, repeated for more; {ANYBODY} takes every valid token, which any Google account "
        "of any project can get",
    )  # fmt: skip
    result.add_argument(
        "--no_auth", action="store_true", help="ask for no token; only with a --host of this machine alone"
    )
    result.add_argument(
        "--pointer_seconds", type=_seconds, metavar="S", default=5.0,
        help="how long a publish or a rollback may stay unnoticed",
    )  # fmt: skip
    result.add_argument(
        "--store_seconds", type=_seconds, metavar="S", default=2.0,
        help="how long the store may take to answer before callers are told to come again",
    )  # fmt: skip
    result.add_argument(
        "--rows_kept", type=whole_number(0), metavar="N", default=50_000,
        help="customers whose row is remembered while their generation is served, some 700 bytes each",
    )  # fmt: skip
    result.add_argument(
        "--threads", type=whole_number(1, 64), metavar="N", default=8, help="calls to the store at a time"
    )
    result.add_argument(
        "--most_requests", type=whole_number(1), metavar="N", default=512,
        help="requests answered at a time; others are told to come again",
    )  # fmt: skip
    return result


def parse(argv: list[str] | None) -> AppOptions:
    """Raises: UsageError for an argument that is missing or not usable."""
    known = vars(parser().parse_args(argv))
    no_auth, callers = known.pop("no_auth"), frozenset(known.pop("caller"))
    known["serving"] = resolve(known["serving"])
    _check_access(known["host"], known["audience"], callers, no_auth)
    return AppOptions(callers=None if ANYBODY in callers else callers, **known)


def _check_access(host: str, audience: str | None, callers: frozenset[str], no_auth: bool) -> None:
    if no_auth:
        if audience or callers:
            raise UsageError("--no_auth was given with --audience or --caller: accepted is one or the other")
        if host not in LOOPBACK:
            raise rejected("--no_auth with --host", host, f"an address of this machine alone: {', '.join(LOOPBACK)}")
        return
    if not audience or not callers:
        missing = "--audience" if not audience else "--caller"
        raise UsageError(
            f"{missing} is missing: accepted are --audience and --caller, or --no_auth on this machine alone"
        )
    if ANYBODY in callers and len(callers) > 1:
        raise UsageError(f"--caller {ANYBODY} was given with others: accepted is {ANYBODY} alone, or the others alone")
    for caller in callers - {ANYBODY}:
        if not re.fullmatch(r"[^@:\s]+@[^@:\s]+", caller):
            raise rejected("--caller", caller, f"an account's email address, or {ANYBODY}")
