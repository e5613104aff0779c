"""All of Airflow killed in the middle of a run, twice: the run goes on where it was, and nothing is made a second time."""

from __future__ import annotations

import datetime
import threading
from collections import Counter

import pytest

from tests.airflow.airflow_home import Run
from tests.airflow.fixtures import Install
from tests.airflow.installation import BUILD, SERVE, Installation
from tests.airflow.standalone import Standalone, until
from tests.airflow.story import Story, left, now

pytestmark = pytest.mark.airflow


def test_a_killed_run_goes_on(story: Story, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    due = now() - datetime.timedelta(minutes=2)
    installation = install("killed", retries=2, due=f"{due:%M %H %d %m} *")
    home = installation.home
    home.variables["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] = "False"

    # A job that is over by the time Airflow is back would be asked for once more, and find its output complete.
    back = threading.Event()
    service = installation.cloud.dataflow
    run = service.run
    monkeypatch.setattr(service, "run", lambda job: run(job) if back.wait(300) else None)

    with Standalone(home) as airflow:  # the first features are computed
        until(lambda: bool(installation.dataflow_jobs()), 200)
        airflow.kill()
    killed = home.run(BUILD)
    assert killed.state == "running" and killed.states["features.analysed"] in ("deferred", "running"), str(killed)

    with Standalone(home) as airflow:  # the model is being trained
        until(lambda: home.run(BUILD).states["features.analysed"] == "deferred", 200, lambda: str(home.run(BUILD)))
        back.set()
        until(lambda: bool(installation.vertex_jobs()), 300, lambda: str(home.run(BUILD)))
        airflow.kill()
    assert home.run(BUILD).state == "running"

    # As whoever is on duty may do it, whatever the task is thought to do.
    cleared = home.call("tasks", "clear", BUILD, "--task-regex", "^train$", "--downstream", "--yes")
    assert cleared.returncode == 0, cleared.stdout
    with Standalone(home) as airflow:
        build = airflow.ended(BUILD, 400)
        serve = airflow.ended(SERVE, 300, kind="asset_triggered")
    print(build, serve, sep="\n")
    assert (build.state, serve.state) == ("success", "success")
    assert_made_once(installation)
    assert left(installation, serve) == story.left
    assert_not_redone(killed, build)


def assert_made_once(installation: Installation) -> None:
    jobs = [job.body["name"] for job in installation.dataflow_jobs()]
    jobs += [job.display_name for job in installation.vertex_jobs()]
    assert {*Counter(jobs).values()} == {1}, jobs


def assert_not_redone(killed: Run, build: Run) -> None:
    """What had succeeded before the end came is as it was."""
    before = [task for task in killed.tasks if task.state == "success"]
    assert len(before) >= 6 and [build.task(task.task) for task in before] == before
