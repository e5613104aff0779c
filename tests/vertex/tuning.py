"""Hyperparameter tuning: trials really run, some at a time, each a custom job with values of its own.

The values come from a seeded generator: nothing is learned from earlier trials. A trial's metric is read from the file that
its container writes, lines of JSON as Google's package cloudml-hypertune writes them.
"""

from __future__ import annotations

import concurrent.futures
import json
import math
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.vertex.jobs import FAILED, RUNNING, SUCCEEDED, CustomJobRecord, Ending, JobRecord, Jobs, internal_error
from tests.vertex.resources import Pace, now

Value = float | int | str


@dataclass
class TuningJobRecord(JobRecord):
    """A tuning job; ``body["trials"]`` grows while it runs, as do the trials' own jobs in ``children``."""

    children: list[CustomJobRecord] = field(default_factory=list)

    def stop(self) -> None:
        super().stop()
        for child in self.children:
            child.stop()

    @property
    def study(self) -> dict[str, Any]:
        return dict(self.body["studySpec"])

    @property
    def trials(self) -> list[dict[str, Any]]:
        return list(self.body.get("trials", []))


class Tuning:
    """Carries tuning jobs out.

    Args:
      execute: runs one trial's custom job to its end.
      jobs: gets the trials' jobs, so that they can be asked for.
      folder: for the files of metrics.
      seed: of the values drawn.
    """

    def __init__(
        self, execute: Callable[[CustomJobRecord], Ending], jobs: Jobs, lock: threading.RLock, folder: Path, seed: int
    ) -> None:
        self._execute, self._jobs, self._lock, self._folder, self._seed = execute, jobs, lock, folder, seed

    def run(self, job: TuningJobRecord) -> Ending:
        """All trials of a job, to their end."""
        generator = random.Random(self._seed)
        drawn = [draw(job.study, generator) for _ in range(job.body["maxTrialCount"])]
        job.body["trials"] = []
        with concurrent.futures.ThreadPoolExecutor(job.body["parallelTrialCount"]) as pool:
            list(pool.map(lambda number: self._trial(job, str(number + 1), drawn[number]), range(len(drawn))))
        failed = sum(trial["state"] == "INFEASIBLE" for trial in job.trials)
        # With 0 the service decides; here it decides for giving up when nothing came of it.
        if failed >= (job.body.get("maxFailedTrialCount") or len(drawn)):
            return Ending(FAILED, f"Too many trials failed: {failed} of {len(drawn)}.")
        return Ending()

    def _trial(self, job: TuningJobRecord, number: str, values: Mapping[str, Value]) -> None:
        failed = sum(trial["state"] == "INFEASIBLE" for trial in job.trials)
        if job.cancelled.is_set() or 0 < job.body.get("maxFailedTrialCount", 0) <= failed:
            return
        file = self._folder / f"{job.id}-{number}.metrics"
        record = _job_of(job, number, values, file)
        with self._lock:
            self._jobs.add(record, job.name.rsplit("/", 2)[0], "customJobs", RUNNING)
            record.body["startTime"] = now()
            trial = {
                "id": number, "name": f"{job.name}/trials/{number}", "state": "ACTIVE", "customJob": record.name,
                "parameters": [{"parameterId": name, "value": value} for name, value in values.items()],
                "startTime": now(),
            }  # fmt: skip
            job.body["trials"].append(trial)
            job.children.append(record)
            record.worker = threading.current_thread()
            if job.cancelled.is_set():
                record.stop()
        ending = self._ending(record)
        with self._lock:
            record.ending = ending
            self._jobs.settle(record)
            trial.update(_outcome(job.study, ending, file))

    def _ending(self, record: CustomJobRecord) -> Ending:
        try:
            return self._execute(record)
        except Exception:
            return internal_error()


def draw(study: Mapping[str, Any], generator: random.Random) -> dict[str, Value]:
    """One value for each parameter of a study, within its range and on its scale."""
    return {parameter["parameterId"]: _value(parameter, generator) for parameter in study["parameters"]}


def _value(parameter: Mapping[str, Any], generator: random.Random) -> Value:
    for name in ("categoricalValueSpec", "discreteValueSpec"):
        if name in parameter:
            chosen: Value = generator.choice(parameter[name]["values"])
            return chosen
    whole = "integerValueSpec" in parameter
    spec = parameter["integerValueSpec" if whole else "doubleValueSpec"]
    low, high = float(spec["minValue"]), float(spec["maxValue"])
    if "LOG" in parameter.get("scaleType", ""):
        drawn = math.exp(generator.uniform(math.log(low), math.log(high)))
    else:
        drawn = generator.uniform(low, high)
    drawn = min(max(drawn, low), high)
    return round(drawn) if whole else drawn


def flag(name: str, value: Value) -> str:
    """As the service appends it to a trial's arguments; a whole number has no point."""
    return f"--{name}={int(value) if isinstance(value, float) and value.is_integer() else value}"


def _job_of(job: TuningJobRecord, number: str, values: Mapping[str, Value], file: Path) -> CustomJobRecord:
    spec = json.loads(json.dumps(job.body["trialJobSpec"]))
    for pool in spec["workerPoolSpecs"]:
        if "containerSpec" in pool:
            pool["containerSpec"].setdefault("args", []).extend(flag(name, value) for name, value in values.items())
    if output := spec.get("baseOutputDirectory", {}).get("outputUriPrefix"):
        spec["baseOutputDirectory"] = {"outputUriPrefix": f"{output.rstrip('/')}/{number}"}
    return CustomJobRecord(
        {"displayName": f"{job.display_name}-trial-{number}"[:128], "jobSpec": spec},
        Pace(0, math.inf),
        variables={"CLOUD_ML_TRIAL_ID": number, "CLOUD_ML_HP_METRIC_FILE": str(file)},
    )


def _outcome(study: Mapping[str, Any], ending: Ending, file: Path) -> dict[str, Any]:
    """The fields of a trial that has ended."""
    if ending.state != SUCCEEDED:
        return {"state": "INFEASIBLE", "infeasibleReason": ending.error or ending.state, "endTime": now()}
    wanted = [metric["metricId"] for metric in study["metrics"]]
    try:
        measurements = [_measurement(line, wanted) for line in file.read_text().splitlines()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        measurements = []
        reason = f"Trial has no usable metric {', '.join(wanted)}: {error}"
    else:
        reason = f"Trial has no metric {', '.join(wanted)}"
    if not measurements:
        return {"state": "INFEASIBLE", "infeasibleReason": reason, "endTime": now()}
    return {
        "state": "SUCCEEDED", "endTime": now(), "measurements": measurements,
        "finalMeasurement": _final(study, measurements),
    }  # fmt: skip


def _measurement(line: str, wanted: list[str]) -> dict[str, Any]:
    """Raises: ValueError, KeyError or TypeError for a line that does not have every metric as a finite number."""
    written = json.loads(line)
    values = [float(written[metric]) for metric in wanted]
    metrics = [{"metricId": metric, "value": value} for metric, value in zip(wanted, values, strict=True)]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"not a finite number in {line}")
    return {"stepCount": str(int(float(written.get("global_step", 0)))), "metrics": metrics}


def _final(study: Mapping[str, Any], measurements: list[dict[str, Any]]) -> dict[str, Any]:
    if study.get("measurementSelectionType") != "BEST_MEASUREMENT":
        return measurements[-1]
    sign = 1 if study["metrics"][0]["goal"] == "MINIMIZE" else -1
    return min(measurements, key=lambda each: sign * each["metrics"][0]["value"])
