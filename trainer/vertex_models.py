"""Vertex AI's Model Registry made to agree with ours: our champion is uploaded, and the alias ``champion`` moved to it.

Our registry decides (trainer.registry, and the gate of its promote); Vertex AI's follows. A version of ours is found in
there by an alias that names it, so that one that is there already, or whose upload's answer was lost, is taken over.
Whoever moves the alias looks at our registry again afterwards, so that of several at once the last leaves both alike.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer import vertex_client
from trainer.predictor import NETWORK
from trainer.registry_store import Registry
from trainer.vertex_client import Vertex, call, is_lost, spoken
from transforms import storage
from transforms.cli import say
from transforms.errors import JobFailed, UsageError, one_line, rejected

CHAMPION = "champion"
DEFAULT_MODEL_ID = "clv"
# The newest of Google's prebuilt TensorFlow containers that is known here.
PREBUILT = "vertex-ai/prediction/tf2-cpu.2-15:latest"
# Copying a model of some megabytes takes a minute or two.
UPLOAD_SECONDS = 1800.0
# An upload whose answer was lost is not seen before it is done. So long one is looked for that would do no harm to send
# again, or has hardly been begun; every other as long as an upload may take.
LOST_UPLOAD_SECONDS = 120.0
POLL_SECONDS = 5.0
_MOST_ROUNDS = 10
_UNKNOWN = 2  # of google.rpc.Code
_MOST_DESCRIPTION = 256
# Below what ``content`` has uploaded.
_ARTIFACT = re.compile(rf"(?P<registry>gs://.+?)/models/[^/]+(?:/{NETWORK})?/?")
_ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]")
_MODEL_ID = re.compile(r"[a-z_][a-z0-9_-]{0,62}")


@dataclass(frozen=True)
class Deployment:
    """Where to deploy, and how a version is uploaded; ``registry``: ours, None where only Vertex AI's is looked at."""

    vertex: Vertex
    registry: str | None
    model_id: str = DEFAULT_MODEL_ID
    serving_image: str | None = None
    service_account: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.registry is not None and not self.registry.startswith("gs://"):
            raise rejected("--registry", self.registry, "gs://bucket/directory: Vertex AI reads the model from there")
        if not _MODEL_ID.fullmatch(self.model_id):
            accepted = "at most 63 lower-case letters, digits, _ and -, the first a letter or _"
            raise rejected("--model_id", self.model_id, accepted)
        vertex_client.checked_labels(list(self.labels.items()))

    @property
    def own_registry(self) -> Registry:
        if self.registry is None:
            raise UsageError("--registry is missing: accepted is gs://bucket/directory")
        return Registry(self.registry)

    @property
    def model(self) -> str:
        """The model's full name at Vertex AI."""
        return f"{self.vertex.parent}/models/{self.model_id}"

    @property
    def prebuilt(self) -> str:
        """Google's own container."""
        # Google keeps its containers in three places; the nearest one.
        first = self.vertex.region.split("-")[0]
        return f"{first if first in ('europe', 'asia') else 'us'}-docker.pkg.dev/{PREBUILT}"


def alias_of(version: str) -> str:
    """The alias that names a version of ours: itself, where Vertex AI takes it."""
    if _ALIAS.fullmatch(version) and version not in (CHAMPION, "default"):
        return version
    return f"clv-{hashlib.sha256(version.encode()).hexdigest()[:16]}"


def deploy(deployment: Deployment) -> dict[str, Any]:
    """Makes Vertex AI's alias ``champion`` the champion of our registry. Again, it does nothing.

    Returns:
      version, vertex_version, alias, model (its full name), metrics of the champion, moved: whether this call moved it.

    Raises:
      UsageError: the registry has no champion, the alias is another registry's, or Vertex AI refuses the model.
      JobFailed: not allowed, Vertex AI does not answer, or something moves the champion all the time.
    """
    registry = deployment.own_registry
    moved = False
    for _ in range(_MOST_ROUNDS):
        version = registry.champion_at().version
        entry = registry.entry(version)
        require_own(deployment)
        uploaded = _version(deployment, registry, entry)
        moved = _point(deployment, uploaded) or moved
        if registry.champion_at().version == version and _is_still(deployment, version, uploaded):
            return {
                "version": version, "vertex_version": uploaded.version_id, "alias": CHAMPION, "model": deployment.model,
                "metrics": entry["metrics"], "moved": moved,
            }  # fmt: skip
        say(f"{version} was replaced meanwhile, here or there: once more")
    raise JobFailed(
        f"the champions of {deployment.registry} and {deployment.model} were moved {_MOST_ROUNDS} times meanwhile, and "
        "may differ: run it again"
    )


