"""Orders -> a features directory: one snapshot of every customer, ready to train or to judge on.

    python -m pipelines.features --orders orders.parquet --cutoff 2011-08-08 --horizon_days 90 --output features/

Features see only orders before the cutoff, labels those in [cutoff, cutoff + horizon_days), which must not reach past
the last order's day: later orders may be missing. Where the shop was closed since, none is missing: --quiet_days 1
believes one such day.

The directory holds raw/ (Parquet, one row a customer), transformed/ and transform_fn/ (tf.Transform,
analysed on the train split), dead_letters/ and, written last, manifest.json. Running the same
command again does nothing; a half-written directory is made anew. Arguments not listed here go to
Beam, such as --runner DataflowRunner --project P --region R --temp_location gs://bucket/temp.

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

KIND = "features"


@dataclass(frozen=True)
class FeaturesOptions:
    orders: OrdersArguments
    print_sql: bool
    cutoff: datetime.date
    horizon_days: int
    history_days: int | None
    quiet_days: int
    output: str
    reuse_transform: str | None
    data_schema: str | None

    @classmethod
    def parse(cls, argv: list[str] | None) -> tuple[FeaturesOptions, list[str]]:
        """Our arguments, and those left for Beam."""
        arguments = parser()
        known, beam_arguments = arguments.parse_known_args(argv)
        if known.output is None and not known.print_sql:
            arguments.error("the following arguments are required: --output")
        return cls(orders=OrdersArguments.take(known), **vars(known)), beam_arguments


def parser() -> ArgumentParser:
    """What the command accepts; the rest is Beam's."""
    parser = ArgumentParser("python -m pipelines.features", description=__doc__)
    orders_arguments.add(parser)
    orders_arguments.add_print_sql(parser)
    parser.add_argument(
        "--cutoff", type=shared.date, required=True, help="YYYY-MM-DD, 00:00 UTC: features end and labels start"
    )
    parser.add_argument(
        "--horizon_days",
        type=shared.days,
        required=True,
        help="whole days after the cutoff whose value is the label",
    )
    parser.add_argument("--history_days", type=shared.days, help="how far back features look (default: all history)")
    shared.add_quiet_days(parser)
    shared.add_output(parser)
    parser.add_argument(
        "--reuse_transform", metavar="DIR",
        help="a features directory whose transform is applied instead of analysing anew, "
        "so that one model can learn from both snapshots",
    )  # fmt: skip
    shared.add_data_schema(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Makes the snapshot and returns its manifest, an empty one where the job goes on by itself."""
    options, beam_arguments = FeaturesOptions.parse(argv)
    paths = {
        "--orders": options.orders.orders, "--output": options.output, "--reuse_transform": options.reuse_transform,
        "--data_schema": options.data_schema,
    }  # fmt: skip
    labels = {"cutoff": options.cutoff}
    beam_options = shared.pipeline_options(beam_arguments, step=KIND, labels=labels, paths=paths)

    from pipelines import snapshot_job
    from transforms import storage
    from transforms.customer_features import Snapshot

    snapshot = Snapshot(options.cutoff, options.horizon_days, options.history_days)
    if options.print_sql:
        return orders_arguments.print_sql(options.orders, shared.project(beam_options), snapshot)
    source = orders_arguments.open_orders(options.orders, shared.project(beam_options), KIND)
    _require_inside(snapshot, source, options.quiet_days)
    reused = storage.read_manifest(options.reuse_transform, KIND) if options.reuse_transform else None
    arguments = snapshot_job.arguments_of(source, snapshot)
    arguments["transform"] = reused and reused["transform_fingerprint"]
    return snapshot_job.make(
        options.output, KIND, arguments,
        lambda attempt: build_pipeline(options, beam_options, source, snapshot, arguments, attempt), beam_options,
    )  # fmt: skip


def build_pipeline(
    options: FeaturesOptions, beam_options: PipelineOptions, source: OrdersSource, snapshot: Snapshot,
    arguments: dict[str, Any], attempt: str = "",
) -> Pipeline:  # fmt: skip
    """The job's graph: orders -> customers -> tf.Transform -> manifest."""
    import apache_beam as beam

    from pipelines import customers, scratch, snapshot_job
    from transforms import storage
    from transforms.transform_customers import transform_customers

    output = options.output
    pipeline = beam.Pipeline(options=beam_options)
    work = snapshot_job.work(
        output, KIND, storage.join(output, "raw"), source, options.orders.buckets,
        local=shared.is_local(beam_options), attempt=attempt,
    )  # fmt: skip
    parts = customers.customer_parts(pipeline, source, snapshot, work)
    reuse = None
    if options.reuse_transform:
        reuse = storage.copy_directory(
            storage.join(options.reuse_transform, "transform_fn"), storage.join(output, "transform_fn")
        )
    transformed, transform_written = transform_customers(
        parts.paths,
        transformed=storage.join(output, "transformed"),
        transform_fn=storage.join(output, "transform_fn"),
        temp=scratch.temp(output, attempt),
        reuse=reuse,
        in_turn=work.in_turn,
    )
    completion = snapshot_job.Completion(
        output, KIND, arguments, snapshot_job.content_of(source), attempt, source.rows if source.pinned else None,
        snapshot_job.open_data_schema(options.data_schema),
    )  # fmt: skip
    snapshot_job.complete(pipeline, completion, parts, transformed, transform_written)
    return pipeline


def _require_inside(snapshot: Snapshot, source: OrdersSource, quiet_days: int) -> None:
    """Raises: UsageError where the snapshot needs days that the orders do not have.

    ``quiet_days`` decides only whether there is a snapshot, never what is in it: no manifest compares it.
    """
    if not source.first_day < snapshot.cutoff <= source.last_day:
        raise UsageError(
            f"--cutoff {snapshot.cutoff} leaves no orders on one side: accepted is a day after {source.first_day} "
            f"and not after {source.last_day}"
        )
    end = orders_arguments.believed_end(source, quiet_days)
    if snapshot.end > end:
        beyond = f" by more than --quiet_days {quiet_days}" if quiet_days else ""
        raise UsageError(
            f"--horizon_days {snapshot.horizon_days} from --cutoff {snapshot.cutoff} reaches past the last order day "
            f"{source.last_day}{beyond}: accepted is at most {(end - snapshot.cutoff).days}, an earlier cutoff, "
            f"{orders_arguments.quiet_days_hint(source, snapshot.end)}"
        )


if __name__ == "__main__":
    sys.exit(main())
