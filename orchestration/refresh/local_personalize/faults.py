"""What goes wrong by script, what the service answers then, and the record of what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transforms.errors import UsageError

LOST = ("lost_reply", "lost_request")
ANSWERS = ("throttled", "unavailable", "quota")
FATES = ("create_failed", "stopped", "slow", "never")
KINDS = LOST + ANSWERS + FATES
ANY_OPERATION = "*"


class ServiceError(Exception):
    """An error answer: the code as clients see it, the message, and the HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


class Dropped(Exception):
    """There is no answer. ``done`` says whether the work was."""

    def __init__(self, operation: str, done: bool) -> None:
        super().__init__(f"the connection was cut {'after' if done else 'before'} {operation} was done")
        self.done = done


@dataclass(slots=True)
class Fault:
    """The next ``times`` calls of an operation ("*": of any) whose parameters have ``matching`` go wrong, after the first ``after`` of them.

    lost_reply: done, then the connection is cut. lost_request: cut before anything is done. throttled: ThrottlingException.
    unavailable: 503 and 500 in turn. quota: LimitExceededException. Of the resource made: create_failed ends CREATE FAILED
    with ``reason``, stopped ends CREATE STOPPED, slow takes a hundred times as long, never stays CREATE IN_PROGRESS;
    calls that make none do not use these up.
    """

    operation: str
    kind: str
    times: float = 1
    after: int = 0
    matching: Mapping[str, Any] = field(default_factory=dict)
    reason: str = "An internal error occurred while creating the resource."
    seen: int = field(default=0, init=False)
    used: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"a fault's kind {self.kind!r} is not usable: accepted are {', '.join(KINDS)}")

    def strikes(self, operation: str, parameters: Mapping[str, Any]) -> bool:
        """Counts a call it may be meant for; true when it is this one's turn."""
        if self.used >= self.times or self.operation not in (operation, ANY_OPERATION):
            return False
        if any(parameters.get(name) != value for name, value in self.matching.items()):
            return False
        self.seen += 1
        if self.seen <= self.after:
            return False
        self.used += 1
        return True

    def answer(self) -> ServiceError:
        if self.kind == "throttled":
            return ServiceError("ThrottlingException", "Rate exceeded")
        if self.kind == "quota":
            return ServiceError("LimitExceededException", "The limit on the number of requests has been exceeded.")
        if self.used % 2:
            return ServiceError("ServiceUnavailableException", "The service is unavailable for a moment.", 503)
        return ServiceError("InternalFailure", "The service failed.", 500)


@dataclass(frozen=True, slots=True)
class Call:
    """What was asked and when; ``outcome`` is "ok", an error's code, "lost_reply" or "lost_request"."""

    operation: str
    parameters: dict[str, Any]
    at: float
    outcome: str
