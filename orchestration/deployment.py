"""Where everything is in one cloud project, and when it runs: what both DAGs and ``make deploy`` read.

One TOML file, ``deployment.toml`` beside the packages, or where the variable CLV_DEPLOYMENT says;
orchestration/deployment.example.toml explains every setting. Reading it opens no connection.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestration import notify as notifications
from transforms.errors import UsageError, rejected

VARIABLE = "CLV_DEPLOYMENT"
FILE = "deployment.toml"
ROOT = Path(__file__).resolve().parents[1]
DATE, YESTERDAY = "{date}", "{yesterday}"  # in orders.files


@dataclass(frozen=True)
class Orders:
    """Where orders come from.

    Attributes:
      files: what the shop exports every day, gs://, with {date} or {yesterday}; None: the table is filled by somebody else.
      table: PROJECT.DATASET.TABLE, where files is None.
      columns: the files' or the table's names, our_name=their_name,...
      location: of the dataset, where it is made.
      quiet_days: so many days without orders before a run's day are believed: a shop closes, an export is late.
    """

    files: str | None = None
    table: str | None = None
    columns: str | None = None
    location: str | None = None
    quiet_days: int = 3


@dataclass(frozen=True)
class Forecast:
    """What a run is for, unless it is started with other parameters. Days are whole days."""

    horizon_days: int = 90
    history_days: int | None = None
    training_snapshots: int = 13
    model: str = "auto"


@dataclass(frozen=True)
class Schedule:
    """Cron lines in UTC, and what makes a training due."""

    build_train_deploy: str = "0 3 * * *"
    predict_serve: str = "0 6 * * *"
    train_every_days: int = 7
    train_after_new_orders: int | None = None


@dataclass(frozen=True)
class Retries:
    """Of each task, none with a count of 0: the pause doubles with every one, up to an hour."""

    count: int = 3
    delay_seconds: float = 300.0


@dataclass(frozen=True)
class Serving:
    """Where predictions go. ``bigquery_table`` is PROJECT.DATASET.TABLE, in the deployment's dataset if not given."""

    store: str
    bigquery_table: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)  # other parameters of the publish template


@dataclass(frozen=True)
class Jobs:
    """How jobs run on one service.

    Attributes:
      options: Dataflow: fields of FlexTemplateRuntimeEnvironment; Vertex AI: fields of ``vertex_jobs.JobRequest``.
      poll_seconds: how often a running job is looked at.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    poll_seconds: int = 30


@dataclass(frozen=True)
class Deployment:
    """One installation.

    Attributes:
      bucket: a gs:// directory that holds all that is not in a table.
      dataset: PROJECT.DATASET.
      image: what Vertex AI's jobs run on; its repository and tag are those of the templates' images.
      composer_bucket: whose dags/ Airflow reads: Composer's gs:// bucket, or a local directory. For make deploy.
      composer_environment: the Composer environment's name, in ``region``. For make deploy.
      notify: sinks of ``orchestration.notify``.
    """

    project: str
    region: str
    bucket: str
    dataset: str
    image: str
    serving: Serving
    composer_bucket: str | None = None
    composer_environment: str | None = None
    notify: tuple[str, ...] = field(default=("log:",), repr=False)  # addresses may be secrets
    orders: Orders = Orders()
    forecast: Forecast = Forecast()
    schedule: Schedule = Schedule()
    retries: Retries = Retries()
    dataflow: Jobs = Jobs()
    vertex: Jobs = Jobs()

    @property
    def predictions_table(self) -> str:
        return self.serving.bigquery_table or f"{self.dataset}.predictions"

    def template(self, name: str) -> str:
        """The Flex Template's file: one for each tag, so that what runs is never led to another image."""
        return self.inside("templates", self.image.rpartition(":")[2], f"{name}.json")

    def template_image(self, name: str) -> str:
        """The image of a Flex Template, beside the deployment's own and with its tag."""
        repository, _, tag = self.image.rpartition(":")
        return f"{repository.rpartition('/')[0]}/{name}:{tag}"

    def inside(self, *parts: str) -> str:
        return "/".join((self.bucket.rstrip("/"), *parts))


