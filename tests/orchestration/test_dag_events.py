"""What people are told of a run that fails, by a real sink."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from orchestration import dag_events
from orchestration.deployment import Deployment
from tests.airflow import sink as webhook
from tests.orchestration.test_dag_plans import installed
from tests.orchestration.test_dag_runs import context


@dataclass
class Task:
    """What a task's instance says of itself."""

    task_id: str = "train"
    log_url: str = "https://airflow/log"


@dataclass
class Dag:
    dag_id: str = "build_train_deploy"


@pytest.fixture
def sink() -> Iterator[webhook.Sink]:
    with webhook.opened() as opened:
        yield opened


@pytest.fixture
def made(sink: webhook.Sink) -> Deployment:
    return installed(notify=[sink.url])


def told(sink: webhook.Sink) -> dict[str, Any]:
    [event] = sink.events
    return {name: event[name] for name in ("event", "step", "run", "link", "figures", "reason")}


def test_a_task_that_failed(made: Deployment, sink: webhook.Sink) -> None:
    error = RuntimeError("job 7 is JOB_STATE_FAILED:\n  no quota")
    dag_events.on_failure(made)({**context(), "ti": Task(), "exception": error})
    assert told(sink) == {
        "event": "failed", "step": "train", "run": "build_train_deploy/scheduled__2026-11-22T03:00:00+00:00",
        "link": "https://airflow/log", "figures": {"date": "2026-11-22"}, "reason": "job 7 is JOB_STATE_FAILED: no quota",
    }  # fmt: skip


def test_a_task_that_was_lost_with_its_worker_has_no_exception(made: Deployment, sink: webhook.Sink) -> None:
    dag_events.on_failure(made)({**context(), "ti": Task()})
    assert told(sink)["reason"] == "the worker was lost, or somebody marked the task failed"


@pytest.mark.parametrize("known", [{**context(), "ti": Task("gate")}, {"dag": Dag(), "run_id": "manual__1"}])
def test_a_run_that_took_too_long(known: dict[str, Any], made: Deployment, sink: webhook.Sink) -> None:
    dag_events.on_timeout(made)({**known, "reason": "timed_out"})
    event = told(sink)
    assert event["event"] == "failed" and event["reason"].startswith("the run took too long")
    assert event["run"].startswith("build_train_deploy/")


def test_a_run_whose_task_failed_is_not_told_of_twice(made: Deployment, sink: webhook.Sink) -> None:
    dag_events.on_timeout(made)({**context(), "ti": Task(), "reason": "task_failure"})
    assert not sink.events