def _is_still(deployment: Deployment, version: str, uploaded: Any) -> bool:
    """Whether a version's two aliases are where they were: others upload and move them too, and the last has them."""
    now = [find(deployment, alias) for alias in (alias_of(version), CHAMPION)]
    return all(each is not None and each.version_id == uploaded.version_id for each in now)


def require_own(deployment: Deployment) -> Any | None:
    """The version at Vertex AI that is champion, None where none is.

    Raises:
      UsageError: it is a model of another registry, with which this one would fight over the alias.
    """
    now = find(deployment, CHAMPION)
    other = None if now is None else other_registry(deployment, now.artifact_uri)
    if other is None:
        return now
    raise UsageError(
        f"--model_id {deployment.model_id!r} has a champion of {other}, and this is --registry {deployment.registry}: "
        "accepted is a --model_id for each registry"
    )


def other_registry(deployment: Deployment, artifact: str) -> str | None:
    """The registry below which a version's artifact lies, where that is another than ours."""
    ours = (deployment.registry or "").rstrip("/")
    found = _ARTIFACT.fullmatch(artifact)
    return None if not found or artifact.startswith(f"{ours}/models/") else found["registry"]


def find(deployment: Deployment, alias: str) -> Any | None:
    """The version at Vertex AI that has an alias; None where there is none."""
    return _get(deployment, f"{deployment.model}@{alias}")


def _get(deployment: Deployment, name: str) -> Any | None:
    from google.api_core.exceptions import NotFound

    what = f"the model {name}"
    request = {"name": name}
    method = deployment.vertex.models.get_model
    with spoken(what):
        try:
            return vertex_client.again(
                lambda: method(request=request, retry=None, timeout=vertex_client.CALL_SECONDS), what
            )
        except NotFound:
            return None


def versions(deployment: Deployment) -> list[Any]:
    """All versions at Vertex AI, as the client has them; none where there is no such model."""
    if not _exists(deployment):
        return []
    method = deployment.vertex.models.list_model_versions
    return vertex_client.call_list(method, {"name": deployment.model}, f"the versions of {deployment.model}")


def _point(deployment: Deployment, uploaded: Any) -> bool:
    """Moves the alias where it is elsewhere, and says whether."""
    now = require_own(deployment)
    if now is not None and now.version_id == uploaded.version_id:
        return False
    request = {"name": f"{deployment.model}@{uploaded.version_id}", "version_aliases": [CHAMPION]}
    what = f"moving the alias {CHAMPION} of {deployment.model}"
    call(deployment.vertex.models.merge_version_aliases, request, what)
    was = f"version {now.version_id}" if now is not None else "none"
    say(f"{deployment.model}: {CHAMPION} is version {uploaded.version_id}, instead of {was}")
    return True


def _version(deployment: Deployment, registry: Registry, entry: Mapping[str, Any]) -> Any:
    """The version at Vertex AI of a version of ours, uploaded where it is not there."""
    alias = alias_of(entry["model_version"])
    what = f"uploading {entry['model_version']} to {deployment.model}"
    with spoken(what):
        if (found := find(deployment, alias)) is not None:
            return found
        for pause in vertex_client.pauses():
            seconds = _try_to_upload(deployment, registry, entry, what, pause)
            if (found := _appears(deployment, alias, seconds)) is not None:
                return found
    raise AssertionError("the last attempt raises")


