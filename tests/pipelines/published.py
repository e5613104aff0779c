"""What the tests of both warehouses share: generations as a store keeps them, and their rows as a publish stages them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from pipelines.warehouse import Warehouse, with_generation
from serving.store import Content, Generation, State
from tests.serving.store_contract import AS_OF, batch_of, prediction
from transforms import storage

EARLIER = date(2011, 11, 10)


class Records:
    """The generations of a store, of which each becomes current a second after the one before."""

    def __init__(self, *generations: Generation) -> None:
        self._found = {generation.name: generation for generation in generations}
        self._now = datetime(2026, 1, 1, tzinfo=UTC)
        self._lock = threading.Lock()

    def __call__(self) -> Sequence[Generation]:
        with self._lock:
            return list(self._found.values())

    def __getitem__(self, name: str) -> Generation:
        return self._found[name]

    def add(self, name: str, rows: int, as_of: date = AS_OF, attempt: int = 1) -> Generation:
        return self.put(Generation(name, as_of, 90, "m1", State.SEALED, attempt, Content(rows)))

    def put(self, generation: Generation) -> Generation:
        with self._lock:
            self._found[generation.name] = generation
        return generation

    def keep(self, *names: str) -> None:
        """The others have expired."""
        with self._lock:
            self._found = {name: self._found[name] for name in names}

    def switch(self, name: str) -> Generation:
        with self._lock:
            self._now += timedelta(seconds=1)
            self._found[name] = replace(self._found[name], published_at=self._now)
            return self._found[name]


def rows_of(generation: str, number: int, value: float = 1.0, as_of: date = AS_OF) -> list[dict[str, Any]]:
    """Usable rows, in the order of their ids, as analysts read them."""
    return [
        prediction(f"c{i:04d}", value + i, as_of, decile=1 + i % 10) | {"generation": generation} for i in range(number)
    ]


def write_part(directory: str, name: str, rows: list[dict[str, Any]]) -> str:
    """One part of rows of one generation; returns its name."""
    storage.write_parquet(part_of(rows), storage.join(directory, name))
    return name


def part_of(rows: list[dict[str, Any]]) -> pa.Table:
    plain = [{name: value for name, value in row.items() if name != "generation"} for row in rows]
    return with_generation(batch_of(plain), rows[0]["generation"])


def stage(warehouse: Warehouse, generation: Generation, rows: list[dict[str, Any]], parts: int = 2) -> list[str]:
    """Stages the rows in some parts, as a publish does; returns their names."""
    directory, parts = warehouse.parts(generation.name, generation.attempt), min(parts, len(rows))
    names = [write_part(directory, f"part-{index:05d}.parquet", rows[index::parts]) for index in range(parts)]
    warehouse.stage(generation, names, len(rows))
    return names
