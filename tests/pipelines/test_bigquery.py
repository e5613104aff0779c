"""Names that cannot leave their quotes, jobs that run once, and BigQuery's errors as one line."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import google.api_core.exceptions
import pytest
import sqlglot
from google.auth.exceptions import RefreshError
from hypothesis import example, given
from hypothesis import strategies as st
from sqlglot import expressions as sge

from pipelines import bigquery as bq
from pipelines.bigquery import Query, Table
from tests.pipelines import bigquery_data
from tests.pipelines.bigquery_faults import PROJECT, Rest, failed, lost
from transforms.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = st.text(
    st.sampled_from("`'\"\\;-$.*/#\n\r\t\x00 ()@?:%é\u0301客٣\u2028`abzAZ09_"), max_size=30
) | st.text(max_size=20)  # fmt: skip


# --- Names ----------------------------------------------------------------------------------------------------------


def assert_one_name(table: Table) -> None:
    """In SQL the name is one quoted table, and nothing else."""
    (tree,) = sqlglot.parse(f"SELECT a FROM {table.sql}", dialect="bigquery")
    assert isinstance(tree, sge.Select)
    (found,) = tree.find_all(sge.Table)
    assert [part.name for part in found.parts] == [table.project, table.dataset, table.table]
    assert not tree.comments and not found.alias and table.sql.count("`") == 2


@given(HOSTILE, HOSTILE, HOSTILE)
@example("my-project", "shop", "orders`; DROP TABLE x; --")
@example("my-project", "shop", "orders$20110808")
@example("my-project", "shop", "orders\n")
@example("my-project", "shop`.`x", "orders")
@example("example.com:my-project", "shop", "été 2011-客")
def test_a_hostile_name_is_refused_or_stays_in_its_quotes(project: str, dataset: str, table: str) -> None:
    for text in (f"{project}.{dataset}.{table}", f"bigquery://my-project.shop.{table}", f"my-project.{dataset}.orders"):
        try:
            name = Table.parse("--orders", text)
        except UsageError as error:
            assert repr(text) in str(error) and len(str(error).splitlines()) == 1
            continue
        assert str(name) == text.removeprefix("bigquery://")
        assert_one_name(name)


@pytest.mark.parametrize("table", ["orders", "orders-2011", "bestellungen 2011", "été", "客"])
@pytest.mark.parametrize("project", ["my-project", "example.com:my-project", "shop-42"])
def test_names_that_bigquery_has(project: str, table: str) -> None:
    name = Table.parse("--orders", f"bigquery://{project}.shop.{table}")
    assert name == Table(project, "shop", table)
    assert_one_name(name)
    assert name.path == f"projects/{project}/datasets/shop/tables/{table}"
    assert str(Table(project, "shop", table, datetime.date(2011, 8, 8))) == f"{project}.shop.{table}$20110808"


@pytest.mark.parametrize(
    "text",
    ["", "orders", "shop.orders", "my-project.shop.", "my-project..orders", "my-project.shop.orders.lines", "MY.shop.orders",
     "my-project.my-shop.orders", "my-project.shop.orders*", "my-project:shop.orders", "my-project.shop." + "é" * 513,
     "bigquery://bigquery://my-project.shop.orders", " my-project.shop.orders"],
)  # fmt: skip
def test_what_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape("accepted is project.dataset.table, such as")):
        Table.parse("--orders", text)


# --- Errors ---------------------------------------------------------------------------------------------------------


def explanation(error: Exception) -> str:
    with pytest.raises(UsageError) as raised, bq.explained("--orders x"):
        raise error
    assert len(str(raised.value).splitlines()) == 1 and str(raised.value).startswith("--orders x: ")
    return str(raised.value)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (google.api_core.exceptions.PermissionDenied("no\nbigquery.readsessions.create"), "Read Session User"),
        (google.api_core.exceptions.NotFound("gone"), "the name of one that exists"),
        (google.api_core.exceptions.PermissionDenied("no"), "row-level policies"),
        (google.api_core.exceptions.Unauthenticated("who?"), "who?"),
        (
            google.api_core.exceptions.Forbidden("no", errors=[{"reason": "quotaExceeded", "message": "too many"}]),
            "too many",
        ),
        (RefreshError("invalid_grant: Token has been expired"), "gcloud auth application-default login"),
    ],
)
def test_an_error_says_what_to_do(error: Exception, says: str) -> None:
    assert says in explanation(error)


@pytest.mark.parametrize(
    "error",
    [
        google.api_core.exceptions.ServiceUnavailable("later"), google.api_core.exceptions.TooManyRequests("slower"),
        google.api_core.exceptions.ResourceExhausted("slower"), google.api_core.exceptions.Aborted("again"),
        google.api_core.exceptions.Cancelled("again"),
        google.api_core.exceptions.Forbidden("slower", errors=[{"reason": "jobRateLimitExceeded"}]),
        google.api_core.exceptions.BadRequest("not yet", errors=[{"reason": "tableUnavailable"}]),
    ],
)  # fmt: skip
def test_what_may_pass_is_no_usage_error(error: Exception) -> None:
    with pytest.raises(type(error)), bq.explained("--orders x"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        google.api_core.exceptions.BadRequest(
            "POST https://...: x", errors=[{"reason": "invalid", "message": "Invalid snapshot time 1601168925462 for table "
            "p:d.t@1601168925462. Cannot read before 1601251200000."}],
        ),
        google.api_core.exceptions.InvalidArgument(
            "Invalid time travel timestamp 1601168925462 for table p:d.t@1601168925462. Cannot read before 1601251200000."
        ),
    ],
)  # fmt: skip
def test_a_time_that_is_too_old_is_readable(error: Exception) -> None:
    said = explanation(error)
    assert "2020-09-27T01:08:45Z for table p:d.t@2020-09-27T01:08:45Z. Cannot read before 2020-09-28T00:00:00Z" in said
    assert "accepted is a time within the table's time travel window (at most seven days)" in said
    assert not re.search(r"\d{12}", said)


ASK = """
import sys
from pipelines import bigquery
from transforms.cli import exit_code

