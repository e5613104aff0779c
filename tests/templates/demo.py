"""A Flex Template from its file to a served customer, on this machine: gcloud, launcher and workers are the real ones.

    python -m tests.templates.demo

Starts Cloud Storage, Datastore and Dataflow's API as local services, makes the image's environment from
templates/Dockerfile (.venv-template, about 3.5 GB the first time), and publishes predictions for CDNOW customers: those
of `make demo` where it ran, else new ones for some thousand customers. No cloud account is used and nothing leaves
this machine. The last line is one customer's prediction as JSON.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transforms.cli import ArgumentParser, exit_code
from transforms.errors import JobFailed, UsageError, one_line

if TYPE_CHECKING:
    from tests.templates.cloud import Cloud

_ONE_IN = 8  # of the CDNOW customers, which leaves 2,947: forecast in seconds
_SERVING = "datastore://test-project"
_SECONDS = 300.0
_POLL_SECONDS = 2.0
_BEGAN = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - _BEGAN:5.1f} s  {text}", file=sys.stderr, flush=True)


def run(argv: list[str] | None = None) -> None:
    """Raises: UsageError where a part is missing on this machine, JobFailed where the launch or the job failed."""
    parser = ArgumentParser("python -m tests.templates.demo", description=__doc__)
    parser.add_argument("--workdir", default="work/demo", help="where `make demo` left its predictions")
    options = parser.parse_args(argv)

    from orchestration import demo
    from serving import lookup
    from tests.templates.environment import CannotMake

    try:
        with tempfile.TemporaryDirectory(prefix="templates-") as folder, _cloud(Path(folder)) as cloud:
            predictions = _predictions(Path(options.workdir), Path(folder))
            say(f"uploading {predictions} to Cloud Storage")
            _upload(predictions, f"gs://{cloud.bucket}/predictions")
            _shown(cloud.build("publish"))
            job_id = _launch(cloud)
            _wait(cloud, job_id)
            for line in (Path(folder) / f"{job_id}.log").read_text().splitlines():
                if line.startswith("publish "):
                    say(f"worker: {line}")
            customer = demo.best_customer(str(predictions))
            say(f"python -m serving.lookup --serving {_SERVING} {customer}")
            lookup.run(["--serving", _SERVING, customer])
    except CannotMake as error:
        raise JobFailed(one_line(str(error))) from error


@contextlib.contextmanager
def _cloud(folder: Path) -> Iterator[Cloud]:
    """The services, found by this process too.

    Raises:
      UsageError: one cannot be started here.
    """
    from tests.emulators.services import CloudStorage, EmulatorError, FirestoreInDatastoreMode
    from tests.templates.cloud import opened

    say("starting Cloud Storage and Datastore")
    with contextlib.ExitStack() as stack:
        try:
            storage = stack.enter_context(CloudStorage())
            datastore = stack.enter_context(FirestoreInDatastoreMode())
        except EmulatorError as error:
            raise UsageError(one_line(str(error))) from error
        os.environ.pop("GOOGLE_APPLICATION_CREDENTIALS", None)
        own = {"NO_PROXY": "127.0.0.1,localhost", "NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": str(folder / "none")}
        hosts = {"STORAGE_EMULATOR_HOST": storage.url, "DATASTORE_EMULATOR_HOST": datastore.host}
        os.environ.update({**own, **hosts})
        say("making the image's environment of templates/Dockerfile")
        yield stack.enter_context(opened(storage, folder, {"DATASTORE_EMULATOR_HOST": datastore.host}, say))


def _predictions(workdir: Path, folder: Path) -> Path:
    """A finished predictions directory: the newest of ``make demo``, or one made now."""
    from transforms import storage

    finished = sorted(workdir.rglob(f"predictions/**/{storage.MANIFEST}"), key=lambda path: path.stat().st_mtime)
    for manifest in reversed(finished):
        with contextlib.suppress(UsageError):
            storage.read_manifest(str(manifest.parent), "predictions")
            return manifest.parent
    return _predict(folder)


def _predict(folder: Path) -> Path:
    """Features, a buy-till-you-die model and predictions of some CDNOW customers."""
    import datetime

    import pyarrow.compute as pc

    from orchestration import demo
    from pipelines import features, predict
    from trainer import task
    from transforms import storage

    every = demo.cdnow_orders()
    customers = every["customer_id"].unique().sort()[::_ONE_IN]
    chosen = every.filter(pc.is_in(every["customer_id"], customers))
    orders = str(folder / "orders.parquet")
    storage.write_parquet(chosen, orders)
    say(f"forecasting {len(customers):,} customers of CDNOW, who ordered {chosen.num_rows:,} times")
    horizon = demo.HORIZON_DAYS
    cutoff = pc.max(chosen["ordered_at"]).as_py() + datetime.timedelta(days=1 - horizon)
    steps = {name: str(folder / name) for name in ("features", "model", "predictions")}
    window = ["--cutoff", str(cutoff), "--horizon_days", str(horizon)]
    features.run(["--orders", orders, *window, "--output", steps["features"]])
    judged = ["--features", steps["features"], "--evaluation", steps["features"], "--model", "mbgnbd"]
    task.run([*judged, "--output", steps["model"]])
    predict.run(["--orders", orders, "--model", steps["model"], "--output", steps["predictions"]])
    return Path(steps["predictions"])


def _upload(directory: Path, uri: str) -> None:
    from transforms import storage

    files = [path for path in directory.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == storage.MANIFEST):  # the manifest last, as ever
        storage.write_bytes(storage.join(uri, path.relative_to(directory).as_posix()), path.read_bytes())


def _shown(done: subprocess.CompletedProcess[str]) -> str:
    """What a command answered; shown, with the command itself.

    Raises:
      JobFailed: it failed.
    """
    for line in done.stderr.splitlines() + done.stdout.splitlines():
        say(line)
    if done.returncode:
        raise JobFailed(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
    return done.stdout


def _gcloud(cloud: Cloud, arguments: Sequence[str]) -> str:
    from tests.templates import gcloud

    say(f"gcloud {' '.join(arguments)}")
    return _shown(gcloud.run(arguments, cloud.gcloud))


def _launch(cloud: Cloud) -> str:
    """Launches the template; returns the job's id."""
    root = f"gs://{cloud.bucket}"
    parameters = {"predictions": f"{root}/predictions", "serving": _SERVING, "dead_letters": f"{root}/dead_letters"}
    return _shown(cloud.launch("publish", {**parameters, "ramp": "off"})).split()[1]


def _wait(cloud: Cloud, job_id: str) -> None:
    """Asks Dataflow for the job until it has ended.

    Raises:
      JobFailed: not as it should, or not in time.
    """
    from tests.templates import gcloud
    from tests.templates.cloud import REGION

    region = ["--region", REGION]
    _gcloud(cloud, ["dataflow", "jobs", "list", *region])
    described = ["dataflow", "jobs", "describe", job_id, *region, "--format=value(currentState)"]
    say(f"gcloud {' '.join(described)}")
    until, state = time.monotonic() + _SECONDS, ""
    while state not in ("JOB_STATE_DONE", "JOB_STATE_FAILED"):
        if time.monotonic() > until:
            raise JobFailed(f"the job {job_id} has not ended after {_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)
        answered = gcloud.run(described, cloud.gcloud).stdout.strip()
        if answered != state:
            say(answered)
        state = answered
    _gcloud(cloud, ["dataflow", "jobs", "list", *region])
    if state != "JOB_STATE_DONE":
        (job,) = [job for job in cloud.service.jobs if job.body["id"] == job_id]
        said = [each["messageText"].strip().splitlines()[-1] for each in job.messages]
        raise JobFailed(f"the job {job_id} failed: {said[-1]}")


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
