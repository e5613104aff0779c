"""Publishes mended dead letters into the generation they belong to.

    letters -> check -> mended-*.parquet (what will be added) -> store -> warehouse -> the generation's figures -> letters

Each step can be repeated and the letters change last, so that a replay which was killed is finished by the next one:
rows that the store already holds are not added twice, and the figures are those of the staging and of all mended files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

from pipelines import publish, publish_places, publish_stage
from pipelines.publish_options import CommandOptions
from pipelines.publish_places import say
from pipelines.publish_stage import KIND
from pipelines.warehouse import with_generation
from serving import checks
from serving.checks import Constants
from serving.store import Content, Generation, State, Store
from transforms import schema, storage
from transforms.dead_letters import DeadLetter
from transforms.errors import UsageError, rejected
from transforms.schema import PREDICTIONS, Column, Type

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.warehouse import Warehouse

MENDED = "mended-"
_LOOKUP_ROWS = 1_000


def run(options: CommandOptions) -> dict[str, Any]:
    """Replays; returns ``generation, added, dead_letters`` (what is left, by reason).

    Raises:
      UsageError: not the dead letters of a generation in the store, or a line that is no JSON.
      JobFailed: the store or the warehouse failed; running the command again goes on.
    """
    manifest = storage.read_manifest(options.dead_letters, KIND)
    warehouse = publish_places.open_warehouse(options.places)
    with publish_places.open_existing(options.places) as store:
        generation = _generation(store, manifest["generation"], options)
        rows, letters = _usable(read_payloads(options.dead_letters, manifest), generation)
        new, conflicting = _not_served(store, generation, rows)
        if new.num_rows:
            _write_mended(options.dead_letters, new)
        added = 0
        content, mended = Content(**manifest["content"]), sorted(_mended(options.dead_letters))
        for name in mended:
            held, refused = _add(store, warehouse, generation, options.dead_letters, name)
            conflicting += refused
            added += held.rows
            content = _sum(content, held)
        letters += conflicting
        reasons = dict(sorted(Counter(letter.reason for letter in letters).items()))
        store.amend(generation.name, content, reasons)
        if generation.published_at:
            publish.complete(store, warehouse, generation.name)
        _rewrite(options.dead_letters, manifest, letters, reasons, mended)
    say(f"{generation.name}: {added} mended rows in all, {publish.described(reasons)} left")
    return {"generation": generation.name, "added": new.num_rows, "dead_letters": reasons}


def _generation(store: Store, name: str, options: CommandOptions) -> Generation:
    found = store.find(name)
    if found is None or found.state is not State.SEALED:
        raise rejected(
            "--dead_letters", options.dead_letters, f"those of a complete generation in the store, not of {name}"
        )
    return found


def read_payloads(directory: str, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the dead letters as they are in the files now.

    Raises:
      UsageError: a line is not a dead letter; with its file and number.
    """
    paths = storage.list_files(directory, ".jsonl")
    known = manifest.get("files")
    payloads = []
    for path in paths:
        name = os.path.basename(path)
        if known is not None and name not in known:
            continue  # of a replay that was killed before it could delete what it had replaced
        for number, line in enumerate(storage.read_bytes(storage.join(directory, name)).decode().split("\n"), 1):
            if line.strip():
                payloads.append(_payload(f"{directory}/{name}:{number}", line))
    return payloads


def _payload(where: str, line: str) -> dict[str, Any]:
    try:
        payload = json.loads(line)["payload"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{where} is no dead letter ({error!r}): accepted is one JSON object with a payload"
        ) from error
    if not isinstance(payload, dict):
        raise UsageError(f"{where} has the payload {payload!r}: accepted is an object of the row's columns")
    return payload


def _usable(payloads: list[dict[str, Any]], generation: Generation) -> tuple[pa.RecordBatch, list[DeadLetter]]:
    import pyarrow as pa

    typed, letters = [], []
    for payload in payloads:  # one by one: nobody mends many by hand
        row, problem = _typed(payload)
        if problem:
            letters.append(DeadLetter(checks.STAGE, "unreadable_payload", problem, payload))
        else:
            typed.append(row)
    batch = pa.RecordBatch.from_pylist(typed, schema=schema.arrow_schema(PREDICTIONS))
    constants = Constants(generation.as_of, generation.horizon_days, generation.model_version)
    good, bad = checks.split(batch, checks.rules(constants))
    single, repeated = checks.split_repeated(good)
    return single, [*letters, *bad, *repeated]


