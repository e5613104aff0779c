"""Faults for stores that a service opens: they fail, or hang, while told to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from serving.store import Generation, Store

METHODS = ("current", "rows")


class Faults:
    """Attributes:
    error: raised by every call, while it is set.
    hung: how many calls hang, or did.
    """

    def __init__(self, open_store: Callable[..., Store]) -> None:
        self.error: Exception | None = None
        self.hung = 0
        self._open_store = open_store
        self._going_on = threading.Event()
        self._going_on.set()

    def open(self, *arguments: Any, **named: Any) -> Store:
        store = self._open_store(*arguments, **named)
        for method in METHODS:
            setattr(store, method, self._faulty(getattr(store, method)))
        return store

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Calls of a store do not come back until the context ends, or ``go_on``."""
        self._going_on.clear()
        try:
            yield
        finally:
            self.go_on()

    def go_on(self) -> None:
        self._going_on.set()

    def _faulty(self, call: Callable[..., Generation]) -> Callable[..., Any]:
        def faulty(*arguments: Any) -> Any:
            if not self._going_on.is_set():
                self.hung += 1
                self._going_on.wait(30)
            if self.error is not None:
                raise self.error
            return call(*arguments)

        return faulty
