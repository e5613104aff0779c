"""Orders or behaviour events -> an interactions directory: CSV files that Amazon Personalize imports, checked before.

    python -m pipelines.interactions --orders orders.parquet --output s3://shop/interactions/2011-12-10
    python -m pipelines.interactions --events 'events/*.parquet' --context device --output interactions/
    python -m pipelines.interactions --orders orders.parquet --since 2011-12-01 --output interactions/

An order line with an item and an amount above 0 is an interaction: USER_ID is its customer, EVENT_TYPE is "purchase",
EVENT_VALUE its amount. Behaviour events have the columns customer_id, item_id and occurred_at, and event_type and
event_value where they know them. With --since the export is an INCREMENTAL one, to be added to an earlier FULL one.

The directory holds interactions/part-*.csv and nothing else under that prefix, schema.avsc (for CreateSchema),
dead_letters/ and, written last, manifest.json. Too few rows or users, too large files and times in the future are
refused here, in one line, and not hours later by the import. Running the same command again does nothing; a
half-written directory is made anew, also from files that were mended since. Arguments not listed here go to Beam.

On Dataflow the command waits for the job, and whoever stops waiting stops it. With --no_wait_until_finish (or in a
Flex Template, by --template_location) it submits the job, says where it is, and ends with 0: the job itself writes
the manifest at its end.
"""

from __future__ import annotations

import datetime
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipelines import options as shared
from pipelines import orders_arguments
from pipelines.orders_arguments import OrdersArguments
from transforms.cli import ArgumentParser, exit_code
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    from apache_beam import Pipeline
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.orders_source import OrdersSource
    from transforms.interactions import Wanted
    from transforms.interactions_checks import Limits

KIND = "interactions"


@dataclass(frozen=True)
class InteractionsOptions:
    orders: OrdersArguments
    events: str | None
    event_type: str | None
    no_event_value: bool
    context: str | None
    time_unit: str | None
    since: datetime.date | None
    until: datetime.date | None
    newest_within_days: int | None
    limits: str | None
    output: str

    @classmethod
    def parse(cls, argv: list[str] | None) -> tuple[InteractionsOptions, list[str]]:
        """Our arguments, and those left for Beam."""
        known, beam_arguments = parser().parse_known_args(argv)
        options = cls(orders=OrdersArguments.take(known), **vars(known))
        if options.time_unit and not options.events:
            raise UsageError(f"--time_unit {options.time_unit} is about --events: times of orders are no integers")
        if options.since and options.until and options.since >= options.until:
            raise rejected("--since", str(options.since), f"a day before --until {options.until}")
        if options.event_type is not None:
            _require_event_type(options.event_type)
        if options.context:
            wanted_of(options)
        return options, beam_arguments


def parser() -> ArgumentParser:
    """What the command accepts; the rest is Beam's."""
    parser = ArgumentParser("python -m pipelines.interactions", description=__doc__)
    which = orders_arguments.add(parser, aggregated=False)
    which.add_argument(
        "--events", metavar="URI",
        help="behaviour events as Parquet or CSV (also .csv.gz): a file, a folder or a pattern, local, gs:// or s3://; "
        "--columns maps customer_id, item_id, occurred_at, event_type, event_value and the context",
    )  # fmt: skip
    parser.add_argument(
        "--event_type", metavar="TEXT",
        help="EVENT_TYPE of every order line (default there: purchase), or of the events that have no event_type",
    )  # fmt: skip
    parser.add_argument("--no_event_value", action="store_true", help="leave EVENT_VALUE out")
    parser.add_argument(
        "--context", metavar="NAME[,NAME]",
        help="further columns, at most five, text or number, with upper-case names in the files; of orders: country, "
        "channel, category",
    )  # fmt: skip
    parser.add_argument(
        "--time_unit", choices=("s", "ms", "us"),
        help="unit of an occurred_at that is an integer: seconds, milliseconds or microseconds since 1970 (default: s)",
    )  # fmt: skip
    parser.add_argument(
        "--since", type=shared.date,
        help="YYYY-MM-DD, 00:00 UTC: only interactions at or after it, for an INCREMENTAL import (default: all, FULL)",
    )  # fmt: skip
    parser.add_argument(
        "--until", type=shared.date, help="YYYY-MM-DD, 00:00 UTC: only interactions before it (default: to the end)"
    )
    parser.add_argument(
        "--newest_within_days", type=shared.days_or_zero, metavar="N",
        help="refuse where the newest interaction is more than N days before --until, or before today",
    )  # fmt: skip
    parser.add_argument(
        "--limits", metavar="FILE.toml",
        help="what the service accepts, where that differs from Personalize's limits: minimum_rows, "
        "minimum_unique_interactions, minimum_users_with_two, maximum_full_bytes, maximum_incremental_bytes",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=shared.directory, required=True, metavar="DIR",
        help="the directory to make, local, gs:// or s3://",
    )  # fmt: skip
    return parser


