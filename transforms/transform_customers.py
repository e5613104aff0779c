"""tf.Transform over the customers of a snapshot: analysed on the train split only, applied to all.

Customers come and go as Parquet parts (raw/part-x -> transformed/part-x); only their paths are
elements, read separately by the analysis and the transformation, so that no runner keeps the rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam.pvalue import AsList, PCollection

from transforms import quiet_tensorflow, schema, storage

if TYPE_CHECKING:
    import pyarrow as pa

PART = "part"  # the column in which a batch carries the name of its file through tf.Transform


def _part_field() -> pa.Field:
    import pyarrow as pa

    return pa.field(PART, pa.list_(pa.string()))


def _columns() -> list[str]:
    """What tf.Transform needs of ``schema.CUSTOMERS``: the model inputs and what travels beside them."""
    return schema.names((schema.CUSTOMER_ID, *schema.model_inputs(), *schema.LABELS, schema.SPLIT))


class _ReadCustomers(beam.DoFn):
    """Path of a raw part -> its rows as tf.Transform reads them; of one split only, if named."""

    def __init__(self, split: str | None = None) -> None:
        self.split = split

    def process(self, uri: str) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        import pyarrow.compute as pc

        from transforms import record_batches

        customers = storage.read_parquet(uri, _columns())
        if self.split:
            customers = customers.filter(pc.equal(customers["split"], self.split))
        if customers.num_rows:
            batch = record_batches.for_transform(customers)
            name = pa.array([[os.path.basename(uri)]] * batch.num_rows, _part_field().type)
            yield batch.append_column(_part_field(), name)


class _WriteTransformed(beam.DoFn):
    """A transformed batch -> its Parquet part, and what the manifest says of it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def process(self, element: tuple[pa.RecordBatch, dict[str, Any]]) -> Iterator[dict[str, Any]]:
        import pyarrow as pa

        from transforms import record_batches

        batch, _ = element
        path = storage.join(self.directory, batch[PART][0].as_py()[0])
        rows = record_batches.from_transform(batch.drop_columns([PART]))
        yield storage.write_parquet(pa.Table.from_batches([rows]), path)


def transform_customers(
    raw_paths: PCollection[str], *, transformed: str, transform_fn: str, temp: str, reuse: str | None,
    in_turn: Callable[[PCollection[Any], str], PCollection[Any]],
) -> tuple[PCollection[dict[str, Any]], PCollection[Any]]:  # fmt: skip
    """Adds the analysis and the transformation to the pipeline of ``raw_paths``.

    Args:
      raw_paths: URIs of Parquet parts of ``schema.CUSTOMERS``.
      transformed: directory that gets one part for each raw part.
      transform_fn: directory that gets the analysed transform (what ``tft.TFTransformOutput`` opens).
      temp: directory for tf.Transform's own temporary files.
      reuse: a transform_fn directory to apply instead of analysing; it is not copied here.
      in_turn: passes elements on, under a step's name, only while ``transformed`` and ``transform_fn`` may be written to.

    Returns:
      The transformed parts (see ``storage.write_parquet``), and a collection that is complete once the transform is written.
    """
    quiet_tensorflow.import_tensorflow()
    import tensorflow_transform.beam as tft_beam
    from tfx_bsl.tfxio import tensor_adapter

    from transforms import preprocessing, record_batches

    inputs = record_batches.tensor_adapter_config()
    config = tensor_adapter.TensorAdapterConfig(
        inputs.arrow_schema.append(_part_field()), inputs.tensor_representations
    )
    with tft_beam.Context(temp_dir=temp, passthrough_keys=record_batches.PASSTHROUGH_KEYS | {PART}):
        if reuse:
            transform = raw_paths.pipeline | "ReadTransform" >> tft_beam.ReadTransformFn(reuse)
            written: PCollection[Any] = raw_paths.pipeline | "TransformExists" >> beam.Create([reuse])
        else:
            # A shuffle for each reader: one read for both would be fused into one stage, whose rows the
            # in-process runner keeps in memory until the analysis is done (1.5 times the peak at 1M customers).
            train = (
                raw_paths | "SpreadTrain" >> beam.Reshuffle() | "ReadTrainSplit" >> beam.ParDo(_ReadCustomers("train"))
            )
            transform = (train, config) | "Analyze" >> tft_beam.AnalyzeDataset(preprocessing.preprocessing_fn)
            whole = storage.join(temp, "transform_fn")
            analysed = transform | "WriteTransform" >> tft_beam.WriteTransformFn(whole)
            ready = (
                raw_paths.pipeline
                | "WholeTransform" >> beam.Create([whole])
                | "AllOfTransform" >> beam.Map(lambda directory, _: directory, AsList(analysed))
            )
            # Copied, since tf.Transform replaces what it finds, and takes its time over it.
            written = in_turn(ready, "TransformInTurn") | "KeepTransform" >> beam.Map(
                storage.copy_directory, transform_fn
            )
        customers = raw_paths | "SpreadCustomers" >> beam.Reshuffle() | "ReadCustomers" >> beam.ParDo(_ReadCustomers())
        batches, _ = ((customers, config), transform) | "Transform" >> tft_beam.TransformDataset(
            output_record_batches=True
        )
    batches = in_turn(batches, "TransformedInTurn")
    return batches | "WriteTransformed" >> beam.ParDo(_WriteTransformed(transformed)), written
