"""The contestants that are gradient-boosted trees: LightGBM, tuned by Optuna, one objective each.

All features of ``schema.FEATURES`` go in, numbers as they are and texts as categories. The rows are the customers of all
training snapshots. Trials are judged out of time where the history allows it: learned from the snapshots whose labels
end before the latest one's cutoff, scored on the latest. Otherwise they learn from the train split's customers and are
scored on the others. The best trial is refitted on all rows.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.forecast_names import L1, L2, TWEEDIE
from trainer.baselines import float_column
from trainer.metrics import Array
from transforms import schema

if TYPE_CHECKING:
    import lightgbm
    import optuna
    import pyarrow as pa

    from benchmarks.forecast_data import Known

# The contestant -> the library's name of its objective.
OBJECTIVES = {TWEEDIE: "tweedie", L1: "regression_l1", L2: "regression"}
MOST_ROUNDS, PATIENCE_ROUNDS = 2000, 50
# Tweedie losses of different powers have different units; trials are compared by the deviance of the default one.
_JUDGED_POWER = 1.5
# What LightGBM does when nobody tunes it is the first trial, so that tuning cannot start behind it.
_LIBRARY_DEFAULTS = {
    "num_leaves": 31, "learning_rate": 0.1, "min_data_in_leaf": 20, "feature_fraction": 1.0, "bagging_fraction": 1.0,
    "lambda_l1": 1e-8, "lambda_l2": 1e-8,
}  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Features (n, k) and labels (n,)."""

    x: Array
    y: Array


def forecast(contestant: str, known: Known, trials: int, seed: int) -> tuple[Array, list[str]]:
    """Forecasts of future_value (n,), in money, never negative, and notes on the tuning."""
    objective = OBJECTIVES[contestant]
    encoder = Encoder.of(known.training)
    fitting, scoring, how = tuning_rows(known)
    best = tune(objective, encoder.rows(fitting), encoder.rows(scoring), encoder.categorical, trials, seed)
    params, rounds = {**best.params}, int(best.user_attrs["rounds"])
    everything = _dataset(encoder.rows(known.training), encoder.categorical, seed)
    booster = _train(_parameters(objective, params, seed), everything, rounds)
    raw = np.asarray(booster.predict(encoder.features(known.customers)), dtype=np.float64)
    notes = [f"{how}; best of {trials} trials: {rounds} rounds, " + _readable(params)]
    if (raw < 0).any():
        notes.append(f"{int((raw < 0).sum())} of {len(raw)} forecasts were negative and count as 0")
    return np.maximum(raw, 0), notes


@dataclass(frozen=True)
class Encoder:
    """Features as one float64 matrix: a text is its index among the training rows' texts in order, unknown is NaN."""

    texts: dict[str, list[str]]

    @classmethod
    def of(cls, training: Sequence[pa.Table]) -> Encoder:
        names = [column.name for column in schema.FEATURES if column.type is schema.Type.STRING]
        values = {name: {v for table in training for v in table[name].unique().to_pylist()} for name in names}
        return cls({name: sorted(found - {None}) for name, found in values.items()})

    @property
    def categorical(self) -> list[int]:
        return [i for i, name in enumerate(schema.names(schema.FEATURES)) if name in self.texts]

    def features(self, customers: pa.Table) -> Array:
        return np.column_stack([self._column(customers, name) for name in schema.names(schema.FEATURES)])

    def rows(self, tables: Sequence[pa.Table]) -> Rows:
        labels = [float_column(table, "future_value") for table in tables]
        return Rows(np.concatenate([self.features(table) for table in tables]), np.concatenate(labels))

    def _column(self, customers: pa.Table, name: str) -> Array:
        if name not in self.texts:
            return float_column(customers, name)
        import pyarrow as pa
        import pyarrow.compute as pc

        index = pc.index_in(customers[name], pa.array(self.texts[name], pa.string()), skip_nulls=True)
        return np.asarray(pc.fill_null(index.cast(pa.float64()), np.nan).to_numpy(), dtype=np.float64)


