"""Arrow record batches of customers <-> what tf.Transform and a SavedModel want.

``dense`` is the one place where money and counts become float32. Missing is NaN, or b'' for text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transforms import schema
from transforms.errors import UsageError
from transforms.schema import Scale

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

PASSTHROUGH_TEXT = (schema.CUSTOMER_ID.name, schema.SPLIT.name)
PASSTHROUGH_NUMBERS = tuple(schema.names(schema.LABELS))
PASSTHROUGH_KEYS = {*PASSTHROUGH_TEXT, *PASSTHROUGH_NUMBERS}
"""Columns that travel beside the transform and never enter it: ``tft_beam.Context(passthrough_keys=...)``."""


def dense(batch: pa.RecordBatch | pa.Table) -> dict[str, np.ndarray]:
    """Model inputs of customers, ready for a SavedModel's ``raw`` signature.

    Args:
      batch: at least the columns of ``schema.model_inputs()``, of any numeric or decimal type, or text.

    Returns:
      name -> [rows] float32 (null is NaN) or [rows] object array of bytes (null is b'').

    Raises:
      UsageError: a model input is not among the columns.
    """
    absent = sorted({column.name for column in schema.model_inputs()} - set(batch.schema.names))
    if absent:
        raise UsageError(f"customers lack the columns {', '.join(absent)}: accepted are rows of a features run")
    return {
        column.name: _texts(batch[column.name])
        if column.model_input is Scale.VOCABULARY
        else float32(batch[column.name])
        for column in schema.model_inputs()
    }


def float32(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A decimal, integer or float column as [rows] float32, null as NaN. Rounded through float64, vectorised."""
    import numpy as np
    import pyarrow as pa

    # safe=False: whole numbers beyond 2^53 may be rounded here, float32 keeps 24 bits anyway.
    doubles = column.cast(pa.float64(), safe=False).fill_null(float("nan"))
    return np.asarray(doubles).astype(np.float32)


def _texts(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Text as [rows] object array of bytes, null as b''. Python sees each distinct value once, not each row."""
    import numpy as np
    import pyarrow as pa

    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = whole.cast(pa.binary()).fill_null(b"").dictionary_encode()
    distinct = np.empty(len(encoded.dictionary), dtype=object)
    distinct[:] = encoded.dictionary.to_pylist()
    return distinct[np.asarray(encoded.indices)]


def for_transform(batch: pa.RecordBatch | pa.Table) -> pa.RecordBatch:
    """Customers as tf.Transform reads them: ``schema_for_transform()``, every cell a list of one value.

    Args:
      batch: the columns of ``schema.CUSTOMERS``; null labels become NaN.
    """
    import pyarrow as pa

    values: dict[str, Any] = dense(batch)
    values |= {name: float32(batch[name]) for name in PASSTHROUGH_NUMBERS}
    values |= {name: _one_array(batch[name]) for name in PASSTHROUGH_TEXT}
    target = schema_for_transform()
    arrays = [_one_value_lists(pa.array(values[field.name], field.type.value_type)) for field in target]
    return pa.RecordBatch.from_arrays(arrays, schema=target)


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    import pyarrow as pa

    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _one_value_lists(values: pa.Array) -> pa.ListArray:
    import numpy as np
    import pyarrow as pa

    return pa.ListArray.from_arrays(np.arange(len(values) + 1, dtype=np.int32), values)


def schema_for_transform() -> pa.Schema:
    """Arrow schema of ``for_transform``: list columns, the only ones tf.Transform's TensorAdapter takes."""
    import pyarrow as pa

    inputs = [
        pa.field(column.name, pa.list_(pa.binary() if column.model_input is Scale.VOCABULARY else pa.float32()))
        for column in schema.model_inputs()
    ]
    numbers = [pa.field(name, pa.list_(pa.float32())) for name in PASSTHROUGH_NUMBERS]
    texts = [pa.field(name, pa.list_(pa.string())) for name in PASSTHROUGH_TEXT]
    return pa.schema(inputs + numbers + texts)


def tensor_adapter_config() -> Any:
    """``tfx_bsl`` TensorAdapterConfig of ``for_transform``: each model input is a dense [batch] tensor.

    The second half of the pair ``(PCollection of batches, config)`` that AnalyzeDataset and TransformDataset take.
    """
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx_bsl.tfxio import tensor_adapter

    def scalar(name: str) -> schema_pb2.TensorRepresentation:
        dense_tensor = schema_pb2.TensorRepresentation.DenseTensor(column_name=name, shape=schema_pb2.FixedShape())
        return schema_pb2.TensorRepresentation(dense_tensor=dense_tensor)

    representations = {column.name: scalar(column.name) for column in schema.model_inputs()}
    return tensor_adapter.TensorAdapterConfig(schema_for_transform(), representations)


def from_transform(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A transformed batch (``output_record_batches=True``) with flat columns, for Parquet.

    Returns:
      customer_id and split as string, the labels as float32, then the transformed inputs in the order of their names.
    """
    import pyarrow as pa

    flat = {name: batch.column(name).flatten() for name in batch.schema.names}
    first = [schema.CUSTOMER_ID.name, schema.SPLIT.name, *PASSTHROUGH_NUMBERS]
    columns = {name: flat[name].cast(pa.string() if name in PASSTHROUGH_TEXT else flat[name].type) for name in first}
    columns |= {name: flat[name] for name in sorted(set(flat) - PASSTHROUGH_KEYS)}
    return pa.RecordBatch.from_pydict(columns)
