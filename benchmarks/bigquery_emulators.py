"""The emulators a benchmark of BigQuery runs against: started, named to a contestant's process, and their CPU time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness
from tests.emulators import services
from transforms.errors import UsageError

SERVER = Path(__file__).with_name("bigquery_server.py")


class _PagedBigQuery(services.BigQuery):
    """The tests' BigQuery behind ``bigquery_server.py``."""

    def __init__(self, cloud_storage: services.CloudStorage, page_rows: int) -> None:
        super().__init__(cloud_storage)
        self._page_rows = page_rows

    def command(self) -> list[str]:
        return [str(SERVER), *super().command()[1:]]

    def settings(self) -> dict[str, str]:
        return {**super().settings(), "PAGE_ROWS": str(self._page_rows)}


@dataclass(frozen=True)
class Emulators:
    """A running BigQuery and its Cloud Storage."""

    bigquery: services.BigQuery
    cloud_storage: services.CloudStorage

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process on one thread finds them, and neither a proxy nor the real cloud."""
        return {
            **harness.ONE_THREAD,
            "BIGQUERY_EMULATOR_HOST": self.bigquery.url,
            "BIGQUERY_STORAGE_EMULATOR_HOST": f"{services.HOST}:{self.bigquery.grpc_port}",
            "STORAGE_EMULATOR_HOST": self.cloud_storage.url,
            "GOOGLE_APPLICATION_CREDENTIALS": "",
            "NO_GCE_CHECK": "true",
            # Beam's own HTTP client knows of proxies but not of exceptions from them.
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), ""),
        }

    def cpu_seconds(self) -> float:
        """User + system time of both servers so far."""
        ticks = 0
        for pid in (self.bigquery.pid, self.cloud_storage.pid):
            # The second field, the command, is in brackets and may hold blanks: count from its end.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def started(page_rows: int) -> Iterator[Emulators]:
    """Both emulators, as long as the block lasts.

    Args:
      page_rows: rows of a page of the Storage Read API.

    Raises:
      UsageError: their environment is missing; one line that says what makes it.
    """
    if problem := services.environment_problem():
        raise UsageError(problem)
    with services.CloudStorage() as cloud_storage, _PagedBigQuery(cloud_storage, page_rows) as bigquery:
        yield Emulators(bigquery, cloud_storage)