def _typed(payload: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The row, and what is wrong with it."""
    unknown = sorted(payload.keys() - set(schema.names(PREDICTIONS)))
    if unknown:
        return {}, f"{', '.join(unknown)}: accepted are the columns {', '.join(schema.names(PREDICTIONS))}"
    row = {}
    for column in PREDICTIONS:
        value = payload.get(column.name)
        try:
            row[column.name] = None if value is None else _value(column, value)
        except (TypeError, ValueError):
            return {}, f"{column.name}={value!r}: accepted is a {column.type.value[0]}"
    return row, ""


def _value(column: Column, value: Any) -> Any:
    if column.type is Type.DATE:
        return date.fromisoformat(value)
    if column.type is Type.FLOAT:
        return float(value)
    if column.type is Type.INT:
        if isinstance(value, bool) or int(value) != float(value) or abs(int(value)) >= 2**63:
            raise ValueError
        return int(value)
    if not isinstance(value, str):
        raise TypeError
    value.encode()
    return value


def _not_served(store: Store, generation: Generation, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, list[DeadLetter]]:
    """The rows of customers whom the generation does not serve, and those that differ from what it serves."""
    import pyarrow as pa

    new, letters = [], []
    for row, served in _served(store, generation, rows):
        if served is None:
            new.append(row)
        elif served != row:
            detail = f"customer_id={row['customer_id']!r}: the generation serves another row of this customer"
            letters.append(DeadLetter(checks.STAGE, "already_served", detail, row))
    return pa.RecordBatch.from_pylist(new, schema=rows.schema), letters


def _served(
    store: Store, generation: Generation, rows: pa.RecordBatch
) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    for start in range(0, rows.num_rows, _LOOKUP_ROWS):
        some = rows.slice(start, _LOOKUP_ROWS)
        found = store.read_back(generation.name, some.column("customer_id").to_pylist())
        for row in some.to_pylist():
            served = found.get(row["customer_id"])
            yield row, served and {name: value for name, value in served.items() if name != "generation"}


def _write_mended(directory: str, rows: pa.RecordBatch) -> None:
    """Named by what is in it: a repetition writes the same file."""
    import pyarrow as pa

    rows = rows.sort_by("customer_id")
    digest = hashlib.sha256(json.dumps(rows.to_pylist(), default=str).encode()).hexdigest()[:16]
    storage.write_parquet(pa.Table.from_batches([rows]), storage.join(directory, f"{MENDED}{digest}.parquet"))


def _mended(directory: str) -> list[str]:
    names = map(os.path.basename, storage.list_files(directory, ".parquet"))
    return [name for name in names if name.startswith(MENDED)]


def _add(
    store: Store, warehouse: Warehouse | None, generation: Generation, directory: str, name: str
) -> tuple[Content, list[DeadLetter]]:
    """Adds a mended file's rows where they are missing yet: what the store holds of them now, and what it refused."""
    (rows,) = storage.read_parquet(storage.join(directory, name)).combine_chunks().to_batches()
    written = store.add(generation.name, rows)
    held = publish_stage.without(rows, written)
    if warehouse and held.num_rows:
        part = storage.join(warehouse.parts(generation.name, generation.attempt), name)
        storage.write_parquet(with_generation(held, generation.name), part)
        warehouse.append(generation, name, held.num_rows)
    return publish_stage.content_of(held), list(written.refused)


def _sum(one: Content, other: Content) -> Content:
    return Content(
        one.rows + other.rows, one.total_value + other.total_value, one.zeros + other.zeros
    )  # fmt: skip


def _rewrite(
    directory: str, manifest: dict[str, Any], letters: list[DeadLetter], reasons: dict[str, int], mended: list[str]
) -> None:
    """The manifest says which file counts; the files before it go afterwards."""
    before = [os.path.basename(path) for path in storage.list_files(directory, ".jsonl")]
    text = "".join(letter.to_json() + "\n" for letter in letters).encode()
    name = f"left-{hashlib.sha256(text).hexdigest()[:16]}.jsonl"
    if letters:
        storage.write_bytes(storage.join(directory, name), text)
    content = {**manifest, "dead_letters": reasons, "mended": mended, "files": [name] if letters else []}
    storage.write_bytes(storage.join(directory, storage.MANIFEST), json.dumps(content, indent=2).encode())
    filesystem, root = storage.resolve(directory)
    for old in before:
        if old != name:
            filesystem.delete_file(storage.join(root, old))
