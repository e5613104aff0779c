"""Where the demo happens, all on this machine: a store of objects, a campaign's service, the settings and the ledger.

The store is moto's Amazon S3, the service is ``local_personalize``; both are spoken to over HTTP by boto3, Arrow and the
commands, which find them by the environment of this process and of those it starts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestration.refresh.demo_orders import write_orders
from orchestration.refresh.local_personalize.core import Durations, LocalPersonalize, s3_reader
from orchestration.refresh.local_personalize.faults import Dropped
from orchestration.refresh.local_personalize.resources import Shop, create_shop
from orchestration.refresh.local_personalize.server import Server
from transforms import storage
from transforms.errors import JobFailed, UsageError, one_line, rejected

CAMPAIGN = "shop"
JOB = "extract-behaviour"
REGION = "eu-central-1"
BUCKET = "shop-interactions"
DATA = f"s3://{BUCKET}/{{base_date}}"
# Long enough to be seen in each state, short enough to watch.
DURATIONS = Durations(import_seconds=0.2, training_seconds=0.4, deployment_seconds=0.2, pending_seconds=0.05)
_PATIENCE_SECONDS = 60.0

# The lease is how long the killed process of the second week is waited for; on AWS it is minutes.
SETTINGS = """\
ledger = {ledger}

[campaigns.{campaign}]
data = "{data}"
region = "{region}"

[campaigns.{campaign}.personalize]
dataset_arn = "{shop.dataset_arn}"
solution_arn = "{shop.solution_arn}"
campaign_arn = "{shop.campaign_arn}"
role_arn = "{shop.role_arn}"

[campaigns.{campaign}.event]
source = "aws.glue"
job = "{job}"

[campaigns.{campaign}.policy]
lease_seconds = 1.5
margin_seconds = 0.7
poll_seconds = 0.05
busy_seconds = 0.2
most_busy_seconds = 1
"""


class Service(LocalPersonalize):
    """The service; it tells of an answer that is about to be lost while the caller still waits for it."""

    on_lost: Callable[[], object] = staticmethod(lambda: None)

    def call(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return super().call(operation, parameters)
        except Dropped:
            self.on_lost()
            raise


@dataclass(frozen=True)
class Place:
    """Paths are local. ``exports`` is the upstream job, under way."""

    service: Service
    settings: str
    ledger: str
    lines: int
    exports: Exports
    shop: Shop


class Exports:
    """The process that makes the interactions of all base_dates, one after the other."""

    def __init__(self, orders: str, base_dates: list[str], log: str) -> None:
        self.log = log
        command = [sys.executable, "-m", "orchestration.refresh.demo_orders", "--orders", orders, "--data", DATA]
        with open(log, "wb") as output:
            self.process = subprocess.Popen([*command, *base_dates], stdout=output, stderr=output)

    def wait_for(self, directory: str) -> dict[str, Any]:
        """The manifest of a directory, once it is complete.

        Raises:
          JobFailed: the process ended without it.
        """
        until = time.monotonic() + _PATIENCE_SECONDS
        while not storage.exists(storage.join(directory, storage.MANIFEST)):
            if self.process.poll() not in (None, 0) or time.monotonic() > until:
                with open(self.log, errors="replace") as log:
                    last = one_line((log.read().strip().splitlines() or ["it said nothing"])[-1])
                raise JobFailed(f"{directory} was not made: {last} (all of it is in {self.log})")
            time.sleep(0.05)
        return storage.read_manifest(directory, "interactions")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def opened(workdir: str, base_dates: list[str]) -> Iterator[Place]:
    """Everything that the story needs; the campaign serves a version that a person made of the first base_date's data.

    Raises:
      UsageError: moto is not installed, or the directory cannot be made.
      JobFailed: an export failed.
    """
    try:
        os.makedirs(workdir, exist_ok=True)
    except OSError as error:
        raise rejected("--workdir", workdir, f"a directory that can be made and written ({error.strerror})") from None
    # No names that somebody's own settings and ledger may have: these are made anew.
    ledger, settings = os.path.join(workdir, "demo_ledger.db"), os.path.join(workdir, "demo_refresh.toml")
    orders = os.path.join(workdir, "demo_orders.parquet")
    for path in (ledger, f"{ledger}-wal", f"{ledger}-shm", settings):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment(_store(stack)))
        store = _bucket()
        lines = write_orders(orders)
        exports = Exports(orders, base_dates, os.path.join(workdir, "demo_exports.log"))
        stack.callback(exports.end)
        service = Service(durations=DURATIONS, region=REGION, read_data=s3_reader(store))
        os.environ["AWS_ENDPOINT_URL_PERSONALIZE"] = stack.enter_context(Server(service)).url
        shop = _shop(exports, base_dates[0])
        uri = json.dumps(f"sqlite://{ledger}")
        with open(settings, "w") as file:
            file.write(SETTINGS.format(ledger=uri, campaign=CAMPAIGN, data=DATA, region=REGION, job=JOB, shop=shop))
        yield Place(service, settings, ledger, lines, exports, shop)


def _store(stack: contextlib.ExitStack) -> str:
    """moto's S3; its address."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        raise UsageError("the demo needs moto for its Amazon S3: accepted is an environment of `make setup`") from None
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    stack.callback(server.stop)
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


@contextlib.contextmanager
def _environment(store: str) -> Iterator[None]:
    """Nothing of an account that this machine may know is used, and nothing leaves it."""
    ours = {
        "AWS_ENDPOINT_URL_S3": store, "AWS_DEFAULT_REGION": REGION, "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }  # fmt: skip
    before = dict(os.environ)
    for name in [name for name in before if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(ours)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _bucket() -> Any:
    """Makes it; a client of the store."""
    import boto3

    store = boto3.client("s3")
    store.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    return store


def _shop(exports: Exports, base_date: str) -> Shop:
    """A campaign as a person sets it up: by hand, with the first data, before there is a ledger."""
    import boto3

    directory = DATA.format(base_date=base_date)
    manifest = exports.wait_for(directory)
    schema = json.loads(storage.read_bytes(storage.join(directory, "schema.avsc")))
    return create_shop(boto3.client("personalize"), CAMPAIGN, location=manifest["data"], schema=schema)
