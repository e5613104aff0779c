"""BigQuery as every part of the system meets it: checked names, clients, jobs that run once, readable errors.

The clients follow ``BIGQUERY_EMULATOR_HOST`` (a URL, as Google's own do) and
``BIGQUERY_STORAGE_EMULATOR_HOST`` (host:port of its Storage API), so that everything runs against a
local emulator, without credentials.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transforms.errors import JobFailed, UsageError, one_line, rejected

if TYPE_CHECKING:
    from google.api_core.exceptions import GoogleAPICallError
    from google.cloud import bigquery, bigquery_storage

SCHEME = "bigquery://"
# Google's rules for names, without the exotic: no quote, backtick, backslash or dot can pass.
_PROJECT = r"(?:[a-z][a-z0-9.-]{1,61}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]"
_DATASET, _TABLE = r"[A-Za-z0-9_]{1,1024}", r"[\w-]+(?: +[\w-]+)*"
_DATASET_NAME = re.compile(rf"({_PROJECT})\.({_DATASET})")
_TABLE_NAME = re.compile(rf"({_PROJECT})\.({_DATASET})\.({_TABLE})")
_ACCEPTED_TABLE = "project.dataset.table, such as my-project.shop.orders"
_REPLACE = "WRITE_TRUNCATE"  # atomic: readers see the old rows or the new
# A job that failed for one of these reasons may succeed when it is run again. Not quotaExceeded: such quotas come
# back after hours, and a person who hears of it soon can ask for more.
_TRANSIENT = {
    "backendError", "internalError", "jobBackendError", "jobInternalError", "jobRateLimitExceeded", "rateLimitExceeded",
    "tableUnavailable",
}  # fmt: skip
# Before the second attempt and those after it: rate limits are counted by the minute.
_PAUSES_SECONDS = (5.0, 25.0, 70.0)
# What a person can do about an error, by BigQuery's reason for it.
_HINTS = {
    "bytesBilledLimitExceeded": "accepted is a larger --maximum_bytes_billed, or fewer columns or days to scan",
    "notFound": "accepted is the name of one that exists, in the location of the others",
    "accessDenied": "accepted is an account with the roles BigQuery Job User, Data Viewer (to write: Data Editor) and "
    "Read Session User; tables that have or had row-level policies let only their administrators (bigquery.tables.update) "
    "read them as of a time",
}
_TOO_OLD = re.compile(r"invalid (?:snapshot time|time travel timestamp) \d+", re.IGNORECASE)
_TOO_OLD_HINT = (
    "accepted is a time within the table's time travel window (at most seven days), and not before the table was made"
)
_EPOCH_MILLISECONDS = re.compile(r"(?<!\d)\d{12,13}(?!\d)")


@dataclass(frozen=True)
class Table:
    """A table's name; ``partition`` (a day) is the part of it that a job writes."""

    project: str
    dataset: str
    table: str
    partition: datetime.date | None = None

    @classmethod
    def parse(cls, argument: str, text: str) -> Table:
        """A name from a command line, ``bigquery://`` in front of it or not.

        Raises:
          UsageError: it is no table's name.
        """
        match = _TABLE_NAME.fullmatch(text.removeprefix(SCHEME))
        if match is None or len(match[3].encode()) > 1024:
            raise rejected(argument, text, _ACCEPTED_TABLE)
        return cls(match[1], match[2], match[3])

    def __str__(self) -> str:
        day = f"${self.partition:%Y%m%d}" if self.partition else ""
        return f"{self.project}.{self.dataset}.{self.table}{day}"

    @property
    def sql(self) -> str:
        """The name quoted for SQL; ``parse`` lets no character through that could end the quotes."""
        return f"`{self.project}.{self.dataset}.{self.table}`"

    @property
    def path(self) -> str:
        """The name as the Storage API wants it."""
        return f"projects/{self.project}/datasets/{self.dataset}/tables/{self.table}"

    @property
    def reference(self) -> bigquery.TableReference:
        from google.cloud import bigquery

        return bigquery.TableReference(
            bigquery.DatasetReference(self.project, self.dataset),
            str(self).removeprefix(f"{self.project}.{self.dataset}."),
        )

    def beside(self, suffix: str) -> Table:
        """Another table of the same dataset."""
        return Table(self.project, self.dataset, self.table + suffix)

    @classmethod
    def of(cls, reference: Any) -> Table:
        """The name in a reference that BigQuery answered with."""
        return cls(reference.project, reference.dataset_id, reference.table_id)


