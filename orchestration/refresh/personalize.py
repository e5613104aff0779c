"""Amazon Personalize as a campaign's service: a data set, a solution and a campaign, through boto3."""

from __future__ import annotations

import datetime
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from orchestration.refresh.personalize_errors import sorted_errors, watch_attempts
from orchestration.refresh.service import (
    AlreadyExists,
    Busy,
    Campaign,
    Lost,
    OwnTraining,
    Progress,
    Refused,
    Status,
    Update,
)
from transforms.errors import UsageError, one_line, rejected

# A request with its attempts and the pauses between them is over after 2.5 minutes. What makes something asks for up to four
# (three pages of imports, and one more): ten minutes, of the fifteen of policy.margin_seconds.
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 5, 30, 3
_CONNECTIONS = 32  # kept open by the client, which all threads of a process share
_PAGE = 100  # the longest there is

# Exact words: there are others, such as CREATE STOPPING, and what nobody knows yet has not ended.
_ENDS = {"ACTIVE": Status.ACTIVE, "CREATE FAILED": Status.FAILED, "CREATE STOPPED": Status.STOPPED}
_STOPPING = "CREATE STOPPING"
_LATEST = "/$LATEST"  # as a version: whichever is the solution's latest
_DATE_OF_NAME = re.compile(r"-(\d{8})(?:-\d{1,3})?$")  # see ``record.job_name``
_EARLY = datetime.timedelta(days=2)
_LONG_AGO = datetime.datetime.min.replace(tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Resources:
    """What a campaign's refreshes change at the service, and the role by which it reads the data, as ARNs."""

    dataset_arn: str
    solution_arn: str
    campaign_arn: str
    role_arn: str


class Personalize:
    """A ``service.CampaignService``.

    Args:
      client: boto3's, or anything with its methods; many campaigns and threads may share one.
    """

    def __init__(self, client: Any, resources: Resources) -> None:
        self.client, self.resources = client, resources
        self._names: dict[str, str] = {}  # of versions, by ARN: they never change
        watch_attempts(client)

    def problems(self, location: str = "") -> Sequence[str]:
        """One line each, with the command that mends it where there is one."""
        elsewhere = location and not location.startswith("s3://")
        solution = self._ask("DescribeSolution", "solution", solutionArn=self.resources.solution_arn)
        return [
            *([f"the data are at {location}: Personalize imports from s3:// only"] if elsewhere else []),
            *_of_solution(solution, self.resources),
            *_of_campaign(self._campaign()),
        ]

    def find_import(self, name: str) -> str | None:
        return next((job["datasetImportJobArn"] for job in self._imports() if job.get("jobName") == name), None)

    def start_import(self, name: str, location: str, mode: str) -> str:
        """Args: location: a folder of CSV files, or one."""
        for job in self._imports():
            # The service takes several at once, and whichever ends last is what is in the data set then.
            if job.get("jobName") != name and _progress(job).status == Status.IN_PROGRESS:
                raise Busy(f"the import {job.get('jobName')} of the same data set is {job.get('status')}")
        asked = {
            "jobName": name, "datasetArn": self.resources.dataset_arn, "dataSource": {"dataLocation": _folder(location)},
            "roleArn": self.resources.role_arn, "importMode": mode,
        }  # fmt: skip
        try:
            return str(self._ask("CreateDatasetImportJob", "datasetImportJobArn", True, **asked))
        except AlreadyExists:
            self._must_be_ours(name)
            raise

    def import_progress(self, job: str) -> Progress:
        return _progress(self._ask("DescribeDatasetImportJob", "datasetImportJob", datasetImportJobArn=job))

    def find_training(self, name: str) -> str | None:
        """Lists of versions have no names, so that each that may be the one is described, once in this object's life.

        Those are the versions that are being made, and those made since the date in the name: hundreds may be older. Where an
        older one has the name after all, ``start_training`` finds it.
        """
        since = _since(name)
        return self._named(
            name, [each for each in self._versions() if _progress(each).status == Status.IN_PROGRESS or _made(each) >= since]
        )  # fmt: skip

    def start_training(self, name: str, mode: str) -> str:
        asked = {"name": name, "solutionArn": self.resources.solution_arn, "trainingMode": mode}
        try:
            return str(self._ask("CreateSolutionVersion", "solutionVersionArn", True, **asked))
        except AlreadyExists:
            # Whoever looks for the name now finds it, unless the version is older than its name says.
            if self.find_training(name) is None and (found := self._named(name, self._versions())):
                return found
            raise

    def training_progress(self, version: str) -> Progress:
        return _progress(self._describe_version(version))

    def stop_training(self, version: str) -> None:
        try:
            self._ask("StopSolutionVersionCreation", "", True, solutionVersionArn=version)
        except Refused:
            try:
                progress = self.training_progress(version)
            except Busy:
                return  # what refuses to stop has most likely ended
            if progress.status == Status.IN_PROGRESS and not progress.is_stopping:
                raise

    def metrics(self, version: str) -> Mapping[str, float]:
        found = self._ask("GetSolutionMetrics", "metrics", solutionVersionArn=version)
        return {name: float(value) for name, value in found.items()}

    def campaign(self) -> Campaign:
        found = self._campaign()
        latest = found.get("latestCampaignUpdate")
        update = None
        if latest:
            update = Update(_made(latest).isoformat(), latest.get("solutionVersionArn", ""), _progress(latest))
        return Campaign(found.get("solutionVersionArn", ""), _progress(found), update)

    def deploy(self, version: str) -> None:
        # What is not named stays as it is.
        asked = {"campaignArn": self.resources.campaign_arn, "solutionVersionArn": version}
        self._ask("UpdateCampaign", "campaignArn", True, **asked)

    def _ask(self, operation: str, member: str, changes: bool = False, /, **parameters: Any) -> Any:
        """The member of the answer."""
        with sorted_errors(operation, changes=changes):
            answer = getattr(self.client, _method(operation))(**parameters)
        return _of_the_service(answer, operation, member)[member] if member else None

    def _list(self, operation: str, member: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        with sorted_errors(operation):
            pages = self.client.get_paginator(_method(operation))
            for page in pages.paginate(**parameters, PaginationConfig={"PageSize": _PAGE}):
                yield from _of_the_service(page, operation, member)[member]

    def _imports(self) -> list[dict[str, Any]]:
        return list(self._list("ListDatasetImportJobs", "datasetImportJobs", datasetArn=self.resources.dataset_arn))

    def _must_be_ours(self, name: str) -> None:
        """Names of imports are the account's, where another installation may have a campaign of the same name."""
        ours = self.resources.dataset_arn
        arn = f"{ours.partition(':dataset/')[0]}:dataset-import-job/{name}"
        try:
            job = self._ask("DescribeDatasetImportJob", "datasetImportJob", datasetImportJobArn=arn)
        except Refused:
            return  # not to be seen yet
        if job.get("datasetArn", ours) != ours:
            raise Refused(f"the import {name} exists already, of the data set {job['datasetArn']}: rename the campaign")

    def _versions(self) -> list[dict[str, Any]]:
        """Those that somebody asked for, the newest first."""
        listed = self._list("ListSolutionVersions", "solutionVersions", solutionArn=self.resources.solution_arn)
        found = [each for each in listed if each.get("trainingType") != "AUTOMATIC"]
        return sorted(found, key=_made, reverse=True)

    def _named(self, name: str, versions: Sequence[Mapping[str, Any]]) -> str | None:
        for each in versions:
            arn = str(each["solutionVersionArn"])
            if arn not in self._names:
                self._names[arn] = self._describe_version(arn).get("name", "")
            if self._names[arn] == name:
                return arn
        return None

    def _describe_version(self, arn: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("DescribeSolutionVersion", "solutionVersion", solutionVersionArn=arn)
        return found

    def _campaign(self) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("DescribeCampaign", "campaign", campaignArn=self.resources.campaign_arn)
        return found


_METHOD = re.compile(r"(?<=[a-z])(?=[A-Z])")


def _method(operation: str) -> str:
    return _METHOD.sub("_", operation).lower()


def _of_the_service(answer: Mapping[str, Any], operation: str, member: str) -> Mapping[str, Any]:
    # botocore takes any page of status 200 for an answer, such as the one a proxy wants a person to sign in at.
    if member in answer:
        return answer
    raise Lost(f"{operation}: the answer has no {member}, so that it is hardly the service's: is there a proxy?")


def _progress(described: Mapping[str, Any]) -> Progress:
    text = str(described.get("status", ""))
    return Progress(
        _ENDS.get(text, Status.IN_PROGRESS), text or "of no status", one_line(described.get("failureReason", "")),
        is_stopping=text == _STOPPING,
    )  # fmt: skip


def _made(described: Mapping[str, Any]) -> datetime.datetime:
    made = described.get("creationDateTime")
    return made.astimezone(datetime.UTC) if isinstance(made, datetime.datetime) else _LONG_AGO


def _since(name: str) -> datetime.datetime:
    """When a version of this name was made at the earliest: a day's data are complete after it, on whatever side of the earth."""
    dated = _DATE_OF_NAME.search(name)
    if dated is None:
        return _LONG_AGO
    try:
        return datetime.datetime.strptime(dated[1], "%Y%m%d").replace(tzinfo=datetime.UTC) - _EARLY
    except (ValueError, OverflowError):
        return _LONG_AGO


def _folder(location: str) -> str:
    # Without the slash it is the name of one file.
    return location if location.endswith(("/", ".csv")) else location + "/"


def _of_solution(solution: Mapping[str, Any], resources: Resources) -> Iterator[str]:
    arn, update = resources.solution_arn, solution.get("latestSolutionUpdate", {})
    if solution.get("status") != "ACTIVE":
        yield f"the solution {arn} is {solution.get('status')}: accepted is ACTIVE"
    trains = solution.get("performAutoTraining", False)
    if _progress(update).status != Status.FAILED:
        trains = update.get("performAutoTraining", trains)  # what was asked for last
    if trains:
        yield OwnTraining(
            f"the solution {arn} trains by itself: "
            f"turn that off with aws personalize update-solution --solution-arn {arn} --no-perform-auto-training"
        )
    group = str(solution.get("datasetGroupArn", "")).rpartition(":dataset-group/")[2]
    ours = resources.dataset_arn.rpartition(":dataset/")[2].partition("/")[0]
    if group and group != ours:
        yield f"the solution {arn} learns from the dataset group {group}, and the data go to {resources.dataset_arn}"


def _of_campaign(campaign: Mapping[str, Any]) -> Iterator[str]:
    arn = campaign.get("campaignArn")
    if campaign.get("status") != "ACTIVE":
        yield f"the campaign {arn} is {campaign.get('status')}: accepted is ACTIVE"
    update = campaign.get("latestCampaignUpdate", {})
    asked = [campaign] if _progress(update).status == Status.FAILED else [campaign, update]
    follows = any(
        each.get("campaignConfig", {}).get("syncWithLatestSolutionVersion")
        or str(each.get("solutionVersionArn", "")).endswith(_LATEST)
        for each in asked
    )
    if follows:
        version = str(campaign.get("solutionVersionArn", ""))
        keep = "VERSION_ARN" if version.endswith(_LATEST) else version
        config = json.dumps({**campaign.get("campaignConfig", {}), "syncWithLatestSolutionVersion": False})
        yield OwnTraining(
            f"the campaign {arn} deploys its solution's latest version by itself: turn that off with aws personalize "
            f"update-campaign --campaign-arn {arn} --solution-version-arn {keep} --campaign-config '{config}'"
        )


_ARN = re.compile(r"arn:[a-z\d-]+:personalize:(?P<region>[a-z\d-]+):\d{12}:(?P<kind>[a-z-]+)/\S+")
_ROLE = re.compile(r"arn:[a-z\d-]+:iam::\d{12}:role/\S+")
_CLIENTS: dict[tuple[Any, ...], Any] = {}
_MAKING = threading.Lock()


def connect(resources: Resources, region: str | None = None) -> Personalize:
    """The service by boto3, with the credentials that it finds. Nothing is asked of the service yet.

    Campaigns of one region share a client, which takes 10 MB.

    Args:
      region: by default that of the ARNs.

    Raises:
      UsageError: an ARN is none, or is of another region; boto3 is not installed.
      NoAccess: the AWS settings of this machine do not fit, such as a profile that is not there.
    """
    return Personalize(_client(_region(resources, region)), resources)


def _region(resources: Resources, region: str | None) -> str:
    if not _ROLE.fullmatch(resources.role_arn):
        raise rejected("role_arn", resources.role_arn, "arn:aws:iam::ACCOUNT:role/NAME")
    for field in fields(Resources)[:3]:
        arn, kind = getattr(resources, field.name), field.name.removesuffix("_arn")
        found = _ARN.fullmatch(arn)
        if not found or found["kind"] != kind:
            raise rejected(field.name, arn, f"arn:aws:personalize:REGION:ACCOUNT:{kind}/...")
        region = region or found["region"]
        if found["region"] != region:
            raise rejected(field.name, arn, f"one of the region {region}, as of the campaign's other settings")
    assert region is not None
    return region


def _client(region: str) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise UsageError(
            "Amazon Personalize needs boto3, which is not installed: pip install 'clv-pipelines[aws]'"
        ) from None
    # Whoever changes the AWS settings of this process means the calls that follow.
    key = (region, os.getpid(), *sorted(each for each in os.environ.items() if each[0].startswith("AWS_")))
    with _MAKING:
        if key not in _CLIENTS:
            config = Config(
                user_agent_extra="clv-pipelines",
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                max_pool_connections=_CONNECTIONS,
            )
            with sorted_errors("the client"):
                # A session of its own: making a client by the process's is not safe among threads.
                client = boto3.session.Session().client("personalize", region_name=region, config=config)
            watch_attempts(client)
            _CLIENTS[key] = client
        return _CLIENTS[key]
