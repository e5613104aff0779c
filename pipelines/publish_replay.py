"""Publishes mended dead letters into the generation they belong to.

    letters -> check -> mended-*.parquet -> manifest: adding -> store -> manifest: mended -> warehouse
                                                                  -> the generation's figures -> manifest: files

Each arrow can be repeated. The manifest of the letters says how far a replay came, and each change of it asserts that
nobody else made one, so that a replay which was killed is finished by the next one and of two at once neither adds a
customer that the other adds:

    adding   rows that the store may hold or not: they are added before a letter is compared with what is served
    mended   rows that the store holds: they count, and are appended to the warehouse
    files    where the letters are now; before the first replay, all but what a killed one left
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from pipelines import publish_conclude, publish_places, publish_stage
from pipelines.publish_options import CommandOptions
from pipelines.publish_places import say
from pipelines.publish_stage import KIND, MENDED
from pipelines.warehouse import with_generation
from serving import checks
from serving.checks import Constants
from serving.store import Content, Generation, RowCountMismatch, State, Store
from transforms import schema, storage
from transforms.dead_letters import DeadLetter
from transforms.errors import JobFailed, UsageError, one_line, rejected
from transforms.schema import PREDICTIONS, Column, Type

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.warehouse import Warehouse

_LEFT = "left-"  # begins the names of the letters' files that replays write
_LOOKUP_ROWS = 1_000
_ROUNDS = 20  # each but the last means that another replay of the same letters came in between
_NOT_UTF8 = "not_utf8"
_REPLACED = "\ufffd"  # what a dead letter has in place of bytes that are no text


class _Overtaken(Exception):
    """Another replay changed the manifest since it was read: what was concluded from it may not hold."""


@dataclass(frozen=True)
class Book:
    """A manifest of dead letters as it was read; see the top of this module.

    Attributes:
      text: its bytes, which a change asserts.
      staged: what the publish staged; mended rows come on top.
      replays: the number of changes by replays, so that no two versions are equal.
    """

    directory: str
    text: bytes
    generation: str
    staged: Content
    mended: tuple[str, ...]
    adding: tuple[str, ...]
    files: tuple[str, ...] | None
    replays: int

    @classmethod
    def read(cls, directory: str) -> Book:
        """Raises: UsageError where it is not a manifest of dead letters, or was changed by hand."""
        storage.read_manifest(directory, KIND)
        return cls._of(directory, storage.read_bytes(storage.join(directory, storage.MANIFEST)))

    @classmethod
    def _of(cls, directory: str, text: bytes) -> Book:
        try:
            manifest = json.loads(text)
            content = manifest["content"]
            files = manifest.get("files")
            return cls(
                directory, text, str(manifest["generation"]),
                Content(int(content["rows"]), float(content["total_value"]), int(content["zeros"])),
                tuple(map(str, manifest.get("mended", ()))), tuple(map(str, manifest.get("adding", ()))),
                None if files is None else tuple(map(str, files)), int(manifest.get("replays", 0)),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise UsageError(
                f"{directory}/{storage.MANIFEST} is damaged ({_described(error)}): accepted is the manifest as it was written"
            ) from error

    def changed(self, **values: Any) -> Book:
        """Writes other values.

        Raises:
          _Overtaken: somebody else did.
        """
        content = {**json.loads(self.text), **values, "replays": self.replays + 1}
        text = json.dumps(content, indent=2).encode()
        if not storage.compare_and_set(storage.join(self.directory, storage.MANIFEST), text, self.text):
            raise _Overtaken
        return self._of(self.directory, text)

    def letter_files(self) -> list[str]:
        """The names of the files whose letters count. The others are of replays that were killed."""
        found = _names(self.directory, ".jsonl")
        if self.files is None:
            return [name for name in found if not name.startswith(_LEFT)]
        return [name for name in found if name in self.files]


def run(options: CommandOptions) -> dict[str, Any]:
    """Replays; returns ``generation, added`` (rows that it holds more than before), ``dead_letters`` (what is left).

    Raises:
      UsageError: not the dead letters of a generation in the store, or a line that is no JSON.
      JobFailed: the store or the warehouse failed; running the command again goes on.
    """
    book = Book.read(options.dead_letters)
    warehouse = publish_places.open_warehouse(options.places)
    with publish_places.open_existing(options.places) as store:
        before = _generation(store, book.generation, options)
        publish_places.require_same_warehouse(before, options.places)
        for _ in range(_ROUNDS):
            with suppress(_Overtaken):
                content, reasons = _replay(store, warehouse, before, options.dead_letters)
                return {
                    "generation": before.name,
                    "added": content.rows - before.content.rows,
                    "dead_letters": reasons,
                }
    raise JobFailed(f"--dead_letters {options.dead_letters!r}: other replays change it all the time; run this again")


def _replay(
    store: Store, warehouse: Warehouse | None, generation: Generation, directory: str
) -> tuple[Content, dict[str, int]]:
    """What the generation holds now, and the letters that are left, by reason."""
    book = Book.read(directory)
    book, _ = _enter(store, generation, book)  # what the store refuses of a killed replay's rows is still a letter
    rows, letters = _usable(read_letters(book), generation)
    new, conflicting = _not_served(store, generation, rows)
    letters += conflicting
    if new.num_rows:
        if warehouse and generation.content.rows:  # one without rows cannot be published yet, but be added to
            warehouse.can_publish(generation)
        book = book.changed(mended=book.mended, adding=[_write_mended(directory, new)])
        book, refused = _enter(store, generation, book)
        letters += refused
    mended = _append(warehouse, generation, book)
    content, reasons = _sum(book.staged, mended), dict(sorted(Counter(letter.reason for letter in letters).items()))
    _amend(store, generation, book, content, reasons)
    found = store.find(generation.name)
    if found and found.published_at:
        publish_conclude.complete(store, warehouse, generation.name)
    _rewrite(book, letters, reasons)
    say(f"{generation.name}: {mended.rows} mended rows in all, {publish_conclude.described(reasons)} left")
    return content, reasons


def _generation(store: Store, name: str, options: CommandOptions) -> Generation:
    found = store.find(name)
    if found is None or found.state is not State.SEALED:
        raise rejected(
            "--dead_letters", options.dead_letters, f"those of a complete generation in the store, not of {name}"
        )
    return found


def read_letters(book: Book) -> list[dict[str, Any]]:
    """The dead letters as they are in the files now; each has a ``payload``.

    Raises:
      UsageError: a line is not a dead letter; with its file and number.
    """
    letters = []
    for name in book.letter_files():
        try:
            content = storage.read_bytes(storage.join(book.directory, name))
        except FileNotFoundError:
            raise _Overtaken from None  # another replay has replaced it since
        for number, line in enumerate(content.split(b"\n"), 1):
            if line.strip():
                letters.append(_letter(f"{book.directory}/{name}:{number}", line))
    return letters


def _letter(where: str, line: bytes) -> dict[str, Any]:
    try:
        letter = json.loads(line.decode(), parse_float=_number, parse_constant=str)
        payload = letter["payload"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{where} is no dead letter ({_described(error)}): accepted is one JSON object with a payload"
        ) from error
    if not isinstance(letter, dict) or not isinstance(payload, dict):
        raise UsageError(f"{where} has the payload {payload!r}: accepted is an object of the row's columns")
    return letter


def _number(text: str) -> float | str:
    """As dead letters have them: what no float holds stays text."""
    value = float(text)
    return value if abs(value) < float("inf") else text


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(str(error), 200)}"


def _usable(letters: list[dict[str, Any]], generation: Generation) -> tuple[pa.RecordBatch, list[DeadLetter]]:
    import pyarrow as pa

    typed, left = [], []
    for letter in letters:  # one by one: nobody mends many by hand
        payload = letter["payload"]
        row, problem = _typed(payload)
        if _is_replaced(letter):
            left.append(DeadLetter(checks.STAGE, _NOT_UTF8, str(letter.get("detail", "")), payload))
        elif problem:
            left.append(DeadLetter(checks.STAGE, "unreadable_payload", problem, payload))
        else:
            typed.append(row)
    batch = pa.RecordBatch.from_pylist(typed, schema=schema.arrow_schema(PREDICTIONS))
    constants = Constants(generation.as_of, generation.horizon_days, generation.model_version)
    good, bad = checks.split(batch, checks.rules(constants))
    single, repeated = checks.split_repeated(good)
    return single, [*left, *bad, *repeated]


def _is_replaced(letter: dict[str, Any]) -> bool:
    """Whether it is of a row that was no UTF-8, and not mended: its text would pass, but is not what the row said."""
    texts = [value for value in letter["payload"].values() if isinstance(value, str)]
    return letter.get("reason", _NOT_UTF8) == _NOT_UTF8 and any(_REPLACED in text for text in texts)


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
        except (TypeError, ValueError, OverflowError):
            return {}, f"{column.name}={value!r}: accepted is a {column.type.value[0]}"
    return row, ""


def _value(column: Column, value: Any) -> Any:
    if column.type is Type.DATE:
        return date.fromisoformat(value)
    if isinstance(value, bool):
        raise TypeError
    if column.type is Type.FLOAT:
        return float(value)
    if column.type is Type.INT:
        if int(value) != float(value) or abs(int(value)) >= 2**63:
            raise ValueError
        return int(value)
    if not isinstance(value, str):
        raise TypeError
    value.encode()
    return value


def _not_served(store: Store, generation: Generation, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, list[DeadLetter]]:
    """The rows of customers whom the generation does not serve, and those that differ from what it serves."""
    new, letters = [], []
    for row, served in _served(store, generation, rows):
        if served is None:
            new.append(row)
        elif served != row:
            detail = f"customer_id={row['customer_id']!r}: the generation serves another row of this customer"
            letters.append(DeadLetter(checks.STAGE, "already_served", detail, row))
    return _batch(new, rows.schema), letters


def _served(
    store: Store, generation: Generation, rows: pa.RecordBatch
) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    for start in range(0, rows.num_rows, _LOOKUP_ROWS):
        some = rows.slice(start, _LOOKUP_ROWS)
        found = store.read_back(generation.name, some.column("customer_id").to_pylist())
        for row in some.to_pylist():
            served = found.get(row["customer_id"])
            yield row, served and {name: value for name, value in served.items() if name != "generation"}


def _batch(rows: Iterable[dict[str, Any]], columns: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_pylist(list(rows), schema=columns)


def _write_mended(directory: str, rows: pa.RecordBatch) -> str:
    """The file's name, which follows from what is in it: a repetition writes the same file."""
    rows = rows.sort_by("customer_id")
    digest = hashlib.sha256(json.dumps(rows.to_pylist(), default=str).encode()).hexdigest()[:16]
    name = f"{MENDED}{digest}.parquet"
    _write_whole(storage.join(directory, name), rows)
    return name