def _require_event_type(text: str) -> None:
    if not text.strip() or len(text) > 256:
        raise rejected("--event_type", text, "a text of 1 to 256 characters")


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Makes the export and returns its manifest, an empty one where the job goes on by itself."""
    options, beam_arguments = InteractionsOptions.parse(argv)
    paths = {
        "--orders": options.orders.orders, "--events": options.events, "--output": options.output,
    }  # fmt: skip
    labels = {"since": options.since, "until": options.until}
    beam_options = shared.pipeline_options(beam_arguments, step=KIND, labels=labels, paths=paths)

    from pipelines import interactions_output, snapshot_job
    from transforms.interactions_checks import Limits

    wanted, limits = wanted_of(options), Limits.read(options.limits)
    source = open_source(options, wanted, shared.project(beam_options))
    wanted = _with_columns_of(source, wanted)
    arguments = arguments_of(source, wanted, limits, options)
    with interactions_output.failing_in_one_line(options.output):
        interactions_output.prepare(options.output, KIND, arguments)
        return snapshot_job.make(
            options.output, KIND, arguments,
            lambda attempt: build_pipeline(options, beam_options, source, wanted, limits, arguments, attempt), beam_options,
        )  # fmt: skip


def wanted_of(options: InteractionsOptions) -> Wanted:
    """Raises: UsageError for a context that cannot be."""
    from transforms import interactions

    context = interactions.context_names(options.context) if options.context else ()
    if not options.events:
        for name in context:
            if name not in interactions.ORDER_CONTEXT:
                raise rejected("--context", name, f"of orders: {', '.join(interactions.ORDER_CONTEXT)}")
    default = None if options.events else interactions.PURCHASE
    return interactions.Wanted(
        events=bool(options.events), event_type=options.event_type or default, values=not options.no_event_value,
        context=context, since=options.since, until=options.until, time_unit=options.time_unit or "s",
    )  # fmt: skip


def open_source(options: InteractionsOptions, wanted: Wanted, project: str | None) -> OrdersSource:
    """Raises: UsageError where the lines cannot be read, or do not have what an interaction needs."""
    if options.events:
        from pipelines import interactions_events

        return interactions_events.open_events(options.events, options.orders, wanted)
    # The lines themselves are wanted, wherever they come from.
    given = replace(options.orders, no_pushdown=options.orders.in_bigquery)
    source = orders_arguments.open_orders(given, project, KIND)
    for name in ("item_id", *wanted.context):
        if name not in source.schema.names:
            raise UsageError(f"--orders {source.uri!r} has no column {name}: name it by --columns {name}=...")
    return source


def _with_columns_of(source: OrdersSource, wanted: Wanted) -> Wanted:
    """Events without event_value have no EVENT_VALUE."""
    if wanted.events and "event_value" not in source.schema.names:
        return replace(wanted, values=False)
    return wanted


def arguments_of(
    source: OrdersSource, wanted: Wanted, limits: Limits, options: InteractionsOptions
) -> dict[str, Any]:  # fmt: skip
    """What decides the export's content, and what was asked of it."""
    identity, asked = source.identity, dict(vars(wanted))
    if asked.pop("events"):
        identity["events"] = identity.pop("orders")
    newest = options.newest_within_days
    return {**identity, **asked, "newest_within_days": newest, "limits": limits.to_json()}


def build_pipeline(
    options: InteractionsOptions, beam_options: PipelineOptions, source: OrdersSource, wanted: Wanted, limits: Limits,
    arguments: dict[str, Any], attempt: str = "",
) -> Pipeline:  # fmt: skip
    """The job's graph: lines -> files and summaries -> checks -> manifest."""
    import apache_beam as beam
    import pyarrow as pa

    from pipelines import interactions_job, snapshot_job
    from transforms.interactions_checks import Times
    from transforms.interactions_lines import Statements
    from transforms.interactions_summary import Summary

    names = interactions_job.column_names(source, wanted)
    statements = Statements.compile(pa.schema([source.schema.field(name) for name in names]), wanted)
    export = interactions_job.Export(options.output, attempt, wanted, statements, names, source.rows)
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    completion = interactions_job.Completion(
        arguments, snapshot_job.content_of(source), source.rows if source.pinned else None, limits,
        Times(now, options.until, options.newest_within_days),
    )  # fmt: skip
    pipeline = beam.Pipeline(options=beam_options)
    summaries, checked = interactions_job.summaries(pipeline, source, export)
    merged = summaries | "Merge" >> beam.CombineGlobally(Summary.merge).without_defaults()
    interactions_job.complete(merged, checked, export, completion)
    return pipeline


if __name__ == "__main__":
    sys.exit(main())
