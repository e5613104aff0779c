"""The two DAGs as a pair, by Airflow's real scheduler and triggerer: a new champion starts the forecast by itself."""

from __future__ import annotations

import datetime
import json
from collections import Counter

import pytest

from tests.airflow.fixtures import Install
from tests.airflow.installation import BUILD, SERVE
from tests.airflow.standalone import Standalone
from tests.airflow.story import left, now

pytestmark = pytest.mark.airflow

# How often tasks of either DAG have waited without a worker.
DEFERRED = {
    "features.analysed": 1, "features.others": 2, "train": 1, "deploy.gate": 1, "report": 2, "predict": 1, "publish": 1,
}  # fmt: skip


def test_a_new_champion_starts_predict_serve(install: Install) -> None:
    due = now() - datetime.timedelta(minutes=2)
    installation = install("assets", due=f"{due:%M %H %d %m} *")
    home = installation.home
    home.variables["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] = "False"
    with Standalone(home) as airflow:
        build = airflow.ended(BUILD, 500)
        print(build)
        assert build.state == "success", airflow.log.read_text()[-5000:]
        serve = airflow.ended(SERVE, 300, kind="asset_triggered")
        print(serve)
    assert airflow.processes() == [], "nothing outlives it"

    assert (build.kind, build.id[:27]) == ("scheduled", f"scheduled__{due:%Y-%m-%dT%H:%M}")
    assert {*build.states.values()} == {"success"} == {*serve.states.values()}, f"{build}\n{serve}"
    (event,) = home.query("SELECT source_dag_id, source_task_id, source_run_id, extra FROM asset_event")
    assert tuple(event)[:3] == (BUILD, "deploy.announce", build.id)
    version = json.loads(event["extra"])["version"]
    state = left(installation, serve)
    assert state.moves == [("promote", version)] and {row["model_version"] for row in state.predictions} == {version}
    deferred = Counter(row["task_id"] for row in home.query("SELECT task_id FROM log WHERE event = 'deferred'"))
    assert deferred == DEFERRED

    # It was due too, when there was no champion yet.
    first = home.runs(SERVE)[0]
    assert (first.kind, first.state, first.tries["plan"]) == ("scheduled", "failed", 1)
    (failed,) = [each for each in installation.events(SERVE) if each["event"] == "failed"]
    assert failed["run"].endswith(first.id) and "has no champion" in failed["reason"]