def _write_whole(uri: str, rows: pa.RecordBatch | pa.Table) -> None:
    """Writes Parquet so that no other replay reads half of it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(rows), sink, compression="zstd")
    storage.write_bytes(uri, sink.getvalue().to_pybytes())


def _read_mended(directory: str, name: str) -> pa.RecordBatch:
    try:
        (rows,) = storage.read_parquet(storage.join(directory, name)).combine_chunks().to_batches()
    except FileNotFoundError:
        raise UsageError(
            f"{directory}/{name} is missing: accepted is the directory as the last replay left it"
        ) from None
    return rows


def _enter(store: Store, generation: Generation, book: Book) -> tuple[Book, list[DeadLetter]]:
    """Has the store hold the rows that are being added, and those added before, were the generation made anew.

    Returns:
      The manifest, whose ``mended`` is what the store holds now, and what it refused.
    """
    mended: list[str] = []
    refused: list[DeadLetter] = []
    for name in [*book.mended, *book.adding]:
        rows = _read_mended(book.directory, name)
        missing = _batch((row for row, served in _served(store, generation, rows) if served != row), rows.schema)
        if missing.num_rows:
            written = store.add(generation.name, missing)
            refused += written.refused
            if written.refused:
                rows = publish_stage.without(rows, written)
                name = _write_mended(book.directory, rows)
        if rows.num_rows:
            mended.append(name)
    if book.adding or mended != list(book.mended):
        book = book.changed(mended=mended, adding=[])
    return book, refused


def _append(warehouse: Warehouse | None, generation: Generation, book: Book) -> Content:
    """Appends to the warehouse what of the mended rows it lacks, and returns what they are together."""
    total = Content()
    for name in book.mended:
        rows = _read_mended(book.directory, name)
        if warehouse:
            part = storage.join(warehouse.parts(generation.name, generation.attempt), name)
            _write_whole(part, with_generation(rows, generation.name))
            warehouse.append(generation, name, rows.num_rows)
        total = _sum(total, publish_stage.content_of(rows))
    return total


def _sum(one: Content, other: Content) -> Content:
    return Content(one.rows + other.rows, one.total_value + other.total_value, one.zeros + other.zeros)


def _amend(store: Store, generation: Generation, book: Book, content: Content, reasons: dict[str, int]) -> None:
    try:
        store.amend(generation.name, content, reasons)
    except RowCountMismatch:
        if Book.read(book.directory).text != book.text:
            raise _Overtaken from None  # another replay's rows are counted already
        raise


def _rewrite(book: Book, letters: list[DeadLetter], reasons: dict[str, int]) -> None:
    """The manifest says which file counts; the files before it go afterwards.

    With the number of the change in its name a file cannot be one that somebody else is about to delete.
    """
    before = _names(book.directory, ".jsonl")
    text = "".join(letter.to_json() + "\n" for letter in letters).encode()
    name = f"{_LEFT}{book.replays + 1:05d}-{hashlib.sha256(text).hexdigest()[:16]}.jsonl"
    if letters:
        storage.write_bytes(storage.join(book.directory, name), text)
    book.changed(dead_letters=reasons, files=[name] if letters else [])
    for old in before:
        if old != name:
            _delete(book.directory, old)


def _delete(directory: str, name: str) -> None:
    filesystem, path = storage.resolve(storage.join(directory, name))
    with suppress(FileNotFoundError):  # another replay was faster
        filesystem.delete_file(path)


def _names(directory: str, suffix: str) -> list[str]:
    """The files directly in a directory."""
    _, root = storage.resolve(directory)
    names = [os.path.relpath(path, root) for path in storage.list_files(directory, suffix)]
    return [name for name in names if "/" not in name]
