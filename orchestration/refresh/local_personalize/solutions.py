"""Operations on solutions and their versions, and the trainings that the service starts itself."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

from orchestration.refresh.local_personalize.lifecycle import (
    ACTIVE,
    IN_FLIGHT,
    IN_PROGRESS,
    PENDING,
    Life,
    Solution,
    SolutionUpdate,
    Version,
)
from orchestration.refresh.local_personalize.state import State, already_exists, copied, in_use, invalid, picked

Parameters = Mapping[str, Any]
DAY = 86_400
DEFAULT_AUTO_DAYS, MOST_AUTO_DAYS = 7, 30
# The recipes whose models take new interactions without starting over.
UPDATABLE = re.compile(r".*:recipe/(aws-user-personalization.*|aws-hrnn-coldstart)")


def _auto_days(config: Mapping[str, Any], default: int = DEFAULT_AUTO_DAYS) -> int:
    """The days between automatic trainings."""
    expression = config.get("autoTrainingConfig", {}).get("schedulingExpression")
    if expression is None:
        return default
    days = int(re.sub(r"\D", "", expression))
    if not 1 <= days <= MOST_AUTO_DAYS:
        raise invalid(f"The schedulingExpression {expression} is not usable: accepted are 1 to {MOST_AUTO_DAYS} days.")
    return days


def create_solution(state: State, given: Parameters) -> dict[str, Any]:
    state.find_active(state.groups, given["datasetGroupArn"])
    if "recipeArn" not in given and not given.get("performAutoML"):
        raise invalid("A recipeArn is needed where performAutoML is not true.")
    if ":recipe/" not in given.get("recipeArn", ":recipe/"):
        raise invalid(f"{given['recipeArn']} is not the ARN of a recipe.")
    config, auto = given.get("solutionConfig", {}), given.get("performAutoTraining", True)
    days = _auto_days(config)
    if not auto and "autoTrainingConfig" in config:
        raise invalid("autoTrainingConfig is only accepted where performAutoTraining is true.")
    arn = state.arn("solution", given["name"])
    state.must_be_new(state.solutions, arn)
    life = state.life("CreateSolution", given, state.durations.setup_seconds, setup=True)
    due = life.ended + state.durations.first_auto_training_seconds
    state.solutions[arn] = Solution(
        arn, given["name"], life, given["datasetGroupArn"], copied(given), auto, days, due if auto else math.inf
    )
    return {"solutionArn": arn}


def describe_solution(state: State, given: Parameters) -> dict[str, Any]:
    solution = state.find(state.solutions, given["solutionArn"])
    summary = solution.life.summary(state.now)
    summary.pop("failureReason", None)  # a solution's description has none
    kept = picked(
        solution.given,
        *("name", "performHPO", "performAutoML", "performIncrementalUpdate", "recipeArn", "datasetGroupArn"),
        *("eventType", "solutionConfig"),
    )
    found = {"solutionArn": solution.arn, "performAutoTraining": solution.auto_training, **kept, **summary}
    versions = _versions_of(state, solution.arn)
    if versions:
        found["latestSolutionVersion"] = _version_summary(state, versions[-1])
    if solution.update:
        asked = picked(solution.update.given, "performAutoTraining", "performIncrementalUpdate", "solutionUpdateConfig")
        found["latestSolutionUpdate"] = {**asked, **solution.update.life.summary(state.now)}
    return {"solution": found}


def update_solution(state: State, given: Parameters) -> dict[str, Any]:
    solution = state.find_active(state.solutions, given["solutionArn"])
    if solution.update and solution.update.life.in_flight_at(state.now):
        raise in_use(f"An update of {solution.arn} is in progress.")
    config, auto = given.get("solutionUpdateConfig", {}), given.get("performAutoTraining", solution.auto_training)
    _auto_days(config)
    if not auto and "autoTrainingConfig" in config:
        raise invalid("autoTrainingConfig is only accepted where performAutoTraining is true.")
    life = state.life("UpdateSolution", given, state.durations.setup_seconds, setup=True)
    solution.update = SolutionUpdate(life, copied(given))
    advance(state, solution)
    return {"solutionArn": solution.arn}


def list_solutions(state: State, given: Parameters) -> dict[str, Any]:
    about = given.get("datasetGroupArn")
    solutions = [each for each in state.solutions.values() if about is None or each.group_arn == about]
    page, more = state.page("ListSolutions", solutions, given)
    return {"solutions": [_solution_summary(state, each) for each in page], **more}


def _solution_summary(state: State, solution: Solution) -> dict[str, Any]:
    summary = solution.life.summary(state.now)
    summary.pop("failureReason", None)
    return {**picked(solution.given, "name", "recipeArn"), "solutionArn": solution.arn, **summary}


def create_solution_version(state: State, given: Parameters) -> dict[str, Any]:
    solution = state.find_active(state.solutions, given["solutionArn"])
    name, mode = given.get("name"), given.get("trainingMode", "FULL")
    versions = _versions_of(state, solution.arn)
    if name is not None and any(each.name == name for each in versions):
        raise already_exists(f"A solution version with the name {name} already exists for {solution.arn}.")
    if mode == "UPDATE":
        _must_be_updatable(state, solution, versions)
    data = state.active_data(solution.group_arn, state.now)
    if not data:
        raise invalid(f"{solution.group_arn} has no interactions: a dataset import job must be ACTIVE before training.")
    state.within_quota(state.versions, state.quotas.trainings, "solution versions")
    life = state.life("CreateSolutionVersion", given, state.durations.training_seconds)
    arn = state.new_version_arn(solution.arn)
    state.versions[arn] = Version(arn, name, life, solution.arn, mode, False, data)
    return {"solutionVersionArn": arn}


def _must_be_updatable(state: State, solution: Solution, versions: list[Version]) -> None:
    if not UPDATABLE.fullmatch(solution.given.get("recipeArn", "")):
        raise invalid(f"trainingMode UPDATE is not possible with the recipe of {solution.arn}.")
    if not any(each.mode == "FULL" and each.life.active_at(state.now) for each in versions):
        raise invalid(f"trainingMode UPDATE needs an ACTIVE solution version of {solution.arn} trained in mode FULL.")


def _versions_of(state: State, solution_arn: str) -> list[Version]:
    """Oldest first."""
    return [each for each in state.versions.values() if each.solution_arn == solution_arn]


def _version_summary(state: State, version: Version) -> dict[str, Any]:
    """As the service gives it: without the name."""
    return {
        "solutionVersionArn": version.arn,
        "trainingMode": version.mode,
        "trainingType": "AUTOMATIC" if version.automatic else "MANUAL",
        **version.life.summary(state.now),
    }


def describe_solution_version(state: State, given: Parameters) -> dict[str, Any]:
    version = state.find(state.versions, given["solutionVersionArn"])
    solution = state.solutions[version.solution_arn]
    kept = picked(
        solution.given,
        *("performHPO", "performAutoML", "performIncrementalUpdate", "recipeArn", "eventType", "datasetGroupArn"),
        "solutionConfig",
    )
    found = {**kept, "solutionArn": solution.arn, **_version_summary(state, version)}
    if version.name is not None:
        found["name"] = version.name
    if version.life.active_at(state.now):
        found["trainingHours"] = round(version.life.work / 3600, 3)
    return {"solutionVersion": found}


def list_solution_versions(state: State, given: Parameters) -> dict[str, Any]:
    versions = list(state.versions.values())
    if "solutionArn" in given:
        versions = _versions_of(state, state.find(state.solutions, given["solutionArn"]).arn)
    page, more = state.page("ListSolutionVersions", versions, given)
    return {"solutionVersions": [_version_summary(state, each) for each in page], **more}


def stop_solution_version_creation(state: State, given: Parameters) -> dict[str, Any]:
    version = state.find(state.versions, given["solutionVersionArn"])
    status = version.life.status_at(state.now)
    if status not in (PENDING, IN_PROGRESS):
        raise invalid(f"Resource {version.arn} is in {status}: only a version that is being made can be stopped.")
    version.life.stop_asked, version.life.stopping = state.now, state.durations.stopping_seconds
    return {}


def get_solution_metrics(state: State, given: Parameters) -> dict[str, Any]:
    version = state.find_active(state.versions, given["solutionVersionArn"])
    key = version.name or version.arn
    chosen = state.metrics(key) if callable(state.metrics) else state.metrics.get(key, state.metrics.get(version.arn))
    return {"solutionVersionArn": version.arn, "metrics": plausible_metrics(key) if chosen is None else dict(chosen)}


def plausible_metrics(name: str) -> dict[str, float]:
    """The metrics of a version for which nobody chose any: they follow from its name."""
    drawn = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8
    precision, gain = 0.02 + 0.01 * drawn, 0.10 + 0.05 * drawn
    return {
        "coverage": round(0.30 + 0.10 * drawn, 4),
        "mean_reciprocal_rank_at_25": round(0.08 + 0.04 * drawn, 4),
        **{f"normalized_discounted_cumulative_gain_at_{k}": round(gain * k**0.25, 4) for k in (5, 10, 25)},
        **{f"precision_at_{k}": round(precision * k**-0.25, 4) for k in (5, 10, 25)},
    }


def advance(state: State, solution: Solution) -> None:
    """Makes the versions that were due by themselves until now, and applies an update that has ended."""
    update = solution.update
    if update and not update.applied and update.life.active_at(state.now):
        _train_when_due(state, solution, update.life.ended)
        _apply(solution, update)
    _train_when_due(state, solution, state.now)


def _apply(solution: Solution, update: SolutionUpdate) -> None:
    update.applied = True
    on = update.given.get("performAutoTraining", solution.auto_training)
    config = update.given.get("solutionUpdateConfig", {})
    days = _auto_days(config, solution.auto_days)
    if (on, days) != (solution.auto_training, solution.auto_days):
        solution.auto_due = update.life.ended + days * DAY if on else math.inf
    solution.auto_training, solution.auto_days = on, days
    solution.given.update(picked(update.given, "performIncrementalUpdate"))
    if config:
        solution.given["solutionConfig"] = {**solution.given.get("solutionConfig", {}), **copied(config)}


def _train_when_due(state: State, solution: Solution, until: float) -> None:
    while solution.auto_due <= until:
        due, first = solution.auto_due, not solution.auto_started
        solution.auto_due, solution.auto_started = due + solution.auto_days * DAY, True
        data = state.active_data(solution.group_arn, due)
        by_hand = any(each.life.status_at(due) in (*IN_FLIGHT, ACTIVE) for each in _versions_of(state, solution.arn))
        if not data or (first and by_hand):
            continue
        pending = min(state.durations.pending_seconds, state.durations.training_seconds)
        life = Life(state.clock, due, pending, state.durations.training_seconds - pending)
        arn = state.new_version_arn(solution.arn)
        state.versions[arn] = Version(arn, None, life, solution.arn, "FULL", True, data)
