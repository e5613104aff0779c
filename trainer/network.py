"""The network: transformed features of a customer -> the distributions of its future value and future orders.

A shared 64-32 trunk and one linear layer of five logits: three of ``ziln``, two of ``hurdle_poisson``. Money is
divided by ``Scales.money`` before it meets the network and multiplied back after it, so the same network and
learning rate serve a shop that sells in yen and one that sells in pounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf

from trainer import hurdle_poisson, ziln
from transforms import preprocessing

HIDDEN_UNITS = (64, 32)
VALUE_LOGITS = 3
LOGITS = VALUE_LOGITS + 2
LEARNING_RATE = 2e-3
# Halve the rate after 2 epochs without progress, give up after 6: two halvings get their chance.
HALVE_AFTER_EPOCHS, STOP_AFTER_EPOCHS = 2, 6
# Loss differences of rare customers with large values are noise below this.
MIN_IMPROVEMENT = 1e-4
# No forecast exceeds twice the largest value any training customer ever had: beyond the data a lognormal's mean
# grows as exp(mu + sigma^2 / 2), and one such customer would be a campaign's whole expected revenue.
VALUE_CAP_MULTIPLE = 2.0
SECONDS_BETWEEN_LINES = 2.0


@dataclass(frozen=True)
class Examples:
    """Rows for training. ``numeric`` [n, k] float32 in the order of ``preprocessing.numeric_outputs()``;
    ``vocabulary`` [n] int32 per vocabulary input; ``value`` [n] float32 money; ``orders`` [n] float32."""

    numeric: np.ndarray
    vocabulary: dict[str, np.ndarray]
    value: np.ndarray
    orders: np.ndarray

    @classmethod
    def of(cls, transformed: pa.Table) -> Examples:
        """Rows of ``transformed/``: what ``preprocessing_fn`` made, and the labels."""
        return cls(
            np.stack([transformed[name].to_numpy() for name in preprocessing.numeric_outputs()], axis=1),
            {c.name: transformed[c.name].to_numpy().astype(np.int32) for c in preprocessing.vocabulary_inputs()},
            transformed["future_value"].to_numpy(),
            transformed["future_orders"].to_numpy(),
        )

    def __len__(self) -> int:
        return len(self.value)

    def inputs(self) -> dict[str, np.ndarray]:
        return {"numeric": self.numeric, **self.vocabulary}

    def targets(self, scales: Scales) -> np.ndarray:
        """[n, 2] float32: value in units of ``scales.money``, order days."""
        return np.stack([self.value / np.float32(scales.money), self.orders], axis=1)


@dataclass(frozen=True)
class Scales:
    """What the exported model must know of the training labels.

    ``money``: mean positive value (1 when there is none). ``value_cap``: no forecast of value exceeds it, money.
    ``max_rate``: bound of the order rate after the first order day.
    """

    money: float
    value_cap: float
    max_rate: float

    @classmethod
    def of(cls, train: Examples, horizon_days: int) -> Scales:
        positive = train.value[train.value > 0].astype(np.float64)
        money = float(positive.mean()) if len(positive) else 1.0
        cap = VALUE_CAP_MULTIPLE * float(positive.max()) if len(positive) else 0.0
        return cls(money, cap, float(max(horizon_days - 1, 0)))


@dataclass(frozen=True)
class Training:
    """A trained network: the weights of ``best_epoch`` (from 1); ``history`` is the validation loss of each epoch."""

    model: keras.Model
    scales: Scales
    batch_size: int
    history: list[float]
    best_epoch: int


def batch_size(rows: int) -> int:
    """Grows with the data: about 60 steps an epoch, a power of two in [64, 8192]."""
    return int(min(8192, max(64, 2 ** round(math.log2(max(rows, 1) / 60)))))


def build(initial_logits: np.ndarray) -> keras.Model:
    """{numeric [b, k], vocabulary inputs [b]} -> [b, 5] logits, which start at ``initial_logits`` [5] for everybody."""
    numeric = keras.Input((len(preprocessing.numeric_outputs()),), name="numeric")
    inputs = {"numeric": numeric}
    terms = [keras.layers.Dense(HIDDEN_UNITS[0], name="trunk_1")(numeric)]
    for column in preprocessing.vocabulary_inputs():
        inputs[column.name] = keras.Input((), dtype="int32", name=column.name)
        one_hot = keras.layers.CategoryEncoding(preprocessing.INDEX_COUNT, output_mode="one_hot")
        # Zero to begin with: an index no training customer had gets no gradient and stays without effect.
        dense = keras.layers.Dense(
            HIDDEN_UNITS[0], use_bias=False, kernel_initializer="zeros", name=column.name + "_effect"
        )
        terms.append(dense(one_hot(inputs[column.name])))
    x = keras.layers.Activation("relu")(keras.layers.add(terms) if len(terms) > 1 else terms[0])
    for i, units in enumerate(HIDDEN_UNITS[1:], start=2):
        x = keras.layers.Dense(units, activation="relu", name=f"trunk_{i}")(x)
    logits = keras.layers.Dense(LOGITS, kernel_initializer="zeros", name="logits")
    model = keras.Model(inputs, logits(x))
    logits.bias.assign(initial_logits)
    return model


def initial_logits(train: Examples, scales: Scales) -> np.ndarray:
    """[5] float32: the logits that fit the training labels when every customer is alike."""
    log_values = np.log(train.value[train.value > 0] / scales.money)
    sigma = float(np.clip(log_values.std(), 2 * ziln.SIGMA_FLOOR, ziln.SIGMA_CAP / 2)) if len(log_values) else 1.0
    more = train.orders[train.orders > 0] - 1
    return np.array(
        [
            _log_odds(train.value > 0),
            log_values.mean() if len(log_values) else 0.0,
            math.log(math.expm1(sigma)),
            _log_odds(train.orders > 0),
            math.log(max(float(more.mean()), 1e-2)) if len(more) else math.log(1e-2),
        ],
        np.float32,
    )


def _log_odds(events: np.ndarray) -> float:
    # Half an event on either side: finite when all or none happened.
    hits = float(events.sum())
    return math.log((hits + 0.5) / (len(events) - hits + 0.5))


def loss(targets: tf.Tensor, logits: tf.Tensor, max_rate: float) -> tf.Tensor:
    """[b] negative log-likelihood of both heads; targets [b, 2] (scaled value, order days), logits [b, 5]."""
    value = ziln.loss(targets[:, 0], logits[:, :VALUE_LOGITS])
    return value + hurdle_poisson.loss(targets[:, 1], logits[:, VALUE_LOGITS:], max_rate)


def forecast(logits: tf.Tensor, scales: Scales) -> dict[str, tf.Tensor]:
    """The forecast columns of ``schema.PREDICTIONS``, each [b] float32 in money, probability or days."""
    value, orders = logits[:, :VALUE_LOGITS], logits[:, VALUE_LOGITS:]

    def money(scaled: tf.Tensor) -> tf.Tensor:
        return tf.minimum(scaled * scales.money, scales.value_cap)

    return {
        "predicted_value": money(ziln.mean(value)),
        "value_p10": money(ziln.quantile(value, 0.1)),
        "value_p50": money(ziln.quantile(value, 0.5)),
        "value_p90": money(ziln.quantile(value, 0.9)),
        "purchase_probability": hurdle_poisson.probability(orders),
        "expected_orders": hurdle_poisson.mean(orders, scales.max_rate),
    }


def train(
    examples: Examples, validation: Examples, *, horizon_days: int, epochs: int, seed: int,
    progress: Callable[[str], None],
) -> Training:  # fmt: skip
    """Fits a network by Adam, early-stopped on ``validation``; the same seed gives the same weights on one machine."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    scales = Scales.of(examples, horizon_days)
    model = build(initial_logits(examples, scales))
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        loss=lambda targets, logits: loss(targets, logits, scales.max_rate),
        # Compiling with XLA costs more than these small steps ever win back.
        jit_compile=False,
    )
    size, stopping = batch_size(len(examples)), _stopping()
    history = model.fit(
        examples.inputs(),
        examples.targets(scales),
        batch_size=size,
        epochs=epochs,
        validation_data=(validation.inputs(), validation.targets(scales)),
        validation_batch_size=8192,
        callbacks=[_halving(), stopping, _reporting(len(examples), progress)],
        verbose=0,
    )
    losses = [float(x) for x in history.history["val_loss"]]
    return Training(model, scales, size, losses, stopping.best_epoch + 1)


def _stopping() -> keras.callbacks.EarlyStopping:
    return keras.callbacks.EarlyStopping(
        patience=STOP_AFTER_EPOCHS, min_delta=MIN_IMPROVEMENT, restore_best_weights=True
    )


def _halving() -> keras.callbacks.Callback:
    return keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=HALVE_AFTER_EPOCHS, min_delta=MIN_IMPROVEMENT)


def _reporting(rows: int, write: Callable[[str], None]) -> keras.callbacks.Callback:
    """A line every few seconds: epoch, losses, rows, seconds since the start."""
    started = last = time.monotonic()

    def report(epoch: int, logs: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if epoch and now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        losses = f"loss {logs['loss']:.4f}, validation {logs['val_loss']:.4f}"
        write(f"epoch {epoch + 1}: {losses}, {rows:,} rows, {now - started:.1f} s")

    return keras.callbacks.LambdaCallback(on_epoch_end=report)
