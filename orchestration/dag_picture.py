"""Draws both DAGs as one SVG, from the DAGs themselves: tasks, groups, who waits for whom, where each task runs.

Run it with the Python of an environment that has Airflow (`make dags-picture`). An edge that others imply is not drawn.

example:
  .venv-airflow/bin/python -m orchestration.dag_picture --output docs/dags.svg
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from orchestration.dag_picture_svg import DATAFLOW, VERTEX, WORKER, Dag, Edge, Group, Task, svg
from orchestration.deployment import ROOT, VARIABLE, read
from transforms.cli import ArgumentParser, exit_code
from transforms.errors import UsageError, one_line

_EXAMPLE = ROOT / "orchestration" / "deployment.example.toml"
_FOLDER = ROOT / "orchestration" / "dags"
_PLACES = {"LaunchTemplate": DATAFLOW, "RunOnVertex": VERTEX}


def dags(deployment: Path) -> list[Dag]:
    """Both DAGs for a deployment, in the order of their work.

    Raises:
      UsageError: Airflow is not installed here, or takes a file for no DAG.
    """
    read(deployment)  # its mistakes are told as such, not as Airflow's
    with tempfile.TemporaryDirectory() as home:
        quiet = {"AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
        os.environ |= {"AIRFLOW_HOME": home, VARIABLE: str(deployment.resolve()), **quiet}
        found = _dag_bag()(str(_FOLDER))
    for file, error in found.import_errors.items():
        raise UsageError(f"{file}: {one_line(error.strip().splitlines()[-1])}")
    return [_dag(dag) for _, dag in sorted(found.dags.items())]


def reduced(edges: Iterable[Edge]) -> list[Edge]:
    """The edges without those that a longer way implies, in their order."""
    after: dict[str, set[str]] = {}
    for before, behind in edges:
        after.setdefault(before, set()).add(behind)

    def reached(name: str) -> set[str]:
        return set().union(*({each} | reached(each) for each in after.get(name, ())))

    return [
        (before, behind)
        for before, several in after.items()
        for behind in sorted(several)
        if not any(behind in reached(other) for other in several - {behind})
    ]


def _dag_bag() -> Any:
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:
        try:
            from airflow.models.dagbag import DagBag
        except ImportError:
            raise UsageError(f"{sys.executable} has no Airflow: run it with .venv-airflow/bin/python") from None
    return DagBag


def _dag(dag: Any) -> Dag:
    edges = reduced((before, task.task_id) for task in dag.tasks for before in sorted(task.upstream_task_ids))
    cron = getattr(dag.timetable, "timetable", dag.timetable)
    return Dag(
        name=dag.dag_id,
        schedule=f"{cron.description} UTC",
        body=_group(dag.task_group, edges),
        outlets={task.task_id: [outlet.uri for outlet in task.outlets] for task in dag.tasks if task.outlets},
        started_by=_assets(dag.timetable),
    )


def _assets(timetable: Any) -> list[str]:
    """The URIs of the assets that a timetable waits for; Airflow 2 calls them datasets."""
    if hasattr(timetable, "asset_condition"):
        return [asset.uri for _, asset in timetable.asset_condition.iter_assets()]
    if hasattr(timetable, "dataset_condition"):
        return [asset.uri for _, asset in timetable.dataset_condition.iter_datasets()]
    return []


def _group(group: Any, edges: Sequence[Edge]) -> Group:
    """A task group with its tasks, groups, and the edges between them."""
    members = {name: _tasks_of(child) for name, child in group.children.items()}
    home = {task: name for name, tasks in members.items() for task in tasks}
    between = [(home[before], home[behind]) for before, behind in edges if before in home and behind in home]
    return Group(
        name=group.group_id or "",
        children=[
            _group(child, edges) if hasattr(child, "children") else _task(child) for child in group.children.values()
        ],
        edges=list(dict.fromkeys(edge for edge in between if edge[0] != edge[1])),
    )


def _tasks_of(child: Any) -> list[str]:
    if hasattr(child, "children"):
        return [task for each in child.children.values() for task in _tasks_of(each)]
    return [child.task_id]


def _task(task: Any) -> Task:
    mapped = hasattr(task, "partial_kwargs")
    operator = (task.operator_class if mapped else type(task)).__name__
    return Task(task.task_id, _PLACES.get(operator, WORKER), mapped, "ShortCircuit" in operator)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> None:
    parser = ArgumentParser("python -m orchestration.dag_picture", description=__doc__)
    parser.add_argument("--output", required=True, help="the SVG file, replaced if it is there")
    parser.add_argument(
        "--deployment", default=str(_EXAMPLE), help="whose schedule and names are shown (default: the example)"
    )
    options = parser.parse_args(argv)
    folder = Path(options.output).parent
    if not folder.is_dir():
        raise UsageError(f"--output {options.output!r} is not usable: accepted is a file in a folder that is there")
    Path(options.output).write_text(svg(dags(Path(options.deployment))))
    print(f"the picture is {options.output}")


if __name__ == "__main__":
    sys.exit(main())
