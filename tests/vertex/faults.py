"""Faults on request: a reply that is lost, a refusal for a while, a delay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_REASONS = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED",
            429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What happens to some calls of a method.

    Attributes:
      method: the method's id or its end, such as ``customJobs.create``.
      nth: the first call it happens to, counted from 1 since the service began.
      times: how many calls in a row.
      drop: the call is done, and then the connection closes without an answer.
      refuse: the status it is refused with, before anything is done.
      message: of the refusal.
      delay: seconds it waits before it is done.
    """

    method: str
    nth: int = 1
    times: int = 1
    drop: bool = False
    refuse: int | None = None
    message: str = "scripted"
    delay: float = 0.0

    @property
    def reason(self) -> str:
        return _REASONS.get(self.refuse or 0, "UNKNOWN")

    def happens_to(self, method: str, call: int) -> bool:
        named = method == self.method or method.endswith(f".{self.method}")
        return named and self.nth <= call < self.nth + self.times


class Counted:
    """Which faults the calls meet, in the order they come."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()

    def of(self, method: str, faults: Sequence[Fault]) -> list[Fault]:
        self._calls[method] += 1
        return [fault for fault in faults if fault.happens_to(method, self._calls[method])]
