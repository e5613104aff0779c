"""The steps of predict on Parquet parts: score a part, find where the deciles start, add them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import apache_beam as beam

from transforms import deciles, progress, schema, storage

if TYPE_CHECKING:
    pass

# Rows the model sees at a time: past some thousands a larger batch is no faster, only larger.
SCORED_ROWS = 16_384


class Score(beam.DoFn):
    """Path of a part of ``schema.CUSTOMERS`` -> path of its predictions, still without decile."""

    def __init__(self, model: str, as_of: datetime.date, directory: str) -> None:
        self.model, self.as_of, self.directory = model, as_of, directory

    def setup(self) -> None:
        from trainer import predictor

        self.predictor = predictor.load(self.model)

    def process(self, uri: str) -> Iterator[str]:
        import pyarrow as pa

        customers = storage.read_parquet(uri, schema.names((schema.CUSTOMER_ID, *schema.FEATURES)))
        batches = customers.combine_chunks().to_batches(max_chunksize=SCORED_ROWS)
        scored = pa.Table.from_batches([self.predictor.predict(batch, self.as_of) for batch in batches])
        path = storage.join(self.directory, os.path.basename(uri))
        storage.write_parquet(scored, path)
        progress.advance("customers", scored.num_rows)
        yield path


def decile_starts(paths: list[str]) -> list[deciles.Boundary]:
    """Reads one float per customer into one place (some 24 bytes each while sorting), and the ids of tied values."""
    import numpy as np
    import pyarrow.compute as pc

    values = np.concatenate(
        [np.asarray(storage.read_parquet(path, ["predicted_value"])["predicted_value"]) for path in paths]
    )

    def ids_at(value: float) -> list[str]:
        same = pc.field("predicted_value") == value
        return [
            id_
            for path in paths
            for id_ in storage.read_parquet(path, ["customer_id"], same)["customer_id"].to_pylist()
        ]

    return deciles.boundaries(values, ids_at)


def add_deciles(path: str, starts: list[deciles.Boundary], directory: str) -> dict[str, Any]:
    """Writes the part with its deciles under its final name, and returns what the manifest says of it."""
    scored = storage.read_parquet(path)
    decile = deciles.deciles(scored["predicted_value"].combine_chunks(), scored["customer_id"].combine_chunks(), starts)
    rows = scored.append_column("decile", decile).select(schema.names(schema.PREDICTIONS))
    final = storage.join(directory, os.path.basename(path))
    return storage.write_parquet(rows.cast(schema.arrow_schema(schema.PREDICTIONS)), final)
