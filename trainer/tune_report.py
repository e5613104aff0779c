"""Tells Vertex AI's hyperparameter tuning what a trial was worth.

A tuning job starts each trial as a plain ``trainer.task`` with other settings, and reads its metric from a file: lines of
JSON as Google's package ``cloudml-hypertune`` writes them (github.com/GoogleCloudPlatform/cloudml-hypertune,
hypertune/hypertune.py; last released in 2019, which is why these lines are here and it is not a dependency).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

METRIC = "validation_loss"  # the tuning job's metricId; its goal is MINIMIZE
# The names and the default are the package's.
FILE_VARIABLE, TRIAL_VARIABLE = "CLOUD_ML_HP_METRIC_FILE", "CLOUD_ML_TRIAL_ID"
DEFAULT_FILE = "/tmp/hypertune/output.metrics"


def report(
    manifest: Mapping[str, Any], say: Callable[[str], None],
    environment: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.time,
) -> None:  # fmt: skip
    """Writes the model's validation loss to the file Vertex AI reads; nothing outside a tuning job's trial.

    A model that has none (it holds no network, or the loss overflowed) is not reported, which makes the trial infeasible.

    Args:
      manifest: the model's.
      clock: seconds since 1970.
    """
    if not environment.get(FILE_VARIABLE) and not environment.get(TRIAL_VARIABLE):
        return
    trial, loss = environment.get(TRIAL_VARIABLE) or "0", manifest.get(METRIC)
    if loss is None or not math.isfinite(loss):
        say(f"trial {trial} has no {METRIC} to report: {'the model has no network' if loss is None else loss}")
        return
    # The package writes numbers as text, and the trial's last line is what counts.
    line = {
        "timestamp": clock(), "trial": trial, METRIC: str(float(loss)), "global_step": str(manifest["best_epoch"]),
    }  # fmt: skip
    path = environment.get(FILE_VARIABLE) or DEFAULT_FILE
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    # In place, as the package does it: nothing is said of a reader that would follow a rename.
    with open(path, "w") as file:
        file.write(json.dumps(line, sort_keys=True) + "\n")
    say(f"trial {trial} reported {METRIC} {loss:.4f}")
