"""The cloud of this machine, started once a session, and installations of the DAGs in it: see ``conftest.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.airflow import cloud as clouds
from tests.airflow import installation, sink
from tests.airflow.cloud import BUCKET, Cloud
from tests.airflow.installation import Installation
from tests.airflow.shop import Shop
from tests.airflow.sink import Sink
from tests.airflow.story import Story, now, told
from tests.emulators.services import BigQuery, CloudStorage, FirestoreInDatastoreMode

Install = Callable[..., Installation]


@pytest.fixture(scope="session")
def airflow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="session")
def google_cloud(
    cloud_storage: CloudStorage, bigquery: BigQuery, emulator_environment: pytest.MonkeyPatch, airflow_folder: Path
) -> Iterator[Cloud]:
    with FirestoreInDatastoreMode() as datastore:
        emulator_environment.setenv("DATASTORE_EMULATOR_HOST", datastore.host)
        with clouds.opened(cloud_storage, bigquery, datastore, airflow_folder) as opened:
            yield opened


@pytest.fixture(scope="session")
def events() -> Iterator[Sink]:
    with sink.opened() as opened:
        yield opened


@pytest.fixture(scope="session")
def install(google_cloud: Cloud, airflow_folder: Path, events: Sink) -> Install:
    """An installation by its name, with today's file of its shop, the first, in its bucket."""

    def make(name: str, **settings: Any) -> Installation:
        shop = Shop(f"gs://{BUCKET}/orders-{name}", now().date())
        shop.upload(shop.first_file)
        return installation.install(google_cloud, airflow_folder, name, events, shop, **settings)

    return make


@pytest.fixture(scope="session")
def story(install: Install) -> Story:
    """One day of an undisturbed installation, by both DAGs."""
    return told(install("plain"))
