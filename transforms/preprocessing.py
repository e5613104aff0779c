"""The transform every customer passes before a network sees it: analysed once, carried inside every exported model.

``preprocessing_fn`` reads ``schema.model_inputs()`` and nothing else: labels, split and ids never enter it.
Its statistics come from the rows it is analysed on, by contract the snapshot's train split.

All float arithmetic is float64 and rounded to float32 once, at the end: float32 ``log1p`` gives different last
bits at different batch sizes (vector lanes against scalar tail), and then serving would not equal training.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
import tensorflow_transform as tft

from transforms import schema
from transforms.schema import Column, Scale

MISSING_SUFFIX = "_missing"
# Enough for the countries that matter to one shop; every further one shares the out-of-vocabulary index.
VOCABULARY_SIZE = 32
MISSING_INDEX, OUT_OF_VOCABULARY_INDEX, FIRST_VOCABULARY_INDEX = 0, 1, 2
INDEX_COUNT = VOCABULARY_SIZE + FIRST_VOCABULARY_INDEX
# A single outlier among the analysed rows must not drown the others: it counts as ten standard deviations.
CLIP = 10.0
_HASH_BUCKETS = 2**62


def numeric_inputs() -> tuple[Column, ...]:
    return tuple(column for column in schema.model_inputs() if column.model_input is not Scale.VOCABULARY)


def vocabulary_inputs() -> tuple[Column, ...]:
    return tuple(column for column in schema.model_inputs() if column.model_input is Scale.VOCABULARY)


def numeric_outputs() -> list[str]:
    """Names of the float32 outputs, in the order in which a network stacks them."""
    inputs = numeric_inputs()
    return [c.name for c in inputs] + [c.name + MISSING_SUFFIX for c in inputs if c.nullable]


def raw_feature_spec() -> dict[str, tf.io.FixedLenFeature]:
    """One value a row: float32 with NaN for missing, or bytes with b'' for missing."""
    numeric = {c.name: tf.io.FixedLenFeature([], tf.float32, default_value=float("nan")) for c in numeric_inputs()}
    text = {c.name: tf.io.FixedLenFeature([], tf.string, default_value="") for c in vocabulary_inputs()}
    return numeric | text


def preprocessing_fn(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The transformed features of a batch.

    Args:
      inputs: name -> [batch] float32 (NaN or infinite: missing) or [batch] string (b'': missing).

    Returns:
      ``numeric_outputs()`` -> [batch] float32: what ``schema.Scale`` says, within +-CLIP, 0 where missing; and
      0/1 flags of the missing. Vocabulary inputs -> [batch] int64 below INDEX_COUNT. What never varied in the
      analysed rows is 0 for every row ever after, so that no untrained weight can act on it.
    """
    indices = {column.name: _vocabulary_index(inputs[column.name], column.name) for column in vocabulary_inputs()}
    return _numeric_features(inputs) | indices


def _numeric_features(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    # One matrix for all columns: two analyzers in place of some eighty keep the graph small and fast.
    columns = numeric_inputs()
    raw = tf.cast(tf.stack([inputs[column.name] for column in columns], axis=1), tf.float64)
    present = tf.math.is_finite(raw)
    is_log = tf.constant([column.model_input in (Scale.LOG, Scale.DURATION) for column in columns])
    is_bounded = tf.constant([column.model_input is Scale.LOG for column in columns])
    finite = tf.where(present, raw, tf.zeros_like(raw))
    x = tf.where(is_log, tf.sign(finite) * tf.math.log1p(tf.abs(finite)), finite)

    ones = tf.ones_like(x)
    missing = tf.where(present, tf.zeros_like(x), ones)
    rows, absent, total, squares = tf.split(
        tft.sum(tf.concat([ones, missing, x, x * x], axis=1), reduce_instance_dims=False, name="moments"), 4
    )
    lowest = -float("inf") * ones
    maximum, minus_minimum = tf.split(
        tft.max(
            tf.concat([tf.where(present, x, lowest), tf.where(present, -x, lowest)], axis=1),
            reduce_instance_dims=False,
            name="range",
        ),
        2,
    )
    known = tf.where(is_bounded, tf.clip_by_value(x, -minus_minimum, maximum), x)
    scores = _z_score(known, rows - absent, total, squares, maximum + minus_minimum)
    scores = tf.where(present, scores, tf.zeros_like(x))
    # A flag that was always up, or never, taught the network nothing.
    flags = tf.where((absent > 0) & (absent < rows), missing, tf.zeros_like(missing))

    outputs = {c.name: scores[:, i] for i, c in enumerate(columns)}
    outputs |= {c.name + MISSING_SUFFIX: flags[:, i] for i, c in enumerate(columns) if c.nullable}
    return {name: tf.cast(outputs[name], tf.float32) for name in numeric_outputs()}


def _z_score(x: tf.Tensor, count: tf.Tensor, total: tf.Tensor, squares: tf.Tensor, spread: tf.Tensor) -> tf.Tensor:
    """(x - mean) / standard deviation within +-CLIP, [batch, k]; 0 in the columns whose spread (max - min) is not > 0.

    The spread decides what is constant, not the variance: E[x^2] - mean^2 of a constant is rounding noise.
    For the same reason the variance is at least spread^2 / (2 count), a lower bound of every true variance:
    the two extremes alone contribute (max - mean)^2 + (min - mean)^2 >= spread^2 / 2 to the sum of squares.
    """
    mean = tf.math.divide_no_nan(total, count)
    moment = tf.math.divide_no_nan(squares, count) - mean * mean
    variance = tf.maximum(moment, tf.math.divide_no_nan(spread * spread, 2 * count))
    varied = spread > 0
    deviation = tf.sqrt(tf.where(varied, variance, tf.ones_like(variance)))
    return tf.where(varied, tf.clip_by_value((x - mean) / deviation, -CLIP, CLIP), tf.zeros_like(x))


def _vocabulary_index(x: tf.Tensor, name: str) -> tf.Tensor:
    """MISSING_INDEX, OUT_OF_VOCABULARY_INDEX, or FIRST_VOCABULARY_INDEX + rank by frequency. [batch] int64."""
    # Equal hashes of the whole train split mean that the column never varied, missing rows included.
    hashes = tf.strings.to_hash_bucket_fast(x, _HASH_BUCKETS)
    varied = tft.max(hashes) > tft.min(hashes)
    # Terms of equal frequency are ordered by the term itself: the ranks do not depend on the runner.
    rank = tft.compute_and_apply_vocabulary(x, top_k=VOCABULARY_SIZE, default_value=-1, vocab_filename=name)
    known_or_not = rank + FIRST_VOCABULARY_INDEX
    return tf.where(varied & (x != ""), known_or_not, tf.constant(MISSING_INDEX, tf.int64))
