"""The ten steps, once: names, commands and what each makes. Schedulers only decide when they run, and where.

    PrepareOrders     create_dataset -> load_orders -> clean_orders                     (orders in Cloud Storage alone)
    BuildTrainDeploy  features of each snapshot -> train -> gate (-> deploy: trainer.vertex)
    PredictServe      predict -> report -> publish

A step is a command a person could type, ``python -m MODULE ARGUMENTS``; it may be run again at any time: a finished one
answers at once, a half-finished one starts over. ``orchestration.run_local`` runs them one after the other in one
process; the Airflow DAGs run them as Dataflow Flex Templates, Vertex AI jobs and plain commands.
"""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    name: str
    module: str
    arguments: tuple[str, ...]
    output: str
    kind: str | None = None  # of the manifest that completes the output; None where there is none

    @property
    def reads_orders(self) -> bool:
        return self.kind in ("features", "predictions")

    @property
    def command(self) -> str:
        import shlex

        return shlex.join([sys.executable, "-m", self.module, *self.arguments])

    @property
    def parameters(self) -> dict[str, str]:
        """The arguments as a Flex Template's parameters: what templates.launch translates back.

        Flags are "true"; the values of a repeated argument are joined by ";".
        """
        found: dict[str, str] = {}
        words = list(self.arguments)
        while words:
            name = words.pop(0)
            assert name.startswith("--"), f"{self.module}: {name!r} stands without an argument's name"
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
            name = name.removeprefix("--")
            found[name] = f"{found[name]};{value}" if name in found else value
        return found


@dataclass(frozen=True)
class PrepareOrders:
    """A day's order files in Cloud Storage -> clean orders in BigQuery.

    Attributes:
      files: --orders of orchestration.prepare.
      dataset: PROJECT.DATASET.
      more: other arguments of orchestration.prepare, such as --columns and --location.
    """

    files: str
    dataset: str
    loaded_on: datetime.date
    more: tuple[str, ...] = ()

    @property
    def orders_table(self) -> str:
        return f"bigquery://{self.dataset}.orders"

    def steps(self) -> list[Step]:
        arguments = ("--orders", self.files, "--dataset", self.dataset, "--loaded_on", str(self.loaded_on), *self.more)
        names = {"create_dataset": "dataset", "load_orders": "load", "clean_orders": "clean"}
        return [
            Step(name, "orchestration.prepare", (*arguments, "--only", part), self.orders_table)
            for name, part in names.items()
        ]


@dataclass(frozen=True)
class BuildTrainDeploy:
    """What to learn from and what to be judged on; ends with the gate, which decides who is champion.

    ``training_cutoffs`` come latest first; empty means that the history is too short for a training
    snapshot before the evaluation's, and the judge falls back to a split by customer.
    """

    orders: tuple[str, ...]  # --orders, --columns and the like, passed on as given
    cutoff: datetime.date  # of the evaluation snapshot
    horizon_days: int
    history_days: int | None
    training_cutoffs: tuple[datetime.date, ...]
    directory: str  # features, model and gate.json of this run
    registry: str
    data_schema: str  # what every snapshot has to look like; made from the first
    train: tuple[str, ...] = ()  # other arguments of trainer.task, such as --seed and --model
    by: str | None = None  # who promotes, for the registry's history
    features_table: str | None = None  # BigQuery's table of the features, beside the files

    @property
    def model(self) -> str:
        return _join(self.directory, "model")

    @property
    def gate(self) -> str:
        """What the gate decided: see ``trainer.registry promote --decision``."""
        return _join(self.directory, "gate.json")

    @property
    def snapshots(self) -> list[str]:
        """The features directories: those learned from, latest first, then the evaluation's."""
        return [self.features(cutoff) for cutoff in dict.fromkeys((*self.training_cutoffs, self.cutoff))]

    def features(self, cutoff: datetime.date) -> str:
        return _join(self.directory, "features", str(cutoff))

    def steps(self) -> list[Step]:
        return [*self.features_steps(), self.train_step(), self.gate_step()]

    def features_steps(self) -> Iterator[Step]:
        """The first has to be done before the others begin: they apply the transform that it analysed."""
        window = ["--horizon_days", str(self.horizon_days)]
        if self.history_days is not None:
            window += ["--history_days", str(self.history_days)]
        table = ("--features_table", self.features_table) if self.features_table else ()
        analysed: str | None = None
        for cutoff in dict.fromkeys((*self.training_cutoffs, self.cutoff)):
            output = self.features(cutoff)
            reuse = ("--reuse_transform", analysed) if analysed else ()
            arguments = (
                *self.orders, "--cutoff", str(cutoff), *window, *reuse, "--data_schema", self.data_schema, *table,
                "--output", output,
            )  # fmt: skip
            yield Step(f"features {cutoff}", "pipelines.features", arguments, output, "features")
            analysed = analysed or output

    def train_step(self) -> Step:
        evaluation = self.features(self.cutoff)
        training = [self.features(cutoff) for cutoff in self.training_cutoffs] or [evaluation]
        arguments = ("--features", *training, "--evaluation", evaluation, *self.train, "--output", self.model)
        return Step("train", "trainer.task", arguments, self.model, "model")

    def gate_step(self) -> Step:
        by = ("--by", self.by) if self.by else ()
        arguments = ("promote", "--registry", self.registry, "--model", self.model, *by, "--decision", self.gate)
        return Step("gate", "trainer.registry", arguments, self.gate)

    def report_step(self) -> Step:
        """The trained model's own report: it deserves one most where it lost."""
        # Beside the served model's, which may lie in the same directory.
        output = _join(self.directory, "model_report.html")
        arguments = ("--model", self.model, "--features", *self.snapshots, "--output", output)
        return Step("report", "trainer.report", arguments, output)


