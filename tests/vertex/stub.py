"""Vertex AI's REST API on this machine: requests are checked, jobs really run, the registry keeps what it is told.

    with VertexStub(images={"europe-docker.pkg.dev/p/r/clv:1": Image(python, environment)}) as service:
        ... service.url ...                              # http://localhost:PORT

Served are custom jobs, hyperparameter tuning jobs, models with their versions and aliases, and operations; each request
is held against Google's discovery document and against what that says in words. Where the words of an answer are
known from the service they are used here. As the service does, answers name a project by its number.
"""

from __future__ import annotations

import copy
import http.server
import json
import re
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.dataflow.discovery import Call, Discovery, Refused
from tests.dataflow.flex_templates import Image
from tests.dataflow.server import Dropped, handler_of
from tests.vertex import containers, enums, listing, rules
from tests.vertex.artifacts import require_artifacts
from tests.vertex.faults import Counted, Fault
from tests.vertex.jobs import CustomJobRecord, Ending, JobRecord, Jobs
from tests.vertex.models import Models
from tests.vertex.resources import Operation, Pace, invalid, new_id, not_found, parent, resource_name
from tests.vertex.tuning import Tuning, TuningJobRecord

__all__ = ["CustomJobRecord", "Ending", "Fault", "Image", "Request", "TuningJobRecord", "VertexStub"]

_PLACE = "aiplatform.projects.locations."
_SCHEMA = "GoogleCloudAiplatformV1"
_TICK_SECONDS = 0.02
_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Request:
    """A request that was made, and the status of its answer: 0 where the answer was dropped."""

    method: str
    path: dict[str, str]
    query: dict[str, str]
    body: Any
    status: int


