"""The peer of pipelines.features: one DuckDB script and scikit-learn, neither Beam nor TensorFlow.

    python -m benchmarks.plain_features --sql features.sql --output plain/

The script (see ``script``) reads the orders and writes plain/raw/; then the same transform as
``transforms/preprocessing.py``, fitted on the same train split, writes plain/transformed/. It is what
a person would write who has one machine, data that fits into it, and no model to hand the
transform to. One process, one thread.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transforms.cli import ArgumentParser, exit_code
from transforms.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from pipelines.order_files import OrderFiles
    from transforms.customer_features import Snapshot

# As in transforms/preprocessing.py, which cannot be imported without TensorFlow; the benchmark
# fails on any difference.
CLIP = 10.0
VOCABULARY_SIZE = 32
MISSING_INDEX, OUT_OF_VOCABULARY_INDEX, FIRST_VOCABULARY_INDEX = 0, 1, 2


@dataclass(frozen=True)
class PlainOptions:
    sql: str
    output: str

    @classmethod
    def parse(cls, argv: list[str] | None) -> PlainOptions:
        parser = ArgumentParser("python -m benchmarks.plain_features", description=__doc__)
        parser.add_argument("--sql", required=True, metavar="FILE", help="the DuckDB script that writes raw/")
        parser.add_argument(
            "--output", required=True, metavar="DIR", help="holds raw/ after the script, gets transformed/"
        )
        return cls(**vars(parser.parse_args(argv)))


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Writes raw/ and transformed/, and returns the number of customers."""
    options = PlainOptions.parse(argv)

    import duckdb
    import pyarrow.parquet as pq

    try:
        with open(options.sql, encoding="utf8") as file:
            sql = file.read()
    except OSError as error:
        raise UsageError(f"--sql {options.sql!r} is not usable: accepted is a DuckDB script: {error}") from error
    os.makedirs(os.path.join(options.output, "raw"))
    os.makedirs(os.path.join(options.output, "transformed"))
    with duckdb.connect() as connection:
        connection.execute(sql)
    transformed = transform(pq.read_table(os.path.join(options.output, "raw"), columns=_columns(), use_threads=False))
    pq.write_table(transformed, os.path.join(options.output, "transformed", "customers.parquet"), compression="zstd")
    return {"rows": transformed.num_rows}


def script(source: OrderFiles, snapshot: Snapshot, raw: str) -> str:
    """The same cleaning and the same features as in the Beam job, once over everything, as a DuckDB script.

    Args:
      raw: path of the Parquet file that it writes.
    """
    import ibis

    from transforms import clean_orders, customer_features, engines, schema

    cleaned = clean_orders.clean_orders(ibis.table(ibis.Schema.from_pyarrow(source.schema), name="raw"))
    outside = customer_features.outside_window(cleaned.order_day, snapshot)
    usable = cleaned.filter(cleaned.reason.isnull() & outside.isnull()).drop("reason")
    orders = ibis.table(ibis.Schema.from_pyarrow(schema.arrow_schema(schema.ORDERS)), name="orders")
    files = ", ".join(_quoted(file["path"]) for file in source.files)
    return "\n".join(
        [
            "SET threads = 1; SET TimeZone = 'UTC'; SET preserve_insertion_order = false;",
            f"CREATE VIEW raw AS SELECT {', '.join(source.schema.names)} FROM read_parquet([{files}]);",
            f"CREATE TEMP TABLE orders AS {engines.compile_sql(usable, 'duckdb')};",
            f"COPY ({engines.compile_sql(customer_features.customer_features(orders, snapshot), 'duckdb')})",
            f"TO {_quoted(raw)} (FORMAT parquet, COMPRESSION zstd);",
        ]
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _columns() -> list[str]:
    from transforms import schema

    return [
        schema.CUSTOMER_ID.name,
        schema.SPLIT.name,
        *schema.names(schema.LABELS),
        *schema.names(schema.model_inputs()),
    ]


def transform(customers: pa.Table) -> pa.Table:
    """What ``preprocessing_fn`` computes, by scikit-learn.

    Args:
      customers: the columns of ``_columns()``.

    Returns:
      customer_id, split, float32 labels, float32 z-scores and missing flags, int64 vocabulary indices.
    """
    import numpy as np
    import pyarrow as pa

    from transforms import schema

    train = np.asarray(customers["split"]) == "train"
    columns: dict[str, Any] = {name: customers[name] for name in (schema.CUSTOMER_ID.name, schema.SPLIT.name)}
    columns |= {name: _doubles(customers[name]).astype(np.float32) for name in schema.names(schema.LABELS)}
    for column in schema.model_inputs():
        if column.model_input is schema.Scale.VOCABULARY:
            columns[column.name] = _indices(customers[column.name], train)
        else:
            columns |= _numbers(column, _doubles(customers[column.name]), train)
    return pa.table(columns)


def _doubles(column: pa.ChunkedArray) -> np.ndarray:
    """[rows] float64, null as NaN."""
    import numpy as np
    import pyarrow as pa

    return np.asarray(column.cast(pa.float64(), safe=False).fill_null(float("nan")))


def _numbers(column: Any, values: np.ndarray, train: np.ndarray) -> dict[str, np.ndarray]:
    """Z-score of one model input, and its missing flag where the schema lets it be null."""
    import numpy as np
    from sklearn.preprocessing import StandardScaler

    from transforms import schema

    linear = column.model_input is schema.Scale.LINEAR
    x = values if linear else np.sign(values) * np.log1p(np.abs(values))
    scaler = StandardScaler().fit(x[train, None])
    lowest, highest = np.nanmin(x[train]), np.nanmax(x[train])
    known = np.clip(x, lowest, highest) if column.model_input is schema.Scale.LOG else x
    scores = np.clip(np.nan_to_num(scaler.transform(known[:, None])[:, 0], copy=False), -CLIP, CLIP)
    varied = lowest < highest
    result = {column.name: (scores if varied else np.zeros_like(scores)).astype(np.float32)}
    if column.nullable:
        missing = np.isnan(x)
        taught = 0 < missing[train].sum() < train.sum()
        result[column.name + "_missing"] = (missing & taught).astype(np.float32)
    return result


def _indices(column: pa.ChunkedArray, train: np.ndarray) -> np.ndarray:
    """MISSING_INDEX, OUT_OF_VOCABULARY_INDEX, or FIRST_VOCABULARY_INDEX + rank by frequency in the train split."""
    import numpy as np
    from sklearn.preprocessing import OrdinalEncoder

    values = column.to_pandas().to_numpy(object)
    present = np.asarray(column.is_valid())
    terms, times = np.unique(values[train & present].astype(str), return_counts=True)
    # Most frequent first; of equally frequent terms the greater one, as tf.Transform has it.
    ranked = terms[np.lexsort((terms, times))[::-1]][:VOCABULARY_SIZE]
    varied = len(terms) + (train & ~present).any() > 1
    indices = np.full(len(values), MISSING_INDEX, np.int64)
    if varied and len(ranked):
        unknown = OUT_OF_VOCABULARY_INDEX - FIRST_VOCABULARY_INDEX
        known = ranked.astype(object)
        encoder = OrdinalEncoder(categories=[known], handle_unknown="use_encoded_value", unknown_value=unknown)
        codes = encoder.fit(known[:, None]).transform(values[present, None])
        indices[present] = codes[:, 0].astype(np.int64) + FIRST_VOCABULARY_INDEX
    return indices


if __name__ == "__main__":
    sys.exit(main())
