"""Jobs on Vertex AI: one of our modules run in our image, found again by its key.

    request = JobRequest(project, region, image, "trainer.task", arguments, key="build/2026-11-22/train", display_name="train")
    job = submit(request)            # the job there is already, or a new one
    while (job := get(job.name)).is_active: ...

Vertex AI takes no id for a new job. Each carries a label with a hash of its key instead: ``submit`` looks for it first,
and takes over a job that runs, or has succeeded and whose output is still there (``vertex_adoption``). One that failed
or was cancelled is not taken over.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer import vertex_adoption, vertex_client
from trainer.vertex_client import KEY_LABEL, Vertex, call, call_list, create_once, spoken
from transforms.cli import say
from transforms.errors import UsageError, rejected

SUCCEEDED = "JOB_STATE_SUCCEEDED"
# All of a job that is not at its end. Nobody gets a job that is being cancelled.
ADOPTABLE = (
    "JOB_STATE_QUEUED", "JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_PAUSED", "JOB_STATE_UPDATING", SUCCEEDED,
)  # fmt: skip
ACTIVE = (*ADOPTABLE[:-1], "JOB_STATE_CANCELLING", "JOB_STATE_UNSPECIFIED")
CUSTOM, TUNING = "customJobs", "hyperparameterTuningJobs"
DEFAULT_MACHINE = "n2-standard-8"
DEFAULT_TIMEOUT_HOURS = 24.0
DEFAULT_DISK_GB = 100
_MOST_UNFILTERED = 2000
_MODULE = re.compile(r"[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)*")
_IMAGE = re.compile(
    r"[a-z0-9.-]+(?::[0-9]+)?(?:/[a-z0-9._-]+)+(?::(?P<tag>[A-Za-z0-9_.-]+))?(?P<digest>@sha256:[0-9a-f]{64})?"
)
# What the job of shipped code does first. The code goes beside the image's, before which Python looks for it; the
# folder is the working directory, where nothing else could be imported from.
_INSTALL = """\
set -e
folder=$(mktemp -d)
cd "$folder"
python -c 'import sys
from google.cloud import storage
bucket, _, name = sys.argv[1].removeprefix("gs://").partition("/")
storage.Client().bucket(bucket).blob(name).download_to_filename(sys.argv[2])' "$CLV_PACKAGE" "$folder/package.tar.gz"
python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation \\
  --target "$folder/code" "$folder/package.tar.gz"
export PYTHONPATH="$folder/code${PYTHONPATH:+:$PYTHONPATH}"
"""


@dataclass(frozen=True)
class JobRequest:
    """A module to run on Vertex AI, with what decides how.

    ``key``: any text; of all requests with one key one job is wanted. ``package``: the source distribution whose code
    runs instead of the image's, see ``trainer.vertex_package``. ``environment``: variables the job gets. ``output``: what
    the job leaves, a file or a directory with manifest.json, by which is seen that a job which succeeded need not run
    again; None: what the arguments of a module of ours say (``vertex_adoption.output_of``).

    Raises:
      UsageError: a value that Vertex AI would refuse, or that would not mean the same tomorrow.
    """

    project: str
    region: str
    image: str
    module: str
    arguments: tuple[str, ...]
    key: str
    display_name: str
    machine_type: str = DEFAULT_MACHINE
    accelerator_type: str | None = None
    accelerator_count: int = 0
    service_account: str | None = None
    network: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    timeout_hours: float = DEFAULT_TIMEOUT_HOURS
    api_endpoint: str | None = None
    disk_gb: int = DEFAULT_DISK_GB
    package: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    output: str | None = None

    def __post_init__(self) -> None:
        _ = self.vertex
        found = _IMAGE.fullmatch(self.image)
        if not found or not (found["digest"] or found["tag"] not in (None, "latest")):
            accepted = "a full name with a tag other than latest, or a digest: REGION-docker.pkg.dev/PROJECT/clv/publish:2026-11-22"
            raise rejected("--image", self.image, accepted)
        if not _MODULE.fullmatch(self.module):
            raise rejected("--module", self.module, "a module's name, such as trainer.task")
        if not self.key.strip():
            raise rejected("--key", self.key, "a text that names this piece of work")
        if not 1 <= len(self.display_name) <= 128:
            raise rejected("--display_name", self.display_name, "a name of 1 to 128 characters")
        if bool(self.accelerator_type) != bool(self.accelerator_count):
            value = f"{self.accelerator_type or 'no type'} x {self.accelerator_count}"
            raise rejected("--accelerator_type and --accelerator_count", value, "both, or none of them")
        _ = _machine(self)
        vertex_client.checked_labels(list(self.labels.items()))

    @property
    def vertex(self) -> Vertex:
        return Vertex(self.project, self.region, self.api_endpoint)

    @property
    def all_labels(self) -> dict[str, str]:
        return {**self.labels, KEY_LABEL: key_label(self.key)}


@dataclass(frozen=True)
class Job:
    """A job as Vertex AI last told of it; ``name`` is its full one, ``state`` JOB_STATE_..., ``since`` ISO 8601 in UTC."""

    name: str
    state: str
    page: str
    error: str
    display_name: str = ""
    since: str = ""
    adopted: bool = False

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def succeeded(self) -> bool:
        return self.state == SUCCEEDED

    @property
    def short_state(self) -> str:
        return self.state.removeprefix("JOB_STATE_")


def key_label(key: str) -> str:
    """The label's value that stands for a key."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def submit(request: JobRequest, *, exact: bool = False) -> Job:
    """The job of the request's key: one to take over, else a new one. Does not wait for it.

    Two callers at the same moment may still make two jobs.

    Args:
      exact: refuse a job of this key that runs another image or other arguments; else it is taken over, and said.

    Raises:
      UsageError, JobFailed: as ``vertex_client.call``; no job was made, or its answer was lost for good.
    """
    body = {"display_name": request.display_name, "job_spec": job_spec(request), "labels": request.all_labels}
    return make(request, CUSTOM, body, exact=exact)