class VertexStub:
    """The service, on a port of its own while the ``with`` block lasts; what still runs at its end is ended.

    Args:
      execute: called in a thread of its own for each custom job and each trial; what it raises fails the job. By default
        the job's container runs, see ``tests.vertex.containers``.
      images: by name what containers may run.
      polls: how often each state of a job or operation is seen by asking for it, unless its seconds are over.
      seconds: how long each state lasts when nobody asks.
      page: resources in one page of a list, whatever is asked for.
      seed: of the values that tuning draws.

    Attributes:
      faults: what happens to which calls; may be added to at any time.
      requests: all that were made with a known method, in order.
      refusals: status and message of every refusal, unknown methods included.
    """

    def __init__(
        self,
        execute: Callable[[CustomJobRecord], Ending] | None = None,
        images: Mapping[str, Image] | None = None,
        polls: int = 3,
        seconds: float = 0.5,
        page: int = 50,
        seed: int = 1,
    ) -> None:
        self.images, self.faults = images or {}, list[Fault]()
        self.requests: list[Request] = []
        self.refusals: list[str] = []
        self._polls, self._seconds, self._page = polls, seconds, page
        self._folder = tempfile.TemporaryDirectory(prefix="vertex-")
        self._discovery = Discovery.load("aiplatform.v1", enums.numbers)
        self._lock, self._counted, self._stopped = threading.RLock(), Counted(), threading.Event()
        self._failures: list[tuple[str, str]] = []
        folder = Path(self._folder.name)
        work = execute or (lambda job: containers.execute(job, self.images, folder))
        self.custom_jobs = Jobs(self._lock, work, self._failures)
        tuning = Tuning(work, self.custom_jobs, self._lock, folder, seed)
        self.tuning_jobs = Jobs(self._lock, tuning.run, self._failures)
        self.models = Models(require_artifacts)
        self.operations: list[Operation] = []

    @property
    def url(self) -> str:
        return f"http://localhost:{self._server.server_address[1]}"

    @property
    def jobs(self) -> list[CustomJobRecord]:
        """The custom jobs, those of trials among them, oldest first."""
        return list(self.custom_jobs.records)

    @property
    def calls(self) -> list[str]:
        """The methods called, such as ``customJobs.create``."""
        return [request.method.removeprefix(_PLACE) for request in self.requests]

    def fail_next(self, display_name: str, message: str = "Internal error encountered.") -> None:
        """The next job that is about to run and whose display name begins so fails instead, once."""
        with self._lock:
            self._failures.append((display_name, message))

    def __enter__(self) -> Self:
        self._server = http.server.ThreadingHTTPServer(("localhost", 0), handler_of(self))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            workers = [*self.tuning_jobs.stop(), *self.custom_jobs.stop()]
        for worker in workers:
            worker.join(_STOP_SECONDS)
        self._folder.cleanup()

    def answer(self, verb: str, url: str, body: bytes) -> dict[str, Any]:
        """The JSON a request is answered with.

        Raises:
          Refused: the request is not one that Vertex AI would take, or a fault refuses it.
          Dropped: a fault drops the answer; what was asked for is done.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.path == "/token":  # what the fake service account's key is exchanged at
            return {"access_token": "nobody", "expires_in": 3600, "token_type": "Bearer"}
        # Google's own client for Python asks for operations under /ui, by a binding of the service that no document shows.
        path = re.sub(r"^/ui/(?=.*/operations/[^/]+$)", "/v1/", parts.path)
        call = self._discovery.call(verb, path, urllib.parse.parse_qs(parts.query, keep_blank_values=True))
        content = json.loads(body) if body else None
        status = 500
        try:
            answer = self._faulty(call, content)
            status = 200
        except Refused as refused:
            status = refused.status
            raise
        except Dropped:
            status = 0
            raise
        finally:
            self.requests.append(Request(call.method, call.path, call.query, content, status))
        return answer

    def _faulty(self, call: Call, content: Any) -> dict[str, Any]:
        with self._lock:
            faults = self._counted.of(call.method, self.faults)
        for fault in faults:
            time.sleep(fault.delay)
            if fault.refuse is not None:
                raise Refused(fault.refuse, fault.reason, fault.message)
        checked = self._discovery.body(call.method, content)
        with self._lock:
            self._advance()
            answer = copy.deepcopy(self._perform(call, checked))
        if any(fault.drop for fault in faults):
            raise Dropped
        return answer

    def _perform(self, call: Call, content: Any) -> dict[str, Any]:
        collection, _, verb = call.method.removeprefix(_PLACE).rpartition(".")
        if collection == "customJobs":
            return self._of_jobs(self.custom_jobs, verb, call, content)
        if collection == "hyperparameterTuningJobs":
            return self._of_jobs(self.tuning_jobs, verb, call, content)
        if collection == "models":
            return self._of_models(verb, call, content)
        if collection in ("operations", "models.operations") and verb == "get":
            return self._operation(resource_name(call))
        raise Refused(501, "UNIMPLEMENTED", f"{call.method} is not part of this stub")

    def _of_jobs(self, jobs: Jobs, verb: str, call: Call, content: Any) -> dict[str, Any]:
        record: JobRecord
        kind = "customJobs" if jobs is self.custom_jobs else "hyperparameterTuningJobs"
        schema = f"{_SCHEMA}{kind[0].upper()}{kind[1:-1]}"
        if verb == "create":
            body = rules.without_output(content, schema, self._discovery)
            record = self._job(jobs, body)
            jobs.add(record, parent(call.path), kind)
            return record.body
        if verb == "get":
            record = jobs.find(resource_name(call))
            record.pace.seen += 1
            return record.body
        if verb == "cancel":
            jobs.cancel(resource_name(call))
            return {}
        if verb == "list":
            found = jobs.newest_first(parent(call.path))
            return listing.page(found, kind, call.query, listing.JOB_RULES, self._fields(schema), self._page)
        raise Refused(501, "UNIMPLEMENTED", f"{call.method} is not part of this stub")

    def _job(self, jobs: Jobs, body: dict[str, Any]) -> JobRecord:
        if jobs is self.custom_jobs:
            rules.require_named(body, "custom_job")
            rules.require_job_spec(body.get("jobSpec", {}), "job_spec")
            return CustomJobRecord(body, self._pace())
        rules.require_named(body, "hyperparameter_tuning_job")
        rules.require_study(body)
        rules.require_job_spec(body.get("trialJobSpec", {}), "trial_job_spec")
        return TuningJobRecord(body, self._pace())

    def _of_models(self, verb: str, call: Call, content: Any) -> dict[str, Any]:
        models, fields = self.models, self._fields(f"{_SCHEMA}Model")
        if verb == "list":
            found = models.newest_first(parent(call.path))
            return listing.page(found, "models", call.query, listing.MODEL_RULES, fields, self._page)
        if verb == "upload":
            return self._upload(call, content)
        name = resource_name(call)
        if verb == "get":
            return models.get(name)
        if verb == "listVersions":
            return listing.page(models.versions(name), "models", call.query, listing.VERSION_RULES, fields, self._page)
        if verb == "mergeVersionAliases":
            return models.merge_aliases(name, content.get("versionAliases", []))
        if verb == "delete":
            return self._begin(name, "DeleteOperationMetadata", models.begin_delete(name))
        if verb == "deleteVersion":
            return self._begin(name, "DeleteOperationMetadata", models.begin_delete_version(name))
        raise Refused(501, "UNIMPLEMENTED", f"{call.method} is not part of this stub")

    def _upload(self, call: Call, content: dict[str, Any]) -> dict[str, Any]:
        if "model" not in content:
            raise invalid("model is required")
        model = rules.without_output(content["model"], f"{_SCHEMA}Model", self._discovery)
        name, finish = self.models.begin_upload(parent(call.path), {**content, "model": model})
        return self._begin(name, "UploadModelOperationMetadata", finish)

    def _begin(self, name: str, metadata: str, finish: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        above = name.partition("@")[0]
        operation = Operation(f"{above}/operations/{new_id()}", metadata, self._pace(), finish)
        self.operations.append(operation)
        operation.advance()
        return operation.body

    def _operation(self, name: str) -> dict[str, Any]:
        for operation in self.operations:
            # An operation is known by its number wherever it is asked for.
            if operation.name.split("/")[-1] == name.split("/")[-1] and operation.name.startswith(_location(name)):
                operation.pace.seen += 1
                return operation.body
        raise not_found("Operation", name)

    def _pace(self) -> Pace:
        return Pace(self._polls, self._seconds)

    def _fields(self, schema: str) -> list[str]:
        return list(self._discovery.document["schemas"][schema]["properties"])

    def _advance(self) -> None:
        self.tuning_jobs.advance()
        self.custom_jobs.advance()
        for operation in self.operations:
            operation.advance()

    def _tick(self) -> None:
        while not self._stopped.wait(_TICK_SECONDS):
            with self._lock:
                self._advance()


def _location(name: str) -> str:
    return "/".join(name.split("/")[:4]) + "/"
