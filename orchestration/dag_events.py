"""What a DAG tells people: a failure, a new champion, a publish; see ``orchestration.notify``."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

from orchestration import dag_runs
from orchestration.deployment import Deployment


def on_failure(deployment: Deployment) -> Callable[[Mapping[str, Any]], None]:
    """The callback of a task that failed for good."""

    def tell(context: Mapping[str, Any]) -> None:
        reason = str(context.get("exception") or "the worker was lost, or somebody marked the task failed")
        send(deployment, context, "failed", {}, reason)

    return tell


def on_timeout(deployment: Deployment) -> Callable[[Mapping[str, Any]], None]:
    """The callback of a run that took too long: Airflow ends its tasks without a word of theirs."""

    def tell(context: Mapping[str, Any]) -> None:
        if context.get("reason") == "timed_out":
            reason = "the run took too long and was ended; its jobs on Dataflow and Vertex AI may go on"
            send(deployment, context, "failed", {}, reason)

    return tell


def send(
    deployment: Deployment, context: Mapping[str, Any], event: str, figures: Mapping[str, Any], reason: str = ""
) -> None:
    """Sends one event; sinks that fail are logged and fail nothing."""
    from orchestration import notify

    run, instance = context.get("dag_run"), context.get("ti")
    # Of a run that is ended the scheduler may tell no more than its name.
    name = f"{run.dag_id}/{run.run_id}" if run else f"{context['dag'].dag_id}/{context['run_id']}"
    date = {"date": str(dag_runs.day(context))} if run else {}
    notify.send(
        notify.Event(
            event=event, step=instance.task_id if instance else "", run=name,
            link=getattr(instance, "log_url", None) or "", figures={**date, **figures},
            reason=reason, at=datetime.datetime.now(datetime.UTC),
        ),
        deployment.notify,
    )  # fmt: skip
