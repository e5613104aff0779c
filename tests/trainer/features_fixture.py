"""Features directories for tests: simulated customers, the real transform run by Beam, the real layout."""

from __future__ import annotations

import datetime
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import schema, statistics, storage

CUTOFF = datetime.date(2011, 1, 1)
HISTORY_DAYS = 730


def split_of(customer_id: str) -> str:
    h = hashlib.md5(customer_id.encode()).hexdigest()[:4]
    return next((name for name, bound in schema.SPLIT_BOUNDS.items() if h < bound), "test")


def simulate(n: int, *, seed: int, horizon_days: int = 90, start: int = 0) -> pa.Table:
    """Customers with labels, [n] rows of ``schema.CUSTOMERS``: buy-till-you-die, gamma-Poisson with dropout.

    Each customer buys first on a uniform day of the two years before the cutoff, then at a rate of its own until
    it silently leaves; what it pays an order is lognormal around a level of its own. One order is one line.
    ``start`` numbers the first customer.
    """
    rng = np.random.default_rng(seed)
    age = rng.integers(1, HISTORY_DAYS, n)
    rate = rng.gamma(0.8, 1 / 60, n)
    lifetime = rng.exponential(rng.gamma(2.0, 200.0, n))
    level = np.exp(rng.normal(3.5, 0.8, n))
    repeats = rng.poisson(rate * np.minimum(lifetime, age + horizon_days))
    who = np.repeat(np.arange(n), repeats + 1)
    # Days relative to the cutoff; the first order of each customer at -age, the others uniform while alive.
    first = np.concatenate([[True], who[1:] != who[:-1]])
    alive = np.minimum(lifetime, age + horizon_days)[who]
    day = np.where(first, -age[who], np.floor(-age[who] + rng.random(len(who)) * alive)).astype(np.int64)
    amount = np.round(level[who] * np.exp(rng.normal(0.0, 0.5, len(who))), 2)
    _, keep = np.unique(who * 10_000 + day, return_index=True)  # sorted by customer and day, one order a day
    return _aggregate(n, who[keep], day[keep], amount[keep], age, rng, horizon_days, start)


def _aggregate(
    n: int, who: np.ndarray, day: np.ndarray, amount: np.ndarray, age: np.ndarray,
    rng: np.random.Generator, horizon_days: int, start: int,
) -> pa.Table:  # fmt: skip
    def count(mask: np.ndarray) -> np.ndarray:
        return np.bincount(who[mask], minlength=n)

    def value(mask: np.ndarray) -> np.ndarray:
        return np.round(np.bincount(who[mask], weights=amount[mask], minlength=n), 2)

    past, future = day < 0, (day >= 0) & (day < horizon_days)
    orders = count(past)
    last_row = np.cumsum(count(np.ones_like(past))) - count(~past) - 1
    last_day = day[last_row]
    order_max = np.zeros(n)
    np.maximum.at(order_max, who[past], amount[past])
    frequency, recency = orders - 1, last_day + age
    columns: dict[str, Any] = {
        "customer_id": np.array([f"C{i:07d}" for i in range(start, start + n)]),
        "lines": orders, "orders": orders, "order_days": orders,
        "frequency": frequency, "recency_days": recency, "age_days": age, "days_since_last": -last_day,
        "value_total": value(past), "order_value_total": value(past), "order_value_mean": value(past) / orders,
        "order_value_max": order_max, "order_value_last": amount[last_row],
        "gap_days_mean": _masked(recency / np.maximum(frequency, 1), frequency == 0),
        "value_year_ago": _masked(value((day >= -365) & (day < horizon_days - 365)), age < 365),
        "orders_year_ago": _masked(count((day >= -365) & (day < horizon_days - 365)), age < 365),
        "return_share": np.zeros(n), "return_value": np.zeros(n), "return_lines": np.zeros(n),
        "distinct_items": np.minimum(orders * 2, 50),
        "country": _masked(rng.choice(["UK", "DE", "FR", "IE"], n, p=[0.8, 0.1, 0.07, 0.03]), rng.random(n) < 0.02),
        "future_value": value(future), "future_orders": count(future),
    }  # fmt: skip
    for days in schema.RECENT_WINDOWS_DAYS:
        window = past & (day >= -days)
        columns |= {f"value_{days}d": value(window), f"orders_{days}d": count(window)}
    columns["split"] = [split_of(name) for name in columns["customer_id"]]
    return pa.table(
        [_array(columns.get(c.name), c.type, n) for c in schema.CUSTOMERS], schema.arrow_schema(schema.CUSTOMERS)
    )


