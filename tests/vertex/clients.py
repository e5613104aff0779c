"""How tests talk to the stub: plain HTTP, and Google's own clients; and the smallest contents it takes."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from tests.vertex.jobs import ACTIVE
from tests.vertex.stub import VertexStub

PROJECT, REGION = "shop", "europe-west1"
PLACE = f"projects/{PROJECT}/locations/{REGION}"
IMAGE = "europe-docker.pkg.dev/shop/clv/pipelines:1"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_PATIENCE_SECONDS = 60.0


class Answered(Exception):
    """An answer that is no success: its status, Google's name of it, its message."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(f"{status} {error['status']}: {error['message']}")
        self.status, self.reason, self.message = status, error["status"], error["message"]


def ask(service: VertexStub, verb: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
    """The JSON answer; ``path`` is below ``/v1/``.

    Raises:
      Answered: with an error.
      http.client.RemoteDisconnected: not at all.
    """
    url = f"{service.url}/v1/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), method=verb)
    try:
        with _DIRECT.open(request) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        with error:
            raise Answered(error.code, json.load(error)["error"]) from None


def container(*command: str, **more: Any) -> dict[str, Any]:
    return {"imageUri": IMAGE, "command": list(command), **more}


def job_spec(**container_spec: Any) -> dict[str, Any]:
    spec = container_spec or container("true")
    pool = {"machineSpec": {"machineType": "n2-standard-8"}, "replicaCount": "1", "containerSpec": spec}
    return {"workerPoolSpecs": [pool]}


def custom_job(name: str = "train", **changes: Any) -> dict[str, Any]:
    return {"displayName": name, "jobSpec": job_spec(), **changes}


def create(service: VertexStub, body: dict[str, Any], collection: str = "customJobs") -> str:
    """A new job's name."""
    return str(ask(service, "POST", f"{PLACE}/{collection}", body)["name"])


def states(service: VertexStub, name: str) -> list[str]:
    """The states a job goes through while it is asked for, each as often as it was seen, to the last."""
    seen: list[str] = []
    until = time.monotonic() + _PATIENCE_SECONDS
    while not seen or seen[-1] in ACTIVE:
        assert time.monotonic() < until, seen
        seen.append(ask(service, "GET", name)["state"])
    return seen


def ended(service: VertexStub, name: str) -> dict[str, Any]:
    states(service, name)
    return ask(service, "GET", name)


def job_client(service: VertexStub) -> Any:
    """google.cloud.aiplatform_v1.JobServiceClient, by REST."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.aiplatform_v1.services import job_service

    transport = job_service.JobServiceClient.get_transport_class("rest")
    host = service.url.removeprefix("http://")
    return job_service.JobServiceClient(
        transport=transport(host=host, url_scheme="http", credentials=AnonymousCredentials())
    )


def model_client(service: VertexStub) -> Any:
    """google.cloud.aiplatform_v1.ModelServiceClient, by REST."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.aiplatform_v1.services import model_service

    transport = model_service.ModelServiceClient.get_transport_class("rest")
    host = service.url.removeprefix("http://")
    return model_service.ModelServiceClient(
        transport=transport(host=host, url_scheme="http", credentials=AnonymousCredentials())
    )