def ask():
    with bigquery.explained("--orders x"):
        bigquery.client("my-project")

sys.exit(exit_code(ask))
"""


def test_without_credentials_it_says_so_soon(tmp_path: Path) -> None:
    environment = {
        "PATH": os.defpath, "HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path), "PYTHONPATH": str(ROOT), "NO_GCE_CHECK": "true",
    }  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --orders x: no Google Cloud credentials found: run `gcloud auth application-default")
    assert time.monotonic() - started < 20


# --- Jobs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def rest(bigquery: Any, monkeypatch: pytest.MonkeyPatch) -> Rest:
    monkeypatch.setattr(bq, "_PAUSES_SECONDS", (0.01, 0.01, 0.01))
    return Rest(monkeypatch)


def one(name: str, **others: Any) -> Query:
    return Query(name, PROJECT, "SELECT 1 AS a", labels={"step": "test"}, about="--orders x", **others)


def answer(job: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in job.result()]


@pytest.mark.emulators
def test_a_query_runs_once_under_one_name(rest: Rest, dataset: str) -> None:
    query = one(f"clv-once-{dataset.rpartition('_')[2]}", maximum_bytes_billed=10**9)
    first, second = bq.run(query), bq.run(query)  # a bundle that Beam repeats
    assert first.job_id == second.job_id == query.job_id(0) and first.created == second.created
    assert answer(first) == answer(second) == [{"a": 1}]
    assert first.labels == {"step": "test"} and first.maximum_bytes_billed == 10**9
    other = bq.run(one(query.name, maximum_bytes_billed=10**9 + 1))
    assert other.job_id != first.job_id


@pytest.mark.emulators
def test_a_lost_reply_starts_no_second_job(rest: Rest, dataset: str) -> None:
    query = one(f"clv-lost-{dataset.rpartition('_')[2]}")
    rest.tamper("clv-lost", lost)
    job = bq.run(query)
    assert answer(job) == [{"a": 1}]
    assert rest.inserted == [query.job_id(0)] * 2  # asked for again, and refused by BigQuery: it is there
    jobs = [other.job_id for other in bigquery_data.client().list_jobs() if other.job_id.startswith(query.name)]
    assert jobs == [query.job_id(0)]


@pytest.mark.emulators
@pytest.mark.parametrize("reason", sorted(bq._TRANSIENT))
def test_a_job_that_failed_for_a_while_runs_again_under_another_name(rest: Rest, dataset: str, reason: str) -> None:
    query = one(f"clv-again-{reason}-{dataset.rpartition('_')[2]}")
    rest.tamper("clv-again", failed(reason, "Error encountered during execution. Retrying may solve the problem."), 2)
    assert answer(bq.run(query)) == [{"a": 1}]
    assert rest.inserted == [query.job_id(attempt) for attempt in range(3)] and len(set(rest.inserted)) == 3


@pytest.mark.emulators
def test_it_gives_up_after_some_attempts(rest: Rest, dataset: str) -> None:
    query = one(f"clv-never-{dataset.rpartition('_')[2]}")
    rest.tamper("clv-never", failed("backendError", "Error encountered during execution."), 99)
    with pytest.raises(google.api_core.exceptions.InternalServerError, match="Error encountered"):
        bq.run(query)
    assert rest.inserted == [query.job_id(attempt) for attempt in range(4)]


@pytest.mark.emulators
def test_a_repeated_bundle_goes_on_behind_the_attempts_that_failed(
    rest: Rest, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds them failed, waits for none of them, and has as many attempts again."""
    query = one(f"clv-beyond-{dataset.rpartition('_')[2]}")
    transient = failed("backendError", "Error encountered during execution.")
    rest.tamper("clv-beyond", transient, 4)
    still_failed(monkeypatch, set(), transient)
    with pytest.raises(google.api_core.exceptions.InternalServerError):
        bq.run(query)
    still_failed(monkeypatch, set(rest.inserted), transient)
    rest.inserted.clear()
    rest.tamper(query.job_id(4), transient)
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    assert answer(bq.run(query)) == [{"a": 1}]
    assert rest.inserted == [query.job_id(attempt) for attempt in range(6)]
    assert waited == [0, 0, 0, 0, 0.01]


