"""The Dataflow service's REST API on this machine: every request is checked, jobs have a life, nothing is executed.

    with DataflowStub(run) as service:      # run(job) -> Ending decides what becomes of a job
        ... --dataflow_endpoint=service.url

A job is pending when created, running while ``run`` works, then done or failed, unless it was cancelled meanwhile.
A job of a Flex Template is queued first, while its launcher runs; it becomes what that left, under the same id.
"""

from __future__ import annotations

import datetime
import http.server
import json
import re
import threading
import traceback
import urllib.parse
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.dataflow import flex_templates, listing
from tests.dataflow.discovery import Call, Discovery, Refused
from tests.dataflow.flex_templates import Image, Launch, Launcher, LaunchFailed
from tests.dataflow.listing import ACTIVE
from tests.dataflow.server import Dropped, handler_of

JOBS = "dataflow.projects.locations.jobs"
# Of the letters Dataflow takes only those of English; the document garbles its rule.
_LABEL_KEY, _LABEL_VALUE = re.compile(r"[a-z][a-z0-9_-]{0,62}"), re.compile(r"[a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Ending:
    """How a job ends, and the message of importance ERROR that says why."""

    state: str = "JOB_STATE_DONE"
    error: str = ""


@dataclass
class Job:
    """A job of the service: what was asked for, and what became of it.

    ``launcher`` is the command line behind the file that a template's image runs, empty for other jobs.
    """

    body: dict[str, Any]
    launcher: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def state(self) -> str:
        return str(self.body["currentState"])

    @property
    def environment(self) -> dict[str, Any]:
        return dict(self.body["environment"])

    @property
    def pool(self) -> dict[str, Any]:
        (pool,) = self.environment["workerPools"]
        return dict(pool)

    @property
    def options(self) -> dict[str, Any]:
        """The pipeline options the workers get."""
        return dict(self.environment["sdkPipelineOptions"]["options"])

    def say(self, importance: str, text: str) -> None:
        message = {"id": uuid.uuid4().hex, "time": _now(), "messageImportance": importance, "messageText": text}
        self.messages.append(message)

    def become(self, state: str) -> None:
        self.body["currentState"], self.body["currentStateTime"] = state, _now()


class DataflowStub:
    """The service, on a port of its own while the ``with`` block lasts.

    Args:
      run: called in a thread of its own for each job; what it raises fails the job.
      denials: by method id what is answered instead, as (status, message).
      images: by name what templates may be launched with.

    Attributes:
      lost: ids of methods; each entry loses the answer of one call.
    """

    def __init__(
        self,
        run: Callable[[Job], Ending],
        denials: dict[str, tuple[int, str]] | None = None,
        images: Mapping[str, Image] | None = None,
    ) -> None:
        self.run, self.denials, self.images = run, denials or {}, images or {}
        self.lost: list[str] = []
        self.jobs: list[Job] = []
        self.calls: list[str] = []
        self.refusals: list[str] = []
        self._discovery = Discovery.load("dataflow.v1b3")
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        # Beam speaks REST and not gRPC to an address that has "localhost" in it.
        return f"http://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._server = http.server.ThreadingHTTPServer(("localhost", 0), handler_of(self))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, verb: str, url: str, body: bytes) -> dict[str, Any]:
        """The JSON a request is answered with.

        Raises:
          Refused: the request is not one that Dataflow would take.
          Dropped: its answer is one of ``lost``.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.path == "/token":  # what the fake service account's key is exchanged at
            return {"access_token": "nobody", "expires_in": 3600, "token_type": "Bearer"}
        call = self._discovery.call(verb, parts.path, urllib.parse.parse_qs(parts.query, keep_blank_values=True))
        content = self._discovery.body(call.method, json.loads(body) if body else None)
        self.calls.append(call.method)
        if call.method in self.denials:
            status, message = self.denials[call.method]
            raise Refused(status, "DENIED", message)
        with self._lock:
            answer = self._perform(call, content)
            if call.method in self.lost:
                self.lost.remove(call.method)
                raise Dropped
            return answer

    def _perform(self, call: Call, content: Any) -> dict[str, Any]:
        if call.method == f"{JOBS}.create":
            return self._create(call, content)
        if call.method == flex_templates.LAUNCH:
            return self._launch(call, content)
        if call.method == f"{JOBS}.list":
            return listing.jobs([job.body for job in self._jobs_of(call)], call.query)
        job = self._find(call)
        if call.method == f"{JOBS}.get":
            return listing.view(job.body, call.query)
        if call.method == f"{JOBS}.update":
            return self._update(job, content)
        if call.method == f"{JOBS}.messages.list":
            return listing.messages(job.messages, call.query)
        if call.method == f"{JOBS}.getMetrics":
            return {"metrics": [], "metricTime": _now()}
        raise Refused(501, "UNIMPLEMENTED", f"{call.method} is not part of this stub")

    def _create(self, call: Call, body: dict[str, Any]) -> dict[str, Any]:
        self._check_job(body)
        job = self._active(call, body["name"])
        if job is None:
            job = self._add(call, body, "JOB_STATE_PENDING")
            created = dict(job.body)  # pending, however soon it ends
            threading.Thread(target=self._live, args=(job,), daemon=True).start()
            return created
        if job.state == "JOB_STATE_QUEUED" and "environment" not in job.body:
            # A launcher that submits the job itself: it is the one that waits for it, and starts at the launcher's end.
            job.body = {**body, **job.body, "clientRequestId": body.get("clientRequestId", "")}
        return job.body

    def _launch(self, call: Call, content: dict[str, Any]) -> dict[str, Any]:
        launch = flex_templates.read(content, self._discovery)
        self._check_name(launch.name)
        _check_labels(launch.labels)
        if other := self._active(call, launch.name):
            raise Refused(
                409,
                "ALREADY_EXISTS",
                f"There is already an active job named {launch.name} with id: {other.body['id']}. If you want to submit "
                "a second job, try again by setting a different name.",
            )
        if launch.validate_only:
            return {}
        asked = {"name": launch.name, "type": "JOB_TYPE_BATCH", "labels": launch.labels}
        job = self._add(call, asked, "JOB_STATE_QUEUED")
        launched = dict(job.body)
        threading.Thread(target=self._live_launched, args=(job, launch), daemon=True).start()
        return {"job": launched}

    def _add(self, call: Call, body: dict[str, Any], state: str) -> Job:
        job = Job({
            **body,
            "id": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d_%H_%M_%S}-{uuid.uuid4().int % 10**18}",
            "projectId": call.path["projectId"],
            "location": call.path["location"],
            "createTime": _now(),
            "currentState": state,
            "currentStateTime": _now(),
        })  # fmt: skip
        self.jobs.append(job)
        return job

    def _active(self, call: Call, name: str) -> Job | None:
        return next((job for job in self._jobs_of(call) if job.body["name"] == name and job.state in ACTIVE), None)

    def _check_job(self, body: dict[str, Any]) -> None:
        """Raises: Refused for what the document says in words only."""
        self._check_name(body.get("name", ""))
        _check_labels(body.get("labels", {}))
        for name in ("type", "environment"):
            if name not in body:
                raise Refused(400, "INVALID_ARGUMENT", f"a job needs {name}")

    def _check_name(self, name: str) -> None:
        described = self._discovery.document["schemas"]["Job"]["properties"]["name"]["description"]
        (rule,) = re.findall(r"must match the regular expression `(.+?)`", described)
        if not re.fullmatch(rule, name):
            raise Refused(400, "INVALID_ARGUMENT", f"invalid job name {name!r}")

    def _live_launched(self, job: Job, launch: Launch) -> None:
        """A template's job: its launcher to its end, and only then what that left."""
        place = (job.body["projectId"], job.body["location"], job.body["id"])
        job.launcher, folder = launch.arguments(*place), launch.folder(*place)
        job.say("JOB_MESSAGE_BASIC", f"Console log from launcher will be available at {folder}/console_logs.")
        try:
            left = Launcher(self.images.get(launch.image), launch, job.launcher, folder).run(job.cancelled)
            with self._lock:
                self._become_what_was_left(job, left, folder)
        except Exception as failure:
            told = isinstance(failure, LaunchFailed | Refused)
            job.say("JOB_MESSAGE_ERROR", str(failure) if told else traceback.format_exc())
            self._end(job, "JOB_STATE_FAILED")
            return
        self._live(job)

    def _become_what_was_left(self, job: Job, left: dict[str, Any] | None, folder: str) -> None:
        """Raises: LaunchFailed where nothing was, Refused where it is no job."""
        if left is not None:
            content = self._discovery.require(left, "Job")
            self._check_job(content)
            labels = {**content.get("labels", {}), **job.body["labels"]}
            job.body = {**content, **job.body, "labels": labels}
        if "environment" not in job.body:
            uri = f"{folder}/job_object"
            raise LaunchFailed(
                f"Failed to read the job file : {uri} with error message: Unable to open template file: {uri}."
            )
        if not job.cancelled.is_set():
            job.become("JOB_STATE_PENDING")

    def _live(self, job: Job) -> None:
        with self._lock:
            if job.cancelled.is_set():
                job.ended.set()
                return
            job.become("JOB_STATE_RUNNING")
        job.say("JOB_MESSAGE_BASIC", "Worker configuration: " + job.pool.get("machineType", "the service's choice"))
        try:
            ending = self.run(job)
        except Exception:
            ending = Ending("JOB_STATE_FAILED", traceback.format_exc())
        if ending.error:
            job.say("JOB_MESSAGE_ERROR", ending.error)
        self._end(job, ending.state)

    def _end(self, job: Job, state: str) -> None:
        with self._lock:
            if not job.cancelled.is_set():
                job.become(state)
        job.ended.set()

    def _update(self, job: Job, content: dict[str, Any]) -> dict[str, Any]:
        wanted = content.get("requestedState")
        if wanted != "JOB_STATE_CANCELLED":
            raise Refused(501, "UNIMPLEMENTED", f"requestedState {wanted} is not part of this stub")
        if job.state not in ACTIVE:
            raise Refused(400, "FAILED_PRECONDITION", f"the job is {job.state}")
        job.become("JOB_STATE_CANCELLED")
        job.cancelled.set()
        return job.body

    def _jobs_of(self, call: Call) -> list[Job]:
        place = (call.path["projectId"], call.path["location"])
        return [job for job in self.jobs if (job.body["projectId"], job.body["location"]) == place]

    def _find(self, call: Call) -> Job:
        for job in self._jobs_of(call):
            if job.body["id"] == call.path["jobId"]:
                return job
        raise Refused(404, "NOT_FOUND", f"no job {call.path['jobId']} in {call.path['location']}")


def _check_labels(labels: Mapping[str, str]) -> None:
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise Refused(400, "INVALID_ARGUMENT", f"invalid label {key}={value}")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
