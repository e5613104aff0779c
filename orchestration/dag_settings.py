"""What both DAGs have in common: defaults of their tasks, the champion as an asset, schedules."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from airflow.providers.common.compat.sdk import Asset, Param
from airflow.timetables.trigger import CronTriggerTimetable

from orchestration import dag_events
from orchestration.deployment import Deployment
from orchestration.steps import registry_name

HOUR = datetime.timedelta(hours=1)
START = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)  # of what may be backfilled; nothing is by itself
TAGS = ["clv"]


def champion(deployment: Deployment) -> Any:
    """The asset that has an event for every deployed champion, with its version and metrics as ``extra``."""
    forecast = deployment.forecast
    return Asset(
        deployment.inside("registry", registry_name(forecast.horizon_days, forecast.history_days), "champion.json")
    )


def task_defaults(deployment: Deployment) -> dict[str, Any]:
    retries = deployment.retries
    return {
        "retries": retries.count,
        "retry_delay": datetime.timedelta(seconds=retries.delay_seconds),
        "retry_exponential_backoff": True,
        "max_retry_delay": HOUR,
        "execution_timeout": 6 * HOUR,
        "on_failure_callback": dag_events.on_failure(deployment),
    }


def parameters(specifications: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """JSON schemas as Airflow's parameters: a value that does not fit is refused when a run is triggered."""
    return {name: Param(**specification) for name, specification in specifications.items()}


def cron(line: str) -> CronTriggerTimetable:
    """A run's date is the instant it is due, in every version of Airflow, not the beginning of an interval."""
    return CronTriggerTimetable(line, timezone="UTC")


def on_time_or(line: str, asset: Any) -> Any:
    """The timetable of a DAG that runs on time and whenever the asset has a new event."""
    try:
        from airflow.timetables.assets import AssetOrTimeSchedule
    except ImportError:  # Airflow 2
        from airflow.timetables.datasets import DatasetOrTimeSchedule

        return DatasetOrTimeSchedule(timetable=cron(line), datasets=[asset])
    return AssetOrTimeSchedule(timetable=cron(line), assets=[asset])