def make(request: JobRequest, kind: str, body: Mapping[str, Any], *, exact: bool = False) -> Job:
    """As ``submit``, of a job of either kind with this content."""
    vertex = request.vertex
    methods: dict[str, tuple[Any, str]] = {
        CUSTOM: (vertex.jobs.create_custom_job, "custom_job"),
        TUNING: (vertex.jobs.create_hyperparameter_tuning_job, "hyperparameter_tuning_job"),
    }
    method, field_name = methods[kind]

    def create() -> Any:
        content = {"parent": vertex.parent, field_name: body}
        return method(request=content, retry=None, timeout=vertex_client.CALL_SECONDS)

    what = f"creating the job {request.display_name}"
    with spoken(what):
        made, found = create_once(_Search(request, kind), create, what)
    job = job_of(made)
    if not found:
        say(f"job {job.name}: {job.short_state}: {job.page}")
        return job
    if other := vertex_adoption.difference(made, body):
        if exact:
            raise UsageError(
                f"--key {request.key!r} is the key of {job.name}, which has {other}: accepted is another key"
            )
        say(f"note: job {job.name} has {other}")
    again = "; another --key runs it once more" if job.succeeded else ""
    say(f"job {job.name} is there already: {job.short_state} since {job.since}: {job.page}{again}")
    return dataclasses.replace(job, adopted=True)


class _Search:
    """Looks for the job that a request takes over, as often as it is called."""

    def __init__(self, request: JobRequest, kind: str) -> None:
        self._request, self._kind = request, kind
        self._passed_over: set[str] | None = None

    def __call__(self) -> Any | None:
        found = listed(self._request.vertex, self._kind, key_label(self._request.key))
        usable = [raw for raw in found if raw.state.name in ADOPTABLE]
        usable.sort(key=lambda raw: raw.create_time, reverse=True)
        if self._passed_over is None:
            # What succeeds later than this is our own job, the answer to whose creation was lost.
            self._passed_over = self._without_output(usable)
        return next((raw for raw in usable if raw.name not in self._passed_over), None)

    def _without_output(self, usable: Sequence[Any]) -> set[str]:
        # A tuning job's output is its trials, which it has itself.
        if self._kind == TUNING or not usable or usable[0].state.name != SUCCEEDED:
            return set()
        missing = vertex_adoption.missing_output(self._request)
        if missing is None:
            return set()
        say(f"job {usable[0].name} has succeeded, but {missing}: it is not taken over")
        return {raw.name for raw in usable if raw.state.name == SUCCEEDED}


def listed(vertex: Vertex, kind: str, label: str | None = None, most: int | None = None) -> list[Any]:
    """Our jobs of a kind as the client has them, or those of one key's label; the service lists the newest first."""
    method = vertex.jobs.list_custom_jobs if kind == CUSTOM else vertex.jobs.list_hyperparameter_tuning_jobs
    condition = f'labels.{KEY_LABEL}="{label}"' if label else f"labels.{KEY_LABEL}:*"
    what = f"listing the jobs of {vertex.parent}"
    try:
        raws = call_list(method, {"parent": vertex.parent, "filter": condition}, what, most)
    except UsageError:
        # The service's page on filters shows no key with a hyphen. Without a filter it has no reason to refuse.
        raws = call_list(method, {"parent": vertex.parent}, what, _MOST_UNFILTERED)
    ours = [raw for raw in raws if KEY_LABEL in raw.labels]
    return [raw for raw in ours if label in (None, raw.labels[KEY_LABEL])][:most]


