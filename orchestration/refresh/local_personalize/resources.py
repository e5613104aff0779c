"""A shop with a campaign, made by the API alone: what a refresh finds when it starts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transforms.errors import JobFailed

RECIPE = "arn:aws:personalize:::recipe/aws-user-personalization"
STEP_SECONDS = 0.05
MOST_STEPS = 2400
SCHEMA = {
    "type": "record",
    "name": "Interactions",
    "namespace": "com.amazonaws.personalize.schema",
    "fields": [
        {"name": "USER_ID", "type": "string"},
        {"name": "ITEM_ID", "type": "string"},
        {"name": "TIMESTAMP", "type": "long"},
        {"name": "EVENT_TYPE", "type": "string"},
        {"name": "EVENT_VALUE", "type": ["float", "null"]},
    ],
    "version": "1.0",
}


@dataclass(frozen=True, slots=True)
class Shop:
    dataset_group_arn: str
    schema_arn: str
    dataset_arn: str
    solution_arn: str
    campaign_arn: str
    role_arn: str


def create_shop(
    client: Any,
    name: str = "shop",
    *,
    auto_training: bool = False,
    location: str | None = None,
    schema: dict[str, Any] | None = None,
    wait: Callable[[float], object] = time.sleep,
) -> Shop:
    """A dataset group, its interactions, a solution with a first version, and an ACTIVE campaign that serves it.

    ``client`` is boto3's or the in-process one. The first data is imported from ``location``, by default s3://NAME/interactions/;
    where the service reads data, it must be there. ``wait`` is called with seconds until something is ACTIVE: with a clock of
    your own, give what moves it on. The interactions have the fields of SCHEMA unless another ``schema`` is given.
    """
    role_arn = "arn:aws:iam::000000000000:role/personalize"
    ready = _Ready(client, wait)
    group = client.create_dataset_group(name=name)["datasetGroupArn"]
    ready("dataset_group", group)
    schema_arn = client.create_schema(name=f"{name}-interactions", schema=json.dumps(schema or SCHEMA))["schemaArn"]
    dataset = client.create_dataset(
        name=f"{name}-interactions", schemaArn=schema_arn, datasetGroupArn=group, datasetType="Interactions"
    )["datasetArn"]
    ready("dataset", dataset)
    job = client.create_dataset_import_job(
        jobName=f"{name}-first",
        datasetArn=dataset,
        dataSource={"dataLocation": location or f"s3://{name}/interactions/"},
        roleArn=role_arn,
        importMode="FULL",
    )["datasetImportJobArn"]
    ready("dataset_import_job", job)
    solution = client.create_solution(
        name=name, datasetGroupArn=group, recipeArn=RECIPE, performAutoTraining=auto_training
    )["solutionArn"]
    ready("solution", solution)
    version = client.create_solution_version(name=f"{name}-first", solutionArn=solution)["solutionVersionArn"]
    ready("solution_version", version)
    campaign = client.create_campaign(name=name, solutionVersionArn=version)["campaignArn"]
    ready("campaign", campaign)
    return Shop(group, schema_arn, dataset, solution, campaign, role_arn)


@dataclass(frozen=True, slots=True)
class _Ready:
    """Waits until a resource is ACTIVE."""

    client: Any
    wait: Callable[[float], object]

    def __call__(self, kind: str, arn: str) -> None:
        member = "".join(word.capitalize() for word in kind.split("_"))
        member = member[0].lower() + member[1:]
        for _ in range(MOST_STEPS):
            found = getattr(self.client, f"describe_{kind}")(**{f"{member}Arn": arn})[member]
            if found["status"] == "ACTIVE":
                return
            if found["status"].endswith("FAILED"):
                raise JobFailed(f"{arn} is in {found['status']}: {found.get('failureReason', 'no reason was given')}")
            self.wait(STEP_SECONDS)
        raise JobFailed(f"{arn} is not ACTIVE after {MOST_STEPS * STEP_SECONDS:g} seconds")
