"""What a run on this machine will do: its dates from the data's first and last day, and where its outputs go."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestration.steps import BuildTrainDeploy, PredictServe, registry_name, training_cutoffs
from pipelines import options as shared
from pipelines import orders_arguments
from pipelines.orders_arguments import OrdersArguments
from transforms import storage, version
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    from pipelines.orders_source import OrdersSource


@dataclass(frozen=True)
class ServeChampion(PredictServe):
    """Serves the champion of a run that may be decided anew: the forecasts of each of its champions have their own place."""

    champion: str = field(kw_only=True)  # version

    @property
    def predictions(self) -> str:
        return storage.join(self.directory, f"predictions-{self.champion}")


@dataclass(frozen=True)
class Plan:
    """A run as far as it is known before the gate: what to build, and where the rest goes."""

    build: BuildTrainDeploy
    as_of: datetime.date
    workdir: str
    skew_thresholds: str | None

    @property
    def serving(self) -> str:
        return "sqlite://" + os.path.join(self.workdir, "serving.db")

    @property
    def warehouse(self) -> str:
        return os.path.join(self.workdir, "warehouse")

    @property
    def dead_letters(self) -> str:
        return os.path.join(self.workdir, "dead_letters")

    def serve(self, champion: str, model: str, features: Sequence[str]) -> ServeChampion:
        """What to do once the champion's version and the directory of its model are known; ``features``: see PredictServe."""
        return ServeChampion(
            orders=self.build.orders, as_of=self.as_of, model=model, champion=champion, directory=self.build.directory,
            data_schema=self.build.data_schema, publish=("--serving", self.serving, "--warehouse", self.warehouse),
            dead_letters=self.dead_letters, skew_thresholds=self.skew_thresholds, features=tuple(features),
        )  # fmt: skip


def plan(options: argparse.Namespace) -> Plan:
    """Decides the run's dates from the data's first and last day, and where its outputs go.

    Raises:
      UsageError: the orders are unusable, or too short for the horizon.
    """
    from transforms import skew_thresholds

    skew_thresholds.read(options.skew_thresholds)  # what is wrong with them is said now, not after the training
    orders = OrdersArguments.take(options)
    source = orders_arguments.open_orders(orders, options.project, "run_local")
    as_of = options.as_of or source.trusted_end(shared.today())
    if not source.first_day < as_of <= source.end:
        raise rejected("--as_of", str(as_of), f"a day after {source.first_day}, up to {source.end}")
    cutoff = options.cutoff or as_of - datetime.timedelta(days=options.horizon_days)
    if not source.first_day < cutoff <= source.last_day:
        raise UsageError(
            f"--horizon_days {options.horizon_days} with --cutoff {cutoff} leaves no orders on one side: the orders "
            f"reach from {source.first_day} to {source.last_day}"
        )
    if cutoff + datetime.timedelta(days=options.horizon_days) > source.end:
        raise UsageError(
            f"--horizon_days {options.horizon_days} from --cutoff {cutoff} reaches past the last order day "
            f"{source.last_day}: accepted is at most {(source.end - cutoff).days}, or an earlier cutoff"
        )
    workdir = os.path.abspath(options.workdir)
    name = f"{as_of}-{_run_id(options, orders, source, cutoff)}"
    run_directory = os.path.join(workdir, "runs", name)
    project = ("--project", options.project) if options.project else ()
    build = BuildTrainDeploy(
        orders=(*_as_of_one_time(orders, source, run_directory), *project),
        cutoff=cutoff,
        horizon_days=options.horizon_days,
        history_days=options.history_days,
        training_cutoffs=training_cutoffs(source.first_day, cutoff, options.horizon_days, options.training_snapshots),
        directory=run_directory,
        registry=os.path.join(workdir, "registry", registry_name(options.horizon_days, options.history_days)),
        data_schema=os.path.join(workdir, "data_schema.pbtxt"),
        train=("--seed", str(options.seed)),
        by="run_local",
    )
    return Plan(build, as_of, workdir, options.skew_thresholds)


def _run_id(options: argparse.Namespace, orders: OrdersArguments, source: OrdersSource, cutoff: datetime.date) -> str:
    """Equal for equal orders, arguments and code: an interrupted run is found again, a changed model runs anew.

    Thresholds change nothing that is made, only whether it is refused: a refused run goes on under others.
    """
    decisive = {
        **vars(options), "cutoff": str(cutoff), "orders": [source.identity, source.revision, orders.given()],
        "workdir": None, "skew_thresholds": None, "code": version.source_fingerprint(),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _as_of_one_time(orders: OrdersArguments, source: OrdersSource, run_directory: str) -> tuple[str, ...]:
    """The orders' arguments for every step of a run: tables are read as of one time, also after an interruption."""
    if not orders.in_bigquery or orders.snapshot_time:
        return tuple(orders.given())
    path = moment_file(run_directory)
    if not os.path.exists(path):
        storage.write_bytes(path, source.provenance["snapshot_time"].encode())
    moment = storage.read_bytes(path).decode()
    return tuple(dataclasses.replace(orders, snapshot_time=orders_arguments.instant(moment)).given())


def moment_file(run_directory: str) -> str:
    return os.path.join(run_directory, "snapshot_time")
