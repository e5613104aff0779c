"""A run's own date, time and name: what its tasks go by instead of a clock."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping
from typing import Any

from orchestration import dag_plans

LOG = logging.getLogger("airflow.task")  # of the task that runs, in every version of Airflow


def moment(context: Mapping[str, Any]) -> datetime.datetime:
    """When the run was due: its logical date, or where it has none, as one that an asset started, when it was started."""
    due = context.get("logical_date") or context["dag_run"].run_after
    return due.astimezone(datetime.UTC)


def day(context: Mapping[str, Any]) -> datetime.date:
    """The run's day in UTC, or the one it was started with as ``date`` or ``as_of``."""
    params = context.get("params") or {}  # a callback's context may have none
    given = params.get("date") or params.get("as_of")
    return datetime.date.fromisoformat(given) if given else moment(context).date()


def key(context: Mapping[str, Any]) -> str:
    """What tells the run's directory and jobs from another run's of that day."""
    return dag_plans.run_key(context["dag_run"].dag_id, context["dag_run"].run_id)
