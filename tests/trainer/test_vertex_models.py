"""Vertex AI's registry follows ours: uploads, the alias, lost answers, several at once, rollback and status."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer import registry_models, vertex_runs
from tests.trainer.vertex_runs import aliases, deploy, deployment, last_json, promote, submit, versions
from tests.vertex.stub import Ending, Fault, VertexStub
from trainer import registry, vertex, vertex_models

pytestmark = [pytest.mark.emulators, pytest.mark.usefixtures("quick_vertex")]


@pytest.fixture
def service() -> Iterator[VertexStub]:
    with VertexStub(lambda _: Ending(), polls=2, seconds=0.1) as stub:
        yield stub


@pytest.fixture
def place(bucket: str) -> str:
    return f"gs://{bucket}/registry"


def test_the_champion_is_uploaded_and_named(
    service: VertexStub, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(place, tmp_path, "ziln-2011-05-01-aaaaaaaa")
    assert deploy(service, place, "--labels", "team=crm") == 0
    answer = last_json(capsys.readouterr().out)
    assert answer["moved"] is True and answer["version"] == "ziln-2011-05-01-aaaaaaaa"
    assert (answer["vertex_version"], answer["alias"]) == ("1", "champion")
    assert {request.status for request in service.requests} == {200, 404} and "models.operations.get" in service.calls
    assert answer["model"] == "projects/test-project/locations/europe-west1/models/clv"
    assert answer["metrics"] == {"normalised_gini": 0.8, "decile_mape": 0.1, "rmse_capped": 1234.5}
    [version] = versions(service).values()
    assert set(version["versionAliases"]) == {"default", "ziln-2011-05-01-aaaaaaaa", "champion"}
    assert version["artifactUri"] == f"{place}/models/ziln-2011-05-01-aaaaaaaa/saved_model"
    assert version["containerSpec"] == {"imageUri": "europe-docker.pkg.dev/vertex-ai/prediction/tf2-cpu.2-15:latest"}
    assert version["versionDescription"].startswith("ziln-2011-05-01-aaaaaaaa: The model ranks")
    assert version["labels"] == {"team": "crm"} and version["displayName"] == "clv"
    # Again, it does nothing.
    done = len(service.requests)
    assert deploy(service, place) == 0
    assert {**answer, "moved": False} == last_json(capsys.readouterr().out)
    assert not [r for r in service.requests[done:] if r.body is not None] and len(versions(service)) == 1


def test_the_next_champion_takes_the_alias_and_the_one_before_stays(
    service: VertexStub, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in ("first-1", "second-2"):
        promote(place, tmp_path, version)
        assert deploy(service, place) == 0
    assert {n: set(a) for n, a in aliases(service).items()} == {
        "1": {"default", "first-1"},
        "2": {"second-2", "champion"},
    }
    assert vertex.main([
        "rollback", *vertex_runs.place(service), "--registry", place, "--reason", "forecasts doubled", "--by", "me",
    ]) == 0  # fmt: skip
    answer = last_json(capsys.readouterr().out)
    assert (answer["version"], answer["vertex_version"], answer["moved"]) == ("first-1", "1", True)
    assert "champion" in aliases(service)["1"] and "champion" not in aliases(service)["2"]
    assert len(versions(service)) == 2  # nothing is uploaded twice
    last = registry_models.moves(place)[-1]
    assert (last["action"], last["reason"], last["by"]) == ("rollback", "forecasts doubled", "me")


def test_a_champion_without_a_network_is_there_for_the_record(service: VertexStub, place: str, tmp_path: Path) -> None:
    """Google's container for TensorFlow refuses it, so that it gets none."""
    promote(place, tmp_path, "pareto-1", network=False)
    assert deploy(service, place) == 0
    [version] = versions(service).values()
    assert version["artifactUri"] == f"{place}/models/pareto-1" and "containerSpec" not in version
    promote(place, tmp_path, "pareto-2", network=False)
    assert deploy(service, place, "--serving_image", "europe-docker.pkg.dev/p/r/ours:1") == 0
    assert versions(service)["2"]["containerSpec"] == {"imageUri": "europe-docker.pkg.dev/p/r/ours:1"}


