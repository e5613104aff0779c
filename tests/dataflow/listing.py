"""What the service shows of jobs and messages: summaries, filters, pages."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from tests.dataflow.discovery import Refused

ACTIVE = ("JOB_STATE_QUEUED", "JOB_STATE_PENDING", "JOB_STATE_RUNNING")
# What JOB_VIEW_SUMMARY shows by the document. Labels and environment are not among them.
_SUMMARY = (
    "id", "projectId", "location", "name", "type", "currentState", "currentStateTime", "createTime", "startTime", "jobMetadata",
)  # fmt: skip
_IMPORTANCE = (
    "JOB_MESSAGE_IMPORTANCE_UNKNOWN", "JOB_MESSAGE_DEBUG", "JOB_MESSAGE_DETAILED", "JOB_MESSAGE_BASIC",
    "JOB_MESSAGE_WARNING", "JOB_MESSAGE_ERROR",
)  # fmt: skip


def view(body: Mapping[str, Any], query: Mapping[str, str]) -> dict[str, Any]:
    """A job as this query of ``jobs.get`` sees it: all of it, unless only a summary is asked for."""
    return summary(body) if query.get("view") == "JOB_VIEW_SUMMARY" else dict(body)


def summary(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in _SUMMARY if name in body}


def jobs(bodies: Sequence[Mapping[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """The answer of ``jobs.list``: summaries, newest first.

    Raises:
      Refused: the page is none of this list.
    """
    wanted, name = query.get("filter", ""), query.get("name", "")
    found = [summary(body) for body in reversed(bodies) if _listed(body, wanted) and name in ("", body["name"])]
    return _page(found, query, "jobs")


def messages(said: Sequence[Mapping[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """The answer of ``messages.list``, oldest first.

    Raises:
      Refused: the page is none of this list.
    """
    least = _IMPORTANCE.index(query.get("minimumImportance", _IMPORTANCE[0]))
    start, end = (_time(query[name]) if name in query else None for name in ("startTime", "endTime"))
    found = [
        dict(message)
        for message in said
        if _IMPORTANCE.index(message["messageImportance"]) >= least
        and (start is None or _time(message["time"]) >= start)
        and (end is None or _time(message["time"]) < end)
    ]
    return _page(found, query, "jobMessages")


def _listed(body: Mapping[str, Any], wanted: str) -> bool:
    """Whether a list with this filter holds the job."""
    return wanted not in ("ACTIVE", "TERMINATED") or (wanted == "ACTIVE") == (body["currentState"] in ACTIVE)


def _page(found: list[dict[str, Any]], query: Mapping[str, str], name: str) -> dict[str, Any]:
    """One page of it. What is empty is left out, as in all of Google's JSON."""
    token, size = query.get("pageToken") or "0", int(query.get("pageSize", 0)) or len(found)
    if not token.isdecimal() or size < 0:
        raise Refused(400, "INVALID_ARGUMENT", f"invalid pageToken {token!r} or pageSize {size}")
    start = int(token)
    page: dict[str, Any] = {name: found[start : start + size]} if found[start : start + size] else {}
    return {**page, "nextPageToken": str(start + size)} if start + size < len(found) else page


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)