@dataclass(frozen=True)
class PredictServe:
    """Everybody's forecast as of a day, by one model, and where it is served.

    Attributes:
      model: the model's directory; ``features`` are those it was made from, for the report, as far as they are known.
      publish: --serving, and --warehouse or --bigquery_table and --staging, of pipelines.publish.
    """

    orders: tuple[str, ...]
    as_of: datetime.date
    model: str
    directory: str  # predictions and report of this run
    data_schema: str
    publish: tuple[str, ...]
    dead_letters: str
    skew_thresholds: str | None = None
    features: tuple[str, ...] = ()

    @property
    def predictions(self) -> str:
        return _join(self.directory, "predictions")

    @property
    def report(self) -> str:
        return _join(self.directory, "report.html")

    def steps(self) -> list[Step]:
        # Before publishing: what is refused there deserves a report all the more.
        return [self.predict_step(), self.report_step(), self.publish_step()]

    def predict_step(self) -> Step:
        thresholds = ("--skew_thresholds", self.skew_thresholds) if self.skew_thresholds else ()
        arguments = (
            *self.orders, "--as_of", str(self.as_of), "--model", self.model, "--data_schema", self.data_schema,
            *thresholds, "--output", self.predictions,
        )  # fmt: skip
        return Step(f"predict {self.as_of}", "pipelines.predict", arguments, self.predictions, "predictions")

    def report_step(self) -> Step:
        features = ("--features", *self.features) if self.features else ()
        arguments = ("--model", self.model, *features, "--predictions", self.predictions, "--output", self.report)
        return Step("report", "trainer.report", arguments, self.report)

    def publish_step(self) -> Step:
        arguments = ("--predictions", self.predictions, *self.publish, "--dead_letters", self.dead_letters)
        return Step("publish", "pipelines.publish", arguments, self.publish[1])


def _join(*parts: str) -> str:
    """As ``storage.join``, which imports more than a scheduler should load to read this list."""
    return "/".join((*(part.rstrip("/") for part in parts[:-1]), parts[-1]))


def registry_name(horizon_days: int, history_days: int | None) -> str:
    """The directory of a registry: models of another horizon or history cannot be compared, and get one of their own."""
    return f"{horizon_days}d" if history_days is None else f"{horizon_days}d-{history_days}d"


# A year of them sees every season; half a month apart where the history has few.
MONTH_DAYS, HALF_MONTH_DAYS, FEW_CUTOFFS = 28, 14, 4
TRAINING_SNAPSHOTS = 13


def training_cutoffs(
    first_day: datetime.date, cutoff: datetime.date, horizon_days: int, most: int = TRAINING_SNAPSHOTS
) -> tuple[datetime.date, ...]:
    """Cutoffs whose labels end at or before ``cutoff``, latest first, at most so many.

    They lie a month apart, farther where the horizon is longer than eight months or they are few, and half a month
    where the history is short. Their labels overlap one another, never the evaluation's: more windows show more seasons and more ages of customers,
    which a network needs more than independent rows. A snapshot of less history than a third of the horizon has hardly
    a repeat customer in it and is left out.
    """
    latest = cutoff - datetime.timedelta(days=horizon_days)
    # Half a horizon's cutoffs more than a horizon: the earliest then forecast the latest out of time.
    wide = max(MONTH_DAYS, math.ceil(1.5 * horizon_days / max(most - 1, 1)))
    least = max(HALF_MONTH_DAYS, horizon_days // 3)
    found: tuple[datetime.date, ...] = ()
    for apart in (wide, HALF_MONTH_DAYS):
        days = (latest - datetime.timedelta(days=apart * i) for i in range(most))
        found = tuple(day for day in days if (day - first_day).days >= least)
        if len(found) >= min(FEW_CUTOFFS, most):
            break
    return found
