"""What all resources of Vertex AI have in common: names, times, labels, operations."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.dataflow.discovery import Call, Refused

_ids = itertools.count(1)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def new_id() -> str:
    """A number of 19 digits, as the service gives; a later one is greater."""
    return str(time.time_ns() // 1000 * 1000 + next(_ids) % 1000)


def project_number(project: str) -> str:
    """The number by which the service names a project in its answers; requests may use it or the id."""
    if project.isdigit():
        return project
    return str(10**11 + int(hashlib.sha256(project.encode()).hexdigest(), 16) % (9 * 10**11))


def parent(values: Mapping[str, str]) -> str:
    """``projects/NUMBER/locations/REGION`` of a request's path."""
    return f"projects/{project_number(values['projectsId'])}/locations/{values['locationsId']}"


def canonical(name: str) -> str:
    """A resource's name as the service says it, by the project's number."""
    parts = name.split("/")
    return "/".join([*parts[:1], project_number(parts[1]), *parts[2:]]) if len(parts) > 1 else name


def invalid(message: str) -> Refused:
    return Refused(400, "INVALID_ARGUMENT", message)


def not_found(what: str, name: str) -> Refused:
    return Refused(404, "NOT_FOUND", f"The {what} does not exist: {name}")


@dataclass
class Pace:
    """How long a state is shown: until it was asked for ``polls`` times, or until ``seconds`` have gone by."""

    polls: int
    seconds: float
    seen: int = 0
    since: float = field(default_factory=time.monotonic)

    def restart(self) -> None:
        self.seen, self.since = 0, time.monotonic()

    @property
    def over(self) -> bool:
        return self.seen >= self.polls or time.monotonic() - self.since >= self.seconds


@dataclass
class Operation:
    """A long-running operation; ``finish`` does its work when its pace is over, and gives the response."""

    name: str
    metadata: str  # the message's name
    pace: Pace
    finish: Any
    created: str = field(default_factory=now)
    result: dict[str, Any] | None = None

    def advance(self) -> None:
        if self.result is None and self.pace.over:
            try:
                self.result = {"response": self.finish()}
            except Refused as refused:
                code = {404: 5, 409: 6}.get(refused.status, 9)
                self.result = {"error": {"code": code, "message": str(refused)}}

    @property
    def body(self) -> dict[str, Any]:
        metadata = {
            "@type": f"type.googleapis.com/google.cloud.aiplatform.v1.{self.metadata}",
            "genericMetadata": {"createTime": self.created, "updateTime": now()},
        }
        return {"name": self.name, "metadata": metadata, **({"done": True, **self.result} if self.result else {})}


def resource_name(call: Call) -> str:
    """The resource that a request's path names, by the project's number."""
    collections = [key.removesuffix("Id") for key in call.path]
    return "/".join(
        f"{collection}/{project_number(value) if collection == 'projects' else value}"
        for collection, value in zip(collections, call.path.values(), strict=True)
    )
