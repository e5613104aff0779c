"""The tests' fault proxy of Datastore in a process of its own, so that what it costs does not hold up who asks and checks."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from transforms.errors import JobFailed

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

_START_SECONDS = 60.0


class ProxyProcess:
    """Passes calls on to the emulator at ``upstream`` (host:port), save where told otherwise; listens on ``host``."""

    def __init__(self, upstream: str, seed: int) -> None:
        context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, upstream, seed), daemon=True)
        self._process.start()
        theirs.close()
        self.host = ""

    def __enter__(self) -> Self:
        self.host = self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(5.0)
        if self._process.is_alive():
            self._process.terminate()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Connections are cut, and new ones are not taken."""
        self._tell("refuse", 0.0)
        try:
            yield
        finally:
            self._tell("pass", 0.0)

    @contextlib.contextmanager
    def hanging(self, seconds: float) -> Iterator[None]:
        """Every call is answered so late."""
        self._tell("hang", seconds)
        try:
            yield
        finally:
            self._tell("pass", 0.0)

    def _tell(self, what: str, seconds: float) -> None:
        self._pipe.send((what, seconds))
        self._answer()

    def _answer(self) -> str:
        if not self._pipe.poll(_START_SECONDS):
            raise JobFailed(f"the proxy before the emulator did not answer within {_START_SECONDS:g} s")
        try:
            return str(self._pipe.recv())
        except EOFError:
            raise JobFailed("the proxy before the emulator has ended") from None


def _serve(pipe: Pipe, upstream: str, seed: int) -> None:
    """Does as it is told until the pipe is closed; answers what is done with the proxy's address."""
    from tests.emulators.datastore_proxy import DatastoreProxy, slow

    with DatastoreProxy(upstream, seed) as proxy, contextlib.ExitStack() as outage, contextlib.suppress(EOFError):
        while True:
            pipe.send(proxy.host)
            what, seconds = pipe.recv()
            outage.close()
            proxy.faults = (slow(1.0, seconds),) if what == "hang" else ()
            if what == "refuse":
                outage.enter_context(proxy.down())
