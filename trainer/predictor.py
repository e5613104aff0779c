"""A model directory -> forecasts of customers. What every user of a model calls, whatever it is made of.

predictor = load("model/")
predictions = predictor.predict(customers, as_of=datetime.date(2011, 12, 10))
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from transforms import quiet_tensorflow, schema, storage
from transforms.errors import rejected

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from trainer.blend import Blend

FORECAST_COLUMNS = (
    "predicted_value", "value_p10", "value_p50", "value_p90", "purchase_probability", "expected_orders",
)  # fmt: skip
# The members a model can have; each in a directory of its name, the network's is what TensorFlow Serving loads.
NETWORK, BOOSTING, PURCHASES = "saved_model", "boosting", "btyd"
MEMBERS = (NETWORK, PURCHASES, BOOSTING)
KINDS = ("blend", "ziln", "boosting", "pareto", "mbgnbd", "bgnbd")
"""What a manifest calls a model: a mix, or its only member."""
COLUMNS = tuple(column for column in schema.PREDICTIONS if column.name != "decile")
"""What ``predict`` returns: ``schema.PREDICTIONS`` but the decile, which only a whole run can know."""
# Rows a call: 1M customers took 1.7 CPU-s at 4,096, 1.3 at 32,768, no less above, and memory grows with it.
_CHUNK_ROWS = 32_768


class ForecastError(ValueError):
    """A model answered with what no forecast can be: the model is unusable, not the customer."""


class Member(Protocol):
    """What a model is made of: forecasts of [n] customers by name of ``FORECAST_COLUMNS``, [n] each."""

    def forecasts(self, customers: pa.RecordBatch | pa.Table) -> dict[str, np.ndarray]: ...


class Predictor(Protocol):
    """A loaded model. Thread-safe once loaded."""

    @property
    def horizon_days(self) -> int: ...

    @property
    def model_version(self) -> str: ...

    def predict(self, customers: pa.RecordBatch | pa.Table, as_of: datetime.date) -> pa.RecordBatch:
        """Forecasts of [n] customers, in their order.

        Args:
          customers: at least customer_id and ``schema.FEATURES``: the network reads the model inputs, the trees all numbers.
          as_of: the cutoff of the customers' features; goes into the rows.

        Returns:
          [n] rows of ``COLUMNS``; all forecasts finite and >= 0, p10 <= p50 <= p90.

        Raises:
          UsageError: a column is missing.
          ForecastError: the model answered with something else than a forecast.
        """
        ...


def load(model_dir: str) -> Predictor:
    """The predictor of a finished model directory, local or remote.

    Raises:
      UsageError: it is no model directory, or of a kind this code does not know.
    """
    return load_unfinished(model_dir, storage.read_manifest(model_dir, "model"))


def load_unfinished(model_dir: str, facts: Mapping[str, Any]) -> Predictor:
    """The predictor of a directory whose manifest is still to be written, by its maker; ``facts`` stands for it."""
    kind = facts["model"]
    if kind not in KINDS:
        raise rejected(f"the model kind of {model_dir}", kind, ", ".join(KINDS))
    from trainer import blend

    content = blend.read(model_dir)
    members = {name: load_member(name, storage.join(model_dir, name)) for name in content.weights}
    return BlendPredictor(int(facts["horizon_days"]), str(facts["model_version"]), members, content)


@dataclass(frozen=True)
class BlendPredictor:
    """One member or a mix of several, see ``trainer.blend``."""

    horizon_days: int
    model_version: str
    members: Mapping[str, Member]
    content: Blend

    def predict(self, customers: pa.RecordBatch | pa.Table, as_of: datetime.date) -> pa.RecordBatch:
        said = {name: member.forecasts(customers) for name, member in self.members.items()}
        forecasts = self.content.forecasts(said, as_of)
        return assemble(customers["customer_id"], forecasts, as_of, self.horizon_days, self.model_version)


@dataclass(frozen=True)
class Network:
    """An ensemble exported by ``trainer.export``; ``signature`` is its ``raw`` one."""

    signature: Callable[..., Mapping[str, Any]]
    saved_model: Any  # TensorFlow frees the graph's variables with their owner

    def forecasts(self, customers: pa.RecordBatch | pa.Table) -> dict[str, np.ndarray]:
        import numpy as np
        import tensorflow as tf

        from transforms import record_batches

        inputs, rows = record_batches.dense(customers), customers.num_rows
        result = {name: np.empty(rows, np.float64) for name in FORECAST_COLUMNS}
        for start in range(0, rows, _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            answer = self.signature(**{name: tf.constant(values[chunk]) for name, values in inputs.items()})
            for name, values in result.items():
                values[chunk] = answer[name].numpy()
        return result


def assemble(
    customer_ids: pa.Array | pa.ChunkedArray, forecasts: Mapping[str, np.ndarray], as_of: datetime.date,
    horizon_days: int, model_version: str,
) -> pa.RecordBatch:  # fmt: skip
    """[n] rows of ``COLUMNS`` from ids and checked ``FORECAST_COLUMNS``, each [n]; for predictors of every kind.

    Raises:
      ForecastError: see ``Predictor.predict``.
    """
    import pyarrow as pa

    _check(forecasts)
    ids = customer_ids.combine_chunks() if isinstance(customer_ids, pa.ChunkedArray) else customer_ids
    given = {
        "customer_id": ids,
        "as_of": pa.repeat(pa.scalar(as_of, pa.date32()), len(ids)),
        "horizon_days": pa.repeat(pa.scalar(horizon_days, pa.int64()), len(ids)),
        "model_version": pa.repeat(pa.scalar(model_version, pa.string()), len(ids)),
        **{name: pa.array(forecasts[name], pa.float64()) for name in FORECAST_COLUMNS},
    }
    target = schema.arrow_schema(COLUMNS)
    return pa.RecordBatch.from_arrays([given[field.name].cast(field.type) for field in target], schema=target)


def _check(forecasts: Mapping[str, np.ndarray]) -> None:
    import numpy as np

    for name in FORECAST_COLUMNS:
        values = forecasts[name]
        wrong = ~(np.isfinite(values) & (values >= 0))
        if wrong.any():
            raise ForecastError(
                f"{name} of {wrong.sum()} customers is not a finite number >= 0, such as {values[wrong][0]}"
            )
    for low, high in (("value_p10", "value_p50"), ("value_p50", "value_p90")):
        wrong = forecasts[low] > forecasts[high]
        if wrong.any():
            raise ForecastError(f"{low} exceeds {high} for {wrong.sum()} customers")
    if (forecasts["purchase_probability"] > 1).any():
        raise ForecastError(f"purchase_probability reaches {forecasts['purchase_probability'].max()}, more than 1")


def load_member(name: str, directory: str) -> Member:
    """One member of a model, by the name of its directory."""
    if name == NETWORK:
        return _load_network(directory)
    if name == BOOSTING:
        from trainer import boosting

        return boosting.load(directory)
    from trainer import btyd_model

    return btyd_model.load(directory)


def _load_network(directory: str) -> Network:
    tf = quiet_tensorflow.import_tensorflow()
    with tempfile.TemporaryDirectory() as local:  # the graph is in memory afterwards
        saved_model = tf.saved_model.load(storage.copy_directory(directory, local))
    return Network(saved_model.signatures["raw"], saved_model)
