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
from trainer.vertex_client import Vertex, call, is_lost, say, spoken
from transforms import storage
from transforms.errors import JobFailed, UsageError, one_line, rejected

CHAMPION = "champion"
DEFAULT_MODEL_ID = "clv"
# The newest of Google's prebuilt TensorFlow containers that is known here.
PREBUILT = "vertex-ai/prediction/tf2-cpu.2-15:latest"
# Copying a model of some megabytes takes a minute or two.
UPLOAD_SECONDS = 1800.0
# An upload whose answer was lost is not seen before it is done.
LOST_UPLOAD_SECONDS = 120.0
POLL_SECONDS = 5.0
_MOST_ROUNDS = 10
_MOST_DESCRIPTION = 256
_ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]")
_MODEL_ID = re.compile(r"[a-z_][a-z0-9_-]{0,62}")


@dataclass(frozen=True)
class Deployment:
    """Where to deploy, and how a version is uploaded."""

    vertex: Vertex
    registry: str
    model_id: str = DEFAULT_MODEL_ID
    serving_image: str | None = None
    service_account: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.registry.startswith("gs://"):
            raise rejected("--registry", self.registry, "gs://bucket/directory: Vertex AI reads the model from there")
        if not _MODEL_ID.fullmatch(self.model_id):
            accepted = "at most 63 lower-case letters, digits, _ and -, the first a letter or _"
            raise rejected("--model_id", self.model_id, accepted)
        vertex_client.checked_labels(list(self.labels.items()))

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
      UsageError: the registry has no champion, or Vertex AI refuses the model.
      JobFailed: not allowed, or Vertex AI does not answer.
    """
    registry = Registry(deployment.registry)
    moved = False
    for _ in range(_MOST_ROUNDS):
        version = registry.champion_at().version
        entry = registry.entry(version)
        uploaded = _version(deployment, registry, entry)
        moved = _point(deployment, uploaded) or moved
        if registry.champion_at().version == version and _is_still(deployment, version, uploaded):
            return {
                "version": version, "vertex_version": uploaded.version_id, "alias": CHAMPION, "model": deployment.model,
                "metrics": entry["metrics"], "moved": moved,
            }  # fmt: skip
        say(f"{version} was replaced meanwhile: once more")
    raise JobFailed(f"the champion of {deployment.registry} changed {_MOST_ROUNDS} times meanwhile: run it again")


def _is_still(deployment: Deployment, version: str, uploaded: Any) -> bool:
    """Whether a version's alias is where it was: of two that upload it at once, the later one has it."""
    now = find(deployment, alias_of(version))
    return now is not None and now.version_id == uploaded.version_id


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
    now = find(deployment, CHAMPION)
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
            lost = _try_to_upload(deployment, registry, entry, what, is_last=pause is None)
            if (found := _appears(deployment, alias, LOST_UPLOAD_SECONDS if lost else pause or 0.0)) is not None:
                return found
    raise AssertionError("the last attempt raises")


def _try_to_upload(
    deployment: Deployment, registry: Registry, entry: Mapping[str, Any], what: str, is_last: bool
) -> bool:
    """Uploads a version; whether it was done, or may have been."""
    from google.api_core.exceptions import Conflict

    try:
        _upload(deployment, registry, entry, what)
        return True
    except Exception as error:
        # Another deployment may have made the model a moment ago.
        if is_last or not (vertex_client.is_passing(error) or isinstance(error, Conflict)):
            raise
        say(f"{what}: looking whether it was done, after: {vertex_client.text(error)}")
        return is_lost(error)


def _appears(deployment: Deployment, alias: str, seconds: float) -> Any | None:
    """The version with this alias, as soon as it is there within so many seconds."""
    deadline = time.monotonic() + seconds
    while (found := find(deployment, alias)) is None and time.monotonic() < deadline:
        time.sleep(min(POLL_SECONDS, seconds))
    return found


def _upload(deployment: Deployment, registry: Registry, entry: Mapping[str, Any], what: str) -> None:
    """Uploads a version and waits until it is there."""
    place = {"parent_model": deployment.model} if _exists(deployment) else {"model_id": deployment.model_id}
    request: dict[str, Any] = {
        "parent": deployment.vertex.parent, **place, "model": content(deployment, registry, entry),
    }  # fmt: skip
    if deployment.service_account:
        request["service_account"] = deployment.service_account
    say(f"{what}: {request['model']['artifact_uri']}")
    upload: Any = deployment.vertex.models.upload_model
    uploading = upload(request=request, retry=None, timeout=vertex_client.CALL_SECONDS)
    _wait(deployment.vertex, uploading.operation.name, what)


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


def _wait(vertex: Vertex, operation: str, what: str) -> None:
    deadline, pause = time.monotonic() + UPLOAD_SECONDS, 0.5
    while not (now := vertex_client.again(lambda: vertex.operation(operation), what)).get("done"):
        if time.monotonic() > deadline:
            raise JobFailed(f"{what}: not done after {UPLOAD_SECONDS:.0f} s; the same command goes on: {operation}")
        time.sleep(pause)
        pause = min(pause * 2, POLL_SECONDS)
    if "error" in now:
        raise UsageError(f"{what}: {one_line(now['error'].get('message', ''))}")


def _exists(deployment: Deployment) -> bool:
    return _get(deployment, deployment.model) is not None
