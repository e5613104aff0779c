"""A ledger in this process's memory, for tests of many schedules."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

from orchestration.refresh.ledger import Conflict, Ledger, Row
from orchestration.refresh.sqlite_ledger import json_of


class MemoryLedger(Ledger):
    """Rows are kept as text: faster than copies, and nothing but plain values passes."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[int, str]] = {}
        self._lock = threading.Lock()

    def _read(self, campaign: str, key: str) -> Row | None:
        found = self._kept.get((campaign, key))
        return None if found is None else json.loads(found[1])

    def _write(self, campaign: str, key: str, row: Row, expected: int) -> None:
        text = json_of(row, f"{campaign} {key}")
        with self._lock:
            if self._kept.get((campaign, key), (0, ""))[0] != expected:
                raise Conflict(f"{campaign} {key} has not the revision {expected}")
            self._kept[campaign, key] = row["revision"], text

    def _rows(self, campaign: str) -> Iterator[tuple[str, Row]]:
        with self._lock:
            found = sorted((key, text) for (whose, key), (_, text) in self._kept.items() if whose == campaign)
        return iter([(key, json.loads(text)) for key, text in found])

    def campaigns(self) -> list[str]:
        with self._lock:
            return sorted({campaign for campaign, _ in self._kept})