def _masked(values: np.ndarray, nulls: np.ndarray) -> pa.Array:
    return pa.array(values, mask=nulls)


def _array(values: Any, type_: schema.Type, n: int) -> pa.Array:
    if values is None:
        return pa.nulls(n, type_.arrow)
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return (
        array.cast(pa.float64(), safe=False).cast(type_.arrow, safe=False)
        if type_ is schema.Type.MONEY
        else array.cast(type_.arrow)
    )


def analyze_and_transform(
    analysed: pa.Table, jobs: list[tuple[pa.Table, int]], transform_output: str
) -> list[pa.Table]:
    """Analyses the train split of a table, then transforms every (table, rows a batch) with it; in Beam, in this process.

    Writes a ``tft.TFTransformOutput`` directory and returns the flat transformed tables, rows in the order given.
    """
    import apache_beam as beam
    import tensorflow_transform.beam as tft_beam
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from transforms import preprocessing, record_batches

    config = record_batches.tensor_adapter_config()
    train = analysed.filter(pc.equal(analysed["split"], "train"))
    collected = [f"{transform_output}.transformed-{i}.arrow" for i in range(len(jobs))]
    with (
        beam.Pipeline(runner=FnApiRunner()) as pipeline,
        tft_beam.Context(temp_dir=f"{transform_output}.tmp", passthrough_keys=record_batches.PASSTHROUGH_KEYS),
    ):
        # By file: batches inside the graph would be compressed with it, again and again.
        def source(label: str, table: pa.Table, batch_rows: int = 4096) -> Any:
            path = f"{transform_output}.{label}.arrow"
            _write_arrow([record_batches.for_transform(b) for b in table.combine_chunks().to_batches(batch_rows)], path)
            return pipeline | f"{label}-path" >> beam.Create([path]) | label >> beam.FlatMap(_read_arrow)

        transform_fn = (source("train", train), config) | tft_beam.AnalyzeDataset(preprocessing.preprocessing_fn)
        _ = transform_fn | tft_beam.WriteTransformFn(transform_output)
        for i, (table, batch_rows) in enumerate(jobs):
            (batches, _) = ((source(f"all-{i}", table, batch_rows), config), transform_fn) | f"transform-{i}" >> (
                tft_beam.TransformDataset(output_record_batches=True)
            )
            _ = (
                batches
                | f"flat-{i}" >> beam.MapTuple(lambda batch, _: record_batches.from_transform(batch))
                | f"one-{i}" >> beam.combiners.ToList()
                | f"file-{i}" >> beam.Map(_write_arrow, collected[i])
            )
    return [
        _sorted_like(table, pa.ipc.open_file(path).read_all()) for (table, _), path in zip(jobs, collected, strict=True)
    ]


def _write_arrow(batches: list[pa.RecordBatch], path: str) -> None:
    with pa.ipc.new_file(path, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _read_arrow(path: str) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(path)
    return [reader.get_batch(i) for i in range(reader.num_record_batches)]


def _sorted_like(table: pa.Table, transformed: pa.Table) -> pa.Table:
    position = pc.index_in(table["customer_id"], transformed["customer_id"].combine_chunks())
    return transformed.take(position)


def write_features(
    directory: Path | str, customers: pa.Table, transformed: pa.Table, transform_output: str, *,
    cutoff: datetime.date = CUTOFF, horizon_days: int = 90, history_days: int | None = None, fingerprint: str = "f1",
) -> str:  # fmt: skip
    """A finished features directory: raw/, transformed/, transform_fn/, statistics/ and the manifest."""
    arguments = {
        "cutoff": cutoff.isoformat(), "horizon_days": horizon_days, "history_days": history_days,
        "schema_fingerprint": schema.fingerprint(schema.CUSTOMERS),
    }  # fmt: skip
    storage.begin(str(directory), "features", arguments)
    for folder, table in (("raw", customers), ("transformed", transformed)):
        half = table.num_rows // 2
        parts = [
            storage.write_parquet(rows, f"{directory}/{folder}/part-0000{i}-of-00002.parquet")
            for i, rows in enumerate((table.slice(0, half), table.slice(half)))
        ]
    statistics.write(f"{directory}/statistics", statistics.of_table(customers, cutoff.isoformat()))
    shutil.copytree(transform_output, Path(directory) / "transform_fn")
    storage.finish(
        str(directory),
        "features",
        arguments,
        {
            "rows": customers.num_rows,
            "parts": parts,
            "transform_fingerprint": fingerprint,
            "splits": {split: customers["split"].to_pylist().count(split) for split in schema.SPLITS},
        },
    )
    return str(directory)
