"""The real Airflow with all its parts: scheduler, triggerer, DAG processor and API server, as `airflow standalone` has them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.airflow.airflow_home import Home, Run
from tests.airflow.story import now

_READY_SECONDS = 180.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.2


class Standalone:
    """One Airflow while the ``with`` block lasts, on ports of its own; ``home`` is changed to have them.

    Nothing of it outlives the block, however that ends.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.log = home.folder / "standalone.log"
        api, worker, trigger = _free_ports(3)
        home.variables.update({
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "2",  # a machine of two cores
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{api}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(api),
            "AIRFLOW__API__BASE_URL": f"http://localhost:{api}",
            "AIRFLOW__API_AUTH__JWT_SECRET": "of a test",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger),
            # What was running when all was killed is to be missed soon.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
        })  # fmt: skip

    def __enter__(self) -> Standalone:
        before = self._answers()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                ["airflow", "standalone"], cwd=self.home.folder, env=self.home.variables, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                executable=str(Path(self.home.variables["PATH"].split(":")[0]) / "airflow"),
            )  # fmt: skip
        try:
            until(lambda: self._answers() > before, _READY_SECONDS, self._told)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(AssertionError):
            until(lambda: self.process.poll() is not None and not self.processes(), _STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Ends all of it as a lost machine does: at once, without a word."""
        while left := self.processes():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
            time.sleep(_POLL_SECONDS)
        self.process.wait()

    def processes(self) -> list[int]:
        """Every process that runs with this home, whoever's child it has become."""
        return [pid for pid, own in _environments() if f"AIRFLOW_HOME={self.home.folder}" in own]

    def command(self, *words: str) -> None:
        done = self.home.call(*words)
        assert done.returncode == 0, done.stdout[-5000:]

    def ended(self, dag: str, seconds: float, kind: str = "scheduled") -> Run:
        """The newest run of a DAG and a kind, when it has ended."""

        def found() -> list[Run]:
            return [run for run in self.home.runs(dag) if run.kind == kind]

        until(
            lambda: bool(found()) and found()[-1].state in ("success", "failed"), seconds,
            lambda: "\n".join([*map(str, self.home.runs(dag)), self._told()]),
        )  # fmt: skip
        return found()[-1]

    def _answers(self) -> int:
        """How often it has said that it is ready."""
        return self.log.read_text(errors="replace").count("Airflow is ready") if self.log.exists() else 0

    def _told(self) -> str:
        return self.log.read_text(errors="replace")[-5000:]


def until(done: Callable[[], bool], seconds: float, told: Callable[[], str] = lambda: "") -> None:
    """Waits for something; an AssertionError with what is told where it does not come."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not in {seconds:g} s, at {now()}: {told()}"
        time.sleep(_POLL_SECONDS)


def _environments() -> Iterator[tuple[int, list[str]]]:
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):
                if " Z " not in (path / "stat").read_text().rpartition(")")[2][:3]:
                    yield int(path.name), (path / "environ").read_bytes().decode(errors="replace").split("\0")


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
