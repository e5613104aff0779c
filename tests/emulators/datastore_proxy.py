"""A Datastore that fails as a real one does: a gRPC proxy in front of an emulator, with faults put in by a plan.

    with DatastoreProxy(emulator.host) as proxy:
        monkeypatch.setenv("DATASTORE_EMULATOR_HOST", proxy.host)     # this process's clients and its children's
        proxy.faults = (refused(0.05, UNAVAILABLE, ABORTED), reply_lost(0.05, UNAVAILABLE, methods=("Commit",)))
        ...
        assert proxy.counts["refused"]

The plan can be replaced at any time. Its chances are drawn from a seed, one draw for each fault at each call that
it may hit, so that the n-th call of a client with one thread meets the same fate in every run.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

import grpc
from google.cloud.datastore_v1.types import CommitRequest

HOST = "127.0.0.1"
SERVICE = "/google.datastore.v1.Datastore/"
_THREADS = 32  # calls served at once; a slow one holds its thread
# Whole batches pass; a restarted proxy takes its own port, which no other may share.
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]


class Kind(Enum):
    """What a fault does; the value is what it is counted as."""

    REFUSED = "refused"
    REPLY_LOST = "reply_lost"
    SLOW = "slow"


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong now and then; made by ``refused``, ``reply_lost`` and ``slow``.

    Attributes:
      share: of the calls that it may hit, 0 to 1.
      codes: one of which, each as likely, is answered instead of OK.
      methods: names such as "Commit", those that it may hit; none: all.
      seconds: that a call takes longer.
    """

    kind: Kind
    share: float
    codes: tuple[grpc.StatusCode, ...] = ()
    methods: tuple[str, ...] = ()
    seconds: float = 0.0


def refused(share: float, *codes: grpc.StatusCode, methods: tuple[str, ...] = ()) -> Fault:
    """Calls answered with an error and not carried out."""
    return Fault(Kind.REFUSED, share, codes, methods)


def reply_lost(share: float, *codes: grpc.StatusCode, methods: tuple[str, ...] = ()) -> Fault:
    """Calls carried out, whose caller is told of an error all the same. What the emulator refuses stays refused."""
    return Fault(Kind.REPLY_LOST, share, codes, methods)


def slow(share: float, seconds: float, methods: tuple[str, ...] = ()) -> Fault:
    """Calls that are carried out late by so many seconds, even where the caller has given up by then."""
    return Fault(Kind.SLOW, share, (), methods, seconds)


class DatastoreProxy:
    """Listens on ``host`` and passes calls on to the emulator at ``upstream`` (host:port), save where told otherwise.

    Attributes:
      faults: the plan; empty at first. Each fault is drawn for on its own, a slow call may be refused as well.
      writes_per_second: mutations above which commits are answered with RESOURCE_EXHAUSTED, after a burst of one
        second's worth; None: no limit.
      counts: what happened, by name: "calls" and "calls.METHOD"; "forwarded", "forwarded.METHOD" (carried out, or
        refused by the emulator itself); "refused", "reply_lost", "slow"; "exhausted" (by ``exhaust``), "limited" (by
        writes_per_second); "mutations" (forwarded in commits).
    """

    def __init__(self, upstream: str, seed: int = 0) -> None:
        self.faults: tuple[Fault, ...] = ()
        self.writes_per_second: float | None = None
        self.counts: Counter[str] = Counter()
        self._upstream = upstream
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._exhausted_until = 0.0
        self._allowed, self._allowed_at = 0.0, 0.0
        self._port = 0

    @property
    def host(self) -> str:
        """``host:port``, for ``DATASTORE_EMULATOR_HOST``."""
        return f"{HOST}:{self._port}"

    def exhaust(self, seconds: float) -> None:
        """From now on, for so long, every call is answered with RESOURCE_EXHAUSTED."""
        self._exhausted_until = time.monotonic() + seconds

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """A total outage: open connections are cut, calls in flight among them, and new ones are not taken.

        A call that was cut may have been carried out.
        """
        self._server.stop(grace=0).wait()
        try:
            yield
        finally:
            self._listen()

    def __enter__(self) -> Self:
        self._channel = grpc.insecure_channel(self._upstream, _OPTIONS)
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=0).wait()
        self._channel.close()

    def _listen(self) -> None:
        server = grpc.server(
            ThreadPoolExecutor(_THREADS, "datastore-proxy"), [_Handler(self._answer)], options=_OPTIONS
        )
        self._port = server.add_insecure_port(f"{HOST}:{self._port}")
        server.start()
        self._server = server

    def _answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._count("calls", f"calls.{method}")
        if time.monotonic() < self._exhausted_until:
            self._fail(context, "exhausted", grpc.StatusCode.RESOURCE_EXHAUSTED)
        hits = self._draw(method)
        if Kind.SLOW in hits:
            self._count(Kind.SLOW.value)
            time.sleep(hits[Kind.SLOW].seconds)
        if Kind.REFUSED in hits:
            self._fail(context, Kind.REFUSED.value, self._pick(hits[Kind.REFUSED]))
        mutations = len(CommitRequest.pb().FromString(request).mutations) if method == "Commit" else 0
        if not self._within_limit(mutations):
            self._fail(context, "limited", grpc.StatusCode.RESOURCE_EXHAUSTED)
        response = self._forward(method, request, context, mutations)
        if Kind.REPLY_LOST in hits:
            self._fail(context, Kind.REPLY_LOST.value, self._pick(hits[Kind.REPLY_LOST]))
        return response

    def _draw(self, method: str) -> dict[Kind, Fault]:
        """The faults that hit this call, the last of each kind."""
        with self._lock:
            concerned = [fault for fault in self.faults if not fault.methods or method in fault.methods]
            return {fault.kind: fault for fault in concerned if self._random.random() < fault.share}

    def _pick(self, fault: Fault) -> grpc.StatusCode:
        with self._lock:
            return self._random.choice(fault.codes)

    def _within_limit(self, mutations: int) -> bool:
        """Takes a commit's mutations out of a bucket that fills at the limit and holds a second's worth."""
        with self._lock:
            limit, now = self.writes_per_second, time.monotonic()
            if limit is None or not mutations:
                return True
            self._allowed = min(limit, self._allowed + (now - self._allowed_at) * limit)
            self._allowed_at = now
            if mutations > self._allowed:
                return False
            self._allowed -= mutations
            return True

    def _forward(self, method: str, request: bytes, context: grpc.ServicerContext, mutations: int) -> bytes:
        self._count("forwarded", f"forwarded.{method}")
        call = self._channel.unary_unary(SERVICE + method)
        # Names that begin with "grpc-" are the protocol's own; Datastore's (project, database) are passed on.
        metadata = [
            (key, value) for key, value in context.invocation_metadata() if key.startswith(("x-goog-", "google-"))
        ]
        try:
            response: bytes = call(request, metadata=metadata)
        except grpc.RpcError as error:
            context.set_trailing_metadata(tuple(error.trailing_metadata() or ()))
            context.abort(error.code(), error.details() or "")
        with self._lock:
            self.counts["mutations"] += mutations
        return response

    def _fail(self, context: grpc.ServicerContext, counted_as: str, code: grpc.StatusCode) -> None:
        self._count(counted_as)
        context.abort(code, f"put in by the proxy: {counted_as}")

    def _count(self, *names: str) -> None:
        with self._lock:
            self.counts.update(names)


class _Handler(grpc.GenericRpcHandler):
    """Every method of Datastore, with requests and responses as bytes."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if not details.method.startswith(SERVICE):
            return None
        method = details.method.removeprefix(SERVICE)
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._answer(method, request, context))
