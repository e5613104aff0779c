"""The service: takes an operation and its parameters, answers as Amazon Personalize would, and remembers.

service = LocalPersonalize()
service.call("CreateDatasetGroup", {"name": "shop"})          # {"datasetGroupArn": "arn:aws:personalize:..."}
service.faults.append(Fault("CreateSolutionVersion", "lost_reply"))
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestration.refresh.local_personalize import campaigns, datasets, solutions
from orchestration.refresh.local_personalize.faults import ANSWERS, LOST, Call, Dropped, Fault, ServiceError
from orchestration.refresh.local_personalize.interactions_csv import s3_reader
from orchestration.refresh.local_personalize.lifecycle import (
    AT_ONCE,
    Campaign,
    Clock,
    Durations,
    Import,
    Quotas,
    Solution,
    Version,
)
from orchestration.refresh.local_personalize.shapes import operation as compiled
from orchestration.refresh.local_personalize.state import Metrics, ReadData, State, copied

__all__ = [
    "AT_ONCE",
    "Call",
    "Dropped",
    "Durations",
    "Fault",
    "LocalPersonalize",
    "Quotas",
    "ServiceError",
    "s3_reader",
]

HANDLERS: dict[str, Callable[[State, Mapping[str, Any]], dict[str, Any]]] = {
    "CreateSchema": datasets.create_schema,
    "DescribeSchema": datasets.describe_schema,
    "CreateDatasetGroup": datasets.create_dataset_group,
    "DescribeDatasetGroup": datasets.describe_dataset_group,
    "CreateDataset": datasets.create_dataset,
    "DescribeDataset": datasets.describe_dataset,
    "CreateDatasetImportJob": datasets.create_dataset_import_job,
    "DescribeDatasetImportJob": datasets.describe_dataset_import_job,
    "ListDatasetImportJobs": datasets.list_dataset_import_jobs,
    "CreateSolution": solutions.create_solution,
    "DescribeSolution": solutions.describe_solution,
    "UpdateSolution": solutions.update_solution,
    "ListSolutions": solutions.list_solutions,
    "CreateSolutionVersion": solutions.create_solution_version,
    "DescribeSolutionVersion": solutions.describe_solution_version,
    "ListSolutionVersions": solutions.list_solution_versions,
    "StopSolutionVersionCreation": solutions.stop_solution_version_creation,
    "GetSolutionMetrics": solutions.get_solution_metrics,
    "CreateCampaign": campaigns.create_campaign,
    "DescribeCampaign": campaigns.describe_campaign,
    "UpdateCampaign": campaigns.update_campaign,
    "ListCampaigns": campaigns.list_campaigns,
    "DeleteCampaign": campaigns.delete_campaign,
}


class LocalPersonalize:
    """The account of one region. Thread-safe: calls are answered one after the other, each at one time of the clock.

    ``read_data`` gives the bytes of each CSV under an import's location; without it every import is taken to be good.
    ``faults`` may be appended to at any time. ``calls`` has everything that was asked, also what was lost.
    """

    def __init__(
        self,
        clock: Clock = time.time,
        *,
        durations: Durations = Durations(),  # noqa: B008 - frozen
        quotas: Quotas = Quotas(),  # noqa: B008 - frozen
        read_data: ReadData | None = None,
        account: str = "000000000000",
        region: str = "eu-central-1",
    ) -> None:
        self._state = State(clock, durations, quotas, read_data, account, region)
        self._lock = threading.RLock()
        self.calls: list[Call] = []

    @property
    def region(self) -> str:
        return self._state.region

    @property
    def faults(self) -> list[Fault]:
        return self._state.faults

    @faults.setter
    def faults(self, faults: list[Fault]) -> None:
        self._state.faults = faults

    @property
    def metrics(self) -> Metrics:
        """What GetSolutionMetrics gives, by a version's name; or a function of the name. The others have the default ones."""
        return self._state.metrics

    @metrics.setter
    def metrics(self, metrics: Metrics) -> None:
        self._state.metrics = metrics

    @property
    def imports(self) -> dict[str, Import]:
        """By ARN, as of now."""
        return self._as_of_now(self._state.imports)

    @property
    def solutions(self) -> dict[str, Solution]:
        """By ARN, as of now."""
        return self._as_of_now(self._state.solutions)

    @property
    def versions(self) -> dict[str, Version]:
        """By ARN, as of now, oldest first."""
        return self._as_of_now(self._state.versions)

    @property
    def campaigns(self) -> dict[str, Campaign]:
        """By ARN, as of now."""
        return self._as_of_now(self._state.campaigns)

    def _as_of_now(self, table: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._advance()
            return dict(table)

    def count(self, operation: str) -> int:
        """How often an operation was asked for."""
        return sum(call.operation == operation for call in list(self.calls))

    def call(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Answers with the members of the response, timestamps in epoch seconds.

        Raises ServiceError, or Dropped where there is no answer.
        """
        with self._lock:
            outcome = "ok"
            self._advance()
            try:
                return self._answer(operation, parameters)
            except ServiceError as error:
                outcome = error.code
                raise
            except Dropped as dropped:
                outcome = "lost_reply" if dropped.done else "lost_request"
                raise
            except Exception:
                outcome = "InternalFailure"
                raise
            finally:
                self.calls.append(Call(operation, copied(parameters), self._state.now, outcome))

    def _answer(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        lost_reply = self._strike(operation, parameters)
        try:
            response = self._handled(operation, parameters)
        except ServiceError:
            if not lost_reply:
                raise
        if lost_reply:
            raise Dropped(operation, done=True)
        return response

    def _strike(self, operation: str, parameters: Mapping[str, Any]) -> bool:
        """The first fault that is meant for the call: true when it is to be done in vain."""
        for fault in self.faults:
            if fault.kind in (*LOST, *ANSWERS) and fault.strikes(operation, parameters):
                if fault.kind == "lost_reply":
                    return True
                raise Dropped(operation, done=False) if fault.kind == "lost_request" else fault.answer()
        return False

    def _handled(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        model, handler = compiled(operation), HANDLERS.get(operation)
        if model is None:
            raise ServiceError("UnknownOperationException", f"There is no operation {operation!r}.", 404)
        if handler is None:
            raise ServiceError("UnknownOperationException", f"The local service does not have {operation}.", 404)
        if problem := model.problem(parameters):
            raise ServiceError("InvalidInputException", problem)
        try:
            response = handler(self._state, parameters)
        except ServiceError as error:
            if error.code not in model.errors:
                raise RuntimeError(f"{operation} has no error {error.code} in the service model: {error}") from error
            raise
        model.must_fit(response)
        return response

    def _advance(self) -> None:
        """Brings what the service does by itself up to the time of the clock."""
        state = self._state
        state.now = max(state.now, state.clock())  # a clock that is set back does not undo anything
        for solution in state.solutions.values():
            solutions.advance(state, solution)
        for campaign in state.campaigns.values():
            campaigns.advance(state, campaign)