def get(name: str, api_endpoint: str | None = None) -> Job:
    """A job of either kind by its full name.

    Raises:
      UsageError: there is none.
    """
    return job_of(raw(name, api_endpoint))


def raw(name: str, api_endpoint: str | None = None, argument: str = "the name") -> Any:
    """A job as the client has it, with a tuning job's trials; ``argument``: what gave its name."""
    kind = kind_of(name, argument)
    jobs = Vertex.of(name, api_endpoint).jobs
    method = {CUSTOM: jobs.get_custom_job, TUNING: jobs.get_hyperparameter_tuning_job}[kind]
    return call(method, {"name": name}, f"the job {name}")  # type: ignore[arg-type]


def cancel(name: str, api_endpoint: str | None = None) -> None:
    """Asks for a job's end; one that has ended stays as it is."""
    kind = kind_of(name)
    jobs = Vertex.of(name, api_endpoint).jobs
    method = {CUSTOM: jobs.cancel_custom_job, TUNING: jobs.cancel_hyperparameter_tuning_job}[kind]
    if get(name, api_endpoint).is_active:
        call(method, {"name": name}, f"cancelling the job {name}")


def kind_of(name: str, argument: str = "the name") -> str:
    """Which kind of job a full name is of; ``argument``: what gave it.

    Raises:
      UsageError: it is no job's.
    """
    kind = vertex_client.parts(name, argument)["kind"]
    if kind not in (CUSTOM, TUNING) or "@" in name:
        raise rejected(argument, name, f"projects/PROJECT/locations/REGION/{CUSTOM} or {TUNING}/NUMBER")
    return kind


def job_of(raw: Any) -> Job:
    """What the client has, in our words."""
    at = next((time for time in (raw.end_time, raw.start_time, raw.create_time) if time), None)
    since = at.astimezone(datetime.UTC).isoformat(timespec="seconds") if at else ""
    return Job(
        raw.name, raw.state.name, page_of(raw.name), " ".join(raw.error.message.split()), raw.display_name, since
    )


def page_of(name: str) -> str:
    """The console's page of a job."""
    found = vertex_client.parts(name)
    place = f"https://console.cloud.google.com/agent-platform/locations/{found['region']}/training"
    return f"{place}/{found['id']}?project={found['project']}"


def job_spec(request: JobRequest, tail: Sequence[str] = (), extra: Sequence[str] = ()) -> dict[str, Any]:
    """A CustomJobSpec of one machine.

    Args:
      tail: words of shell behind the module's arguments, whose variables the job's machine knows.
      extra: more arguments, before those that a tuning job appends.
    """
    command, arguments = container(request, tail)
    shipped = {vertex_adoption.PACKAGE_VARIABLE: request.package} if request.package else {}
    environment = {**request.environment, **shipped}
    pool = {
        "machine_spec": _machine(request),
        "replica_count": 1,
        "disk_spec": {"boot_disk_size_gb": request.disk_gb},
        "container_spec": {
            "image_uri": request.image,
            "command": command,
            "args": [*arguments, *extra],
            "env": [{"name": name, "value": value} for name, value in environment.items()],
        },
    }
    given = {"service_account": request.service_account, "network": request.network}
    return {
        "worker_pool_specs": [pool],
        "scheduling": {"timeout": datetime.timedelta(hours=request.timeout_hours)},
        **{name: value for name, value in given.items() if value},
    }


def container(request: JobRequest, tail: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Command and arguments of the job's container."""
    if not request.package and not tail:
        return ["python", "-m", request.module], list(request.arguments)
    run = " ".join(['exec python -m "$0" "$@"', *tail])
    script = (_INSTALL if request.package else "") + run
    return ["sh", "-c", script, request.module], list(request.arguments)


def _machine(request: JobRequest) -> dict[str, Any]:
    machine: dict[str, Any] = {"machine_type": request.machine_type}
    if request.accelerator_type:
        from google.cloud.aiplatform_v1 import AcceleratorType

        if request.accelerator_type not in AcceleratorType.__members__:
            accepted = ", ".join(name for name in AcceleratorType.__members__ if name.startswith("NVIDIA"))
            raise rejected("--accelerator_type", request.accelerator_type, accepted)
        machine["accelerator_type"] = AcceleratorType.__members__[request.accelerator_type]
        machine["accelerator_count"] = request.accelerator_count
    return machine
