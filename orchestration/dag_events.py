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
        # An exception of ours says it in one line; others may be long.
        reason = " ".join(str(context.get("exception") or "").split())[:1000]
        send(deployment, context, "failed", {}, reason)

    return tell


def send(
    deployment: Deployment, context: Mapping[str, Any], event: str, figures: Mapping[str, Any], reason: str = ""
) -> None:
    """Sends one event; sinks that fail are logged and fail nothing."""
    from orchestration import notify

    instance = context["ti"]
    notify.send(
        notify.Event(
            event=event, step=instance.task_id, run=f"{instance.dag_id}/{instance.run_id}",
            link=getattr(instance, "log_url", None) or "", figures={"date": str(dag_runs.day(context)), **figures},
            reason=reason, at=datetime.datetime.now(datetime.UTC),
        ),
        deployment.notify,
    )  # fmt: skip
