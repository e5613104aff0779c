"""What a scheduler hears of Cloud Storage, from a service that fails in the way it is told to, by the real commands."""

from __future__ import annotations

import datetime
import functools
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from pyarrow import fs

from orchestration import cloud_storage, prepare, training_due
from transforms.errors import JobFailed, UsageError

PREPARE = ["--dataset", "my-project.shop", "--loaded_on", "2012-03-01", "--only", "load"]
DUE = ["--orders_table", "bigquery://my-project.shop.orders", "--horizon_days", "90", "--on", "2012-03-01", "--every_days", "30"]  # fmt: skip


class Service(ThreadingHTTPServer):
    """One bucket, ``shop``, as Cloud Storage's JSON API tells of it; reads of what ``failing`` matches get its status."""

    objects: tuple[str, ...] = ()
    failing: tuple[str, int] | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)

    def answer(self, address: str) -> tuple[int, object]:
        url = urlsplit(address)
        if self.failing and re.search(self.failing[0], address):
            return self.failing[1], _error(self.failing[1])
        if not url.path.startswith("/storage/v1/b/shop"):
            return 404, _error(404)
        if url.path.endswith("/o"):
            prefix = parse_qs(url.query).get("prefix", [""])[0]
            found = [_object(name) for name in self.objects if name.startswith(prefix)]
            return 200, {"kind": "storage#objects", "items": found}
        if url.path == "/storage/v1/b/shop":
            return 200, {"kind": "storage#bucket", "id": "shop", "name": "shop"}
        name = url.path.removeprefix("/storage/v1/b/shop/o/").replace("%2F", "/")
        return (200, _object(name)) if name in self.objects else (404, _error(404))


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        status, content = self.server.answer(self.path)
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _error(status: int) -> object:
    return {"error": {"code": status, "message": "as told"}}


def _object(name: str) -> object:
    now = "2012-03-01T00:00:00Z"
    return {"kind": "storage#object", "name": name, "bucket": "shop", "size": "9", "generation": "1", "updated": now}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    # Arrow would go on trying for a quarter of an hour, the command's own request for half a minute.
    monkeypatch.setattr(cloud_storage, "_PATIENCE_SECONDS", 0.2)
    patient = functools.partial(fs.GcsFileSystem, retry_time_limit=datetime.timedelta(milliseconds=200))
    monkeypatch.setattr(fs, "GcsFileSystem", patient)
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


def told(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.mark.parametrize("place", ["2012-03-01/*.csv.gz", "2012-03-01/", "2012-03-01/orders.csv", "*.csv"])
def test_an_export_that_is_not_there_yet_may_be_tried_again(
    place: str, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.objects = ("2012-02-29/orders.csv.gz",)
    assert prepare.main(["--orders", f"gs://shop/{place}", *PREPARE]) == 1
    assert told(capsys) == (
        f"--orders 'gs://shop/{place}' is not usable: accepted is 1 to 10,000 .parquet, .csv or .csv.gz files that exist"
    )


@pytest.mark.parametrize("place", ["gs://shpo/2012-03-01/*.csv.gz", "gs://shpo/orders.csv", "gs://shpo"])
def test_a_bucket_that_does_not_exist_is_a_mistake(
    place: str, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(["--orders", place, *PREPARE]) == 2
    assert "a place in a bucket that exists, and there is no bucket 'shpo'" in told(capsys)


def test_files_that_are_no_orders_are_a_mistake(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.objects = ("2012-03-01/orders.xlsx",)
    assert prepare.main(["--orders", "gs://shop/2012-03-01/*", *PREPARE]) == 2
    assert "accepted is 1 to 10,000 .parquet" in told(capsys)


ANYTHING, LISTING, CONTENT = "^", r"/b/shop/o\?", r"/o/\w+(%2F|/)|alt=media|^/shop/"


@pytest.mark.parametrize(
    ("failing", "code", "said"),
    [
        ((ANYTHING, 503), 1, "--orders 'gs://shop/day/*' is not readable for the time being: google::cloud::Status("),
        ((LISTING, 429), 1, "--orders 'gs://shop/day/*' is not readable for the time being"),
        ((ANYTHING, 403), 2, "--orders 'gs://shop/day/*' is not readable: "),
        ((ANYTHING, 400), 2, "--orders 'gs://shop/day/*' is not readable: google::cloud::Status(INVALID_ARGUMENT"),
        ((CONTENT, 503), 1, "shop/day/orders.KIND is not readable for the time being: "),
        ((CONTENT, 403), 2, "shop/day/orders.KIND is not readable: "),
        ((CONTENT, 404), 2, "shop/day/orders.KIND is not readable: "),  # deleted since it was listed
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_may_pass_is_told_from_what_a_person_has_to_mend(
    kind: str, failing: tuple[str, int], code: int, said: str, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.objects, service.failing = (f"day/orders.{kind}",), failing
    assert prepare.main(["--orders", "gs://shop/day/*", *PREPARE]) == code
    assert told(capsys).startswith(said.replace("KIND", kind))


@pytest.mark.parametrize(
    ("place", "failing", "code", "said"),
    [
        ("gs://shop/registry", (ANYTHING, 503), 1, "--registry 'gs://shop/registry' is not readable for the time being: "),
        ("gs://shop/registry", (ANYTHING, 403), 2, "--registry 'gs://shop/registry' is not readable: "),
        ("gs://shop/registry", (CONTENT, 503), 1, "--registry 'gs://shop/registry' is not readable for the time being: "),
        ("gs://shop/registry", (CONTENT, 404), 2, "--registry 'gs://shop/registry' is not readable: "),
        ("gs://shpo/registry", None, 2, "--registry 'gs://shpo/registry' is not usable: accepted is a place in a bucket that"),
    ],
)  # fmt: skip
def test_a_registry_that_cannot_be_read(
    place: str, failing: tuple[str, int] | None, code: int, said: str, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    service.objects, service.failing = ("registry/versions/v1.json",), failing
    assert training_due.main(["--registry", place, *DUE]) == code
    assert told(capsys).startswith(said)


@pytest.mark.parametrize("place", ["gs://shop", "gs://shop/registry/", "gs://anonymous@shop/a", "file:///a", "here/b"])
def test_an_empty_place_in_a_bucket_is_one(place: str, service: Service) -> None:
    cloud_storage.require_bucket("--registry", place)


@pytest.mark.parametrize(("status", "error"), [(403, UsageError), (501, JobFailed)])
def test_a_bucket_that_cannot_be_asked_for(status: int, error: type[Exception], service: Service) -> None:
    service.failing = ANYTHING, status
    with pytest.raises(error, match="--registry 'gs://shop/r' is not readable"):
        cloud_storage.require_bucket("--registry", "gs://shop/r")
