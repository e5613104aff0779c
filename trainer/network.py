"""The network: transformed features of a customer -> the distributions of its future value and future orders.

An ensemble of small networks in one model, each a 64-32 trunk and one linear layer of five logits: three of ``ziln``,
two of ``hurdle_poisson``. The members see the same batches and differ in their first weights; what the model says is
their equal mixture. Money is divided by ``Scales.money`` before it meets the network and multiplied back after it, so
the same network and learning rate serve a shop that sells in yen and one that sells in pounds.
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

from trainer import hurdle_poisson, mixture, ziln
from trainer.settings import DEFAULTS, VALUE_CAP_MULTIPLE, Settings
from transforms import preprocessing

VALUE_LOGITS = 3
LOGITS = VALUE_LOGITS + 2
# Halve the rate after 2 epochs without progress, give up after 6: two halvings get their chance.
HALVE_AFTER_EPOCHS, STOP_AFTER_EPOCHS = 2, 6
LAST_RATE = 0.05  # of the first, where the rate falls by plan
# Loss differences of rare customers with large values are noise below this.
MIN_IMPROVEMENT = 1e-4
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
    """A trained network: the weights of ``best_epoch`` (from 1).

    ``history`` is each epoch's loss, a member's mean: on the validation rows, or on the training rows where there were none.
    """

    model: keras.Model
    scales: Scales
    batch_size: int
    history: list[float]
    best_epoch: int


def batch_size(rows: int) -> int:
    """Grows with the data: about 60 steps an epoch, a power of two in [64, 8192]."""
    return int(min(8192, max(64, 2 ** round(math.log2(max(rows, 1) / 60)))))


def build(initial_logits: np.ndarray, settings: Settings = DEFAULTS, seed: int = 0) -> keras.Model:
    """{numeric [b, k], vocabulary inputs [b]} -> [b, members, 5] logits, which start at ``initial_logits`` [5] for all."""
    numeric = keras.Input((len(preprocessing.numeric_outputs()),), name="numeric")
    inputs = {"numeric": numeric}
    width, members = settings.hidden_units[0], settings.members
    rng = np.random.default_rng(seed)
    terms = [_layer(numeric, members, width, rng, name="trunk_1")]
    for column in preprocessing.vocabulary_inputs():
        inputs[column.name] = keras.Input((), dtype="int32", name=column.name)
        one_hot = keras.layers.CategoryEncoding(preprocessing.INDEX_COUNT, output_mode="one_hot")
        # Zero to begin with: an index no training customer had gets no gradient and stays without effect.
        effect = keras.layers.EinsumDense(
            "bi,imo->bmo", (members, width), kernel_initializer="zeros", name=column.name + "_effect"
        )
        terms.append(effect(one_hot(inputs[column.name])))
    x = keras.layers.Activation("relu")(keras.layers.add(terms) if len(terms) > 1 else terms[0])
    for i, units in enumerate(settings.hidden_units[1:], start=2):
        x = keras.layers.Activation("relu")(_layer(x, members, units, rng, name=f"trunk_{i}"))
    logits = keras.layers.EinsumDense(
        "bmi,mio->bmo", (members, LOGITS), bias_axes="mo", kernel_initializer="zeros", name="logits"
    )
    model = keras.Model(inputs, logits(x))
    logits.bias.assign(np.tile(initial_logits, (members, 1)))
    return model


def _layer(
    x: keras.KerasTensor, members: int, units: int, rng: np.random.Generator, name: str
) -> keras.KerasTensor:  # fmt: skip
    """A dense layer of every member: [b, i] or [b, members, i] -> [b, members, units]."""
    shared = len(x.shape) == 2
    layer = keras.layers.EinsumDense(
        "bi,imo->bmo" if shared else "bmi,mio->bmo", (members, units), bias_axes="mo", name=name
    )
    y = layer(x)
    # Glorot and Bengio's bounds of one member; Keras would take the members for inputs.
    bound = math.sqrt(6 / (x.shape[-1] + units))
    layer.kernel.assign(rng.uniform(-bound, bound, layer.kernel.shape).astype(np.float32))
    return y


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
    """[b] negative log-likelihood of both heads, a member's mean; targets [b, 2] (scaled value, order days)."""
    members = tf.shape(logits)[1]
    value, orders = (tf.repeat(targets[:, i : i + 1], members, axis=1) for i in range(2))
    of_value = ziln.loss(value, logits[..., :VALUE_LOGITS])
    return tf.reduce_mean(of_value + hurdle_poisson.loss(orders, logits[..., VALUE_LOGITS:], max_rate), axis=1)


