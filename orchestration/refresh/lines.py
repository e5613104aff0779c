"""What the command says on stderr: lines for a person, or one JSON object a line for a machine."""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
import threading
from typing import Any

from orchestration.refresh import worker
from orchestration.refresh.record import FAILURES, State
from transforms import cli

VARIABLE = "CLV_LOG"
JSON = "json"
_LOG = logging.getLogger(__name__)
_EVENT = "event {"  # how notify's sink "log:" begins


class _JsonLines(logging.Formatter):
    """Objects as they are, and everybody's other lines inside one."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if text.startswith("{"):
            return text
        if text.startswith(_EVENT):
            return text.removeprefix("event ")
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        content = {"at": str(at), "level": record.levelname.lower(), "event": "line", "why": text}
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)


def wants_json(verbose: bool) -> bool:
    return verbose or os.environ.get(VARIABLE) == JSON


def set_up(as_json: bool) -> None:
    """Sends this process's log to stderr: everything of ours as JSON, or only what went wrong as lines."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING, force=True)
    if as_json:
        logging.getLogger().handlers[0].setFormatter(_JsonLines())
    logging.getLogger("orchestration").setLevel(logging.INFO if as_json else logging.WARNING)


class Reporter:
    """Takes what workers log, from any thread, and says it in the form that is wanted."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._waits: dict[tuple[str, datetime.date | None], str] = {}
        self._said: dict[tuple[str, datetime.date], str] = {}
        self._lock = threading.Lock()

    def __call__(self, content: dict[str, Any]) -> None:
        """For ``Worker(log=...)``."""
        worker.log_line(content)
        what, of = content["event"], (content["campaign"], content.get("base_date"))  # the day is not in all of them
        if what == "decision" and content.get("action") == "wait":
            self._waits[of] = content["why"]
        elif what == "state":
            self._say(f"{of[0]} {of[1]}: {shown_state(content['state'])}: {content['why']}")
        elif what in ("stop", "stop failed"):
            self._say(f"{of[0]} {of[1]}: {what}: {content['why']}")

    def waiting(self, ticked: worker.Ticked) -> None:
        """Says what a refresh waits for, unless that was the last thing said of it."""
        record = ticked.record
        of = (record.campaign, record.base_date)
        line = f"{of[0]} {of[1]}: {record.state}, waiting: {self._waits.get(of, record.note)}"
        if self._said.get(of) != line:
            self._said[of] = line
            self._say(f"{line}; worth a look from {ticked.until:%H:%M:%S} UTC")

    def line(self, text: str) -> None:
        """Says what no worker logs."""
        if self.as_json:
            _LOG.info("%s", text)
        else:
            self._say(text)

    def defect(self, text: str) -> None:
        """The same of an error that nobody foresaw, with its traceback; for an ``except`` block."""
        _LOG.exception("%s", text)

    def _say(self, text: str) -> None:
        if not self.as_json:  # the object says it
            with self._lock:
                cli.say(text)


def shown_state(state: State) -> str:
    """Its name, and one word that all failures have in common."""
    return f"FAILED {state}" if state in FAILURES else str(state)