def parse_dataset(argument: str, text: str) -> tuple[str, str]:
    """The project and the name of a dataset from a command line.

    Raises:
      UsageError: it is no dataset's name.
    """
    match = _DATASET_NAME.fullmatch(text.removeprefix(SCHEME))
    if match is None:
        raise rejected(argument, text, "project.dataset, such as my-project.shop")
    return match[1], match[2]


@functools.cache
def client(project: str) -> bigquery.Client:
    """The process's client for jobs of a project."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    credentials = AnonymousCredentials() if os.environ.get("BIGQUERY_EMULATOR_HOST") else None
    return bigquery.Client(project, credentials=credentials)


@functools.cache
def storage_client() -> bigquery_storage.BigQueryReadClient:
    """The process's client of the Storage Read API."""
    from google.cloud import bigquery_storage

    emulator = os.environ.get("BIGQUERY_STORAGE_EMULATOR_HOST")
    if not emulator:
        return bigquery_storage.BigQueryReadClient()
    import grpc
    from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

    # Answers hold whole pages of rows: no limit of ours on their size, as in the client's own channel.
    channel = grpc.insecure_channel(emulator, [("grpc.max_receive_message_length", -1)])
    return bigquery_storage.BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))


@dataclass(frozen=True)
class Query:
    """A query job that runs once: whoever runs it again, under the same name, finds it.

    ``name`` becomes the job id, with a hash of what is run. ``destination`` is replaced whole by the
    result, or its one partition is; without it the result stays in a table of BigQuery's own for a day.
    ``about`` is what a person asked for, to be named where it fails; ``too_large`` is what can be done where
    the result is above the 10 GB that BigQuery keeps in tables of its own.
    """

    name: str
    project: str
    sql: str
    location: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    maximum_bytes_billed: int | None = None
    destination: Table | None = None
    partitioned_by: str | None = None  # the destination's DATE column, where it has partitions
    clustered_by: tuple[str, ...] = ()
    about: str = ""
    too_large: str = ""

    def job_id(self, attempt: int) -> str:
        return _job_id(self.name, self.sql, str(self.destination), self.maximum_bytes_billed, attempt)

    def config(self) -> bigquery.QueryJobConfig:
        from google.cloud import bigquery

        config = bigquery.QueryJobConfig(labels=self.labels, use_legacy_sql=False)
        if self.maximum_bytes_billed is not None:
            config.maximum_bytes_billed = self.maximum_bytes_billed
        if self.destination:
            config.destination = self.destination.reference
            config.write_disposition = _REPLACE
            config.clustering_fields = list(self.clustered_by) or None
            if self.partitioned_by:
                config.time_partitioning = bigquery.TimePartitioning(field=self.partitioned_by)
        return config

    def insert(self, job_id: str) -> bigquery.QueryJob:
        return client(self.project).query(
            self.sql, self.config(), job_id=job_id, location=self.location, job_retry=None
        )  # fmt: skip


@dataclass(frozen=True)
class Load:
    """A load job from Cloud Storage that runs once, as a ``Query`` does, and replaces its destination whole.

    ``settings`` are attributes of ``LoadJobConfig``; ``fields`` are the columns' names and BigQuery types, and their
    descriptions where they have any. ``extends`` adds the rows to the destination instead.
    """

    name: str
    project: str
    uris: tuple[str, ...]
    destination: Table
    fields: tuple[tuple[str, ...], ...]
    settings: dict[str, Any]
    location: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    extends: bool = False
    about: str = ""
    too_large = ""  # it has no result

    def job_id(self, attempt: int) -> str:
        return _job_id(
            self.name, self.uris, str(self.destination), self.fields, self.settings, self.extends, attempt
        )  # fmt: skip

    def config(self) -> bigquery.LoadJobConfig:
        from google.cloud import bigquery

        config = bigquery.LoadJobConfig(labels=self.labels, **self.settings)
        config.write_disposition = "WRITE_APPEND" if self.extends else _REPLACE
        config.schema = [
            bigquery.SchemaField.from_api_repr(dict(zip(("name", "type", "description"), column, strict=False)))
            for column in self.fields
        ]
        return config

    def insert(self, job_id: str) -> bigquery.LoadJob:
        return client(self.project).load_table_from_uri(
            list(self.uris), self.destination.reference, job_id=job_id, location=self.location, job_config=self.config()
        )


