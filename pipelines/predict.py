"""Orders and a model -> a predictions directory: one row a customer, as of a date.

    python -m pipelines.predict --orders orders.parquet --as_of 2011-12-10 --model model/ --output predictions/

--as_of is at most the day after the last order: later orders may be missing. Where the shop was closed since, none is
missing: --quiet_days 1 believes one such day.

The features are computed by the same job that made the training snapshots; the transform is the one
inside the model. The directory holds part-*.parquet with every column of the data contract's
predictions, dead_letters/ and, written last, manifest.json. Running the same command again does
nothing; a half-written directory is made anew. Arguments not listed here go to Beam.

On Dataflow the command waits for the job, and whoever stops waiting stops it. With --no_wait_until_finish (or in a
Flex Template, by --template_location) it submits the job, says where it is, and ends with 0: the job itself writes
the manifest at its end.
"""

from __future__ import annotations

import datetime
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines import options as shared
from pipelines import orders_arguments
from pipelines.orders_arguments import OrdersArguments
from transforms.cli import ArgumentParser, exit_code
from transforms.errors import UsageError

if TYPE_CHECKING:
    from apache_beam import Pipeline
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.orders_source import OrdersSource
    from transforms.customer_features import Snapshot

KIND = "predictions"


@dataclass(frozen=True)
class PredictOptions:
    orders: OrdersArguments
    print_sql: bool
    as_of: datetime.date | None
    quiet_days: int
    model: str
    output: str
    data_schema: str | None
    skew_thresholds: str | None

    @classmethod
    def parse(cls, argv: list[str] | None) -> tuple[PredictOptions, list[str]]:
        """Our arguments, and those left for Beam."""
        arguments = parser()
        known, beam_arguments = arguments.parse_known_args(argv)
        if known.output is None and not known.print_sql:
            arguments.error("the following arguments are required: --output")
        return cls(orders=OrdersArguments.take(known), **vars(known)), beam_arguments


def parser() -> ArgumentParser:
    """What the command accepts; the rest is Beam's."""
    parser = ArgumentParser("python -m pipelines.predict", description=__doc__)
    orders_arguments.add(parser)
    orders_arguments.add_print_sql(parser)
    parser.add_argument(
        "--as_of", type=shared.date,
        help="YYYY-MM-DD, 00:00 UTC: orders before it are seen (default: the day after the last order)",
    )  # fmt: skip
    shared.add_quiet_days(parser)
    parser.add_argument("--model", required=True, metavar="DIR", help="a model directory made by trainer.task")
    shared.add_output(parser)
    shared.add_data_schema(parser)
    parser.add_argument(
        "--skew_thresholds", metavar="FILE.toml",
        help="how far the customers may be from those the model learned from, where that differs from "
        "transforms/skew.toml, which explains itself",
    )  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Makes the predictions and returns their manifest, an empty one where the job goes on by itself."""
    options, beam_arguments = PredictOptions.parse(argv)
    paths = {
        "--orders": options.orders.orders, "--output": options.output, "--model": options.model,
        "--data_schema": options.data_schema,
    }  # fmt: skip
    beam_options = shared.pipeline_options(beam_arguments, paths=paths)

    from pipelines import dataflow_options, snapshot_job
    from transforms import schema, storage
    from transforms.customer_features import Snapshot

    model = storage.read_manifest(options.model, "model")
    if model["schema_fingerprint"] != schema.fingerprint(schema.CUSTOMERS):
        raise UsageError(
            f"--model {options.model!r} was made with other feature formulas than this code's: train it anew"
        )
    if options.print_sql:
        if options.as_of is None:
            raise UsageError("--print_sql runs nothing that could find the last order day: name the day by --as_of")
        as_seen = Snapshot(options.as_of, model["horizon_days"], model["history_days"], labels=False)
        return orders_arguments.print_sql(options.orders, shared.project(beam_options), as_seen)
    source = orders_arguments.open_orders(options.orders, shared.project(beam_options), "predict")
    as_of = options.as_of or source.trusted_end(shared.today())
    _require_inside(as_of, source, options.quiet_days)
    dataflow_options.name_job(beam_options, "predict", {"as_of": as_of})
    snapshot = Snapshot(as_of, model["horizon_days"], model["history_days"], labels=False)
    arguments = snapshot_job.arguments_of(source, snapshot)
    arguments["model_version"] = model["model_version"]
    return snapshot_job.make(
        options.output, KIND, arguments,
        lambda attempt: build_pipeline(options, beam_options, source, snapshot, arguments, attempt), beam_options,
    )  # fmt: skip


def _require_inside(as_of: datetime.date, source: OrdersSource, quiet_days: int) -> None:
    """Raises: UsageError for a day that the orders do not reach, or that no order is before."""
    end = orders_arguments.believed_end(source, quiet_days)
    if not source.first_day < as_of <= end:
        hint = f", {orders_arguments.quiet_days_hint(source, as_of)}" if as_of > end else ""
        raise UsageError(
            f"--as_of {as_of} is outside the data: accepted is a day after {source.first_day}, up to {end}{hint}"
        )


def build_pipeline(
    options: PredictOptions, beam_options: PipelineOptions, source: OrdersSource, snapshot: Snapshot,
    arguments: dict[str, Any], attempt: str = "",
) -> Pipeline:  # fmt: skip
    """The job's graph: orders -> customers -> scores -> deciles -> manifest."""
    import apache_beam as beam
    from apache_beam.pvalue import AsSingleton

    from pipelines import customers, score_customers, scratch, snapshot_job
    from transforms import skew_thresholds, statistics, storage

    output, temp = options.output, scratch.temp(options.output, attempt)
    pipeline = beam.Pipeline(options=beam_options)
    work = snapshot_job.work(
        output, KIND, storage.join(temp, "customers"), source, options.orders.buckets,
        local=shared.is_local(beam_options), attempt=attempt,
    )  # fmt: skip
    parts = customers.customer_parts(pipeline, source, snapshot, work)
    scored = (
        parts.paths
        | "SpreadCustomers" >> beam.Reshuffle()
        | "Score" >> beam.ParDo(score_customers.Score(options.model, snapshot.cutoff, storage.join(temp, "scored")))
    )
    starts = (
        scored
        | "OneGroup" >> beam.Map(lambda path: (None, path))
        | "AllParts" >> beam.GroupByKey()
        | "DecileStarts" >> beam.MapTuple(lambda _, paths: score_customers.decile_starts(list(paths)))
    )
    spread = scored | "SpreadScored" >> beam.Reshuffle()
    ranked = work.in_turn(spread, "RankInTurn") | "AddDeciles" >> beam.Map(
        score_customers.add_deciles, AsSingleton(starts, default_value=[]), output
    )
    content = snapshot_job.content_of(source) | {
        "as_of": str(snapshot.cutoff), "horizon_days": snapshot.horizon_days, "history_days": snapshot.history_days,
        "model_version": arguments["model_version"],
    }  # fmt: skip
    completion = snapshot_job.Completion(
        output, KIND, arguments, content, attempt, source.rows if source.pinned else None,
        snapshot_job.open_data_schema(options.data_schema),
        statistics.read(storage.join(options.model, snapshot_job.STATISTICS)), skew_thresholds.read(options.skew_thresholds),
    )  # fmt: skip
    snapshot_job.complete(pipeline, completion, parts, ranked)
    return pipeline


if __name__ == "__main__":
    sys.exit(main())
