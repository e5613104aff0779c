"""Uploads to Vertex AI's registry that get lost, take long, or fail once begun."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.vertex_runs import aliases, deploy, promote, versions
from tests.vertex.stub import Ending, Fault, VertexStub
from trainer import vertex_client, vertex_models

pytestmark = [pytest.mark.emulators, pytest.mark.usefixtures("quick_vertex")]


@pytest.fixture
def service() -> Iterator[VertexStub]:
    with VertexStub(lambda _: Ending(), polls=2, seconds=0.1) as stub:
        yield stub


@pytest.fixture
def place(bucket: str) -> str:
    return f"gs://{bucket}/registry"


@pytest.mark.parametrize("nth", [1, 2])
def test_a_lost_upload_is_waited_for_and_not_repeated(
    service: VertexStub, place: str, tmp_path: Path, nth: int
) -> None:
    service.faults.append(Fault("models.upload", nth=nth, drop=True))
    for version in ("first-1", "second-2"):
        promote(place, tmp_path, version)
        assert deploy(service, place) == 0
    assert len(versions(service)) == 2 and service.calls.count("models.upload") == 2


def test_a_lost_upload_that_takes_long_is_not_sent_again(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vertex_models, "LOST_UPLOAD_SECONDS", 0.3)
    with VertexStub(lambda _: Ending(), polls=2, seconds=2.0) as service:
        service.faults.append(Fault("models.upload", nth=2, drop=True))
        for version in ("first-1", "second-2"):
            promote(place, tmp_path, version)
            assert deploy(service, place) == 0
        assert service.calls.count("models.upload") == 2
        time.sleep(2.5)
        assert len(versions(service)) == 2


def test_a_lost_first_upload_that_takes_long_makes_no_second_version(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be sent again: Vertex AI refuses that while the first goes on."""
    monkeypatch.setattr(vertex_models, "LOST_UPLOAD_SECONDS", 0.3)
    with VertexStub(lambda _: Ending(), polls=2, seconds=1.5) as service:
        service.faults.append(Fault("models.upload", drop=True))
        promote(place, tmp_path, "first-1")
        assert deploy(service, place) == 0
        assert service.calls.count("models.upload") > 1
        time.sleep(2)
        assert len(versions(service)) == 1


def uploads_fail(patch: pytest.MonkeyPatch, service: VertexStub, status: int, times: int = 1000) -> None:
    """The next uploads end, once begun, with a status of google.rpc.Code, and leave nothing."""
    plain, left = vertex_client.Vertex.operation, iter(range(times))
    patch.setattr(service, "_seconds", math.inf)  # none ends before it is asked for, however busy the machine

    def operation(vertex: vertex_client.Vertex, name: str) -> dict[str, Any]:
        running = service.operations[-1]
        if running.result is None and next(left, None) is not None:
            message = "The service agent cannot read\nthe artifacts."
            running.result = {"error": {"code": status, "message": message}}
        return plain(vertex, name)

    patch.setattr(vertex_client.Vertex, "operation", operation)


@pytest.mark.parametrize(("status", "code"), [(3, 2), (5, 2), (9, 2), (7, 1), (16, 1)])
def test_an_upload_that_fails_at_vertex_ai_is_one_line(
    service: VertexStub, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], status: int, code: int,
) -> None:  # fmt: skip
    promote(place, tmp_path, "first-1")
    uploads_fail(monkeypatch, service, status)
    assert deploy(service, place) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: uploading first-1 to ") and error.endswith("cannot read the artifacts.")
    assert service.calls.count("models.upload") == 1 and not versions(service)


@pytest.mark.parametrize("status", [4, 8, 10, 13, 14])
def test_an_upload_that_fails_in_passing_is_begun_again_at_once(
    service: VertexStub, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(vertex_models, "LOST_UPLOAD_SECONDS", 600.0)  # it is not lost: nobody waits for it
    promote(place, tmp_path, "first-1")
    assert deploy(service, place) == 0
    promote(place, tmp_path, "second-2")
    uploads_fail(monkeypatch, service, status, times=2)
    assert deploy(service, place) == 0
    assert service.calls.count("models.upload") == 4 and list(versions(service)) == ["1", "2"]
    assert "champion" in aliases(service)["2"]


def test_an_upload_that_never_ends_well_is_no_bad_argument(
    service: VertexStub, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(place, tmp_path, "first-1")
    assert deploy(service, place) == 0
    promote(place, tmp_path, "second-2")
    monkeypatch.setattr(vertex_client, "RETRY_SECONDS", 0.5)
    uploads_fail(monkeypatch, service, 14)
    assert deploy(service, place) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: uploading second-2 to ")
    assert service.calls.count("models.upload") > 2 and list(versions(service)) == ["1"]