_PARTS = {
    "orders": Orders, "forecast": Forecast, "schedule": Schedule, "retries": Retries, "serving": Serving,
    "dataflow": Jobs, "vertex": Jobs,
}  # fmt: skip
_PROJECT = r"[a-z][a-z0-9-]{4,28}[a-z0-9]"
_DATASET = rf"{_PROJECT}\.[A-Za-z0-9_]+"
_BUCKET = r"gs://[a-z0-9][-a-z0-9._]+[a-z0-9]"
_DIRECTORY = rf"{_BUCKET}(/[^#?*\[\]\x00-\x1f\x7f]*)?"
_CRON = r"@(hourly|daily|weekly|monthly)|[0-9A-Za-z*/,#?-]+( +[0-9A-Za-z*/,#?-]+){4}"
# By its dotted name, what a text has to be: a mistake is to be told before anything is started.
_PATTERNS = {
    "project": (_PROJECT, "a Google Cloud project's id"),
    "region": (r"[a-z]+-[a-z]+[0-9]+", "a region such as europe-west1"),
    "bucket": (_DIRECTORY, "a gs:// directory"),
    "composer_bucket": (
        rf"{_BUCKET}|/.*[^/]",
        "the gs:// bucket of a Composer environment, or the absolute path of Airflow's directory, without /dags",
    ),
    "composer_environment": ("[a-z]([a-z0-9-]{0,61}[a-z0-9])?", "the name of a Composer environment"),
    "dataset": (_DATASET, "PROJECT.DATASET"),
    "image": (
        r"[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+:(?!latest$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}",
        "a full name with a tag other than latest, such as europe-west1-docker.pkg.dev/my-project/clv/features:2026-11-22",
    ),
    "orders.files": (rf"{_BUCKET}/.+", "a gs:// file, directory or pattern"),
    "orders.table": (rf"{_DATASET}\.[A-Za-z0-9_-]+", "PROJECT.DATASET.TABLE"),
    "schedule.build_train_deploy": (_CRON, "a cron line of five fields, such as 0 3 * * *"),
    "schedule.predict_serve": (_CRON, "a cron line of five fields, such as 0 6 * * *"),
    "serving.store": (
        rf"datastore://{_PROJECT}(/(\(default\)|[a-z][a-z0-9-]{{2,61}}[a-z0-9]))?",
        "datastore://PROJECT or datastore://PROJECT/DATABASE",
    ),
    "serving.bigquery_table": (rf"{_DATASET}\.[A-Za-z0-9_-]+", "PROJECT.DATASET.TABLE"),
}  # fmt: skip
# Fields of vertex_jobs.JobRequest that are an installation's to say.
_VERTEX = (
    "machine_type", "accelerator_type", "accelerator_count", "disk_gb", "service_account", "network", "timeout_hours",
    "api_endpoint",
)  # fmt: skip
# Parameters of the publish template that the DAG itself gives.
_GIVEN = ("predictions", "serving", "staging", "registry", "dead_letters", "override")


def load() -> Deployment:
    """The deployment of this machine.

    Raises:
      UsageError: there is no file, or it does not say what it must; one line with the setting.
    """
    named = os.environ.get(VARIABLE)
    return read(Path(named) if named else ROOT / FILE)


def read(path: Path) -> Deployment:
    """Raises: UsageError, see ``load``."""
    try:
        content = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(
            f"{path} is missing: copy orchestration/deployment.example.toml there, or name yours by {VARIABLE}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML file: {error}") from None
    return parse(content, str(path))


