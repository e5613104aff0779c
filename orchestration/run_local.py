"""The whole cycle on this machine: orders in, a served prediction per customer and a report out.

    python -m orchestration.run_local --orders orders.parquet --horizon_days 90 --workdir work/

Runs every step in order (features, train, gate, predict, report, publish), each the command it names,
showing progress, elapsed time and rows. The first model becomes champion, a later one only where it is better on
the same customers and days; the champion's forecasts are served, whichever model that is. Run the same command again
after an interruption: finished steps are not redone, a half-finished one is redone whole. Other orders, arguments or
code make a new run beside the old ones; the registry of models, the serving store, the warehouse, the dead letters and
the data schema (made from the first run's features: review data_schema.pbtxt, until then it only warns) are shared by
all runs of a --workdir. A run that is refused because its customers are unlike those of the training goes on at that
step when it is given again with other --skew_thresholds.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestration import local_checks
from orchestration.local_plan import Plan, ServeChampion, plan
from orchestration.steps import TRAINING_SNAPSHOTS
from pipelines import options as shared
from pipelines import orders_arguments
from transforms import storage
from transforms.cli import ArgumentParser, exit_code
from transforms.errors import UsageError

if TYPE_CHECKING:
    from orchestration.steps import BuildTrainDeploy, Step

SERVE_STEPS = 3  # of PredictServe


def _parser() -> ArgumentParser:
    parser = ArgumentParser("python -m orchestration.run_local", description=__doc__)
    orders_arguments.add(parser)
    parser.add_argument(
        "--cutoff", type=shared.date,
        help="evaluation cutoff, YYYY-MM-DD: the model is judged on the horizon after it "
        "(default: the data's end minus the horizon)",
    )  # fmt: skip
    parser.add_argument(
        "--as_of", type=shared.date,
        help="the predictions' date, YYYY-MM-DD: orders before it are seen (default: the day after the last order)",
    )  # fmt: skip
    parser.add_argument("--horizon_days", type=shared.days, required=True, help="how far ahead to forecast")
    parser.add_argument("--history_days", type=shared.days, help="how far back features look (default: all history)")
    parser.add_argument(
        "--training_snapshots", type=shared.positive, default=TRAINING_SNAPSHOTS, metavar="N",
        help="at most this many training cutoffs, a month apart, as far as the history reaches (default: %(default)s, a year; "
        "each is one more reading of the orders)",
    )  # fmt: skip
    parser.add_argument("--project", help="BigQuery: whose quota and bill the queries are on (default: the table's)")
    parser.add_argument(
        "--skew_thresholds", metavar="FILE.toml",
        help="how far the customers to forecast may be from those the model learned from, where that differs from "
        "transforms/skew.toml, which explains itself; judges predictions that are not made yet",
    )  # fmt: skip
    parser.add_argument("--seed", type=shared.seed, default=0, help="seed of the training")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="the local directory that gets everything")
    return parser


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


@dataclass(frozen=True)
class Cycle:
    """A finished run: what it trained, what the gate decided, and what is served."""

    plan: Plan
    decision: dict[str, Any]  # see trainer.registry_decision
    serve: ServeChampion

    @property
    def build(self) -> BuildTrainDeploy:
        return self.plan.build

    @property
    def refused(self) -> bool:
        return _refused(self.decision)


def run(argv: list[str] | None = None) -> Cycle:
    """Runs the cycle and returns it.

    Raises:
      UsageError: the orders or arguments are unusable, another run works in --workdir, there are too few
        customers, the orders can no longer be read as of the time the run began, nobody bought on the days that were
        to judge the first model, or the champion can neither be compared nor used.
    """
    options = _parser().parse_args(argv)
    planned = plan(options)
    started = time.monotonic()
    with _alone(planned.workdir):
        decision = _build(planned.build)
        learned_from = local_checks.learned_from(planned.build, decision)
        cycle = Cycle(planned, decision, planned.serve(decision["champion"], decision["model"], learned_from))
        _serve(cycle)
    print(f"all steps done in {time.monotonic() - started:.1f} s\n", file=sys.stderr)
    summarize(cycle)
    return cycle


def _build(build: BuildTrainDeploy) -> dict[str, Any]:
    """Features, training and gate; returns what it decided: the champion is one that this code can forecast with."""
    from trainer import registry_decision
    from trainer.registry_challenge import Incomparable

    steps = build.steps()
    of = len(steps) + SERVE_STEPS
    for number, step in enumerate(steps, 1):
        if step.kind == "model":
            local_checks.require_customers(build)
        if step.kind == "features" and not _is_finished(step):
            local_checks.require_readable(build)
        try:
            run_step(step, f"{number}/{of}")
        except Incomparable as error:
            raise UsageError(f"{error.why}. {local_checks.by_force(build, 'not comparable')}") from error
    decision = registry_decision.read(build.gate)
    if _refused(decision):
        # A refused model deserves a report most. It is not one of the steps that were counted before anybody knew.
        run_step(build.report_step(), "refused")
    local_checks.require_champion(build, decision)
    return decision


def _refused(decision: dict[str, Any]) -> bool:
    """Whether the new model lost; the very champion, trained again, did not."""
    return bool(decision["challenger"] != decision["champion"])


def _serve(cycle: Cycle) -> None:
    before = len(cycle.build.steps())
    for number, step in enumerate(cycle.serve.steps(), before + 1):
        if step.kind == "predictions" and not _is_finished(step):
            local_checks.require_readable(cycle.build)
        run_step(step, f"{number}/{before + SERVE_STEPS}")


@contextlib.contextmanager
def _alone(workdir: str) -> Iterator[None]:
    """Holds the directory's lock, which ends with the process however it ends."""
    os.makedirs(workdir, exist_ok=True)
    with open(os.path.join(workdir, ".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"--workdir {workdir!r} is in use by another run: wait for it, or choose another"
            ) from None
        yield


def _is_finished(step: Step) -> bool:
    return step.kind is not None and storage.exists(storage.join(step.output, storage.MANIFEST))


def run_step(step: Step, mark: str) -> None:
    """Runs one step in this process, showing what it does; a finished one is not run, nor its orders opened.

    ``mark``, such as "3/7", says in the output which of all it is.
    One process for all: Beam and TensorFlow are imported once, not once a step.
    """
    from transforms.progress import shown

    print(f"\n[{mark}] {step.name}\n  {step.command}", file=sys.stderr)
    if step.kind and _is_finished(step):
        manifest = storage.read_manifest(step.output, step.kind)
        print(f"  already complete{_rows(manifest)}", file=sys.stderr)
        return
    started = time.monotonic()
    with shown(step.name):
        result = importlib.import_module(step.module).run(list(step.arguments))
    print(f"  done in {time.monotonic() - started:.1f} s{_rows(result)}", file=sys.stderr)


def _rows(result: Any) -> str:
    return f", {result['rows']:,} rows" if isinstance(result, dict) and "rows" in result else ""


def summarize(cycle: Cycle) -> None:
    """The served model's evaluation table, which model that is and which was refused, and how to ask for one customer."""
    from trainer import task

    decision, serve = cycle.decision, cycle.serve
    print(task.evaluation_table(storage.read_manifest(serve.model, task.KIND), serve.model))
    print(f"\nserved:  {decision['champion']}, {_standing(cycle)}")
    if cycle.refused:
        print(f"refused: {decision['challenger']}: {decision['reason']}")
        print(f"         its report: {cycle.build.report_step().output}")
    print(f"report:  {serve.report}")
    lookup = shlex.join([sys.executable, "-m", "serving.lookup", "--serving", cycle.plan.serving])
    print(f"lookup:  {lookup} CUSTOMER_ID")


def _standing(cycle: Cycle) -> str:
    """What the served model is in the registry: a kept decision is not undone by a rollback, nor hides it."""
    from trainer.registry_store import Registry

    place = cycle.build.registry
    now = Registry(place).champions().version
    if now == cycle.decision["champion"]:
        return f"champion of {place}"
    return f"champion when this run was decided; {now or 'none'} is champion of {place} now"


if __name__ == "__main__":
    sys.exit(main())