def _try_to_upload(
    deployment: Deployment, registry: Registry, entry: Mapping[str, Any], what: str, pause: float | None
) -> float:
    """Uploads a version; for how many seconds it is to be looked for then. ``pause``: None in the last attempt."""
    from google.api_core.exceptions import Conflict

    is_first, lost = not _exists(deployment), 0.0
    failed: Exception | None
    try:
        failed = _upload(deployment, registry, entry, what, is_first)
    except Exception as error:
        failed, lost = error, _lost_seconds(error, is_first)
    if failed is None:
        return LOST_UPLOAD_SECONDS
    # Another deployment may have made the model a moment ago.
    if pause is None or not (vertex_client.is_passing(failed) or isinstance(failed, Conflict)):
        raise failed
    say(f"{what}: looking for {lost or pause:.0f} s at most whether it was done, after: {vertex_client.text(failed)}")
    return lost or pause


def _lost_seconds(error: Exception, is_first: bool) -> float:
    """How long an upload may go on that ended here with an error; 0 where it was not begun."""
    from google.api_core.exceptions import InternalServerError

    if not is_lost(error):
        return 0.0
    # While a model's first version is uploaded a second first one is refused; and a 500 is an answer.
    return LOST_UPLOAD_SECONDS if is_first or isinstance(error, InternalServerError) else UPLOAD_SECONDS


def _appears(deployment: Deployment, alias: str, seconds: float) -> Any | None:
    """The version with this alias, as soon as it is there within so many seconds."""
    deadline = time.monotonic() + seconds
    while (found := find(deployment, alias)) is None and time.monotonic() < deadline:
        time.sleep(min(POLL_SECONDS, seconds))
    return found


def _upload(
    deployment: Deployment, registry: Registry, entry: Mapping[str, Any], what: str, is_first: bool
) -> Exception | None:
    """Uploads a version and waits until it is there; what Vertex AI says where it carried out none of it."""
    place = {"model_id": deployment.model_id} if is_first else {"parent_model": deployment.model}
    request: dict[str, Any] = {
        "parent": deployment.vertex.parent, **place, "model": content(deployment, registry, entry),
    }  # fmt: skip
    if deployment.service_account:
        request["service_account"] = deployment.service_account
    say(f"{what}: {request['model']['artifact_uri']}")
    upload: Any = deployment.vertex.models.upload_model
    uploading = upload(request=request, retry=None, timeout=vertex_client.CALL_SECONDS)
    return _wait(deployment.vertex, uploading.operation.name, what)


def content(deployment: Deployment, registry: Registry, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The version as Vertex AI is given it: the network, which TensorFlow Serving loads, or all of a model that has none."""
    directory = registry.model_directory(entry["model_version"])
    network = storage.join(directory, NETWORK)
    has_network = storage.exists(storage.join(network, "saved_model.pb"))
    # Google's container refuses what is no SavedModel; a version without one is there for the record.
    image = deployment.serving_image or (deployment.prebuilt if has_network else None)
    return {
        "display_name": deployment.model_id,
        "version_aliases": [alias_of(entry["model_version"])],
        "version_description": f"{entry['model_version']}: {entry['verdict']}"[:_MOST_DESCRIPTION],
        "artifact_uri": network if has_network else directory,
        "labels": dict(deployment.labels),
        **({"container_spec": {"image_uri": image}} if image else {}),
    }


def _wait(vertex: Vertex, operation: str, what: str) -> Exception | None:
    """Waits for an operation's end; its error as the exception that a call with this status would raise."""
    from google.api_core.exceptions import from_grpc_status

    deadline, pause = time.monotonic() + UPLOAD_SECONDS, 0.5
    while not (now := vertex_client.again(lambda: vertex.operation(operation), what)).get("done"):
        if time.monotonic() > deadline:
            raise JobFailed(f"{what}: not done after {UPLOAD_SECONDS:.0f} s; the same command goes on: {operation}")
        time.sleep(pause)
        pause = min(pause * 2, POLL_SECONDS)
    if "error" not in now:
        return None
    status = now["error"]
    error: Exception = from_grpc_status(status.get("code", _UNKNOWN), one_line(status.get("message", "")))  # type: ignore[no-untyped-call]
    return error


def _exists(deployment: Deployment) -> bool:
    return _get(deployment, deployment.model) is not None
