"""The hurdle Poisson distribution of a customer's future order days, from a network's two logits.

P(N = 0) = 1 - p, and N - 1 given N >= 1 is Poisson(rate). A hurdle, because whether somebody comes back at all and how
often somebody buys who does are different questions (Mullahy 1986, "Specification and testing of some modified
count data models"). Logits are [..., 2]: log-odds of p, log of the rate.
"""

from __future__ import annotations

import tensorflow as tf

# Below exp(-10) more order days a horizon there is nothing to tell apart.
LOG_RATE_FLOOR = -10.0


def parameters(logits: tf.Tensor, max_rate: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Log-odds of at least one order day and the log of the rate, each [...].

    ``max_rate``: an upper bound of the rate; a horizon of H days has at most H order days, so H - 1.
    """
    log_odds, log_rate = tf.unstack(logits, num=2, axis=-1)
    upper = tf.maximum(tf.math.log(tf.cast(max_rate, logits.dtype)), LOG_RATE_FLOOR)
    return log_odds, tf.clip_by_value(log_rate, LOG_RATE_FLOOR, upper)


def loss(labels: tf.Tensor, logits: tf.Tensor, max_rate: float) -> tf.Tensor:
    """Negative log-likelihood of each row up to log((n - 1)!), which no parameter changes.

    Args:
      labels: [...] numbers of order days, 0, 1, 2, ...
      logits: [..., 2].
    """
    log_odds, log_rate = parameters(logits, max_rate)
    positive = labels > 0
    occurrence = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(positive, logits.dtype), logits=log_odds)
    count = tf.exp(log_rate) - (labels - 1) * log_rate
    return occurrence + tf.where(positive, count, tf.zeros_like(count))


def probability(logits: tf.Tensor) -> tf.Tensor:
    """P(N >= 1), [...]."""
    return tf.sigmoid(logits[..., 0])


def mean(logits: tf.Tensor, max_rate: float) -> tf.Tensor:
    """p (1 + rate), [...]."""
    log_odds, log_rate = parameters(logits, max_rate)
    return tf.sigmoid(log_odds) * (1 + tf.exp(log_rate))
