"""An equal mixture of zero-inflated lognormal distributions: what an ensemble of networks says of a customer's value.

The members' logits are [b, m, 3]. A mixture and not an average of parameters: where the members disagree its spread is
larger, which is how an ensemble tells what it does not know (Lakshminarayanan, Pritzel and Blundell 2017, "Simple and
Scalable Predictive Uncertainty Estimation using Deep Ensembles").
"""

from __future__ import annotations

import math

import tensorflow as tf

from trainer import ziln

# Halvings of the bracket, which is at most some 50 wide in log space: 22 leave a relative error near 1e-5.
_STEPS = 22
# Standard deviations below a member's median: less of its probability than counts lies further down.
_FAR_BELOW = 8.0


def mean(logits: tf.Tensor) -> tf.Tensor:
    """[b]."""
    return tf.reduce_mean(ziln.mean(logits), axis=-1)


def quantile(logits: tf.Tensor, alpha: float) -> tf.Tensor:
    """The smallest value whose cumulative probability reaches ``alpha``, [b]; 0 where P(0) already does."""
    log_odds, mu, sigma = ziln.parameters(logits)
    positive, nothing = tf.sigmoid(log_odds), tf.reduce_mean(tf.sigmoid(-log_odds), axis=-1)
    of_members = ziln.quantile(logits, alpha)
    some = of_members > 0
    lowest = mu - _FAR_BELOW * sigma
    logs = tf.where(some, tf.math.log(tf.where(some, of_members, tf.ones_like(of_members))), lowest)
    # The mixture's quantile lies between the members' smallest and largest; where one of them is 0, anywhere below.
    low = tf.reduce_min(tf.where(tf.reduce_all(some, axis=-1, keepdims=True), logs, lowest), axis=-1)
    high = tf.reduce_max(logs, axis=-1)
    at = 0.5 * (low + high)
    for _ in range(_STEPS):
        z = (at[:, None] - mu) / sigma
        short = nothing + tf.reduce_mean(positive * _normal_cdf(z), axis=-1) < alpha
        low, high = tf.where(short, at, low), tf.where(short, high, at)
        at = 0.5 * (low + high)
    return tf.where(nothing >= alpha, tf.zeros_like(at), tf.exp(at))


def _normal_cdf(z: tf.Tensor) -> tf.Tensor:
    return 0.5 * tf.math.erfc(-z / math.sqrt(2.0))
