"""One installation of the DAGs: a deployment.toml of its own in the cloud of this machine, and an Airflow home."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestration import deployment
from serving.store import Generation, open_store
from tests.airflow.airflow_home import Home, Run
from tests.airflow.cloud import BUCKET, IMAGE, REGION, Cloud
from tests.airflow.environment import NEWEST, ROOT
from tests.airflow.shop import HORIZON_DAYS, Shop
from tests.airflow.sink import Sink
from tests.dataflow.stub import Job
from tests.vertex.stub import CustomJobRecord
from transforms import storage

BUILD, SERVE = "build_train_deploy", "predict_serve"
TOML = """\
project = "{project}"
region = "{region}"
bucket = "{bucket}"
dataset = "{dataset}"
image = "{image}"
notify = ["log:", "{sink}"]

[orders]
files = "{files}"

[forecast]
horizon_days = {horizon_days}
training_snapshots = 2
model = "{model}"

[schedule]
build_train_deploy = "{cron}"
predict_serve = "{cron}"
train_every_days = 7

[retries]
count = {retries}
delay_seconds = 0.1

[serving]
store = "{store}"
ramp = "off"

[dataflow]
poll_seconds = 1

[vertex]
poll_seconds = 1
"""


@dataclass(frozen=True)
class Installation:
    """Names that nobody else of the cloud has, and how the DAGs are run there."""

    cloud: Cloud
    name: str
    home: Home
    shop: Shop
    sink: Sink

    @property
    def bucket(self) -> str:
        return f"gs://{BUCKET}/{self.name}"

    @property
    def project(self) -> str:
        """Jobs, models, tables and entities are the project's: another installation sees none of them."""
        return f"clv-{self.name}"

    @property
    def dataset(self) -> str:
        return f"{self.project}.shop"

    @property
    def store(self) -> str:
        return f"datastore://{self.project}"

    @property
    def registry(self) -> str:
        return f"{self.bucket}/registry/{HORIZON_DAYS}d"

    def run(self, dag: str, at: datetime.datetime, **conf: Any) -> tuple[Run, str]:
        """``airflow dags test`` to its end; the run, and all it printed."""
        done = self.home.call("dags", "test", dag, at.isoformat(), "--conf", json.dumps(conf))
        (self.home.folder / f"{dag}-{len(self.home.runs(dag))}.log").write_text(done.stdout)
        return self.home.run(dag), done.stdout

    def command(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One of our commands as a person types it, by this Python."""
        return subprocess.run(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, env={**os.environ, **self.cloud.emulators},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a BigQuery statement."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigquery

        with bigquery.Client(self.project, AnonymousCredentials()) as client:
            return [dict(row) for row in client.query(sql).result()]

    def events(self, dag: str) -> list[dict[str, Any]]:
        """What the webhook was told of this installation's runs of a DAG, oldest first."""
        own = {f"{dag}/{run.id}" for run in self.home.runs(dag)}
        return [event for event in self.sink.events if event["run"] in own]

    def current(self) -> Generation | None:
        """What is served."""
        with open_store(self.store) as store:
            return store.current()

    def dataflow_jobs(self) -> list[Job]:
        """This installation's, oldest first."""
        return [job for job in self.cloud.dataflow.jobs if job.body["projectId"] == self.project]

    def vertex_jobs(self) -> list[CustomJobRecord]:
        return [job for job in self.cloud.vertex.jobs if any(self.bucket in word for word in job.container["args"])]


def parts(directory: str) -> Iterator[tuple[str, bytes]]:
    """The Parquet files of a directory in the bucket: names below it and content."""
    prefix = directory.removeprefix("gs://").rstrip("/") + "/"
    for path in sorted(storage.list_files(directory, ".parquet")):
        yield path.removeprefix(prefix), storage.read_bytes(f"gs://{path}")


def rows(directory: str) -> pa.Table:
    """Its rows as one table sorted by customer."""
    tables = [pq.read_table(pa.BufferReader(content)) for _, content in parts(directory)]
    return pa.concat_tables(tables).sort_by("customer_id")


def install(
    cloud: Cloud, folder: Path, name: str, sink: Sink, shop: Shop, *,
    model: str = "bgnbd", retries: int = 1, due: str = "0 3 * * *", version: str = NEWEST,
) -> Installation:  # fmt: skip
    """Writes the deployment and the home.

    Args:
      folder: of the session; the home is below it.
      version: of Airflow, see ``Home``.
      due: the cron line of both DAGs. A scheduler that has just been started runs what was due last.
    """
    made = Installation(cloud, name, _home(cloud, folder, name, version), shop, sink)
    file = made.home.folder / "deployment.toml"
    content = TOML.format(
        project=made.project, region=REGION, bucket=made.bucket, dataset=made.dataset, image=IMAGE, sink=sink.url,
        files=shop.files, horizon_days=HORIZON_DAYS, model=model, retries=retries, store=made.store, cron=due,
    )  # fmt: skip
    file.write_text(content)
    cloud.copy_templates(deployment.read(file))
    return made


def _home(cloud: Cloud, folder: Path, name: str, version: str) -> Home:
    home = folder / name
    connection = {"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True, "project": f"clv-{name}"}}
    variables = {
        **cloud.variables,
        "CLV_DEPLOYMENT": str(home / "deployment.toml"),
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(connection),
        "CLOUDSDK_CONFIG": str(home / "no-gcloud"),
    }
    made = Home(home, variables, version)
    made.migrate(folder)
    return made
