"""Orders and a model -> a predictions directory: one row a customer, as of a date.

    python -m pipelines.predict --orders orders.parquet --as_of 2011-12-10 --model model/ --output predictions/

The features are computed by the same job that made the training snapshots; the transform is the one
inside the model. The directory holds part-*.parquet with every column of the data contract's
predictions, dead_letters/ and, written last, manifest.json. Running the same command again does
nothing; a half-written directory is made anew. Arguments not listed here go to Beam.
"""

from __future__ import annotations

import datetime
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines import options as shared
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
    orders: str
    columns: str | None
    csv_delimiter: str
    csv_encoding: str
    buckets: int | None
    as_of: datetime.date | None
    model: str
    output: str

    @classmethod
    def parse(cls, argv: list[str] | None) -> tuple[PredictOptions, list[str]]:
        """Our arguments, and those left for Beam."""
        parser = ArgumentParser("python -m pipelines.predict", description=__doc__)
        shared.add_orders_arguments(parser)
        parser.add_argument(
            "--as_of", type=shared.date,
            help="YYYY-MM-DD, 00:00 UTC: orders before it are seen (default: the day after the last order)",
        )  # fmt: skip
        parser.add_argument("--model", required=True, metavar="DIR", help="a model directory made by trainer.task")
        parser.add_argument(
            "--output",
            type=shared.directory,
            required=True,
            metavar="DIR",
            help="the directory to make, local or gs://",
        )
        known, beam_arguments = parser.parse_known_args(argv)
        return cls(**vars(known)), beam_arguments


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Makes the predictions and returns their manifest."""
    options, beam_arguments = PredictOptions.parse(argv)
    beam_options = shared.pipeline_options(beam_arguments)

    from pipelines import snapshot_job
    from transforms import schema, storage
    from transforms.customer_features import Snapshot

    model = storage.read_manifest(options.model, "model")
    if model["schema_fingerprint"] != schema.fingerprint(schema.CUSTOMERS):
        raise UsageError(
            f"--model {options.model!r} was made with other feature formulas than this code's: train it anew"
        )
    source = snapshot_job.open_source(options.orders, options.columns, options.csv_delimiter, options.csv_encoding)
    as_of = options.as_of or source.trusted_end(shared.today())
    if not source.first_day < as_of <= source.end:
        raise UsageError(
            f"--as_of {as_of} is outside the data: accepted is a day after {source.first_day}, up to {source.end}"
        )
    snapshot = Snapshot(as_of, model["horizon_days"], model["history_days"], labels=False)
    arguments = snapshot_job.arguments_of(source, snapshot)
    arguments["model_version"] = model["model_version"]
    return snapshot_job.make(
        options.output, KIND, arguments,
        lambda attempt: build_pipeline(options, beam_options, source, snapshot, arguments, attempt),
    )  # fmt: skip


def build_pipeline(
    options: PredictOptions, beam_options: PipelineOptions, source: OrdersSource, snapshot: Snapshot,
    arguments: dict[str, Any], attempt: str = "",
) -> Pipeline:  # fmt: skip
    """The job's graph: orders -> customers -> scores -> deciles -> manifest."""
    import apache_beam as beam
    from apache_beam.pvalue import AsSingleton

    from pipelines import score_customers, snapshot_job
    from transforms import aggregate, storage

    output, temp = options.output, snapshot_job.temp(options.output, attempt)
    pipeline = beam.Pipeline(options=beam_options)
    parts = snapshot_job.customer_parts(
        pipeline, source, snapshot, output=output, raw=storage.join(temp, "customers"),
        buckets=options.buckets or aggregate.bucket_count(source.rows), local=shared.is_local(beam_options), attempt=attempt,
    )  # fmt: skip
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
    ranked = (
        scored
        | "SpreadScored" >> beam.Reshuffle()
        | "AddDeciles" >> beam.Map(score_customers.add_deciles, AsSingleton(starts, default_value=[]), output)
    )
    content = {
        "as_of": str(snapshot.cutoff), "horizon_days": snapshot.horizon_days, "history_days": snapshot.history_days,
        "model_version": arguments["model_version"], "data_end": str(source.end),
    }  # fmt: skip
    snapshot_job.write_manifest(
        pipeline, output, KIND, arguments, content, attempt, parts.counts, ranked, parts.dead_letters
    )
    return pipeline


if __name__ == "__main__":
    sys.exit(main())
