"""The Model Registry of the stub: versions, aliases, operations, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vertex import clients
from tests.vertex.clients import PLACE, Answered, ask
from tests.vertex.stub import Fault, VertexStub

pytestmark = pytest.mark.emulators

CLV = f"{PLACE}/models/clv"


@pytest.fixture
def service() -> Iterator[VertexStub]:
    with VertexStub(polls=1, seconds=3600) as stub:
        yield stub


def model(**changes: Any) -> dict[str, Any]:
    return {"displayName": "Customer value", **changes}


def upload(service: VertexStub, content: dict[str, Any] | None = None, **more: str) -> dict[str, Any]:
    """The finished operation's response."""
    return wait(service, ask(service, "POST", f"{PLACE}/models:upload", {"model": content or model(), **more}))


def wait(service: VertexStub, operation: dict[str, Any]) -> dict[str, Any]:
    until = time.monotonic() + 30
    while not operation.get("done"):
        assert time.monotonic() < until
        operation = ask(service, "GET", operation["name"])
    return dict(operation["response"])


def three_versions(service: VertexStub) -> None:
    upload(service, modelId="clv")
    upload(service, model(versionAliases=["v2"]), parentModel=CLV)
    upload(service, model(versionAliases=["v3"]), parentModel=CLV)


def aliases(service: VertexStub) -> dict[str, list[str]]:
    """By version."""
    versions = ask(service, "GET", f"{CLV}:listVersions")["models"]
    return {version["versionId"]: sorted(version["versionAliases"]) for version in versions}


def merge(service: VertexStub, version: str, *names: str) -> dict[str, Any]:
    return ask(service, "POST", f"{CLV}@{version}:mergeVersionAliases", {"versionAliases": list(names)})


def test_an_upload_is_an_operation_and_the_model_is_there_at_its_end(service: VertexStub) -> None:
    operation = ask(service, "POST", f"{PLACE}/models:upload", {"model": model(labels={"a": "b"}), "modelId": "clv"})
    assert "done" not in operation and operation["metadata"]["@type"].endswith(".UploadModelOperationMetadata")
    with pytest.raises(Answered, match="404 NOT_FOUND: The Model does not exist"):
        ask(service, "GET", CLV)
    with pytest.raises(Answered, match="409 ALREADY_EXISTS"):
        upload(service, modelId="clv")
    response = wait(service, operation)
    assert response["modelVersionId"] == "1" and response["model"].endswith("/models/clv")
    found = ask(service, "GET", CLV)
    assert found["name"] == response["model"] and found["labels"] == {"a": "b"}
    assert found["versionId"] == "1" and found["versionAliases"] == ["default"]
    number = operation["name"].split("/")[-1]
    assert ask(service, "GET", f"{PLACE}/operations/{number}")["done"], "it is known by its number alone"


def test_versions_are_numbered_and_found_by_number_and_alias(service: VertexStub) -> None:
    three_versions(service)
    assert aliases(service) == {"3": ["v3"], "2": ["v2"], "1": ["default"]}
    assert [ask(service, "GET", f"{CLV}{of}")["versionId"] for of in ("", "@default", "@2", "@v3", "%40v3")] == ["1", "1", "2", "3", "3"]  # fmt: skip
    listed = ask(service, "GET", f"{CLV}:listVersions", pageSize="2")
    assert [version["name"].split("/")[-1] for version in listed["models"]] == ["clv@3", "clv@2"]
    rest = ask(service, "GET", f"{CLV}:listVersions", pageSize="2", pageToken=listed["nextPageToken"])
    assert [version["versionId"] for version in rest["models"]] == ["1"] and "nextPageToken" not in rest
    with pytest.raises(Answered, match="404 NOT_FOUND: The Model version does not exist"):
        ask(service, "GET", f"{CLV}@4")


def test_an_alias_names_one_version_at_a_time(service: VertexStub) -> None:
    three_versions(service)
    assert sorted(merge(service, "2", "champion")["versionAliases"]) == ["champion", "v2"]
    merge(service, "3", "champion")
    assert aliases(service) == {"3": ["champion", "v3"], "2": ["v2"], "1": ["default"]}
    merge(service, "3", "-v3", "default")
    assert aliases(service) == {"3": ["champion", "default"], "2": ["v2"], "1": []}
    assert ask(service, "GET", CLV)["versionId"] == "3"
    merge(service, "2", "champion", "-champion", "-unknown")
    assert aliases(service) == {"3": ["champion", "default"], "2": ["v2"], "1": []}, "added and removed: left as it is"
    upload(service, model(versionAliases=["champion", "default"]), parentModel=CLV)
    assert aliases(service) == {"4": ["champion", "default"], "3": [], "2": ["v2"], "1": []}


@pytest.mark.parametrize(
    ("version", "names", "status", "named"),
    [
        ("2", ["-default"], 400, "default cannot be removed"), ("2", [], 400, "version_aliases is required"),
        ("2", ["2"], 400, "'2' does not match"), ("2", ["a"], 400, "'a' does not match"),
        ("2", ["a" * 129], 400, "does not match"), ("2", ["Champion"], 400, "does not match"), ("2", ["a_b"], 400, "does not match"),
        ("v2", ["x1"], 400, "must name a version by its number"), ("9", ["x1"], 404, "does not exist"),
    ],
)  # fmt: skip
def test_aliases_that_cannot_be(service: VertexStub, version: str, names: list[str], status: int, named: str) -> None:
    three_versions(service)
    with pytest.raises(Answered, match=named) as answered:
        merge(service, version, *names)
    assert answered.value.status == status
    assert aliases(service) == {"3": ["v3"], "2": ["v2"], "1": ["default"]}


