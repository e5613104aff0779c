"""The cycle's steps, once: names, commands and what each makes. Schedulers only decide when they run.

    features (training snapshots, evaluation snapshot) -> train -> predict -> report -> publish

A step is a command a person could type, ``python -m MODULE ARGUMENTS``; it may be run again at any
time: a finished one answers at once, a half-finished one starts over.
"""

from __future__ import annotations

import datetime
import math
import os
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


@dataclass(frozen=True)
class Cycle:
    """One run of everything: what to learn from, what to be judged on, as of when to predict.

    ``training_cutoffs`` come latest first; empty means that the history is too short for a training
    snapshot before the evaluation's, and the judge falls back to a split by customer.
    """

    orders: tuple[str, ...]  # --orders, --columns and the like, passed on as given
    cutoff: datetime.date
    horizon_days: int
    history_days: int | None
    training_cutoffs: tuple[datetime.date, ...]
    as_of: datetime.date
    seed: int
    run_directory: str  # features, model, predictions and report of this run
    serving: str
    warehouse: str
    dead_letters: str
    data_schema: str  # what every snapshot has to look like; made from the first
    skew_thresholds: str | None = None

    @property
    def model(self) -> str:
        return os.path.join(self.run_directory, "model")

    @property
    def predictions(self) -> str:
        return os.path.join(self.run_directory, "predictions")

    @property
    def report(self) -> str:
        return os.path.join(self.run_directory, "report.html")

    def features(self, cutoff: datetime.date) -> str:
        return os.path.join(self.run_directory, "features", str(cutoff))

    def steps(self) -> list[Step]:
        return [*self._features_steps(), *self._model_steps()]

    def _features_steps(self) -> Iterator[Step]:
        source = self.orders
        window = ["--horizon_days", str(self.horizon_days)]
        if self.history_days is not None:
            window += ["--history_days", str(self.history_days)]
        analysed: str | None = None
        for cutoff in dict.fromkeys((*self.training_cutoffs, self.cutoff)):
            output = self.features(cutoff)
            # One transform for all: the first, the latest training snapshot, is analysed.
            reuse = ("--reuse_transform", analysed) if analysed else ()
            arguments = (
                *source, "--cutoff", str(cutoff), *window, *reuse, "--data_schema", self.data_schema, "--output", output,
            )  # fmt: skip
            yield Step(f"features {cutoff}", "pipelines.features", arguments, output, "features")
            analysed = analysed or output

    def _model_steps(self) -> Iterator[Step]:
        evaluation = self.features(self.cutoff)
        training = [self.features(cutoff) for cutoff in self.training_cutoffs] or [evaluation]
        source = self.orders
        thresholds = ("--skew_thresholds", self.skew_thresholds) if self.skew_thresholds else ()
        yield Step(
            "train", "trainer.task",
            ("--features", *training, "--evaluation", evaluation, "--seed", str(self.seed), "--output", self.model),
            self.model, "model",
        )  # fmt: skip
        yield Step(
            f"predict {self.as_of}", "pipelines.predict",
            (*source, "--as_of", str(self.as_of), "--model", self.model, "--data_schema", self.data_schema,
             *thresholds, "--output", self.predictions),
            self.predictions, "predictions",
        )  # fmt: skip
        # Before publishing: what is refused there deserves a report all the more.
        yield Step(
            "report", "trainer.report",
            ("--model", self.model, "--features", *dict.fromkeys([*training, evaluation]),
             "--predictions", self.predictions, "--output", self.report),
            self.report,
        )  # fmt: skip
        yield Step(
            "publish", "pipelines.publish",
            ("--predictions", self.predictions, "--serving", self.serving, "--warehouse", self.warehouse,
             "--dead_letters", self.dead_letters),
            self.serving,
        )  # fmt: skip


# A year of them sees every season; half a month apart where the history has few.
MONTH_DAYS, HALF_MONTH_DAYS, FEW_CUTOFFS = 28, 14, 4
TRAINING_SNAPSHOTS = 13


def training_cutoffs(
    first_day: datetime.date, cutoff: datetime.date, horizon_days: int, most: int = TRAINING_SNAPSHOTS
) -> tuple[datetime.date, ...]:
    """Cutoffs whose labels end at or before ``cutoff``, latest first, at most so many.

    They lie a month apart, farther where the horizon is longer than eight months or they are few, and half a month where the history is short.
    Their labels overlap one another, never the evaluation's: more windows show more seasons and more ages of customers,
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
