"""The cloud of this machine for the tests of this folder: the image's environment is made once and kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.emulators.services import HOST, BigQuery, CloudStorage, FirestoreInDatastoreMode
from tests.templates import environment
from tests.templates.cloud import NAMES, Cloud, opened
from tests.templates.environment import Environment


@pytest.fixture(scope="session")
def image_environment() -> Environment:
    return environment.make()


@pytest.fixture(scope="session")
def datastore(emulator_environment: pytest.MonkeyPatch) -> Iterator[FirestoreInDatastoreMode]:
    """What a project's Datastore is today, found by ``DATASTORE_EMULATOR_HOST``."""
    with FirestoreInDatastoreMode() as service, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATASTORE_EMULATOR_HOST", service.host)
        yield service


@pytest.fixture(scope="session")
def cloud(
    cloud_storage: CloudStorage,
    bigquery: BigQuery,
    datastore: FirestoreInDatastoreMode,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cloud]:
    """Dataflow with the images of all templates, whose files are built by the real gcloud."""
    hosts = {
        "DATASTORE_EMULATOR_HOST": datastore.host,
        "BIGQUERY_EMULATOR_HOST": bigquery.url,
        "BIGQUERY_STORAGE_EMULATOR_HOST": f"{HOST}:{bigquery.grpc_port}",
    }
    with opened(cloud_storage, tmp_path_factory.mktemp("templates"), hosts) as cloud:
        for name in NAMES:
            built = cloud.build(name)
            assert built.returncode == 0, built.stderr
        yield cloud
