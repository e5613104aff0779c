"""Fixtures for tests marked ``emulators``, for every test folder: ``tests/conftest.py`` registers them.

``cloud_storage``, ``bigquery`` and ``datastore_emulator`` start the services once a session and point Google's
clients, and ours, at them by environment variables; ``bucket``, ``dataset`` and ``datastore_uri`` are fresh names
for one test. A test that uses Datastore runs twice, once with each of its emulators.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .services import BigQuery, CloudStorage, Datastore


def _anonymous() -> dict:
    from google.auth.credentials import AnonymousCredentials

    from .services import PROJECT

    return {"project": PROJECT, "credentials": AnonymousCredentials()}


@pytest.fixture(scope="session")
def emulator_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Changes to os.environ that last as long as the session, beginning with those that keep the real cloud out."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GOOGLE_CLOUD_PROJECT",
            "DATASTORE_DATASET",
            "DATASTORE_PROJECT_ID",
        ):
            patch.delenv(name, raising=False)
        patch.setenv("CLOUDSDK_CONFIG", str(tmp_path_factory.mktemp("no-gcloud-configuration")))
        patch.setenv("NO_GCE_CHECK", "true")  # no search for a metadata server in processes that tests start
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost", prepend=",")
        yield patch


@pytest.fixture(scope="session")
def cloud_storage(emulator_environment: pytest.MonkeyPatch) -> Iterator[CloudStorage]:
    """A running Cloud Storage, found by ``STORAGE_EMULATOR_HOST``."""
    from .services import CloudStorage

    with CloudStorage() as service:
        emulator_environment.setenv("STORAGE_EMULATOR_HOST", service.url)
        yield service


@pytest.fixture(scope="session")
def bigquery(emulator_environment: pytest.MonkeyPatch, cloud_storage: CloudStorage) -> Iterator[BigQuery]:
    """A running BigQuery, found by ``BIGQUERY_EMULATOR_HOST`` and (Storage API) ``BIGQUERY_STORAGE_EMULATOR_HOST``."""
    from .services import HOST, BigQuery

    with BigQuery(cloud_storage) as service:
        emulator_environment.setenv("BIGQUERY_EMULATOR_HOST", service.url)
        emulator_environment.setenv("BIGQUERY_STORAGE_EMULATOR_HOST", f"{HOST}:{service.grpc_port}")
        yield service


@pytest.fixture
def bucket(cloud_storage: CloudStorage) -> str:
    """The name of a fresh bucket, which goes with the emulator."""
    from google.cloud import storage

    with storage.Client(**_anonymous()) as client:
        return str(client.create_bucket(f"test-{uuid.uuid4().hex[:12]}").name)


@pytest.fixture
def dataset(bigquery: BigQuery) -> str:
    """A fresh dataset as ``project.dataset``, which goes with the emulator."""
    from google.cloud import bigquery as google_bigquery

    with google_bigquery.Client(**_anonymous()) as client:
        created = client.create_dataset(f"test_{uuid.uuid4().hex[:12]}")
        return f"{created.project}.{created.dataset_id}"


@pytest.fixture(scope="session", params=["datastore", "firestore"])
def datastore_emulator(request: pytest.FixtureRequest, emulator_environment: pytest.MonkeyPatch) -> Iterator[Datastore]:
    """A running Datastore, the one emulator and then the other, found by ``DATASTORE_EMULATOR_HOST``."""
    from .services import Datastore, FirestoreInDatastoreMode

    kinds = {kind.name: kind for kind in (Datastore, FirestoreInDatastoreMode)}
    with kinds[request.param]() as service, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATASTORE_EMULATOR_HOST", service.host)
        yield service


@pytest.fixture
def datastore_uri(datastore_emulator: Datastore) -> str:
    """``datastore://`` and a fresh project, which has no entities and goes with the emulator."""
    return f"datastore://test-{uuid.uuid4().hex[:12]}"
