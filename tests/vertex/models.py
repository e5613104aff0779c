"""The Model Registry: models, their numbered versions, and the aliases that name versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.dataflow.discovery import Refused
from tests.vertex import rules
from tests.vertex.resources import canonical, invalid, new_id, not_found, now

DEFAULT = "default"
Resource = dict[str, Any]


@dataclass
class ModelRecord:
    """A model: its versions by their numbers. A number is never given twice."""

    name: str
    created: str = field(default_factory=now)
    versions: dict[str, Resource] = field(default_factory=dict)
    last: int = 0

    def add(self, content: Mapping[str, Any]) -> str:
        """A version, the first one and one with the alias ``default`` being the default; its number."""
        self.last += 1
        number, time = str(self.last), now()
        self.versions[number] = {
            **content, "name": self.name, "versionId": number, "versionAliases": [], "createTime": self.created,
            "updateTime": time, "versionCreateTime": time, "versionUpdateTime": time,
        }  # fmt: skip
        first = [DEFAULT] if len(self.versions) == 1 else []
        for alias in dict.fromkeys([*first, *content.get("versionAliases", [])]):
            self.move(alias, number)
        return number

    def move(self, alias: str, number: str) -> None:
        for version in self.versions.values():
            if alias in version["versionAliases"]:
                version["versionAliases"] = [other for other in version["versionAliases"] if other != alias]
        # In no order that means anything, says the document: not the one they came in.
        self.versions[number]["versionAliases"] = sorted([*self.versions[number]["versionAliases"], alias])

    def version(self, wanted: str) -> Resource:
        """By number or alias.

        Raises:
          Refused: there is none (404).
        """
        for number, version in self.versions.items():
            if wanted == number or wanted in version["versionAliases"]:
                return version
        raise not_found("Model version", f"{self.name}@{wanted}")


class Models:
    """All models. Methods take full names with the project's number and raise Refused as the service would.

    Args:
      require_artifacts: refuses a model whose files are not those its container needs.
    """

    def __init__(self, require_artifacts: Callable[[Mapping[str, Any]], None]) -> None:
        self._require_artifacts = require_artifacts
        self.records: dict[str, ModelRecord] = {}
        self._reserved: set[str] = set()

    def begin_upload(self, parent: str, content: Mapping[str, Any]) -> tuple[str, Callable[[], Resource]]:
        """Checks an upload: the name of the model it goes to, and what carries it out."""
        model, model_id, above = content.get("model", {}), content.get("modelId", ""), content.get("parentModel", "")
        rules.require_model(model)
        self._require_artifacts(model)
        if above:
            name = canonical(above)
            if model_id:
                raise invalid("model_id is for a new model, parent_model for a new version: both were given")
            if not name.startswith(f"{parent}/models/") or "@" in name:
                raise invalid(f"parent_model {above!r} is not a model of {parent}")
            self.find(name)
        else:
            if model_id:
                rules.require_model_id(model_id)
            name = f"{parent}/models/{model_id or new_id()}"
            if name in self.records or name in self._reserved:
                raise Refused(409, "ALREADY_EXISTS", f"Model {name} already exists.")
            self._reserved.add(name)
        return name, lambda: self._upload(name, model, bool(above))

    def _upload(self, name: str, model: Mapping[str, Any], is_version: bool) -> Resource:
        self._reserved.discard(name)
        record = self.find(name) if is_version else self.records.setdefault(name, ModelRecord(name))
        number = record.add(model)
        answer = {"model": name, "modelVersionId": number}
        return {"@type": "type.googleapis.com/google.cloud.aiplatform.v1.UploadModelResponse", **answer}

    def find(self, name: str) -> ModelRecord:
        if name not in self.records:
            raise not_found("Model", name)
        return self.records[name]

    def get(self, name: str) -> Resource:
        """Of ``.../models/ID``, ``ID@3`` or ``ID@alias``; without one the default version."""
        model, _, version = name.partition("@")
        return self.find(model).version(version or DEFAULT)

    def newest_first(self, parent: str) -> list[Resource]:
        """Each model's default version."""
        found = [record for name, record in self.records.items() if name.startswith(f"{parent}/")]
        return [record.version(DEFAULT) for record in reversed(found)]

    def versions(self, name: str) -> list[Resource]:
        """Newest first, each with its number in its name."""
        versions = self.find(name.partition("@")[0]).versions
        return [{**version, "name": f"{version['name']}@{number}"} for number, version in reversed(versions.items())]

    def merge_aliases(self, name: str, aliases: list[str]) -> Resource:
        """Moves aliases here and, with ``-`` before them, takes them away."""
        record, number = self._numbered(name)
        if not aliases:
            raise invalid("version_aliases is required")
        for alias in aliases:
            rules.require_alias(alias.removeprefix("-"))
        if f"-{DEFAULT}" in aliases:
            raise invalid(f"The alias {DEFAULT} cannot be removed: move it to another version instead.")
        # The document: one that is both added and removed stays where it is.
        unchanged = {alias for alias in aliases if f"-{alias}" in aliases}
        version = record.version(number)
        for alias in aliases:
            if alias.removeprefix("-") in unchanged:
                continue
            if alias.startswith("-"):
                version["versionAliases"] = [other for other in version["versionAliases"] if other != alias[1:]]
            else:
                record.move(alias, number)
        version["versionUpdateTime"] = now()
        return version

    def begin_delete(self, name: str) -> Callable[[], Resource]:
        if "@" in name:
            raise invalid(f"{name} names a version: use deleteVersion")
        self.find(name)
        return lambda: self._delete(name)

    def _delete(self, name: str) -> Resource:
        self.records.pop(name, None)
        return {"@type": "type.googleapis.com/google.protobuf.Empty"}

    def begin_delete_version(self, name: str) -> Callable[[], Resource]:
        record, number = self._numbered(name)
        if len(record.versions) == 1:
            raise Refused(400, "FAILED_PRECONDITION", f"{name} is the only version: delete the model instead.")
        return lambda: self._delete_version(record, number)

    def _delete_version(self, record: ModelRecord, number: str) -> Resource:
        record.version(number)
        gone = record.versions.pop(number)
        if DEFAULT in gone["versionAliases"]:  # the service gives it to the newest that is left
            record.move(DEFAULT, max(record.versions, key=int))
        return {"@type": "type.googleapis.com/google.protobuf.Empty"}

    def _numbered(self, name: str) -> tuple[ModelRecord, str]:
        model, _, number = name.partition("@")
        if not number.isdigit():
            raise invalid(f"{name} must name a version by its number, such as {model}@1")
        record = self.find(model)
        record.version(number)
        return record, number
