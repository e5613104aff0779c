"""The lookup service as a process of its own, whose store can be taken away and brought back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

COMMAND = (sys.executable, "-m", "serving.app")
# The same command, but for where Google's keys are: in the tests Google is a server of this machine.
WITH_KEYS_OF = """
import functools, sys
from serving import app, bearer
bearer.Bearer = functools.partial(bearer.Bearer, keys_url=sys.argv.pop(1))
sys.exit(app.main())
"""
POINTER_SECONDS = 0.05  # so soon the service sees a switch, or that its store is away
READY_SECONDS = 60.0
STOP_SECONDS = 20.0
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")
ROOT = Path(__file__).resolve().parents[2]


class Service:
    """``python -m serving.app`` of one SQLite store: answering on entering, gone on leaving.

    Args:
      access: its arguments about who may call.
      keys_url: where the keys are that tokens are checked with.
    """

    def __init__(self, uri: str, *access: str, keys_url: str | None = None) -> None:
        self.uri = uri
        self._arguments = (
            *(access or ("--no_auth",)),
            "--pointer_seconds",
            str(POINTER_SECONDS),
            "--store_seconds",
            "1",
        )
        self._command = COMMAND if keys_url is None else (sys.executable, "-c", WITH_KEYS_OF, keys_url)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Again on the same port when it has run before: a page that is open finds it there."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (stop closes it)
        command = [
            *self._command,
            "--serving",
            self.uri,
            "--host",
            "127.0.0.1",
            "--port",
            str(self._port),
            *self._arguments,
        ]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, cwd=ROOT)
        deadline = time.monotonic() + READY_SECONDS
        while not (found := _ADDRESS.search(self.log())):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not start:\n{self.log()}")
            time.sleep(0.05)
        self._port = int(found[1])

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._log.close()

    def log(self) -> str:
        return os.pread(self._log.fileno(), 1_000_000, 0).decode(errors="replace")

    def hide_store(self) -> None:
        for path, hidden in self._files():
            if path.exists():
                path.rename(hidden)

    def bring_store_back(self) -> None:
        for path, hidden in self._files():
            if hidden.exists():
                hidden.rename(path)

    def _files(self) -> list[tuple[Path, Path]]:
        path = self.uri.removeprefix("sqlite://")
        return [(Path(path + suffix), Path(f"{path}.away{suffix}")) for suffix in ("", "-wal", "-shm")]
