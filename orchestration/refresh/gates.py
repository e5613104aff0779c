"""The two gates of a refresh, as pure functions: are the data to be imported, is the new version to be deployed."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping

from orchestration.refresh.interactions_data import Data
from orchestration.refresh.policy import INCREMENTAL, Policy
from orchestration.refresh.record import Head


def import_verdict(data: Data, base_date: datetime.date, head: Head, policy: Policy) -> tuple[bool, str]:
    """Whether the data may be imported, and why, in one line."""
    if data.failed:
        return False, "; ".join(data.failed)
    if data.mode == INCREMENTAL:
        return _increment_verdict(data, head, policy)
    least = policy.least_rows_ratio * head.imported_rows
    if data.rows < least:
        return False, (
            f"{data.rows:,} rows, {data.rows / head.imported_rows:.2f} of the {head.imported_rows:,} imported in full before: "
            f"accepted is at least {policy.least_rows_ratio:g}"
        )
    return True, f"{data.rows:,} rows of {data.users:,} users, {data.mode}"


def _increment_verdict(data: Data, head: Head, policy: Policy) -> tuple[bool, str]:
    if policy.import_mode != INCREMENTAL:
        return (
            False,
            f"the data begin at {data.since}, and import_mode is {policy.import_mode}: export them without --since",
        )
    if head.imported_until is None or data.since is None:
        return False, f"the data begin at {data.since}, and nothing was imported before: export them without --since"
    if data.since > head.imported_until:
        return False, (
            f"the data begin at {data.since}, those of {head.imported} ended before {head.imported_until}: "
            f"export them with --since {head.imported_until} or earlier"
        )
    return True, f"{data.rows:,} rows of {data.users:,} users from {data.since}, {data.mode}"


def metrics_verdict(new: Mapping[str, float], serving: Mapping[str, float], policy: Policy) -> tuple[bool, str]:
    """Whether the new version may take the serving one's place, and why, in one line."""
    name = policy.metric
    value, before = new.get(name), serving.get(name)
    if value is None or not math.isfinite(value):
        return False, f"the new version has no {name}: it has {', '.join(sorted(new)) or 'no metrics'}"
    if before is None or not math.isfinite(before):
        return True, f"{name} {value:.4f}; the version that is served has none to compare it with"
    least = policy.least_metric_ratio * before
    said = (
        f"{name} {value:.4f}, {value / before:.2f} of the {before:.4f} that is served"
        if before
        else f"{name} {value:.4f}"
    )
    if value < least:
        return False, f"{said}: accepted is at least {policy.least_metric_ratio:g}"
    return True, said
