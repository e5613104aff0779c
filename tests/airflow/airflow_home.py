"""Airflow as a program with a home of its own: what it runs is asked of its database, which is a file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.airflow.environment import FOLDER, NEWEST, python

_SECONDS = 600.0


@dataclass(frozen=True)
class Task:
    """A task instance as Airflow's database has it; times are texts, in UTC."""

    task: str
    state: str
    tries: int
    start: str
    end: str

    def __str__(self) -> str:
        return f"{self.task:32} {self.start[11:19]:8} {self.end[11:19]:8} {self.tries} {self.state}"


@dataclass(frozen=True)
class Run:
    """A DAG run; ``tasks`` in the order they began, a mapped one as ``task[index]``, never begun ones last."""

    dag: str
    id: str
    state: str
    kind: str
    tasks: tuple[Task, ...]

    @property
    def states(self) -> dict[str, str]:
        return {task.task: task.state for task in self.tasks}

    @property
    def tries(self) -> dict[str, int]:
        return {task.task: task.tries for task in self.tasks}

    def task(self, name: str) -> Task:
        return next(task for task in self.tasks if task.task == name)

    def __str__(self) -> str:
        return "\n".join([f"{self.dag} {self.id}: {self.state}", *map(str, self.tasks)])


class Home:
    """An AIRFLOW_HOME with a migrated database; ``variables`` are those of every process that uses it.

    ``version`` is the name of the environment of ``tests.airflow.environment`` that runs.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str], version: str = NEWEST) -> None:
        self.folder, self.version = folder, version
        self.variables = {
            "PATH": f"{Path(python(version)).parent}:{os.defpath}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(FOLDER),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "120",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
            **variables,
        }

    @property
    def database(self) -> Path:
        return self.folder / "airflow.db"

    def migrate(self, folder: Path) -> None:
        """Makes the database, or copies the one kept in ``folder``: to make one takes long."""
        kept = folder / f"{self.version}.db"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not kept.exists():
            done = self.call("db", "migrate")
            assert done.returncode == 0, done.stdout
            shutil.copy(self.database, kept)
        else:
            shutil.copy(kept, self.database)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``airflow ARGUMENTS`` to its end; errors are in its stdout."""
        with subprocess.Popen(
            [python(self.version), "-m", "airflow", *arguments], cwd=self.folder, env=self.variables, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=_SECONDS)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # what it started, too
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def query(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            return list(connection.execute(sql, values))

    def runs(self, dag: str) -> list[Run]:
        """Oldest first."""
        found = self.query("SELECT run_id, state, run_type FROM dag_run WHERE dag_id = ? ORDER BY id", dag)
        return [
            Run(dag, row["run_id"], row["state"], row["run_type"], tuple(self._tasks(dag, row["run_id"])))
            for row in found
        ]

    def run(self, dag: str) -> Run:
        """The newest."""
        return self.runs(dag)[-1]

    def xcom(self, run: Run, task: str, key: str = "return_value") -> Any:
        (row,) = self.query(
            "SELECT value FROM xcom WHERE dag_id = ? AND run_id = ? AND task_id = ? AND key = ?",
            run.dag,
            run.id,
            task,
            key,
        )
        value = json.loads(row["value"])
        return json.loads(value) if isinstance(value, str) else value

    def _tasks(self, dag: str, run: str) -> Iterator[Task]:
        found = self.query(
            "SELECT task_id, map_index, state, try_number, start_date, end_date FROM task_instance "
            "WHERE dag_id = ? AND run_id = ? ORDER BY start_date IS NULL, start_date, end_date, task_id, map_index",
            dag, run,
        )  # fmt: skip
        for row in found:
            name = row["task_id"] + (f"[{row['map_index']}]" if row["map_index"] >= 0 else "")
            times = [str(row[column] or "") for column in ("start_date", "end_date")]
            yield Task(name, str(row["state"]), row["try_number"], *times)