def tuning_rows(known: Known) -> tuple[list[pa.Table], list[pa.Table], str]:
    """Tables to learn a trial from, tables to score it on, and which way that is."""
    import pyarrow.compute as pc

    latest, *earlier = known.training
    horizon = datetime.timedelta(days=known.horizon_days)
    ended = [
        table
        for table, cutoff in zip(earlier, known.training_cutoffs[1:], strict=True)
        if cutoff + horizon <= known.training_cutoffs[0]
    ]
    if ended:
        return ended, [latest], "tuned out of time"
    in_train = [pc.equal(table[schema.SPLIT.name], "train") for table in known.training]
    fitting = [table.filter(mask) for table, mask in zip(known.training, in_train, strict=True)]
    scoring = [table.filter(pc.invert(mask)) for table, mask in zip(known.training, in_train, strict=True)]
    return fitting, scoring, "tuned by customer"


def tune(
    objective: str, fitting: Rows, scoring: Rows, categorical: list[int], trials: int, seed: int
) -> optuna.trial.FrozenTrial:
    """The best of ``trials`` by Optuna's TPE; its ``user_attrs["rounds"]`` is where early stopping ended."""
    import lightgbm
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    train = _dataset(fitting, categorical, seed)
    valid = lightgbm.Dataset(scoring.x, scoring.y, reference=train, free_raw_data=False)
    stopping = lightgbm.early_stopping(PATIENCE_ROUNDS, verbose=False)

    def score(trial: optuna.Trial) -> float:
        parameters = _parameters(objective, _suggest(objective, trial), seed)
        booster = _train(parameters, train, MOST_ROUNDS, valid_sets=[valid], callbacks=[stopping])
        trial.set_user_attr("rounds", booster.best_iteration)
        predicted = booster.predict(scoring.x, num_iteration=booster.best_iteration)
        return loss(objective, scoring.y, np.asarray(predicted, dtype=np.float64))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    power = {"tweedie_variance_power": _JUDGED_POWER} if objective == "tweedie" else {}
    study.enqueue_trial({**_LIBRARY_DEFAULTS, **power})
    study.optimize(score, n_trials=trials)
    return study.best_trial


def loss(objective: str, actual: Array, predicted: Array) -> float:
    """An objective's own loss, what its trials are judged by.

    Tweedie: the unit deviance of power p = 1.5, 2 (y^(2-p) / ((1-p)(2-p)) - y mu^(1-p) / (1-p) + mu^(2-p) / (2-p))
    (Jorgensen 1987, "Exponential dispersion models"), mean over the customers.
    """
    p = _JUDGED_POWER
    each: dict[str, Callable[[], Array]] = {
        "regression_l1": lambda: np.abs(actual - predicted),
        "regression": lambda: np.square(actual - predicted),
        "tweedie": lambda: 2 * (
            actual ** (2 - p) / ((1 - p) * (2 - p))
            - actual * predicted ** (1 - p) / (1 - p)
            + predicted ** (2 - p) / (2 - p)
        ),
    }  # fmt: skip
    return float(each[objective]().mean())


def _suggest(objective: str, trial: optuna.Trial) -> dict[str, Any]:
    suggested = {
        "num_leaves": trial.suggest_int("num_leaves", 4, 128, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 5, 300, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.3, 1.0),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.4, 1.0),
        "lambda_l1": trial.suggest_float("lambda_l1", 1e-8, 100.0, log=True),
        "lambda_l2": trial.suggest_float("lambda_l2", 1e-8, 100.0, log=True),
    }
    if objective == "tweedie":
        suggested["tweedie_variance_power"] = trial.suggest_float("tweedie_variance_power", 1.05, 1.95)
    return suggested


def _fixed(seed: int) -> dict[str, Any]:
    # One thread, rows first and a seed: the same machine gives the same trees.
    return {
        "num_threads": 1, "deterministic": True, "force_row_wise": True, "seed": seed, "verbosity": -1,
        "feature_pre_filter": False,  # or min_data_in_leaf could not change between trials on one Dataset
    }  # fmt: skip


def _parameters(objective: str, params: dict[str, Any], seed: int) -> dict[str, Any]:
    return {**_fixed(seed), "objective": objective, "metric": objective, "bagging_freq": 1, **params}


def _dataset(rows: Rows, categorical: list[int], seed: int) -> lightgbm.Dataset:
    import lightgbm

    return lightgbm.Dataset(rows.x, rows.y, categorical_feature=categorical, params=_fixed(seed), free_raw_data=False)


def _train(parameters: dict[str, Any], rows: lightgbm.Dataset, rounds: int, **others: Any) -> lightgbm.Booster:
    import lightgbm

    return lightgbm.train(parameters, rows, num_boost_round=rounds, **others)


def _readable(params: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in params.items())
