"""What Airflow itself makes of our DAG files: run by its Python, told what to look at, answers as JSON.

    CLV_DEPLOYMENT=... .venv-airflow/bin/python -m tests.airflow.questions parse < {"name": "deployment.toml", ...}
    CLV_DEPLOYMENT=... .venv-airflow/bin/python -m tests.airflow.questions validate < [["DAG", "parameter", value], ...]
    CLV_DEPLOYMENT=... .venv-airflow/bin/python -m tests.airflow.questions decide < [{"others": 0, "plan": "success", ...}, ...]

The DAG files are those of AIRFLOW__CORE__DAGS_FOLDER. Has to run on every version of Airflow, in an environment without our tests' libraries and without a network.
"""

from __future__ import annotations

import compileall
import contextlib
import datetime
import io
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "tensorflow",
    "apache_beam",
    "google.cloud.aiplatform",
    "google.cloud.aiplatform_v1",
    "ibis",
    "pandas",
    "pyarrow",
)
# Of a task, what says nothing of its own: how it was called, what it belongs to.
_NOT_VALUES = ("_BaseOperator__init_kwargs", "_dag", "task_group", "params", "downstream_task_ids", "upstream_task_ids")


def parse(deployments: Mapping[str, str]) -> dict[str, Any]:
    """By name of a deployment its ``dags`` and import ``errors``; what the first reading cost and loaded besides."""
    from airflow.version import version

    dag_bag()  # Airflow itself, which is loaded already where it reads DAGs
    for folder in ("orchestration", "transforms"):
        compileall.compile_dir(ROOT / folder, quiet=2)
    no_network()
    loaded, begun = set(sys.modules), time.process_time()
    answers, seconds = {}, None
    for name, path in deployments.items():
        os.environ["CLV_DEPLOYMENT"] = path
        found = dag_bag()()
        if seconds is None:
            seconds = time.process_time() - begun
            heavy = sorted(name for name in HEAVY if name in sys.modules and name not in loaded)
        answers[name] = {
            "dags": {name: described(dag) for name, dag in found.dags.items()},
            "errors": {Path(path).name: error for path, error in found.import_errors.items()},
        }
    return {"version": version, "cpu_seconds": seconds, "heavy": heavy, "read": answers}


def validate(values: list[tuple[str, str, Any]]) -> list[str | None]:
    """What Airflow says to each value given to a run, None where it takes it."""
    dags, answers = dag_bag()().dags, list[str | None]()
    for dag, name, value in values:
        params = deepcopy(dags[dag].params)
        try:
            params.update({name: value})
            params.validate()
        except Exception as error:  # of a class that each version has elsewhere
            assert type(error).__name__ == "ParamValidationError", error
            answers.append(str(error))
        else:
            answers.append(None)
    return answers


