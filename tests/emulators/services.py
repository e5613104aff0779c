"""Cloud Storage and BigQuery as processes on this machine, from the environment that ``make emulators`` makes.

    with CloudStorage() as storage, BigQuery(storage) as bigquery:
        ... storage.url, bigquery.url, bigquery.grpc_port ...

Each runs in a temporary directory of its own, with nothing of this process's environment, and ends with the
``with`` block, or with this process however that dies.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent.parent / ".venv-emulators"
HOST = "127.0.0.1"
PROJECT = "test-project"
MAKE_COMMAND = "make emulators"
_READY_SECONDS = 60.0
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.05
_LOG_LINES = 60  # of a server's log, in the message that says it did not start
# The server is local: a proxy named in the environment must not be asked for it.
_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class EmulatorError(RuntimeError):
    """An emulator cannot be had: its environment is missing, or it did not come up; the text says why."""


def environment_problem() -> str | None:
    """What is wrong with the emulators' environment and what makes it, or None."""
    if (ENVIRONMENT / ".installed").is_file():
        return None
    return f"the emulators are not installed in {ENVIRONMENT.name}: run `{MAKE_COMMAND}`"


class Emulator:
    """A server process: started on entering, answering requests from then on, stopped on leaving.

    Raises:
      EmulatorError: on entering, when the environment is missing or the server does not answer in a minute.
    """

    name = ""
    ready_path = ""  # a GET of which succeeds once the server is ready

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process, which is also its process group."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def log(self) -> str:
        """What the server has printed so far."""
        return (self._directory / "log.txt").read_text(errors="replace")

    def command(self) -> list[str]:
        """What ``leashed.py`` runs: a module or script, and its arguments. Chooses the ports."""
        raise NotImplementedError

    def settings(self) -> dict[str, str]:
        """The variables this server is told by."""
        return {}

    def answers(self) -> bool:
        """Whether the server is ready."""
        try:
            with _LOCAL.open(self.url + self.ready_path, timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def __enter__(self) -> Self:
        if problem := environment_problem():
            raise EmulatorError(problem)
        self._temporary = tempfile.TemporaryDirectory(prefix=f"{self.name}-", ignore_cleanup_errors=True)
        self._directory = Path(self._temporary.name)
        try:
            self._start()
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server and all it started, and deletes its files. May be called again."""
        if self._process is not None:
            _end_group(self._process)
        self._temporary.cleanup()

    def _start(self) -> None:
        with open(self._directory / "log.txt", "wb") as log:
            self._process = subprocess.Popen(
                [str(ENVIRONMENT / "bin/python"), str(HERE / "leashed.py"), *self.command()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env=self._environment(),
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        # From nothing: no credentials, project, proxy or endpoint of the person who runs the tests.
        return {
            "PATH": os.defpath,
            "HOME": str(ENVIRONMENT / "home"),  # where DuckDB finds its extensions
            "TMPDIR": str(self._directory),
            "TZ": "UTC",
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "DO_NOT_TRACK": "1",
            "OTEL_SDK_DISABLED": "true",
            **self.settings(),
        }

    def _wait(self) -> None:
        assert self._process is not None
        until = time.monotonic() + _READY_SECONDS
        while not self.answers():
            if (code := self._process.poll()) is not None:
                raise EmulatorError(f"{self.name} ended with exit code {code} before it was ready:\n{self._log_end()}")
            if time.monotonic() > until:
                raise EmulatorError(f"{self.name} was not ready after {_READY_SECONDS:g} s:\n{self._log_end()}")
            time.sleep(_POLL_SECONDS)

    def _log_end(self) -> str:
        return "\n".join(self.log().splitlines()[-_LOG_LINES:])


class CloudStorage(Emulator):
    """Cloud Storage's JSON and XML APIs; clients find it by ``STORAGE_EMULATOR_HOST``."""

    name = "cloud-storage"
    ready_path = f"/storage/v1/b?project={PROJECT}"

    def command(self) -> list[str]:
        (self.port,) = _free_ports(1)
        return [str(HERE / "cloud_storage_server.py"), "start", "--host", HOST, "--port", str(self.port)]

    def settings(self) -> dict[str, str]:
        return {"STORAGE_BASE": str(self._directory), "STORAGE_DIR": "objects"}


class BigQuery(Emulator):
    """BigQuery's REST API on ``port`` and its Storage API on ``grpc_port``; loads from and exports to the storage."""

    name = "bigquery"
    ready_path = f"/bigquery/v2/projects/{PROJECT}/datasets"

    def __init__(self, cloud_storage: CloudStorage) -> None:
        super().__init__()
        self.grpc_port = 0
        self._cloud_storage = cloud_storage

    def command(self) -> list[str]:
        self.port, self.grpc_port = _free_ports(2)
        server = str(HERE / "bigquery_server.py")
        return [server, "--host", HOST, "--port", str(self.port), "--grpc-port", str(self.grpc_port)]

    def settings(self) -> dict[str, str]:
        return {
            "DATA_DIR": str(self._directory / "data"),
            "DEFAULT_PROJECT_ID": PROJECT,
            "STORAGE_EMULATOR_HOST": self._cloud_storage.url,
        }

    def answers(self) -> bool:
        return super().answers() and _listens(self.grpc_port)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signal_number)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            break
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait(_STOP_SECONDS)
    if process.stdin is not None:
        process.stdin.close()