def still_failed(monkeypatch: pytest.MonkeyPatch, ids: set[str], how: Any) -> None:
    """The service answers the same about these jobs whenever it is asked."""
    session = bq.client(PROJECT)._http
    request = session.request

    def asked(method: str, url: str, data: Any = None, **others: Any) -> Any:
        response = request(method=method, url=url, data=data, **others)
        found = re.search(r"/jobs/([^/?]+)", url)
        return how(response) if method == "GET" and found and found[1] in ids else response

    monkeypatch.setattr(session, "request", asked)


def test_a_run_waits_for_a_minute_or_two() -> None:
    assert 60 <= sum(bq._PAUSES_SECONDS) <= 120 and list(bq._PAUSES_SECONDS) == sorted(bq._PAUSES_SECONDS)


@pytest.mark.emulators
@pytest.mark.parametrize(
    ("reason", "message", "says"),
    [
        ("bytesBilledLimitExceeded", "Query exceeded limit for bytes billed: 1000000. 10485760 or higher required.",
         "a larger --maximum_bytes_billed"),
        ("accessDenied", "Access Denied: Table p:d.t: User does not have permission to query table p:d.t", "Data Viewer"),
        ("responseTooLarge", "Response too large to return.", "; take a smaller one"),
        ("quotaExceeded", "Quota exceeded: Your project exceeded quota for free query bytes scanned.", "free query bytes"),
        ("invalidQuery", "Unrecognized name: x at [1:8]", "Unrecognized name"),
        ("stopped", "Job execution was cancelled: User requested cancellation", "cancelled"),
    ],
)  # fmt: skip
def test_a_lasting_failure_is_one_line(rest: Rest, dataset: str, reason: str, message: str, says: str) -> None:
    query = one(f"clv-fails-{reason}-{dataset.rpartition('_')[2]}", too_large="take a smaller one")
    rest.tamper("clv-fails", failed(reason, message))
    with pytest.raises(UsageError) as raised:
        bq.run(query)
    line = str(raised.value)
    assert len(line.splitlines()) == 1 and line.startswith(f"--orders x: query {query.job_id(0)}: {message}")
    assert says in line and line.count(message) == 1
    assert ("take a smaller one" in line) == (reason == "responseTooLarge")
    assert len(rest.inserted) == 1