@pytest.mark.parametrize(
    ("content", "more", "status", "named"),
    [
        (model(displayName=""), {}, 400, "display_name is required"),
        (model(displayName="x" * 129), {}, 400, "129 characters"),
        (model(labels={"Team": "x"}), {}, 400, "invalid label Team=x"),
        (model(labels={"team": "x" * 64}), {}, 400, "invalid label team="),
        (model(artifactUri="/tmp/model"), {}, 400, "'/tmp/model' is not a Cloud Storage URI"),
        (model(containerSpec={"ports": [{"containerPort": 1}]}), {}, 400, "image_uri is required"),
        (model(versionAliases=["-x"]), {}, 400, "'-x' does not match"),
        (model(versionAlias="x"), {}, 400, "unknown field model.versionAlias"),
        (model(), {"modelId": "1clv"}, 400, "model_id '1clv' does not match"),
        (model(), {"modelId": "-clv"}, 400, "does not match"),
        (model(), {"modelId": "Clv"}, 400, "does not match"),
        (model(), {"modelId": "c" * 64}, 400, "does not match"),
        (model(), {"modelId": "clv"}, 409, "already exists"),
        (model(), {"parentModel": f"{PLACE}/models/other"}, 404, "does not exist"),
        (model(), {"parentModel": f"{CLV}@1"}, 400, "is not a model of"),
        (model(), {"parentModel": "clv"}, 400, "is not a model of"),
        (model(), {"parentModel": CLV, "modelId": "clv2"}, 400, "both were given"),
    ],
)  # fmt: skip
def test_uploads_that_cannot_be(
    service: VertexStub, content: dict[str, Any], more: dict[str, str], status: int, named: str
) -> None:
    upload(service, modelId="clv")
    with pytest.raises(Answered) as answered:
        upload(service, content, **more)
    assert answered.value.status == status and named in answered.value.message
    assert list(aliases(service)) == ["1"] and len(service.models.records) == 1


def test_an_upload_needs_a_model(service: VertexStub) -> None:
    with pytest.raises(Answered, match="400 INVALID_ARGUMENT: model is required"):
        ask(service, "POST", f"{PLACE}/models:upload", {"modelId": "clv"})


def test_a_model_is_listed_as_its_default_version(service: VertexStub) -> None:
    three_versions(service)
    merge(service, "2", "default")
    other = upload(service, model(displayName="Other", labels={"team": "b"}))["model"]
    listed = ask(service, "GET", f"{PLACE}/models")["models"]
    assert [(each["displayName"], each["versionId"]) for each in listed] == [("Other", "1"), ("Customer value", "2")]
    for query in (
        "labels.team=b",
        'displayName="Other"',
        "display_name=Other",
        f"model={other.split('/')[-1]}",
        "labels.team:*",
    ):
        assert [each["name"] for each in ask(service, "GET", f"{PLACE}/models", filter=query)["models"]] == [other]
    by_name = ask(service, "GET", f"{PLACE}/models", orderBy="display_name")["models"]
    assert [each["displayName"] for each in by_name] == ["Customer value", "Other"]


def test_versions_and_models_are_deleted(service: VertexStub) -> None:
    three_versions(service)
    wait(service, ask(service, "DELETE", f"{CLV}@1:deleteVersion"))
    assert aliases(service) == {"3": ["default", "v3"], "2": ["v2"]}, "the newest becomes the default"
    wait(service, ask(service, "DELETE", f"{CLV}@3:deleteVersion"))
    upload(service, parentModel=CLV)
    assert aliases(service) == {"4": [], "2": ["default", "v2"]}, "no number comes twice"
    with pytest.raises(Answered, match=r"400.*use deleteVersion"):
        ask(service, "DELETE", f"{CLV}@2")
    with pytest.raises(Answered, match=r"400.*must name a version by its number"):
        ask(service, "DELETE", f"{CLV}:deleteVersion")
    wait(service, ask(service, "DELETE", f"{CLV}@4:deleteVersion"))
    with pytest.raises(Answered, match=r"400 FAILED_PRECONDITION.*only version"):
        ask(service, "DELETE", f"{CLV}@2:deleteVersion")
    wait(service, ask(service, "DELETE", CLV))
    with pytest.raises(Answered, match="404"):
        ask(service, "GET", CLV)


def test_googles_client_uploads_moves_aliases_and_lists(service: VertexStub) -> None:
    from google.api_core import exceptions

    client = clients.model_client(service)
    content = {"display_name": "Customer value", "version_aliases": ["v1"], "container_spec": {"image_uri": "i"}}
    first = client.upload_model(request={"parent": PLACE, "model": content, "model_id": "clv"}).result(timeout=60)
    assert (first.model.split("/")[-1], first.model_version_id) == ("clv", "1")
    content["version_aliases"] = ["v2"]
    request = {"parent": PLACE, "model": content, "parent_model": CLV}
    service.faults.append(Fault("models.upload", nth=2, drop=True))
    with pytest.raises(Exception, match=r"[Cc]onnection"):
        client.upload_model(request=request)
    deadline = time.monotonic() + 30
    (operation,) = [each for each in service.operations if not each.result]
    while operation.result is None:  # nobody can ask for the operation whose name was lost: time has to go by
        assert time.monotonic() < deadline
        operation.pace.seconds = 0
    assert client.get_model(name=f"{CLV}@v2").version_id == "2"
    assert list(client.merge_version_aliases(name=f"{CLV}@2", version_aliases=["champion"]).version_aliases)
    assert client.get_model(name=f"{CLV}@champion").version_id == "2"
    assert [version.version_id for version in client.list_model_versions(name=CLV)] == ["2", "1"]
    with pytest.raises(exceptions.Conflict):
        client.upload_model(request={"parent": PLACE, "model": content, "model_id": "clv"})
