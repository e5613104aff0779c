"""Operations on schemas, dataset groups, datasets and their imports. Each takes the state and valid parameters, and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestration.refresh.local_personalize.interactions_csv import (
    DataRefused,
    checked_rows,
    must_be_interactions,
    schema_fields,
)
from orchestration.refresh.local_personalize.lifecycle import FAILED, Dataset, DatasetGroup, Import, Life, Schema
from orchestration.refresh.local_personalize.state import State, copied, invalid, picked

Parameters = Mapping[str, Any]
KINDS = ("INTERACTIONS", "ITEMS", "USERS", "ACTIONS", "ACTION_INTERACTIONS")


def create_schema(state: State, given: Parameters) -> dict[str, Any]:
    arn = state.arn("schema", given["name"])
    schema_fields(given["schema"])
    state.must_be_new(state.schemas, arn)
    life = Life(state.clock, state.now)
    state.schemas[arn] = Schema(arn, given["name"], life, given["schema"], given.get("domain"))
    return {"schemaArn": arn}


def describe_schema(state: State, given: Parameters) -> dict[str, Any]:
    schema = state.find(state.schemas, given["schemaArn"])
    made = round(schema.life.created, 3)
    found = {"name": schema.name, "schemaArn": schema.arn, "schema": schema.text}
    if schema.domain:
        found["domain"] = schema.domain
    return {"schema": {**found, "creationDateTime": made, "lastUpdatedDateTime": made}}


def create_dataset_group(state: State, given: Parameters) -> dict[str, Any]:
    arn = state.arn("dataset-group", given["name"])
    state.must_be_new(state.groups, arn)
    life = state.life("CreateDatasetGroup", given, state.durations.setup_seconds, setup=True)
    kept = picked(given, "roleArn", "kmsKeyArn", "domain")
    state.groups[arn] = DatasetGroup(arn, given["name"], life, kept)
    return {"datasetGroupArn": arn, **picked(kept, "domain")}


def describe_dataset_group(state: State, given: Parameters) -> dict[str, Any]:
    group = state.find(state.groups, given["datasetGroupArn"])
    found = {"name": group.name, "datasetGroupArn": group.arn, **copied(group.given)}
    return {"datasetGroup": {**found, **group.life.summary(state.now)}}


def create_dataset(state: State, given: Parameters) -> dict[str, Any]:
    kind = given["datasetType"].upper()
    if kind not in KINDS:
        raise invalid(f"The dataset type {given['datasetType']} is not known: accepted are {', '.join(KINDS)}.")
    group = state.find_active(state.groups, given["datasetGroupArn"])
    schema = state.find(state.schemas, given["schemaArn"])
    if kind == "INTERACTIONS":
        must_be_interactions(schema_fields(schema.text))
    arn = state.arn("dataset", f"{group.name}/{kind}")
    state.must_be_new(state.datasets, arn)
    life = state.life("CreateDataset", given, state.durations.setup_seconds, setup=True)
    state.datasets[arn] = Dataset(arn, given["name"], life, group.arn, kind, schema.arn)
    return {"datasetArn": arn}


def describe_dataset(state: State, given: Parameters) -> dict[str, Any]:
    dataset = state.find(state.datasets, given["datasetArn"])
    summary = dataset.life.summary(state.now)
    summary.pop("failureReason", None)  # a dataset's description has none
    found = {"name": dataset.name, "datasetArn": dataset.arn, "datasetGroupArn": dataset.group_arn}
    return {"dataset": {**found, "datasetType": dataset.kind, "schemaArn": dataset.schema_arn, **summary}}


def create_dataset_import_job(state: State, given: Parameters) -> dict[str, Any]:
    dataset = state.find(state.datasets, given["datasetArn"])
    arn = state.arn("dataset-import-job", given["jobName"])
    # Before the quota: who asks a second time learns that it is there, however much else is in flight.
    state.must_be_new(state.imports, arn)
    state.find_active(state.datasets, dataset.arn)
    mode = given.get("importMode", "FULL")
    if mode == "INCREMENTAL" and not _has_full_import(state, dataset):
        raise invalid(f"An INCREMENTAL import needs an ACTIVE FULL import into {dataset.arn} before it.")
    if "dataLocation" not in given["dataSource"]:
        raise invalid("The data source has no dataLocation.")
    state.within_quota(state.imports, state.quotas.imports, "dataset import jobs")
    life = state.life("CreateDatasetImportJob", given, state.durations.import_seconds)
    location = given["dataSource"]["dataLocation"]
    kept = picked(given, "roleArn", "publishAttributionMetricsToS3")
    job = Import(arn, given["jobName"], life, dataset.arn, location, mode, kept)
    _read(state, job, dataset)
    state.imports[arn] = job
    return {"datasetImportJobArn": arn}


def _has_full_import(state: State, dataset: Dataset) -> bool:
    return any(
        each.dataset_arn == dataset.arn and each.mode == "FULL" and each.life.active_at(state.now)
        for each in state.imports.values()
    )


def _read(state: State, job: Import, dataset: Dataset) -> None:
    """What the data is worth is decided at once; it shows when the import's time is over."""
    if state.read_data is None:
        return
    fields = schema_fields(state.schemas[dataset.schema_arn].text)
    try:
        job.rows = checked_rows(state.read_data(job.location), fields, job.mode)
    except DataRefused as refused:
        job.life.end, job.life.reason = FAILED, str(refused)
    except Exception as error:  # what storage says is this import's failure, not the service's
        job.life.end, job.life.reason = FAILED, f"The data at {job.location} cannot be read: {error}"


def _import_summary(state: State, job: Import) -> dict[str, Any]:
    found = {"jobName": job.name, "datasetImportJobArn": job.arn, "importMode": job.mode}
    return {**found, **job.life.summary(state.now)}


def describe_dataset_import_job(state: State, given: Parameters) -> dict[str, Any]:
    job = state.find(state.imports, given["datasetImportJobArn"])
    found = {"datasetArn": job.dataset_arn, "dataSource": {"dataLocation": job.location}, **copied(job.given)}
    return {"datasetImportJob": {**found, **_import_summary(state, job)}}


def list_dataset_import_jobs(state: State, given: Parameters) -> dict[str, Any]:
    about = given.get("datasetArn")
    jobs = [job for job in state.imports.values() if about is None or job.dataset_arn == about]
    page, more = state.page("ListDatasetImportJobs", jobs, given)
    return {"datasetImportJobs": [_import_summary(state, job) for job in page], **more}
