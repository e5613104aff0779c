"""The CDNOW orders through the real features: customers as of any cutoff."""

from __future__ import annotations

import datetime

import pyarrow as pa

from orchestration import demo
from tests import engine_runs
from transforms.customer_features import Snapshot

HORIZON_DAYS = 91


def customers(*cutoffs: datetime.date) -> list[pa.Table]:
    """``schema.CUSTOMERS`` with labels at each cutoff."""
    raw = demo.cdnow_orders()
    orders = engine_runs.usable(engine_runs.on_duckdb(engine_runs.clean_sql(raw.schema, "duckdb"), raw=raw))
    snapshots = [Snapshot(cutoff, HORIZON_DAYS) for cutoff in cutoffs]
    return [engine_runs.on_duckdb(engine_runs.features_sql(s, "duckdb"), orders=orders) for s in snapshots]
