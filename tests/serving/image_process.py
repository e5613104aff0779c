"""A container of the lookup service's image, as far as this machine has one: its process, its user, its variables.

    with started(container, "--serving", uri, "--no_auth") as service:
        service.client.value("c1")

What stands behind the container adds to the Dockerfile's ENTRYPOINT, as a deployment's arguments do. Only this
machine is listened to: the last --host counts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.serving.service import LOCAL, Client, until
from tests.templates.environment import Container

_ADDRESS = re.compile(rf"http://{re.escape(LOCAL)}:(\d+)")
_READY_SECONDS = 60.0
_STOP_SECONDS = 20.0
_READ_ALL = 2  # the number of Linux's capability to read whatever belongs to others


@dataclass(frozen=True)
class Running:
    """A service that has said where it serves."""

    process: subprocess.Popen[bytes]
    client: Client
    log: Path


def command(container: Container) -> list[str]:
    """The container's command, by its user where this process may be another one.

    That user may still read what is root's alone: the interpreter, on a machine where it lies in root's home.
    """
    return [*_as(container.user), *container.command]


def _as(user: int | None) -> list[str]:
    if user is None or os.geteuid() != 0:
        return []
    kept = "-all,+dac_read_search" if _may_read_all() else "-all"
    capabilities = [f"--{kind}={kept}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *capabilities, "--no-new-privs", "--"]


def _may_read_all() -> bool:
    found = re.search(r"(?m)^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text())
    return found is not None and bool(int(found[1], 16) >> _READ_ALL & 1)


@contextmanager
def started(container: Container, *arguments: str, **variables: str) -> Iterator[Running]:
    """The service as the image starts it, on a port that is free; gone on leaving."""
    given = [*command(container), "--host", LOCAL, "--port", "0", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with open(log, "wb") as written:
            process = subprocess.Popen(
                given, cwd=container.folder, env={**container.variables, **variables}, stdin=subprocess.DEVNULL,
                stdout=written, stderr=written,
            )  # fmt: skip
        try:
            until(
                lambda: process.poll() is not None or _ADDRESS.search(log.read_text()),
                "the service to start",
                _READY_SECONDS,
            )
            found = _ADDRESS.search(log.read_text())
            assert found, f"it ended with {process.returncode}:\n{log.read_text()}"
            yield Running(process, Client(int(found[1])), log)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ended(container: Container, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in the container that comes to an end by itself."""
    return subprocess.run(
        [*command(container), *arguments], cwd=container.folder, env=dict(container.variables),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_READY_SECONDS, check=False,
    )  # fmt: skip


def python(container: Container, *words: str) -> subprocess.CompletedProcess[str]:
    """As ``docker run --entrypoint python`` has it."""
    return ended(replace(container, command=("python",)), *words)


def own(path: Path, container: Container) -> None:
    """Gives what is below this path to the container's user, as what is mounted for it to write."""
    if container.user is not None and os.geteuid() == 0:
        for each in (path, *path.rglob("*")):
            os.chown(each, container.user, container.user)


@contextmanager
def read_only(container: Container) -> Iterator[Container]:
    """The container with its folder where nobody but root may write."""
    with tempfile.TemporaryDirectory() as outer:
        os.chmod(outer, 0o755)
        folder = Path(shutil.copytree(container.folder, Path(outer) / "folder"))
        _change_modes(folder, lambda mode: mode & ~0o222)
        try:
            yield replace(container, folder=folder)
        finally:
            _change_modes(folder, lambda mode: mode | 0o200)


def _change_modes(folder: Path, changed: Callable[[int], int]) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(changed(path.stat().st_mode))


def content(folders: Sequence[Path]) -> dict[str, tuple[int, int]]:
    """Everything below these folders, with its size and when it was changed, in nanoseconds."""
    found = (path for folder in folders for path in (folder, *folder.rglob("*")))
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in found}
