"""What a DAG run does, from its parameters and its own date: steps as JSON, which tasks hand to each other.

Pure: nothing here opens a connection, reads a clock or needs Airflow.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from orchestration.deployment import DATE, YESTERDAY, Deployment
from orchestration.steps import BuildTrainDeploy, PredictServe, PrepareOrders, Step, registry_name, training_cutoffs
from transforms.errors import UsageError

StepJson = dict[str, Any]
"""A ``Step``'s fields, its ``arguments`` as a list, and its ``parameters``."""

MODELS = ("auto", "blend", "ziln", "boosting", "pareto", "mbgnbd", "bgnbd")  # trainer.task's, which DAGs do not import
# pipelines.publish's, which they do not import either.
GUARDS = ("dead_letters", "missing", "zeros", "customers", "total_value", "as_of", "model_version")
WHEN_DUE, ALWAYS = "when due", "always"
AUTO, NEVER = "when newest", "never"
_MOST_CHARACTERS = 63  # of a model's id at Vertex AI
_DATE = {"type": ["null", "string"], "format": "date"}
_DAYS = {"minimum": 1, "maximum": 36500}
_OVERRIDE = f"({'|'.join(GUARDS)})= *[^; ][^;]*"


def build_parameters(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """The parameters of build_train_deploy: a JSON schema each, with ``default`` and ``description``."""
    forecast = deployment.forecast
    return {
        "date": {
            "default": None, **_DATE,
            "description": "the run's day: orders before it are learned from (default: the day it is scheduled for)",
        },
        "train": {
            "default": WHEN_DUE, "type": "string", "enum": [WHEN_DUE, ALWAYS],
            "description": f"every {deployment.schedule.train_every_days} days or after enough new orders; or in any case",
        },
        "model": {
            "default": forecast.model, "type": "string", "enum": list(MODELS), "description": "trainer.task --model",
        },
        "cutoff": {
            "default": None, **_DATE,
            "description": "evaluation cutoff: judged on the horizon after it (default: the date minus the horizon)",
        },
        "horizon_days": {
            "default": forecast.horizon_days, "type": "integer", **_DAYS, "description": "how far ahead to forecast",
        },
        "history_days": {
            "default": forecast.history_days, "type": ["null", "integer"], **_DAYS,
            "description": "how far back features look (default: all history)",
        },
        "training_snapshots": {
            "default": forecast.training_snapshots, "type": "integer", "minimum": 1, "maximum": 100,
            "description": "at most this many training cutoffs, a month apart",
        },
        "dataset": {
            "default": deployment.dataset, "type": "string", "pattern": r"^[a-z][a-z0-9-]{4,28}[a-z0-9]\.[A-Za-z0-9_]+$",
            "description": "PROJECT.DATASET of orders and features",
        },
        "seed": {"default": 0, "type": "integer", "minimum": 0, "maximum": 2**31 - 1, "description": "of the training"},
    }  # fmt: skip


def serve_parameters(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """The parameters of predict_serve, as ``build_parameters``."""
    forecast = deployment.forecast
    return {
        "as_of": {
            "default": None, **_DATE,
            "description": "the predictions' date: orders before it are seen (default: the day it is scheduled for)",
        },
        "model_version": {
            "default": None, "type": ["null", "string"], "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
            "description": "a registered version (default: the champion of the run's own time)",
        },
        "horizon_days": {
            "default": forecast.horizon_days, "type": "integer", **_DAYS,
            "description": "whose registry: champions of one horizon are compared with each other",
        },
        "history_days": {
            "default": forecast.history_days, "type": ["null", "integer"], **_DAYS, "description": "the same",
        },
        "dataset": build_parameters(deployment)["dataset"],
        "publish": {
            "default": AUTO, "type": "string", "enum": [AUTO, ALWAYS, NEVER],
            "description": "to the serving store: where nothing newer is served, in any case (a guard may still trip), or not",
        },
        "override": {
            "default": "", "type": "string", "pattern": f"^({_OVERRIDE}(; *{_OVERRIDE})*)?$",
            "description": "GUARD=REASON, several separated by ; (pipelines.publish --override)",
        },
    }  # fmt: skip


def run_key(dag_id: str, run_id: str) -> str:
    """Eight characters that tell one run's directory from another's of the same day; a repeated task finds its own."""
    return hashlib.sha256(f"{dag_id}/{run_id}".encode()).hexdigest()[:8]


def prepare(deployment: Deployment, params: Mapping[str, Any], day: datetime.date) -> dict[str, StepJson]:
    """create_dataset, load_orders and clean_orders; empty where the orders' table is filled by somebody else."""
    orders = deployment.orders
    if orders.files is None:
        return {}
    files = orders.files.replace(DATE, str(day)).replace(YESTERDAY, str(day - datetime.timedelta(days=1)))
    columns = ("--columns", orders.columns) if orders.columns else ()
    location = ("--location", orders.location) if orders.location else ()
    more = (*columns, *location, "--project", deployment.project)
    return {step.name: step_json(step) for step in PrepareOrders(files, params["dataset"], day, more).steps()}


def training_due(deployment: Deployment, params: Mapping[str, Any], day: datetime.date) -> StepJson:
    """The check whether to train: a command that prints what it found."""
    schedule = deployment.schedule
    after = ("--after_new_orders", str(schedule.train_after_new_orders)) if schedule.train_after_new_orders else ()
    arguments = (
        "--orders_table", _orders_table(deployment, params), "--registry", registry(deployment, params), "--on", str(day),
        "--every_days", str(schedule.train_every_days), *after, "--horizon_days", str(params["horizon_days"]),
        "--project", deployment.project,
    )  # fmt: skip
    return step_json(Step("training_due", "orchestration.training_due", arguments, ""))


def build(
    deployment: Deployment, params: Mapping[str, Any], day: datetime.date, run: str, found: Mapping[str, Any]
) -> dict[str, Any]:
    """The steps of a training.

    Args:
      run: what sets this run's directory apart, see ``run_key``.
      found: what the check found: ``first_day`` of the orders and ``snapshot_time``.

    Returns:
      {"first": features of the snapshot that is analysed, "others": features of the other snapshots, "train", "gate",
      "report": steps; "decision": the gate's file}.

    Raises:
      UsageError: the history is too short for the horizon.
    """
    horizon = params["horizon_days"]
    cutoff = _date(params["cutoff"]) or day - datetime.timedelta(days=horizon)
    first_day = datetime.date.fromisoformat(found["first_day"])
    if not first_day < cutoff <= day - datetime.timedelta(days=horizon):
        raise UsageError(
            f"cutoff {cutoff} with horizon_days {horizon} on {day} is not usable: accepted is a day after the first "
            f"order's, {first_day}, and {horizon} days or more before the run's"
        )
    cycle = BuildTrainDeploy(
        orders=_orders(deployment, params, found["snapshot_time"]),
        cutoff=cutoff,
        horizon_days=horizon,
        history_days=params["history_days"],
        training_cutoffs=training_cutoffs(first_day, cutoff, horizon, params["training_snapshots"]),
        directory=directory(deployment, day, run),
        registry=registry(deployment, params),
        data_schema=deployment.inside("data_schema.pbtxt"),
        train=("--model", params["model"], "--seed", str(params["seed"])),
        by=f"build_train_deploy-{day}",
        features_table=f"{params['dataset']}.features",
    )
    first, *others = map(step_json, cycle.features_steps())
    steps = {"train": cycle.train_step(), "gate": cycle.gate_step(), "report": cycle.report_step()}
    return {
        "first": first, "others": others, "decision": cycle.gate,
        **{name: step_json(step) for name, step in steps.items()},
    }  # fmt: skip


def deploy(deployment: Deployment, params: Mapping[str, Any]) -> StepJson:
    arguments = (
        "deploy", "--registry", registry(deployment, params), "--project", deployment.project,
        "--region", deployment.region, "--model_id", _model_id(deployment, params),
    )  # fmt: skip
    return step_json(Step("deploy", "trainer.vertex", arguments, registry(deployment, params)))


def serve(
    deployment: Deployment, params: Mapping[str, Any], day: datetime.date, run: str, model: str
) -> dict[str, Any]:
    """The steps of a forecast by the model in a directory: {"predict", "report", "publish"}."""
    override = {"override": params["override"]} if params["override"] else {}
    cycle = PredictServe(
        orders=_orders(deployment, params, None),
        as_of=day,
        model=model,
        directory=directory(deployment, day, run),
        data_schema=deployment.inside("data_schema.pbtxt"),
        publish=(
            "--serving", deployment.serving.store, "--bigquery_table", deployment.predictions_table,
            "--staging", deployment.inside("staging"), "--registry", registry(deployment, params),
        ),
        dead_letters=deployment.inside("dead_letters"),
    )  # fmt: skip
    publish = step_json(cycle.publish_step())
    publish["parameters"] |= {**deployment.serving.options, **override}
    return {
        "predict": step_json(cycle.predict_step()),
        "report": step_json(cycle.report_step()),
        "publish": publish,
    }


def directory(deployment: Deployment, day: datetime.date, run: str) -> str:
    """Where a run keeps what it makes."""
    return deployment.inside("runs", f"{day}-{run}")


def registry(deployment: Deployment, params: Mapping[str, Any]) -> str:
    """The registry of the run's horizon and history; a run on other orders has one of its own."""
    name = registry_name(params["horizon_days"], params["history_days"])
    if params["dataset"] == deployment.dataset:
        return deployment.inside("registry", name)
    return deployment.inside("registry", params["dataset"], name)


def is_default_registry(deployment: Deployment, params: Mapping[str, Any]) -> bool:
    """Whether the champion of such a run is the one that predict_serve forecasts with by itself."""
    forecast = deployment.forecast
    default = {
        "horizon_days": forecast.horizon_days,
        "history_days": forecast.history_days,
        "dataset": deployment.dataset,
    }
    return registry(deployment, params) == registry(deployment, default)


def step_json(step: Step) -> StepJson:
    parameters = step.parameters if step.module.startswith("pipelines.") else {}
    return {**dataclasses.asdict(step), "arguments": list(step.arguments), "parameters": parameters}


def _model_id(deployment: Deployment, params: Mapping[str, Any]) -> str:
    """Vertex AI's model of a registry: one alias ``champion`` each."""
    place = registry(deployment, params).removeprefix(deployment.inside("registry", ""))
    name = "clv-" + re.sub("[^a-z0-9]", "-", place.lower())
    unique = hashlib.sha256(place.encode()).hexdigest()[:8]
    return name if len(name) <= _MOST_CHARACTERS else f"{name[: _MOST_CHARACTERS - 9]}-{unique}"


def _orders_table(deployment: Deployment, params: Mapping[str, Any]) -> str:
    return f"bigquery://{deployment.orders.table or params['dataset'] + '.orders'}"


def _orders(deployment: Deployment, params: Mapping[str, Any], snapshot_time: str | None) -> tuple[str, ...]:
    # Foreign names are those of the files where those are loaded: the table made from them has ours.
    columns = ("--columns", deployment.orders.columns) if deployment.orders.table and deployment.orders.columns else ()
    pinned = ("--snapshot_time", snapshot_time) if snapshot_time else ()
    quiet = ("--quiet_days", str(deployment.orders.quiet_days))
    return ("--orders", _orders_table(deployment, params), *columns, *pinned, *quiet)


def _date(text: str | None) -> datetime.date | None:
    return datetime.date.fromisoformat(text) if text else None
