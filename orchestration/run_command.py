"""A step as a process of this machine, with its lines in the caller's log: how Airflow runs what is light."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transforms.errors import JobFailed, UsageError

_ROOT = Path(__file__).resolve().parents[1]
_BAD_ARGUMENT = 2
_SECONDS_TO_STOP = 60  # Airflow itself may have less patience
# Python's own -m, after Linux was told to end this process where the worker's is killed without a word. Not between
# fork and exec, where a process with threads may run no Python.
_BEGIN = """\
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Command:
    """``python -m MODULE ARGUMENTS``, once."""

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        self.words = [sys.executable, "-c", _BEGIN, "-m", module, *arguments]
        self._module = module
        self._process: subprocess.Popen[str] | None = None

    def run(self, log: logging.Logger) -> dict[str, Any]:
        """Runs it to its end and returns the JSON object of its last line, or an empty one.

        Raises:
          UsageError: it ended with 2, a bad argument: the same command will again.
          JobFailed: it ended otherwise than with 0.
        """
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with subprocess.Popen(
            self.words, env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}, encoding="utf-8",
            errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            # Airflow signals the whole group, and then asks us to stop it: the command is to hear that once.
            start_new_session=True,
        ) as process:  # fmt: skip
            self._process = process
            told: list[str] = []
            reader = threading.Thread(target=lambda: told.append(_logged(process.stderr, log)))
            reader.start()
            try:
                answer = _logged(process.stdout, log)
                reader.join()
            except BaseException:  # a timeout of the scheduler's: leaving this block would wait for the process
                self.stop()
                raise
        last = "".join(told).removeprefix("error: ") or "it said nothing"
        if process.returncode == _BAD_ARGUMENT:
            raise UsageError(last)
        if process.returncode:
            raise JobFailed(f"-m {self._module} ended with {process.returncode}: {last}")
        return _object(answer)

    def stop(self) -> None:
        """Asks it to end, so that it can call off what it began; by force where it does not within a minute."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()


def run(step: Mapping[str, Any], log: logging.Logger) -> dict[str, Any]:
    """Runs a step's command; see ``Command.run``."""
    return Command(step["module"], step["arguments"]).run(log)


def _logged(stream: Any, log: logging.Logger) -> str:
    """Logs a stream's lines to its end and returns the last that is not empty."""
    last = ""
    for line in stream:
        if text := line.rstrip():
            log.info("%s", text)
            last = text
    return last


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