@dataclass(frozen=True)
class Copy:
    """A copy job, of a table or a partition, that runs once, as a ``Query`` does, and replaces its destination."""

    name: str
    project: str
    source: Table
    destination: Table
    location: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    about: str = ""
    too_large = ""  # it has no result

    def job_id(self, attempt: int) -> str:
        return _job_id(self.name, str(self.source), str(self.destination), attempt)

    def insert(self, job_id: str) -> bigquery.CopyJob:
        from google.cloud import bigquery

        config = bigquery.CopyJobConfig(
            labels=self.labels, write_disposition=_REPLACE, create_disposition="CREATE_NEVER"
        )
        return client(self.project).copy_table(
            self.source.reference, self.destination.reference, job_id=job_id, location=self.location, job_config=config
        )


@dataclass(frozen=True)
class _Closing:
    """Takes a job id, so that no other job can have it."""

    what: Copy

    def insert(self, job_id: str) -> bigquery.QueryJob:
        nothing = Query("", self.what.project, "SELECT 1", self.what.location, {**self.what.labels, "closes": "copy"})
        return nothing.insert(job_id)


def _job_id(name: str, *content: Any) -> str:
    return f"{name}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]}"


def run(query: Query) -> bigquery.QueryJob:
    """Runs the query to its end, or finds that it has run, and returns the job.

    Raises:
      UsageError: BigQuery refuses it; one line naming the resource and what is accepted.
    """
    job: bigquery.QueryJob = _run("query", query)
    return job


def run_load(load: Load) -> bigquery.LoadJob:
    """Runs the load to its end, or finds that it has run, and returns the job.

    One that failed in another process runs again: what it failed for may have been mended since.

    Raises:
      UsageError: as ``run``.
    """
    job: bigquery.LoadJob = _run("load", load, anew=True)
    return job


def run_copy(copy: Copy) -> bool:
    """Runs the copy to its end, or finds that it has run, as ``run_load`` does; False where it was closed before.

    Raises:
      UsageError: as ``run``.
    """
    return bool(_run("copy", copy, anew=True).job_type == "copy")


def close(copy: Copy) -> bool:
    """Waits for the copy where somebody has begun it, and otherwise sees to it that nobody ever will.

    Both sides insert a job under the same id, and BigQuery takes the first.

    Returns:
      Whether it is closed: False where it has run to a good end, then or before.
    """
    for attempt in itertools.count():  # whoever runs it takes the next id when one has failed
        job, _ = _insert("copy", copy, copy.job_id(attempt), _Closing(copy).insert)
        with explained(f"copy {job.job_id}"):
            failed = job.exception()
        if failed is None:
            return bool(job.job_type == "query")
    raise AssertionError


def _run(kind: str, what: Query | Load | Copy, anew: bool = False) -> Any:
    """Runs the job under its first id that is not one of an attempt that failed for the time being.

    A failed job keeps its id. Attempts of other processes, such as a bundle's that Beam repeats, are passed over:
    each run has all attempts of its own.

    Args:
      anew: whether another's attempt is passed over for whatever reason it failed.
    """
    kind = f"{what.about}: {kind}" if what.about else kind
    pauses = iter(_PAUSES_SECONDS)
    attempt = 0
    while True:
        job, over = _insert(kind, what, what.job_id(attempt), what.insert)
        with explained(f"{kind} {job.job_id}", what.too_large):
            try:
                job.result()
                return job
            except Exception:
                passing = bool({error.get("reason") for error in job.errors or ()} & _TRANSIENT)
                if not passing and not (over and anew):
                    raise
                pause = 0.0 if over else next(pauses, None)
                if pause is None:
                    raise
        time.sleep(pause)
        attempt += 1


def _insert(kind: str, what: Query | Load | Copy, job_id: str, insert: Callable[[str], Any]) -> tuple[Any, bool]:
    """The job, and whether it is another's that was over before."""
    from google.api_core.exceptions import Conflict

    with explained(f"{kind} {job_id}", what.too_large):
        try:
            return insert(job_id), False
        except Conflict:  # inserted before, by a worker that was stopped or a request whose answer was lost
            job = client(what.project).get_job(job_id, location=what.location)
            return job, job.state == "DONE"