def decide(scenarios: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The states that the scheduler leads build_train_deploy's tasks to; "scheduled" is what it would start now.

    A run of it is in the database. A scenario: the tasks' states, and as ``others`` how many the mapped task gets.
    """
    from airflow.models import DagRun
    from airflow.utils.session import create_session

    answers = []
    for scenario in scenarios:
        with create_session() as session:
            run = session.query(DagRun).filter(DagRun.dag_id == "build_train_deploy").one()
            run.dag = dag_of(run, session)
            answers.append(decided(run, dict(scenario), session))
            session.rollback()
    return answers


def dag_of(run: Any, session: Any) -> Any:
    try:
        from airflow.models.dagbag import DBDagBag
    except ImportError:  # Airflow 2
        from airflow.models.dagbag import DagBag

        return DagBag(read_dags_from_db=True).get_dag(run.dag_id)
    return DBDagBag().get_dag_for_run(dag_run=run, session=session)


def decided(run: Any, states: dict[str, Any], session: Any) -> dict[str, str]:
    from airflow.models.taskmap import TaskMap

    others = states.pop("others", None)
    if others is not None:
        session.add(
            TaskMap(
                dag_id=run.dag_id, task_id="features.listed", run_id=run.run_id, map_index=-1, length=others, keys=None
            )
        )
    for task in run.get_task_instances(session=session):
        task.state = states.get(task.task_id)
    session.flush()
    for _ in range(len(run.dag.task_dict)):  # a decision may lead to the next
        ready = run.task_instance_scheduling_decisions(session=session).schedulable_tis
        session.flush()
    found: dict[str, str] = {}
    for task in [*run.get_task_instances(session=session)]:
        name = task.task_id + (f"[{task.map_index}]" if task.map_index >= 0 else "")
        found[name] = "scheduled" if task in ready else str(getattr(task.state, "value", task.state))
    return found


def dag_bag() -> Any:
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 2, and 3.0
        from airflow.models.dagbag import DagBag
    return DagBag


def no_network() -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a DAG file opens a connection while it is read")

    class Refused(socket.socket):
        connect = connect_ex = bind = sendto = refuse

    socket.socket = Refused
    socket.create_connection = socket.getaddrinfo = refuse


def described(dag: Any) -> dict[str, Any]:
    return {
        "tasks": {task.task_id: task_described(task) for task in dag.tasks},
        "max_active_runs": dag.max_active_runs,
        "catchup": dag.catchup,
        "timeout": seconds(dag.dagrun_timeout),
        "callback": bool(dag.on_failure_callback),
        "schedule": schedule(dag.timetable),
        "doc": dag.doc_md,
        "params": {name: (param := dag.params.get_param(name)).schema | {"description": param.description, "value": param.value}
                   for name in dag.params},
    }  # fmt: skip


def schedule(timetable: Any) -> dict[str, Any]:
    """The cron line; the zone; the assets whose events start a run too."""
    cron = getattr(timetable, "timetable", timetable)
    condition = getattr(timetable, "asset_condition", getattr(timetable, "dataset_condition", None))
    return {
        "cron": getattr(cron, "_expression", None), "zone": str(getattr(cron, "_timezone", "")),
        "assets": [asset.uri for asset in getattr(condition, "objects", [])],
    }  # fmt: skip


def task_described(task: Any) -> dict[str, Any]:
    mapped = type(task).__name__ == "MappedOperator"
    return {
        "operator": task.operator_class.__name__ if mapped else type(task).__name__,
        "mapped": mapped,
        "upstream": sorted(task.upstream_task_ids),
        "trigger_rule": str(getattr(task.trigger_rule, "value", task.trigger_rule)),
        "retries": task.retries,
        "retry_delay": seconds(task.retry_delay),
        "backoff": bool(task.retry_exponential_backoff),
        "max_retry_delay": seconds(task.max_retry_delay),
        "timeout": seconds(task.execution_timeout),
        "callback": bool(task.on_failure_callback),
        "at_once": task.max_active_tis_per_dagrun,
        "outlets": [outlet.uri for outlet in task.outlets],
        "not_templates": not_templates(task),
    }


def not_templates(task: Any) -> list[str]:
    """The fields whose value is known only when the task runs, and which Airflow nevertheless never renders."""
    if type(task).__name__ == "MappedOperator":
        fields = {**task.partial_kwargs, **task.expand_input.value}
    else:
        fields = {name: value for name, value in vars(task).items() if name not in _NOT_VALUES}
    return sorted(
        name
        for name, value in fields.items()
        if name not in task.template_fields and not name.startswith("doc") and any(map(is_late, inside(value)))
    )


def is_late(value: Any) -> bool:
    return (isinstance(value, str) and ("{{" in value or "{%" in value)) or "XComArg" in str(type(value).__mro__)


def inside(value: Any) -> Iterator[Any]:
    """A value, and those that lists, dicts and our own objects in it hold."""
    yield value
    if isinstance(value, Mapping):
        for each in value.values():
            yield from inside(each)
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from inside(each)
    elif type(value).__module__.startswith("orchestration"):
        yield from inside(vars(value))


def seconds(value: Any) -> float | None:
    return value.total_seconds() if isinstance(value, datetime.timedelta) else value


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    with contextlib.redirect_stdout(io.StringIO()):  # Airflow says much
        answer = {"parse": parse, "validate": validate, "decide": decide}[sys.argv[1]](asked)
    print(json.dumps(answer))
