"""What a campaign's owner decides: how data are imported, how models are trained, what is good enough, how long to wait."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

FULL, INCREMENTAL, UPDATE = "FULL", "INCREMENTAL", "UPDATE"  # the service's words


@dataclass(frozen=True)
class Policy:
    """The rules of one campaign's refreshes.

    Attributes:
      import_mode: FULL takes data without a beginning only; INCREMENTAL takes such with --since as well.
      training_mode: FULL, or UPDATE: then a full training only where there was none, or it is too long ago.
      full_training_every_days: what is too long ago; counted between base_dates.
      least_rows_ratio: a full import must have at least this share of the rows of the full one before it.
      metric: the offline metric that the new version is held against the serving one by.
      least_metric_ratio: the share of the serving version's metric that the new one must reach.
      own_auto_training: whether the service's own trainings and deployments beside ours are accepted.
      data_hours .. deployment_hours: how long each step may take before the refresh counts as failed.
      total_hours: the same of a refresh as a whole, waiting for its turn included.
      lease_seconds: how long a worker has for one call to the service, its retries included.
      margin_seconds: a worker that has less of its lease left does not call any more.
      poll_seconds: how soon it is worth looking again.
      busy_seconds, most_busy_seconds: the first wait where the service is busy, doubled each time, and the longest.
    """

    import_mode: str = FULL
    training_mode: str = FULL
    full_training_every_days: int = 7  # what Amazon advises beside trainingMode UPDATE
    least_rows_ratio: float = 0.5
    metric: str = "normalized_discounted_cumulative_gain_at_25"
    least_metric_ratio: float = 0.9
    own_auto_training: bool = False
    data_hours: float = 6.0
    import_hours: float = 12.0
    training_hours: float = 72.0
    deployment_hours: float = 6.0
    total_hours: float = 144.0
    lease_seconds: float = 1200.0
    margin_seconds: float = 900.0
    poll_seconds: float = 60.0
    busy_seconds: float = 30.0
    most_busy_seconds: float = 900.0

    def pause(self, tries: int, drawn: float) -> datetime.timedelta:
        """How long to leave a busy service alone after so many tries in a row. ``drawn`` is from 0 to 1: those whom one
        quota holds up do not come back as one."""
        longest = min(self.most_busy_seconds, self.busy_seconds * 2 ** min(tries, 20))
        return datetime.timedelta(seconds=longest * (0.5 + drawn / 2))