def parse(content: Mapping[str, Any], where: str) -> Deployment:
    """Raises: UsageError for a setting that is missing, unknown or not usable."""
    values = dict(content)
    for name, part in _PARTS.items():
        if name in values:
            values[name] = _part(part, values[name], name, where)
    found: Deployment = _made(Deployment, values, "", where)
    for name, (pattern, accepted) in _PATTERNS.items():
        value: Any = found
        for part_or_setting in name.split("."):
            value = getattr(value, part_or_setting)
        if value is not None and not re.fullmatch(pattern, value):
            raise rejected(f"{where}: {name}", value, accepted)
    if (found.orders.files is None) == (found.orders.table is None):
        raise UsageError(f"{where}: accepted is one of orders.files (then the DAG loads them) and orders.table")
    for sink in found.notify:
        try:
            notifications.parse(sink)
        except UsageError as error:
            raise UsageError(f"{where}: notify: {error}") from error
    return dataclasses.replace(found, notify=tuple(found.notify))


def _part(kind: type, content: Any, name: str, where: str) -> Any:
    if not isinstance(content, Mapping):
        raise UsageError(f"{where}: {name} {content!r} is not usable: accepted is a table [{name}]")
    if kind is Jobs:  # what is not ours is the service's
        _require("int", content.get("poll_seconds", 30), f"{name}.poll_seconds", where)
        options = {key: value for key, value in content.items() if key != "poll_seconds"}
        if name == "vertex":
            _refuse_unknown(options, (*_VERTEX, "poll_seconds"), name, where)
        return Jobs(options, content.get("poll_seconds", 30))
    if kind is Serving:
        own = {key: content[key] for key in ("store", "bigquery_table") if key in content}
        options = {key: value for key, value in content.items() if key not in own}
        for key, value in options.items():
            if key in _GIVEN:
                raise UsageError(
                    f"{where}: {name}.{key} is no setting: the DAG gives it to the publish template itself"
                )
            if isinstance(value, (list, Mapping)):
                raise rejected(f"{where}: {name}.{key}", value, "a text, a number, true or false")
        return _made(Serving, {**own, "options": {key: _parameter(each) for key, each in options.items()}}, name, where)
    return _made(kind, dict(content), name, where)


def _parameter(value: Any) -> str:
    """A value as a template's parameter."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...], name: str, where: str) -> None:
    prefix = f"{name}." if name else ""
    for each in given:
        if each not in known:
            accepted = ", ".join(prefix + setting for setting in known)
            raise UsageError(f"{where}: {prefix}{each} is no setting: accepted are {accepted}")


def _made(kind: type, values: dict[str, Any], name: str, where: str) -> Any:
    known = {each.name: each for each in dataclasses.fields(kind)}
    prefix = f"{name}." if name else ""
    _refuse_unknown(values, tuple(known), name, where)
    for each in known.values():
        required = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if required and each.name not in values:
            raise UsageError(f"{where}: {prefix}{each.name} is missing; see orchestration/deployment.example.toml")
    for each in known.values():
        if each.name in values:
            _require(str(each.type), values[each.name], prefix + each.name, where)
    return kind(**values)


_TYPES: dict[str, tuple[Any, str]] = {
    "str": (str, "a text"), "int": (int, "a whole number of at least 1"), "float": ((int, float), "a number of at least 0"),
    "tuple[str, ...]": (list, "a list of texts"),
}  # fmt: skip
_MAY_BE_0 = ("retries.count", "orders.quiet_days")


def _require(annotation: str, value: Any, name: str, where: str) -> None:
    kind, accepted = _TYPES.get(annotation.removesuffix(" | None"), (object, ""))
    wrong = not isinstance(value, kind) or isinstance(value, bool) or value == ""
    if not wrong and kind is int:
        least = 0 if name in _MAY_BE_0 else 1
        wrong, accepted = value < least, f"a whole number of at least {least}"
    elif not wrong and kind == (int, float):
        wrong = not (math.isfinite(value) and value >= 0)
    if wrong or (kind is list and not all(isinstance(each, str) for each in value)):
        raise rejected(f"{where}: {name}", value, accepted)
