"""Everything of Google's that the DAGs use, on this machine: Dataflow and Vertex AI with the images, storage and tables.

    with opened(storage, bigquery, datastore, folder) as cloud:
        subprocess.run([airflow, ...], env={**cloud.variables, ...})

The services have the addresses that Google's have: tests/google/front.py leads them here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestration.deployment import Deployment
from tests.airflow.environment import python
from tests.airflow.faults import Lossy
from tests.dataflow import service_account
from tests.dataflow.stub import DataflowStub
from tests.emulators.services import HOST, PROJECT, BigQuery, CloudStorage, Datastore
from tests.google import front
from tests.templates import cloud as templates
from tests.templates.cloud import BUCKET, NAMES, REGION, image_name
from tests.vertex.stub import VertexStub
from transforms import storage

IMAGE = image_name("features")  # Vertex AI's jobs run on a template's image


@dataclass(frozen=True)
class Cloud:
    """The running services, and the variables by which a program finds them as if they were Google's."""

    templates: templates.Cloud
    lossy: Lossy  # before Dataflow
    vertex: VertexStub
    google: front.Variables
    emulators: dict[str, str]
    key: Path

    @property
    def dataflow(self) -> DataflowStub:
        return self.templates.service

    @property
    def variables(self) -> dict[str, str]:
        return {**self.google, **self.emulators, "GOOGLE_APPLICATION_CREDENTIALS": str(self.key)}

    def copy_templates(self, deployment: Deployment) -> None:
        """The built templates to where a deployment has its own."""
        for name in NAMES:
            storage.write_bytes(deployment.template(name), storage.read_bytes(self.templates.template(name)))


@contextlib.contextmanager
def opened(storage_service: CloudStorage, bigquery: BigQuery, datastore: Datastore, folder: Path) -> Iterator[Cloud]:
    """Starts the services and builds the templates by the real gcloud.

    Args:
      folder: for what is temporary.
    """
    emulators = {
        "STORAGE_EMULATOR_HOST": storage_service.url,
        "BIGQUERY_EMULATOR_HOST": bigquery.url,
        "BIGQUERY_STORAGE_EMULATOR_HOST": f"{HOST}:{bigquery.grpc_port}",
        "DATASTORE_EMULATOR_HOST": datastore.host,
    }
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(templates.opened(storage_service, folder, emulators))
        for name in NAMES:
            built = made.build(name)
            assert built.returncode == 0, built.stderr
        vertex = stack.enter_context(VertexStub(images=made.images, polls=2, seconds=0.2))
        lossy = stack.enter_context(Lossy(made.service.url))
        hosts = {
            "dataflow.googleapis.com": lossy.url,
            f"{REGION}-aiplatform.googleapis.com": vertex.url,
            # Asked about every service account, in passing; here it knows of none.
            "iamcredentials.googleapis.com": vertex.url,
        }
        certificates = folder / "front"
        certificates.mkdir()
        google = stack.enter_context(front.opened(hosts, certificates, python()))
        key = service_account.write_key_file(folder / "airflow-key.json", f"{made.service.url}/token")
        yield Cloud(made, lossy, vertex, google, emulators, key)


__all__ = ["BUCKET", "IMAGE", "PROJECT", "REGION", "Cloud", "opened"]