def test_a_lost_move_of_the_alias_is_repeated(service: VertexStub, place: str, tmp_path: Path) -> None:
    service.faults.append(Fault("models.mergeVersionAliases", drop=True))
    promote(place, tmp_path, "first-1")
    assert deploy(service, place) == 0
    assert "champion" in aliases(service)["1"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_is_refused_for_now_is_asked_again(service: VertexStub, place: str, tmp_path: Path, status: int) -> None:
    service.faults += [
        Fault(method, refuse=status)
        for method in ("models.get", "models.upload", "models.mergeVersionAliases", "models.operations.get")
    ]
    promote(place, tmp_path, "first-1")
    assert deploy(service, place) == 0
    assert len(versions(service)) == 1 and "champion" in aliases(service)["1"]


def test_what_is_not_allowed_moves_nothing(
    service: VertexStub, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(place, tmp_path, "first-1")
    assert deploy(service, place) == 0
    promote(place, tmp_path, "second-2")
    service.faults.append(Fault("models.mergeVersionAliases", refuse=403, times=9, message="Permission denied"))
    assert deploy(service, place) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: moving the alias champion") and "is not allowed: 403 Permission denied" in error
    assert "champion" in aliases(service)["1"]
    # What it has uploaded, the next one finds.
    service.faults.clear()
    assert deploy(service, place) == 0
    assert "champion" in aliases(service)["2"] and len(versions(service)) == 2


def test_a_registry_without_a_champion_is_one_line(
    service: VertexStub, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deploy(service, place) == 2
    error = capsys.readouterr().err
    assert "has no champion" in error and error.count("\n") == 1 and not service.requests


def test_a_champion_that_changes_meanwhile_is_followed(
    service: VertexStub, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another promotion lands while the first version is being uploaded."""
    promote(place, tmp_path, "first-1")
    plain, landed = vertex_models._point, threading.Event()

    def while_it_moves(*arguments: Any) -> bool:
        moved = plain(*arguments)
        if not landed.is_set():
            landed.set()
            promote(place, tmp_path, "second-2")
        return moved

    monkeypatch.setattr(vertex_models, "_point", while_it_moves)
    answer = vertex_models.deploy(deployment(service, place))
    assert answer["version"] == "second-2" and "champion" in aliases(service)[answer["vertex_version"]]


def champion_moves_away(patch: pytest.MonkeyPatch, service: VertexStub, place: str, times: int) -> None:
    """Somebody moves Vertex AI's alias to version 1, right after it was moved here."""
    plain, left = vertex_models._point, iter(range(times))

    def and_back(*arguments: Any) -> bool:
        moved = plain(*arguments)
        if next(left, None) is not None:
            there = deployment(service, place)
            request: Any = {"name": f"{there.model}@1", "version_aliases": ["champion"]}
            there.vertex.models.merge_version_aliases(request=request)
        return moved

    patch.setattr(vertex_models, "_point", and_back)


def test_an_alias_that_is_moved_away_meanwhile_is_moved_again(
    service: VertexStub, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(place, tmp_path, "first-1")
    assert deploy(service, place) == 0
    promote(place, tmp_path, "second-2")
    champion_moves_away(monkeypatch, service, place, times=2)
    assert deploy(service, place) == 0
    assert "champion" in aliases(service)["2"] and len(versions(service)) == 2


def test_who_always_loses_the_alias_gives_up(
    service: VertexStub, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(place, tmp_path, "first-1")
    assert deploy(service, place) == 0
    promote(place, tmp_path, "second-2")
    champion_moves_away(monkeypatch, service, place, times=1000)
    assert deploy(service, place) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: the champions of {place} and projects/") and "moved 10 times" in error


def test_two_registries_do_not_fight_over_one_alias(
    service: VertexStub, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = f"{place}-30d"
    promote(place, tmp_path, "first-1")
    assert deploy(service, place) == 0
    for n, version in enumerate(("other-1", "other-2"), 1):
        promote(other, tmp_path, version, network=n == 1)
    done = len(service.requests)
    back = ["rollback", *vertex_runs.place(service), "--registry", other, "--reason", "r"]
    for command in (lambda: deploy(service, other), lambda: vertex.main(back)):
        capsys.readouterr()
        assert command() == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"champion of {place}, " in error and f"--registry {other}:" in error
        assert "--model_id 'clv'" in error
    # Neither registry was touched.
    assert not [made for made in service.requests[done:] if made.body is not None]
    assert registry.run(["champion", "--registry", other])["version"] == "other-2"
    assert vertex.main(["status", *vertex_runs.place(service), "--registry", other]) == 0
    assert f"THEY DIFFER, for that is a model of {place}" in capsys.readouterr().out
    # Each with a model of its own; a slash at the end makes no other registry, nor does a model without a network.
    assert deploy(service, other, "--model_id", "clv-30d") == 0
    assert vertex.main([*back, "--model_id", "clv-30d"]) == 0
    assert deploy(service, f"{other}/", "--model_id", "clv-30d") == 0
    assert deploy(service, place, "--model_id", "clv-30d") == 2


def test_two_that_upload_the_same_version_agree_on_one(
    service: VertexStub, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked before either has uploaded, and the first moves the alias when the second is all done."""
    promote(place, tmp_path, "first-1")
    assert deploy(service, place) == 0
    promote(place, tmp_path, "second-2")
    service.faults += [Fault("models.upload", nth=2, delay=0.5), Fault("models.upload", nth=3, delay=2)]
    plain, calls, ended = vertex_models._point, iter(range(9)), threading.Event()

    def held(*arguments: Any) -> bool:
        if next(calls) == 0:
            assert ended.wait(30)
        return plain(*arguments)

    monkeypatch.setattr(vertex_models, "_point", held)

    def deploy_and_tell() -> None:
        deploy(service, place)
        ended.set()

    threads = [threading.Thread(target=deploy_and_tell) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert service.calls.count("models.upload") == 3
    [champion] = [set(names) for names in aliases(service).values() if "champion" in names]
    assert champion == {"champion", "second-2"}


def test_several_at_once_leave_both_registries_alike(service: VertexStub, place: str, tmp_path: Path) -> None:
    """Four deployments, while the champion changes: whoever ends last, the alias is the champion's."""
    promote(place, tmp_path, "v-0")
    failed: list[BaseException] = []
    over = threading.Event()

    def keep_deploying() -> None:
        try:
            while not over.is_set():
                vertex_models.deploy(deployment(service, place))
            vertex_models.deploy(deployment(service, place))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=keep_deploying) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(1, 5):
        promote(place, tmp_path, f"v-{n}")
        time.sleep(0.3)
    over.set()
    for thread in threads:
        thread.join(60)
    assert not failed
    [champion] = [number for number, names in aliases(service).items() if "champion" in names]
    assert "v-4" in aliases(service)[champion]
    of_ours = [alias for names in aliases(service).values() for alias in names if alias.startswith("v-")]
    assert len(of_ours) == len(set(of_ours))


def test_status_shows_jobs_versions_and_whether_they_agree(
    service: VertexStub, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = ["status", *vertex_runs.place(service), "--registry", place]
    assert vertex.main(status) == 0
    out = capsys.readouterr().out
    assert "no job of ours" in out and "no model projects/" in out
    assert f"champion: the registry {place} has none; none at Vertex AI" in out and "agree" not in out
    promote(place, tmp_path, "first-1")
    assert deploy(service, place) == 0
    for n in range(3):
        assert submit(service, "--display_name", f"training {n}", "--key", str(n)) == 0
    capsys.readouterr()
    assert vertex.main(status) == 0
    lines = capsys.readouterr().out.splitlines()
    jobs = [line for line in lines if line.startswith("training ")]
    assert [line[:10] for line in jobs] == ["training 2", "training 1", "training 0"]
    assert all("SUCCEEDED" in line and "https://console" in line for line in jobs)
    assert any(line.startswith("1 ") and "champion" in line for line in lines)
    assert "champion: first-1 in the registry, version 1 at Vertex AI: they agree" in lines
    promote(place, tmp_path, "second-2")
    capsys.readouterr()
    assert vertex.main([*status, "--json", "--most", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["champion"] == {
        "place": place, "registry": "second-2", "vertex_version": "1", "other_registry": None, "agrees": False,
    }  # fmt: skip
    assert [job["display_name"] for job in found["jobs"]] == ["training 2", "training 1"]
    assert vertex.main(status) == 0
    assert "THEY DIFFER" in capsys.readouterr().out
    mistyped = [*status[:-1], f"{place}y"]
    assert vertex.main(mistyped) == 0
    assert f"champion: the registry {place}y has none; version 1 at Vertex AI" in capsys.readouterr().out
    assert vertex.main([*mistyped, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["champion"]["agrees"] is None
    assert vertex.main(["status", found["jobs"][0]["name"], "--api_endpoint", service.url]) == 0
    assert capsys.readouterr().out.startswith("training 2  SUCCEEDED since ")


def test_rollback_judges_its_arguments_before_it_moves(service: VertexStub, place: str, tmp_path: Path) -> None:
    for version in ("first-1", "second-2"):
        promote(place, tmp_path, version)
    given = ["rollback", *vertex_runs.place(service), "--registry", place, "--reason", "r", "--model_id", "9"]
    assert vertex.main(given) == 2
    assert registry.run(["champion", "--registry", place])["version"] == "second-2"
