"""Airflow's environments of ``make airflow``, and a directory of its own for each test that runs it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEWEST, OLDEST = "airflow", "airflow-oldest"
FOLDER = ROOT / "orchestration" / "dags"
EXAMPLE = ROOT / "orchestration" / "deployment.example.toml"


def python(name: str = NEWEST) -> str:
    """The interpreter of one of the environments."""
    return _program(name, "python")


def airflow(name: str = NEWEST) -> str:
    """Its ``airflow`` command."""
    return _program(name, "airflow")


def variables(home: Path, deployment: Path) -> dict[str, str]:
    """An Airflow that keeps everything below ``home`` (its database is SQLite's) and has our DAGs for one deployment.

    This process's own variables, without what would configure another Airflow.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON", "VIRTUAL"))}
    return {
        **kept,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(FOLDER),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "120",
        "CLV_DEPLOYMENT": str(deployment),
        "OMP_NUM_THREADS": "1",
    }


def migrate(given: Mapping[str, str], name: str = NEWEST) -> None:
    """Makes the database of these variables."""
    call([airflow(name), "db", "migrate"], given)


def call(command: list[str], given: Mapping[str, str], expected: int = 0) -> str:
    """A command's output, its log included, where it ends as expected."""
    done = subprocess.run(
        command, cwd=ROOT, env=dict(given), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == expected, f"{command} ended with {done.returncode}:\n{done.stdout[-5000:]}"
    return done.stdout


def _program(name: str, program: str) -> str:
    path = ROOT / f".venv-{name}" / "bin" / program
    assert path.exists(), f"{path} is missing: make airflow"
    return str(path)
