"""A trained network and its transform -> one SavedModel that needs nothing else.

Signatures, each answering with the forecast columns of ``schema.PREDICTIONS`` as [batch] float32:

- ``serving_default``: ``examples`` [batch] serialized tf.Example (what TensorFlow Serving's clients send);
- ``raw``: one [batch] tensor for each model input, float32 (NaN: missing) or string (b'': missing);
- ``transform``: the same inputs, but answers with the transformed features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import tensorflow as tf
import tensorflow_transform as tft

from trainer import network
from trainer.predictor import Network
from transforms import preprocessing


def export(training: network.Training, transform_output: str, directory: str) -> None:
    """Writes the SavedModel.

    Args:
      training: the network and its scales.
      transform_output: local ``tft.TFTransformOutput`` directory; its graph and vocabularies are copied.
      directory: local directory to write.
    """
    transform, forecast = _graph(training, transform_output)
    feature_spec = preprocessing.raw_feature_spec()

    def serve(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return forecast(tf.io.parse_example(examples, feature_spec))

    columns = {name: tf.TensorSpec([None], spec.dtype, name=name) for name, spec in feature_spec.items()}
    archive = keras.export.ExportArchive()
    archive.track(training.model)
    archive.track(transform)
    archive.add_endpoint("serving_default", serve, [tf.TensorSpec([None], tf.string, name="examples")])
    archive.add_endpoint("raw", forecast, [columns])
    archive.add_endpoint("transform", lambda inputs: dict(transform(inputs)), [columns])
    archive.write_out(directory, verbose=False)


def in_memory(training: network.Training, transform_output: str) -> Network:
    """What the SavedModel's ``raw`` would answer, without the time it takes to write one; arguments as ``export``'s."""
    transform, forecast = _graph(training, transform_output)
    return Network(tf.function(lambda **inputs: forecast(inputs), reduce_retracing=True), (training.model, transform))


def _graph(
    training: network.Training, transform_output: str
) -> tuple[keras.Layer, Callable[[Mapping[str, tf.Tensor]], dict[str, tf.Tensor]]]:
    """The layer of the transform, and model inputs -> forecast columns."""
    transform = tft.TFTransformOutput(transform_output).transform_features_layer()

    def forecast(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return network.forecast(training.model(network_inputs(transform(inputs))), training.scales)

    return transform, forecast


def network_inputs(transformed: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The outputs of ``preprocessing_fn`` as the network's inputs: one [batch, k] matrix, and the indices."""
    numeric = tf.stack([transformed[name] for name in preprocessing.numeric_outputs()], axis=1)
    indices = {c.name: tf.cast(transformed[c.name], tf.int32) for c in preprocessing.vocabulary_inputs()}
    return {"numeric": numeric, **indices}
