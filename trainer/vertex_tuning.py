"""Tuning jobs on Vertex AI: the ranges of ``trainer.tune`` as Vertex AI's study, its trials, and the flags of the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer import tune, vertex_jobs
from trainer.settings import shape
from trainer.task import TaskOptions
from trainer.tune_report import METRIC
from trainer.vertex_jobs import TUNING, Job, JobRequest
from transforms.errors import UsageError, rejected

# A trial's loss is the network's, and a mix may leave the network out; two members show what settings are worth.
TRIAL_ARGUMENTS = ("--model", "ziln", "--members", str(tune.TRIAL_MEMBERS))
SEARCHED = ("hidden_units", "learning_rate", "weight_decay")
DEFAULT_PARALLEL = 4
# Each trial has a directory of its own, which only its machine is told of.
_OUTPUT = ("--output", '"$AIP_MODEL_DIR"')


@dataclass(frozen=True)
class Trial:
    """One trial: ``loss`` is None until it has reported one."""

    id: str
    state: str
    parameters: dict[str, str]
    loss: float | None

    @property
    def flags(self) -> list[str]:
        """What ``trainer.task`` is given to train with these settings."""
        return [f"--{name}={self.parameters[name]}" for name in SEARCHED if name in self.parameters]


def submit(request: JobRequest, trials: int, parallel: int | None = None, *, exact: bool = False) -> Job:
    """The tuning job of the request's key: one there is already, or a new one.

    Args:
      request: of ``trainer.task`` with the arguments of the training to come; the trials' outputs lie below
        ``<output>.tuning``, and their kind and number of members are the trials' own.
      exact: see ``vertex_jobs.submit``.

    Raises:
      UsageError: the arguments leave nothing to search.
    """
    return vertex_jobs.make(request, TUNING, content(request, trials, parallel), exact=exact)


def content(request: JobRequest, trials: int, parallel: int | None = None) -> dict[str, Any]:
    """A tuning job as Vertex AI is asked for it; arguments and errors as of ``submit``."""
    options = TaskOptions.parse(list(request.arguments))
    given = [name for name in SEARCHED if any(a.split("=", 1)[0] == f"--{name}" for a in request.arguments)]
    if given:
        raise UsageError(f"--{given[0]} does not go with a tuning job, which searches for it: leave it out")
    if options.tune:
        raise UsageError(
            "--tune among the module's arguments searches within one job: give --tune before -- or behind it, not both"
        )
    if parallel and parallel > trials:
        raise rejected("--parallel_trials", parallel, f"at most --tune {trials}")
    return {
        "display_name": request.display_name,
        "study_spec": study_spec(),
        "max_trial_count": trials,
        "parallel_trial_count": parallel or min(trials, DEFAULT_PARALLEL),
        "trial_job_spec": {
            **vertex_jobs.job_spec(request, tail=_OUTPUT, extra=TRIAL_ARGUMENTS),
            "base_output_directory": {"output_uri_prefix": f"{options.output.rstrip('/')}.tuning"},
        },
        "labels": request.all_labels,
    }


def study_spec() -> dict[str, Any]:
    """What ``trainer.tune`` searches, as Vertex AI's StudySpec."""
    low, high = tune.LEARNING_RATES
    return {
        "metrics": [{"metric_id": METRIC, "goal": "MINIMIZE"}],
        "parameters": [
            {
                "parameter_id": "hidden_units",
                "categorical_value_spec": {"values": [shape(units).replace(" ", ",") for units in tune.SHAPES]},
            },
            {
                "parameter_id": "learning_rate",
                "scale_type": "UNIT_LOG_SCALE",
                "double_value_spec": {"min_value": low, "max_value": high},
            },
            {"parameter_id": "weight_decay", "discrete_value_spec": {"values": [0.0, *_decades(*tune.WEIGHT_DECAYS)]}},
        ],
    }


def _decades(low: float, high: float) -> list[float]:
    """The powers of ten from one to the other: a logarithmic range cannot hold the 0 that stands beside it."""
    return [float(f"1e{power}") for power in range(round(math.log10(low)), round(math.log10(high)) + 1)]


def trials_of(raw: Any) -> list[Trial]:
    """The trials of a tuning job as the client has it, by their numbers."""
    trials = [
        Trial(
            trial.id,
            trial.state.name,
            {parameter.parameter_id: _value(parameter.value) for parameter in trial.parameters},
            next((m.value for m in trial.final_measurement.metrics if m.metric_id == METRIC), None),
        )
        for trial in raw.trials
    ]
    return sorted(trials, key=lambda trial: int(trial.id) if trial.id.isdecimal() else 0)


def _value(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the smallest loss, the first of equals; None where none has a finite one."""
    finished = [
        (trial.loss, number)
        for number, trial in enumerate(trials)
        if trial.state == "SUCCEEDED" and trial.loss is not None
    ]
    finite = [each for each in finished if math.isfinite(each[0])]
    return trials[min(finite)[1]] if finite else None


def best_flags(name: str, api_endpoint: str | None = None) -> list[str]:
    """The flags of a tuning job's best trial, for a training with its settings.

    Raises:
      UsageError: no such tuning job, one that still runs, or one without a finished trial.
    """
    if vertex_jobs.kind_of(name, "--best_of") != TUNING:
        raise rejected("--best_of", name, f"a tuning job: projects/PROJECT/locations/REGION/{TUNING}/NUMBER")
    raw = vertex_jobs.raw(name, api_endpoint, "--best_of")
    job = vertex_jobs.job_of(raw)
    if job.is_active:
        raise UsageError(f"--best_of {name!r} still runs ({job.short_state}): accepted is a tuning job that has ended")
    best = best_of(trials_of(raw))
    if best is None:
        raise UsageError(
            f"--best_of {name!r} has no trial with a loss: accepted is a tuning job of which one succeeded"
        )
    return best.flags
