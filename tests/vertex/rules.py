"""What Vertex AI's document says in words only, and the service refuses requests by.

Every function takes content that the document's types were already checked for, and raises Refused (400).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.dataflow.discovery import Discovery, Refused
from tests.vertex.resources import invalid

Content = Mapping[str, Any]

_LONGEST_NAME = 128
_MOST_LABELS, _MOST_VARIABLES, _MOST_DISCRETE = 64, 100, 1000
# International letters are allowed too, but this project has no use for them.
_LABEL_KEY, _LABEL_VALUE = re.compile(r"[a-z][a-z0-9_-]{0,62}"), re.compile(r"[a-z0-9_-]{0,63}")
_ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]")
_MODEL_ID = re.compile(r"[a-z_][a-z0-9_-]{0,62}")
_NETWORK = re.compile(r"projects/[0-9]+/global/networks/[a-z][a-z0-9-]*")
_ACCOUNT = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPECS = ("doubleValueSpec", "integerValueSpec", "categoricalValueSpec", "discreteValueSpec")


def without_output(content: Content, schema: str, discovery: Discovery) -> dict[str, Any]:
    """The content without the fields that only the service sets: it ignores them."""
    described = discovery.document["schemas"][schema]["properties"]
    output = {name for name, each in described.items() if each.get("readOnly")}
    return {name: value for name, value in content.items() if name not in output | {"name", "error"}}


def require_named(content: Content, kind: str) -> None:
    name = content.get("displayName", "")
    if not name:
        raise invalid(f"{kind}.display_name is required")
    if len(name) > _LONGEST_NAME:
        raise invalid(f"{kind}.display_name has {len(name)} characters, accepted are up to {_LONGEST_NAME}")
    _require_labels(content.get("labels", {}))


def _require_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > _MOST_LABELS:
        raise invalid(f"{len(labels)} labels, accepted are up to {_MOST_LABELS}")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise invalid(f"invalid label {key}={value}")


def require_job_spec(spec: Content, path: str) -> None:
    pools = spec.get("workerPoolSpecs", [])
    if not pools or not pools[0]:
        raise invalid(f"{path}.worker_pool_specs is required")
    for index, pool in enumerate(pools):
        if pool:
            _require_pool(pool, f"{path}.worker_pool_specs[{index}]")
    if int(pools[0]["replicaCount"]) != 1:
        raise invalid(f"{path}.worker_pool_specs[0].replica_count must be 1: it is the primary replica's pool")
    output = spec.get("baseOutputDirectory")
    if output is not None:
        require_gcs(output.get("outputUriPrefix", ""), f"{path}.base_output_directory.output_uri_prefix")
    for name, rule in (("network", _NETWORK), ("serviceAccount", _ACCOUNT)):
        if spec.get(name) and not rule.fullmatch(spec[name]):
            raise invalid(f"{path}.{name} {spec[name]!r} does not match {rule.pattern}")
    timeout = spec.get("scheduling", {}).get("timeout")
    if timeout is not None and float(timeout[:-1]) <= 0:
        raise invalid(f"{path}.scheduling.timeout {timeout} must be positive")


def _require_pool(pool: Content, path: str) -> None:
    if int(pool.get("replicaCount", 0)) < 1:
        raise invalid(f"{path}.replica_count must be at least 1")
    machine = pool.get("machineSpec", {})
    if not machine.get("machineType"):
        raise invalid(f"{path}.machine_spec.machine_type is required")
    kind, count = machine.get("acceleratorType", "ACCELERATOR_TYPE_UNSPECIFIED"), machine.get("acceleratorCount", 0)
    if (kind != "ACCELERATOR_TYPE_UNSPECIFIED") != (count > 0):
        raise invalid(f"{path}.machine_spec: accelerator_type {kind} with accelerator_count {count}")
    if ("containerSpec" in pool) == ("pythonPackageSpec" in pool):
        raise invalid(f"{path} needs one of container_spec and python_package_spec")
    if "containerSpec" in pool:
        _require_container(pool["containerSpec"], f"{path}.container_spec")
        return
    package = pool["pythonPackageSpec"]
    for name in ("executorImageUri", "packageUris", "pythonModule"):
        if not package.get(name):
            raise invalid(f"{path}.python_package_spec.{name} is required")
    for uri in package["packageUris"]:
        require_gcs(uri, f"{path}.python_package_spec.package_uris")


def _require_container(container: Content, path: str) -> None:
    if not container.get("imageUri"):
        raise invalid(f"{path}.image_uri is required")
    variables = container.get("env", [])
    if len(variables) > _MOST_VARIABLES:
        raise invalid(f"{path}.env has {len(variables)} variables, accepted are up to {_MOST_VARIABLES}")
    for variable in variables:
        if not _VARIABLE.fullmatch(variable.get("name", "")):
            raise invalid(f"{path}.env: {variable.get('name', '')!r} is not a C identifier")
        if "value" not in variable:
            raise invalid(f"{path}.env: {variable['name']} has no value")


def require_gcs(uri: str, path: str) -> None:
    if not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/.*)?", uri):
        raise invalid(f"{path} {uri!r} is not a Cloud Storage URI")


def require_study(job: Content) -> None:
    study, most, at_once = job.get("studySpec", {}), job.get("maxTrialCount", 0), job.get("parallelTrialCount", 0)
    if most < 1:
        raise invalid(f"max_trial_count {most} must be at least 1")
    if not 1 <= at_once <= most:
        raise invalid(f"parallel_trial_count {at_once} must be between 1 and max_trial_count {most}")
    if study.get("algorithm") == "GRID_SEARCH" or job.get("studySpec", {}).get("studyStoppingConfig"):
        raise Refused(501, "UNIMPLEMENTED", "grid search and stopping conditions are not part of this stub")
    metrics, parameters = study.get("metrics", []), study.get("parameters", [])
    _require_ids([metric.get("metricId", "") for metric in metrics], "study_spec.metrics")
    for metric in metrics:
        if metric.get("goal", "GOAL_TYPE_UNSPECIFIED") == "GOAL_TYPE_UNSPECIFIED":
            raise invalid(f"study_spec.metrics: {metric['metricId']} has no goal")
    _require_ids([parameter.get("parameterId", "") for parameter in parameters], "study_spec.parameters")
    for parameter in parameters:
        _require_parameter(parameter, f"study_spec.parameters: {parameter['parameterId']}")


def _require_ids(ids: Sequence[str], path: str) -> None:
    if not ids:
        raise invalid(f"{path} is required")
    for each in ids:
        if not each or re.search(r"\s", each) or ids.count(each) > 1:
            raise invalid(f"{path}: id {each!r} is empty, has white space, or is there twice")


def _require_parameter(parameter: Content, path: str) -> None:
    if parameter.get("conditionalParameterSpecs"):
        raise Refused(501, "UNIMPLEMENTED", f"{path}: conditional parameters are not part of this stub")
    given = [name for name in _SPECS if name in parameter]
    if len(given) != 1:
        raise invalid(f"{path} needs one of {', '.join(_SPECS)}")
    spec = parameter[given[0]]
    if "defaultValue" in spec:
        raise invalid(f"{path}: default_value is not supported by a HyperparameterTuningJob")
    scale = parameter.get("scaleType", "SCALE_TYPE_UNSPECIFIED")
    if given[0] == "categoricalValueSpec":
        if not spec.get("values") or len(set(spec["values"])) < len(spec["values"]):
            raise invalid(f"{path}: categories are required, each once")
        if scale != "SCALE_TYPE_UNSPECIFIED":
            raise invalid(f"{path}: categories have no scale_type")
        return
    _require_range(spec, given[0], scale, path)


def _require_range(spec: Content, kind: str, scale: str, path: str) -> None:
    if kind == "discreteValueSpec":
        values = [float(value) for value in spec.get("values", [])]
        if not 1 <= len(values) <= _MOST_DISCRETE or sorted(set(values)) != values:
            raise invalid(f"{path}: values must be 1 to {_MOST_DISCRETE} in increasing order")
        low, high = values[0], values[-1]
    else:
        if "minValue" not in spec or "maxValue" not in spec:
            raise invalid(f"{path}: min_value and max_value are required")
        low, high = float(spec["minValue"]), float(spec["maxValue"])
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise invalid(f"{path}: min_value {low} is above max_value {high}")
    if "LOG" in scale and low <= 0:
        raise invalid(f"{path}: {scale} needs values above 0")


def require_model(model: Content) -> None:
    require_named(model, "model")
    if "artifactUri" in model:
        require_gcs(model["artifactUri"], "model.artifact_uri")
    if "containerSpec" in model and not model["containerSpec"].get("imageUri"):
        raise invalid("model.container_spec.image_uri is required")
    for alias in model.get("versionAliases", []):
        require_alias(alias)


def require_model_id(model_id: str) -> None:
    if not _MODEL_ID.fullmatch(model_id):
        raise invalid(f"model_id {model_id!r} does not match {_MODEL_ID.pattern}")


def require_alias(alias: str) -> None:
    if not _ALIAS.fullmatch(alias):
        raise invalid(f"version alias {alias!r} does not match {_ALIAS.pattern}")
