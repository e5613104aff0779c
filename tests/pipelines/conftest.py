"""Fixtures of the tests that publish to a whole cloud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulators.datastore_proxy import DatastoreProxy
from tests.emulators.services import Datastore
from tests.pipelines.cloud import Cloud


@pytest.fixture
def cloud(tmp_path: Path, datastore_uri: str) -> Cloud:
    return Cloud(tmp_path, datastore_uri)


@pytest.fixture
def whole_cloud(tmp_path: Path, datastore_uri: str, bucket: str, dataset: str) -> Cloud:
    return Cloud(tmp_path, datastore_uri, f"{dataset}.predictions", bucket)


@pytest.fixture
def proxy(datastore_emulator: Datastore, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatastoreProxy]:
    with DatastoreProxy(datastore_emulator.host, seed=7) as proxy:
        monkeypatch.setenv("DATASTORE_EMULATOR_HOST", proxy.host)
        yield proxy
