"""The names of those who take part in ``benchmarks.forecast``."""

from __future__ import annotations

OURS = "ours"
PAST_RATE, RECENT_WINDOW, MEAN_CUSTOMER, YEAR_AGO = "past_rate", "recent_window", "mean_customer", "year_ago"
BGNBD, PARETO, PARETO_MEAN_ORDER = "lifetimes_bgnbd_gg", "lifetimes_pareto_gg", "lifetimes_pareto_mean_order"
SEED_FORMULA = "seed_formula"
TWEEDIE, L1, L2 = "lightgbm_tweedie", "lightgbm_l1", "lightgbm_l2"

NAIVE = (PAST_RATE, RECENT_WINDOW, MEAN_CUSTOMER, YEAR_AGO)
LIFETIMES = (BGNBD, PARETO, PARETO_MEAN_ORDER, SEED_FORMULA)
TREES = (TWEEDIE, L1, L2)
PEERS = (*NAIVE, *LIFETIMES, *TREES)