def forecast(logits: tf.Tensor, scales: Scales) -> dict[str, tf.Tensor]:
    """The forecast columns of ``schema.PREDICTIONS`` from [b, members, 5], each [b] float32: money, probability or days."""
    value, orders = logits[..., :VALUE_LOGITS], logits[..., VALUE_LOGITS:]

    def money(scaled: tf.Tensor) -> tf.Tensor:
        return tf.minimum(scaled * scales.money, scales.value_cap)

    return {
        # Each member's own mean is capped: one that runs away may not carry the others with it.
        "predicted_value": tf.reduce_mean(money(ziln.mean(value)), axis=-1),
        "value_p10": money(mixture.quantile(value, 0.1)),
        "value_p50": money(mixture.quantile(value, 0.5)),
        "value_p90": money(mixture.quantile(value, 0.9)),
        "purchase_probability": tf.reduce_mean(hurdle_poisson.probability(orders), axis=-1),
        "expected_orders": tf.reduce_mean(hurdle_poisson.mean(orders, scales.max_rate), axis=-1),
    }


def train(
    examples: Examples, validation: Examples | None, *, horizon_days: int, epochs: int, seed: int,
    progress: Callable[[str], None], settings: Settings = DEFAULTS,
    give_up: Callable[[int, float], bool] | None = None,
) -> Training:  # fmt: skip
    """Fits an ensemble by Adam; the same seed gives the same weights on one machine.

    Args:
      validation: training stops early on these; without them it runs for all the ``epochs``.
      give_up: asked after each epoch (from 1), with its validation loss, whether to stop at once.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    scales, size = Scales.of(examples, horizon_days), batch_size(len(examples))
    model = build(initial_logits(examples, scales), settings, seed)
    rate: float | keras.optimizers.schedules.LearningRateSchedule = settings.learning_rate
    if validation is None:  # nothing tells when to halve the rate: it falls by plan, to where halving would have led
        rate = keras.optimizers.schedules.CosineDecay(rate, epochs * math.ceil(len(examples) / size), LAST_RATE)
    model.compile(
        keras.optimizers.Adam(rate, weight_decay=settings.weight_decay or None),
        # A mean over the members: Adam's steps do not depend on a loss's scale, so each learns as if it were alone.
        loss=lambda targets, logits: loss(targets, logits, scales.max_rate),
        # Compiling with XLA costs more than these small steps ever win back.
        jit_compile=False,
    )
    stopping, held_out = _stopping(), None
    callbacks = [_reporting(len(examples), progress)]
    if validation is not None:
        held_out = (validation.inputs(), validation.targets(scales))
        callbacks = [_halving(), stopping, *callbacks]
        if give_up:
            callbacks.append(_giving_up(model, give_up))
    history = model.fit(
        examples.inputs(),
        examples.targets(scales),
        batch_size=size,
        epochs=epochs,
        validation_data=held_out,
        validation_batch_size=8192,
        callbacks=callbacks,
        verbose=0,
    )
    losses = [float(x) for x in history.history["loss" if held_out is None else "val_loss"]]
    return Training(model, scales, size, losses, epochs if held_out is None else stopping.best_epoch + 1)


def _stopping() -> keras.callbacks.EarlyStopping:
    return keras.callbacks.EarlyStopping(
        patience=STOP_AFTER_EPOCHS, min_delta=MIN_IMPROVEMENT, restore_best_weights=True
    )


def _halving() -> keras.callbacks.Callback:
    return keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=HALVE_AFTER_EPOCHS, min_delta=MIN_IMPROVEMENT)


def _giving_up(model: keras.Model, give_up: Callable[[int, float], bool]) -> keras.callbacks.Callback:
    def ask(epoch: int, logs: dict[str, float]) -> None:
        if give_up(epoch + 1, float(logs["val_loss"])):
            model.stop_training = True

    return keras.callbacks.LambdaCallback(on_epoch_end=ask)


def _reporting(rows: int, write: Callable[[str], None]) -> keras.callbacks.Callback:
    """A line every few seconds: epoch, losses, rows, seconds since the start."""
    started = last = time.monotonic()

    def report(epoch: int, logs: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if epoch and now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        of = {"loss": "loss", "val_loss": "validation"}
        losses = ", ".join(f"{name} {logs[key]:.4f}" for key, name in of.items() if key in logs)
        write(f"epoch {epoch + 1}: {losses}, {rows:,} rows, {now - started:.1f} s")

    return keras.callbacks.LambdaCallback(on_epoch_end=report)
