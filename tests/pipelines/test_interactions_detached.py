"""pipelines.interactions on Dataflow with nobody waiting: the job leaves what a run on this machine does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines import interactions
from tests.pipelines.interactions_data import manifest_of, shop, write_csv
from tests.pipelines.test_detached import Service, environment, service
from transforms import storage

pytestmark = pytest.mark.emulators

__all__ = ["environment", "service"]  # fixtures


def test_a_job_that_nobody_waits_for_leaves_the_same(service: Service, bucket: str, tmp_path: Path) -> None:
    local = write_csv(tmp_path / "orders.csv", shop())
    assert interactions.main(["--orders", local, "--output", f"{tmp_path}/here"]) == 0
    orders, output = f"gs://{bucket}/orders.csv", f"gs://{bucket}/interactions"
    storage.write_bytes(orders, Path(local).read_bytes())
    job = service.submitted("interactions", ["--orders", orders, "--output", output])
    assert not storage.exists(f"{output}/manifest.json")
    service.finish(job)
    here, there = manifest_of(tmp_path / "here"), storage.read_manifest(output, "interactions")
    same = ("fingerprint", "rows", "users", "unique_interactions", "users_with_two", "bytes", "lines", "mode")
    assert {name: there[name] for name in same} == {name: here[name] for name in same}
    assert [file["path"] for file in there["files"]] == [f"{output}/interactions/part-00000-0000.csv"]
    assert storage.read_bytes(there["files"][0]["path"]) == Path(here["files"][0]["path"]).read_bytes()
    assert json.loads(storage.read_bytes(f"{output}/schema.avsc"))["name"] == "Interactions"


def test_too_little_fails_the_job_and_leaves_no_manifest(service: Service, bucket: str, tmp_path: Path) -> None:
    orders, output = f"gs://{bucket}/orders.csv", f"gs://{bucket}/few"
    storage.write_bytes(orders, Path(write_csv(tmp_path / "orders.csv", shop(100))).read_bytes())
    job = service.submitted("interactions", ["--orders", orders, "--output", output])
    assert "rows is 100, accepted is at least 1,000" in service.finish(job, "JOB_STATE_FAILED")
    assert not storage.exists(f"{output}/manifest.json")
