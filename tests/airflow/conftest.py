"""What the tests of the DAGs share: Airflow's newest version and the oldest, each with a database that knows our DAGs."""

from __future__ import annotations

import pytest

from tests.airflow import environment
from tests.airflow.environment import EXAMPLE, NEWEST, OLDEST
from tests.airflow.fixtures import airflow_folder, events, google_cloud, install, story

__all__ = ["airflow_folder", "events", "google_cloud", "install", "story"]


@pytest.fixture(scope="module", params=[NEWEST, OLDEST])
def version(request: pytest.FixtureRequest) -> str:
    """The name of an environment: the test runs in each."""
    return str(request.param)


@pytest.fixture(scope="module")
def home(version: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of an Airflow of that version."""
    made = environment.variables(tmp_path_factory.mktemp(version), EXAMPLE)
    environment.migrate(made, version)
    environment.call([environment.airflow(version), "dags", "reserialize"], made)
    return made
