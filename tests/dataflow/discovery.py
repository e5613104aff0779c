"""Requests held against Google's own discovery document of an API: method, path, query and body."""

from __future__ import annotations

import base64
import binascii
import functools
import json
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.emulators.services import ENVIRONMENT, MAKE_COMMAND

Schema = dict[str, Any]

_FORMATS = {
    "int64": r"-?[0-9]{1,19}",
    "uint64": r"[0-9]{1,20}",
    "google-datetime": r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})",
    "google-duration": r"-?[0-9]+(\.[0-9]{1,9})?s",
}
_RANGES = {"int32": (-(2**31), 2**31 - 1), "uint32": (0, 2**32 - 1)}
# Every Google API takes it, though no document names it: Beam's client asks for enums as numbers by it.
_ENUMS_AS_NUMBERS = {"$alt": ["json;enum-encoding=int"]}


@dataclass(frozen=True)
class Call:
    """A request that matches a method: the method's id, its path's values, its query."""

    method: str
    path: dict[str, str]
    query: dict[str, str]


class Refused(Exception):
    """The request is not one of this API: what Google answers with this status."""

    def __init__(self, status: int, reason: str, message: str, details: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(message)
        self.status, self.reason, self.details = status, reason, details


def document_path(api: str) -> Path:
    """Where the discovery document of ``api``, such as ``dataflow.v1b3``, is installed.

    Raises:
      FileNotFoundError: the emulators' environment, which holds it, is not there.
    """
    pattern = f"lib/python3*/site-packages/googleapiclient/discovery_cache/documents/{api}.json"
    found = sorted(ENVIRONMENT.glob(pattern))
    if not found:
        raise FileNotFoundError(f"no discovery document of {api} in {ENVIRONMENT.name}: run `{MAKE_COMMAND}`")
    return found[0]


Numbers = Callable[[Sequence[str]], Mapping[int, str]]
"""The names of an enum -> its numbers, which clients may send and no document tells."""


def in_order(names: Sequence[str]) -> Mapping[int, str]:
    """Numbers without gaps, as Dataflow's are."""
    return dict(enumerate(names))


class Discovery:
    """One API as its document describes it.

    Args:
      numbers: of its enums.
    """

    def __init__(self, document: dict[str, Any], numbers: Numbers = in_order) -> None:
        self.document, self._numbers = document, numbers
        self._methods = list(_methods(document))

    @classmethod
    def load(cls, api: str, numbers: Numbers = in_order) -> Discovery:
        return cls(json.loads(document_path(api).read_text()), numbers)

    def call(self, verb: str, path: str, query: dict[str, list[str]]) -> Call:
        """Finds the method of a request.

        Raises:
          Refused: no method has this verb and path (404), or a parameter is unknown or wrong (400).
        """
        for method in self._methods:
            values = _path_pattern(method.get("flatPath", method["path"])).fullmatch(path.lstrip("/"))
            if values and method["httpMethod"] == verb:
                named = {name: urllib.parse.unquote(value) for name, value in values.groupdict().items()}
                return Call(method["id"], named, self._query(method, query))
        raise Refused(404, "NOT_FOUND", f"no method {verb} {path}")

    def _query(self, method: Schema, query: dict[str, list[str]]) -> dict[str, str]:
        known = {
            name: parameter
            for name, parameter in {**self.document["parameters"], **method.get("parameters", {})}.items()
            if parameter["location"] == "query"
        }
        values = {}
        for name, given in query.items():
            if _ENUMS_AS_NUMBERS.get(name) == given:
                continue
            if name not in known:
                raise Refused(400, "INVALID_ARGUMENT", f"unknown query parameter {name} of {method['id']}")
            for text in given:
                self._require(_of_query(text, known[name]), known[name], name)
            values[name] = given[-1]
        return values

    def body(self, method_id: str, content: Any) -> Any:
        """The checked body, its enums by name.

        Raises:
          Refused: a field is unknown, or its value is not of the field's type, enum or format.
        """
        method = next(method for method in self._methods if method["id"] == method_id)
        if "request" not in method:
            if content:
                raise Refused(400, "INVALID_ARGUMENT", f"{method_id} takes no body")
            return None
        return self._require(content, method["request"], "")

    def require(self, content: Any, schema: str) -> Any:
        """Content that came another way than as a request's body, checked as the schema of this name; as ``body``."""
        return self._require(content, {"$ref": schema}, "")

    def _require(self, value: Any, schema: Schema, path: str) -> Any:
        """The value with its enums by name."""
        if "$ref" in schema:
            schema = self.document["schemas"][schema["$ref"]]
        kind = schema["type"]
        if kind == "any":
            return value
        if kind == "object":
            return self._require_object(value, schema, path)
        if kind == "array":
            if not isinstance(value, list):
                raise _wrong(path, value, "an array")
            return [self._require(item, schema["items"], f"{path}[{index}]") for index, item in enumerate(value)]
        if "enum" in schema:
            return self._enum(value, schema["enum"], path)
        _require_scalar(value, schema, path)
        return value

    def _enum(self, value: Any, names: list[str], path: str) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            value = self._numbers(names).get(value, value)
        if value not in names:
            raise _wrong(path, value, "one of " + ", ".join(names))
        return str(value)

    def _require_object(self, value: Any, schema: Schema, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(path, value, "an object")
        properties = schema.get("properties", {})
        checked = {}
        for name, item in value.items():
            field = f"{path}.{name}".lstrip(".")
            described = properties.get(name, schema.get("additionalProperties"))
            if described is None:
                raise Refused(400, "INVALID_ARGUMENT", f"unknown field {field}")
            checked[name] = self._require(item, described, field)
        return checked


def _methods(resource: dict[str, Any]) -> Iterator[Schema]:
    yield from resource.get("methods", {}).values()
    for inner in resource.get("resources", {}).values():
        yield from _methods(inner)


# Vertex AI has over a thousand methods: their patterns are made once, not for every request.
@functools.cache
def _path_pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/:]+)", re.escape(template)))


def _of_query(text: str, parameter: Schema) -> Any:
    """A query's text as JSON would hold it, so that one check serves both."""
    if parameter["type"] == "boolean" and text in ("true", "false"):
        return text == "true"
    if (parameter["type"] in ("integer", "number") or "enum" in parameter) and re.fullmatch(r"-?[0-9]+", text):
        return int(text)
    return text


def _require_scalar(value: Any, schema: Schema, path: str) -> None:
    kind, form = schema["type"], schema.get("format")
    if kind == "string":
        # 64-bit numbers are text in JSON, though a number is taken too.
        if form in ("int64", "uint64") and isinstance(value, int) and not isinstance(value, bool):
            return
        if not isinstance(value, str):
            raise _wrong(path, value, "a string")
        if form in _FORMATS and not re.fullmatch(_FORMATS[form], value):
            raise _wrong(path, value, form)
        if form == "byte":
            try:
                base64.b64decode(value, validate=True)
            except binascii.Error:
                raise _wrong(path, value, "base64") from None
    elif kind == "boolean":
        if not isinstance(value, bool):
            raise _wrong(path, value, "true or false")
    elif isinstance(value, bool) or not isinstance(value, int if kind == "integer" else int | float):
        raise _wrong(path, value, kind)
    elif form in _RANGES and not _RANGES[form][0] <= value <= _RANGES[form][1]:
        raise _wrong(path, value, form)


def _wrong(path: str, value: Any, accepted: str) -> Refused:
    return Refused(
        400, "INVALID_ARGUMENT", f"invalid value at {path}: {json.dumps(value)[:200]}, accepted is {accepted}"
    )
