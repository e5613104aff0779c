"""The whole cycle on this machine: orders in, a served prediction per customer and a report out.

    python -m orchestration.run_local --orders orders.parquet --horizon_days 90 --workdir work/

Runs every step in order (features, train, predict, report, publish), each the command it names,
showing progress, elapsed time and rows. Run the same command again after an interruption: finished
steps are not redone, a half-finished one is redone whole. Other orders, arguments or code make a new
run beside the old ones; the serving store, the warehouse, the dead letters and the data schema (made from
the first run's features: review data_schema.pbtxt, until then it only warns) are shared by all runs of a
--workdir. A run that is refused because its customers are unlike those of the training goes on at that step
when it is given again with other --skew_thresholds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import importlib
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipelines import options as shared
from pipelines import orders_arguments
from pipelines.orders_arguments import OrdersArguments
from transforms import storage, version
from transforms.cli import ArgumentParser, exit_code
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    from orchestration.steps import Cycle, Step
    from pipelines.orders_source import OrdersSource

# BigQuery reads a table as it was up to seven days ago; a step begun now is to be done by then.
_READABLE = datetime.timedelta(days=6)


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
        "--training_snapshots", type=shared.positive, default=13, metavar="N",
        help="at most this many training cutoffs, a month apart, as far as the history reaches (default: 13, a year; "
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


def run(argv: list[str] | None = None) -> Cycle:
    """Runs the cycle and returns it.

    Raises:
      UsageError: the orders or arguments are unusable, another run works in --workdir, there are too few
        customers, the orders can no longer be read as of the time the run began, or the model was judged on days
        on which nobody bought: what it says of the future is not published.
    """
    options = _parser().parse_args(argv)
    cycle = plan(options)
    started = time.monotonic()
    with _alone(options.workdir):
        for number, step in enumerate(cycle.steps(), 1):
            if step.kind == "model":
                _require_customers(cycle)
            if step.module == "pipelines.publish":
                _require_judged(cycle)
            if step.reads_orders and not _is_finished(step):
                _require_readable(cycle)
            run_step(step, number, len(cycle.steps()))
    print(f"all steps done in {time.monotonic() - started:.1f} s\n", file=sys.stderr)
    summarize(cycle)
    return cycle


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


def _require_customers(cycle: Cycle) -> None:
    """Raises: UsageError where a split that training needs is empty: customers are dealt to splits by chance."""
    from transforms import schema

    learned_from = cycle.training_cutoffs or (cycle.cutoff,)
    counts = [storage.read_manifest(cycle.features(cutoff), "features")["splits"] for cutoff in learned_from]
    needed = ("train", "validation") if cycle.training_cutoffs else schema.SPLITS
    empty = [split for split in needed if not any(count.get(split) for count in counts)]
    if empty:
        most = max(sum(count.values()) for count in counts)
        raise UsageError(
            f"there are too few customers to learn from: of {most:,} with orders before {learned_from[0]} none is in the "
            f"{' or '.join(empty)} split; accepted are orders of more customers, at best hundreds, or later dates"
        )


def _require_readable(cycle: Cycle) -> None:
    """Raises: UsageError where a table can no longer be read as it was when this run's first step read it."""
    path = _moment_file(cycle.run_directory)
    if not os.path.exists(path):
        return
    moment = storage.read_bytes(path).decode()
    if datetime.datetime.now(datetime.UTC) - orders_arguments.instant(moment) > _READABLE:
        raise UsageError(
            f"the unfinished run in {cycle.run_directory} reads its orders as they were at {moment}, and BigQuery keeps that "
            "for seven days: delete that directory, and the next run starts anew"
        )


def _require_judged(cycle: Cycle) -> None:
    evaluation = json.loads(storage.read_bytes(os.path.join(cycle.model, "evaluation.json")))
    if not evaluation["buyers"]:
        raise UsageError(
            f"nobody bought in the {cycle.horizon_days} days after {cycle.cutoff}, so the model cannot be judged and is not "
            f"published (report: {cycle.report}): accepted is a --cutoff or --horizon_days with orders after it"
        )


def plan(options: argparse.Namespace) -> Cycle:
    """Decides the run's dates from the data's first and last day, and where its outputs go.

    Raises:
      UsageError: the orders are unusable, or too short for the horizon.
    """
    from orchestration.steps import Cycle, training_cutoffs
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
    return Cycle(
        orders=(*_as_of_one_time(orders, source, run_directory), *project),
        cutoff=cutoff,
        horizon_days=options.horizon_days,
        history_days=options.history_days,
        training_cutoffs=training_cutoffs(source.first_day, cutoff, options.horizon_days, options.training_snapshots),
        as_of=as_of,
        seed=options.seed,
        run_directory=run_directory,
        serving="sqlite://" + os.path.join(workdir, "serving.db"),
        warehouse=os.path.join(workdir, "warehouse"),
        dead_letters=os.path.join(workdir, "dead_letters"),
        data_schema=os.path.join(workdir, "data_schema.pbtxt"),
        skew_thresholds=options.skew_thresholds,
    )


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
    path = _moment_file(run_directory)
    if not os.path.exists(path):
        storage.write_bytes(path, source.provenance["snapshot_time"].encode())
    moment = storage.read_bytes(path).decode()
    return tuple(dataclasses.replace(orders, snapshot_time=orders_arguments.instant(moment)).given())


def _moment_file(run_directory: str) -> str:
    return os.path.join(run_directory, "snapshot_time")


def _is_finished(step: Step) -> bool:
    return step.kind is not None and storage.exists(storage.join(step.output, storage.MANIFEST))


def run_step(step: Step, number: int, of: int) -> None:
    """Runs one step in this process, showing what it does; a finished one is not run, nor its orders opened.

    One process for all: Beam and TensorFlow are imported once, not once a step.
    """
    from transforms.progress import shown

    print(f"\n[{number}/{of}] {step.name}\n  {step.command}", file=sys.stderr)
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
    """The evaluation table, where to look, and how to ask for one customer."""
    from trainer import task

    print(task.evaluation_table(storage.read_manifest(cycle.model, task.KIND), cycle.model))
    print(f"\nreport:  {cycle.report}")
    lookup = shlex.join([sys.executable, "-m", "serving.lookup", "--serving", cycle.serving])
    print(f"lookup:  {lookup} CUSTOMER_ID")


if __name__ == "__main__":
    sys.exit(main())
