"""Cloud Storage, BigQuery and Datastore as processes on this machine.

    with CloudStorage() as storage, BigQuery(storage) as bigquery, FirestoreInDatastoreMode() as datastore:
        ... storage.url, bigquery.url, bigquery.grpc_port, datastore.host ...

The first two come from the environment that ``make emulators`` makes. Datastore is Google's own emulators, of
Datastore as it was and of Firestore in Datastore mode, which new projects get: they are parts of the Google Cloud
SDK, need Java, and differ in much that a writer can stumble over.

Each runs in a temporary directory of its own, with nothing of this process's environment, and ends with the
``with`` block, or with this process however that dies.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
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
SDK_COMMAND = "gcloud components install cloud-datastore-emulator cloud-firestore-emulator"
_READY_SECONDS = 60.0
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.05
_SDK_SECONDS = 60.0  # gcloud's own start can take long on a busy machine
# All entities are in memory, and this is enough for half a million predictions. The serial collector leaves the other
# cores to the tests and takes less memory (0.6 GB after 100,000 entities, G1 1.5).
_JAVA_OPTIONS = "-Xmx2g -XX:+UseSerialGC"
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


@functools.cache
def sdk_root() -> Path | None:
    """The directory of the Google Cloud SDK whose ``gcloud`` is in the path, or None."""
    if (gcloud := shutil.which("gcloud")) is None:
        return None
    command = [gcloud, "info", "--format=value(installation.sdk_root)"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=_SDK_SECONDS, check=False)
    return Path(told.stdout.strip()) if told.returncode == 0 and told.stdout.strip() else None


def java() -> str | None:
    """The Java that ``JAVA_HOME`` names, or else the path's, or None."""
    home = os.environ.get("JAVA_HOME")
    return (shutil.which("java", path=f"{home}/bin") if home else None) or shutil.which("java")


class Emulator:
    """A server process: started on entering, answering requests from then on, stopped on leaving.

    Raises:
      EmulatorError: on entering, when what it runs is missing or the server does not answer in a minute.
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

    def problem(self) -> str | None:
        """What is missing and what provides it, or None."""
        return environment_problem()

    def python(self) -> str:
        """The interpreter that runs ``leashed.py``."""
        return str(ENVIRONMENT / "bin/python")

    def command(self) -> list[str]:
        """What ``leashed.py`` runs: a module, script or program, and its arguments. Chooses the ports."""
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
        if problem := self.problem():
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
                [self.python(), str(HERE / "leashed.py"), *self.command()],
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


class Datastore(Emulator):
    """Datastore's gRPC and REST APIs on ``host``, for clients' ``DATASTORE_EMULATOR_HOST``; everything in memory.

    Every project id is taken, and has entities of its own.
    """

    name = "datastore"
    ready_path = "/"
    launcher = "cloud-datastore-emulator/cloud_datastore_emulator"  # below the SDK's platform directory

    @property
    def host(self) -> str:
        return f"{HOST}:{self.port}"

    def problem(self) -> str | None:
        root = sdk_root()
        if root is None:
            return f"the {self.name} emulator needs the Google Cloud SDK: install it, then run `{SDK_COMMAND}`"
        if not (root / "platform" / self.launcher).is_file():
            return f"the {self.name} emulator is not in the Google Cloud SDK in {root}: run `{SDK_COMMAND}`"
        if java() is None:
            return f"the {self.name} emulator needs Java: install version 17 or newer"
        return None

    def python(self) -> str:
        return sys.executable

    def command(self) -> list[str]:
        root = sdk_root()
        assert root is not None
        (self.port,) = _free_ports(1)
        return [str(root / "platform" / self.launcher), "start", *self.arguments()]

    def arguments(self) -> list[str]:
        # Without --testing a tenth of all writes is not yet seen by queries that are not of one entity group.
        return [f"--host={HOST}", f"--port={self.port}", "--testing"]

    def settings(self) -> dict[str, str]:
        # The launchers are shell scripts whose last line begins with $JAVA: this way Java takes the shell's place.
        return {"JAVA": f"exec {java()}", "JAVA_TOOL_OPTIONS": _JAVA_OPTIONS, "HOME": str(self._directory)}

    def reset(self) -> None:
        """Deletes every entity of every project."""
        request = urllib.request.Request(f"{self.url}/reset", method="POST")
        with _LOCAL.open(request, timeout=_READY_SECONDS):
            pass


class FirestoreInDatastoreMode(Datastore):
    """Firestore behind Datastore's API: what a project's Datastore is today."""

    name = "firestore"
    launcher = "cloud-firestore-emulator/cloud_firestore_emulator"

    def arguments(self) -> list[str]:
        return [f"--host={HOST}", f"--port={self.port}", "--database-mode=datastore-mode"]


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