def dry_run(query: Query) -> bigquery.QueryJob:
    """What BigQuery says of the query without running it: its schema, its tables, the bytes it would scan.

    Raises:
      UsageError: as ``run``.
    """
    config = query.config()
    config.dry_run, config.use_query_cache = True, False
    with explained(query.about or "the query", query.too_large):
        return client(query.project).query(query.sql, config, location=query.location, job_retry=None)


@contextlib.contextmanager
def explained(resource: str, too_large: str = "") -> Iterator[None]:
    """Google's errors as one readable line that names the resource.

    Args:
      too_large: what can be done about a result that is too large.

    Raises:
      UsageError: for what a person can mend; anything else passes as it is.
    """
    from google.api_core import exceptions
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError

    try:
        yield
    except DefaultCredentialsError as error:
        raise UsageError(
            f"{resource}: no Google Cloud credentials found: run `gcloud auth application-default login`, or set "
            "GOOGLE_APPLICATION_CREDENTIALS to a key file"
        ) from error
    except GoogleAuthError as error:
        raise UsageError(
            f"{resource}: the Google Cloud credentials do not work: {one_line(str(error))}; run `gcloud auth "
            "application-default login` again"
        ) from error
    except exceptions.GoogleAPICallError as error:
        if may_pass(error):
            raise
        raise UsageError(f"{resource}: {message(error, too_large)}") from error


@contextlib.contextmanager
def patience(about: str) -> Iterator[None]:
    """For whole commands: BigQuery failing for the time being, after all retries, as one line.

    Raises:
      JobFailed: for what may pass; anything else passes as it is.
    """
    from google.api_core import exceptions
    from requests.exceptions import RequestException

    try:
        yield
    except (exceptions.RetryError, RequestException) as error:
        raise _unanswered(about, error) from error
    except exceptions.GoogleAPICallError as error:
        if not may_pass(error):
            raise
        raise _unanswered(about, error) from error


def _unanswered(about: str, error: Exception) -> JobFailed:
    from google.api_core.exceptions import GoogleAPICallError

    last = getattr(error, "cause", None) or error  # of a retry that was given up
    words = message(last) if isinstance(last, GoogleAPICallError) else one_line(str(last))
    return JobFailed(f"{about}: BigQuery did not do as asked: {words}; running the command again goes on")


def may_pass(error: GoogleAPICallError) -> bool:
    """Whether the same request may succeed later: nothing a person has to mend."""
    from google.api_core import exceptions

    reasons = _reasons(error)
    # The client calls every reason that it does not know, such as the limit of bytes, a server's error.
    if reasons & {*_HINTS, "responseTooLarge"}:
        return False
    for_now = exceptions.ServerError | exceptions.TooManyRequests | exceptions.Aborted | exceptions.Cancelled
    return isinstance(error, for_now) or bool(reasons & _TRANSIENT)


def message(error: GoogleAPICallError, too_large: str = "") -> str:
    """BigQuery's own words, with what can be done about it."""
    texts = [item["message"] for item in error.errors or () if isinstance(item, dict) and item.get("message")]
    # What a client makes of an answer has the request before BigQuery's words, and all of them once more behind.
    text = one_line(texts[0] if texts else str(error.message))
    hints = {**_HINTS, "responseTooLarge": too_large}
    said = [hint for reason, hint in hints.items() if hint and reason in _reasons(error)]
    if _TOO_OLD.search(text):
        text = _EPOCH_MILLISECONDS.sub(_instant, text)
        said.append(_TOO_OLD_HINT)
    return "; ".join([text, *said])


def _instant(milliseconds: re.Match[str]) -> str:
    return f"{datetime.datetime.fromtimestamp(int(milliseconds[0]) / 1000, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _reasons(error: GoogleAPICallError) -> set[str]:
    from google.api_core import exceptions

    found = {str(item.get("reason")) for item in error.errors or () if isinstance(item, dict)}
    # The Storage API has codes instead of reasons.
    by_code = {exceptions.NotFound: "notFound", exceptions.PermissionDenied: "accessDenied"}
    return found | {reason for code, reason in by_code.items() if isinstance(error, code)}
