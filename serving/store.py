"""The serving store: generations of predictions, exactly one of which is current.

A publish stages a new generation beside the one being served and then moves a pointer::

    begin -> write ... write -> seal          readers still see the old generation
                                |
                              switch          one transaction; readers see the new one

Afterwards rows that were mended are added to it (``add``, ``amend``).

``Store`` is the contract every backend keeps (``tests/serving/store_contract.py`` holds it to that).
Nothing here imports a backend, Arrow or Beam: opening a store for one lookup must be instant.
"""

from __future__ import annotations

import abc
import enum
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from transforms.errors import JobFailed, UsageError, rejected

if TYPE_CHECKING:
    import pyarrow as pa

    from serving.rate_budget import Ramp
    from transforms.dead_letters import DeadLetter

Clock = Callable[[], datetime]
Row = dict[str, Any]
"""One prediction: every column of ``schema.PREDICTIONS`` (dates as ``date``) and its ``generation``."""

# Google's rules for the ids of projects (with the older "example.com:project") and of Datastore databases.
_DATASTORE_PATH = (
    r"(?:[a-z][a-z0-9.-]{1,61}:)?[a-z][a-z0-9-]{4,28}[a-z0-9](?:/(?:\(default\)|[a-z][a-z0-9-]{2,61}[a-z0-9]))?"
)
KEEP_GENERATIONS = 2  # one to roll back to, and one more for when the last publish was bad as well
BEING_STAGED = timedelta(days=1)  # somebody may still be staging an attempt that began less than this ago
ABANDONED = timedelta(days=7)  # nobody will switch any more to what was begun this long ago and never was


class PointerMoved(JobFailed):
    """Another publish switched first; nothing was changed."""

    def __init__(self, generation: str, expected: str | None, winner: Generation | None) -> None:
        won = winner.described() if winner else "no generation"
        super().__init__(f"generation {generation} was not switched to: {won} is current now, not {expected}")
        self.winner = winner


class WentBack(JobFailed):
    """The generation became current and was left again since the caller looked at it; nothing was changed."""

    def __init__(self, generation: str, current: Generation | None) -> None:
        now = current.described() if current else "no generation"
        super().__init__(
            f"generation {generation} was not switched to again: it has been current since this publish began, and {now} is "
            "now"
        )


class Superseded(JobFailed):
    """The generation was deleted, or begun again by another publish, while this one was staging it."""

    def __init__(self, generation: str, attempt: int, found: Generation | None) -> None:
        now = f"it is {found.state.value}, attempt {found.attempt}" if found else "it is gone"
        super().__init__(f"attempt {attempt} to stage generation {generation} was overtaken by another publish: {now}")


class RowCountMismatch(JobFailed):
    """A generation does not hold the rows it should: lost rows, or customers that occur twice."""

    def __init__(self, generation: str, staged: int, expected: int) -> None:
        super().__init__(f"generation {generation} holds {staged} staged rows, expected are {expected}")


class IsCurrent(UsageError):
    """The generation is the one being served, and so cannot be deleted."""

    def __init__(self, generation: str) -> None:
        super().__init__(f"generation {generation!r} is current: switch to another one before deleting it")


class StoreFailed(JobFailed):
    """The store did not answer as it should until the deadline; running the command again goes on."""


class State(enum.Enum):
    """STAGED may be incomplete and is never served; SEALED is complete and can be switched to; DELETING is neither."""

    STAGED = "staged"
    SEALED = "sealed"
    DELETING = "deleting"


@dataclass(frozen=True)
class Content:
    """What a generation holds, as its publish counted it.

    Attributes:
      rows: customers.
      total_value: the sum of predicted_value, in the orders' currency.
      zeros: customers whose predicted_value is 0.
    """

    rows: int = 0
    total_value: float = 0.0
    zeros: int = 0


@dataclass(frozen=True)
class Written:
    """What one write did.

    Attributes:
      refused: rows the store itself would not take, as dead letters of stage "store"; the others are written.
      figures: what it cost, by name; sums over writes are meaningful (``commits``, ``retries``, ``bytes``, ...).
    """

    refused: tuple[DeadLetter, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Generation:
    """One published (or about to be published) set of predictions.

    Attributes:
      attempt: how often the staging was begun; only the latest attempt may write.
      content: what it holds, all 0 until sealed; when staged anew after its rows expired, what it held before.
      dead_letters: rows left out of it, by reason.
      notes: what a person said when it became current, by what it was said of: a guard overridden, "rollback".
      begun_at: when the latest attempt began.
      published_at: when it last became current.
      expires_at: when its rows cease to be served, None for never.
      warehouse: where its rows are staged besides the store, as its publish named it.
    """

    name: str
    as_of: date
    horizon_days: int
    model_version: str
    state: State = State.STAGED
    attempt: int = 0
    content: Content = Content()
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None
    begun_at: datetime | None = None
    sealed_at: datetime | None = None
    published_at: datetime | None = None
    expires_at: datetime | None = None
    warehouse: str | None = None

    def described(self) -> str:
        when = f", published {self.published_at.isoformat(timespec='seconds')}" if self.published_at else ""
        return f"generation {self.name} (as of {self.as_of}{when})"

    def rows_id(self) -> str:
        """Another one for other rows: an embedded store counts the attempts anew after a deletion."""
        begun = f"-{int(self.begun_at.timestamp() * 1e6):x}" if self.begun_at else ""
        return f"{self.name}.{self.attempt}{begun}"

    def has_expired(self, now: datetime) -> bool:
        """Whether its rows are not served any more, current or not: the same predictions can be published anew."""
        return self.expires_at is not None and self.expires_at <= now

    def was_current(self) -> bool:
        """Whether the rows of its latest attempt have ever been served."""
        return bool(self.published_at and self.begun_at and self.published_at >= self.begun_at)


class Store(abc.ABC):
    """Generations of predictions and the pointer to the current one. One object serves one thread."""

    _clock: Clock

    @abc.abstractmethod
    def current(self) -> Generation | None:
        """The generation being served: attempt and ``expires_at`` are those of the rows that lookups read."""

    @abc.abstractmethod
    def generations(self) -> list[Generation]:
        """All of them, last begun first."""

    @abc.abstractmethod
    def begin(self, generation: Generation) -> int | None:
        """Starts staging: the attempt's number, or None when the generation is sealed and has not expired.

        What an earlier attempt wrote does not count any more, and whoever was still writing it is shut out. The
        current generation is begun again once it has expired; after ``seal``, ``switch(name, name)`` serves it anew.
        """

    @abc.abstractmethod
    def write(self, name: str, attempt: int, batch: pa.RecordBatch) -> Written:
        """Stages rows of ``schema.PREDICTIONS``; writing a customer again replaces the row.

        Returns when every row is stored or refused. An error leaves the batch partly written, to be written again.

        Raises:
          Superseded: another attempt took over.
          StoreFailed: the store did not take it within its deadline.
        """

    @abc.abstractmethod
    def read_back(self, name: str, customer_ids: Iterable[str]) -> dict[str, Row]:
        """The rows that the generation's latest attempt holds of these customers, current or not."""

    @abc.abstractmethod
    def seal(self, name: str, attempt: int, content: Content, dead_letters: Mapping[str, int]) -> None:
        """Declares the generation complete. Doing it again with the same figures is fine.

        Raises:
          RowCountMismatch: it does not hold exactly this number of rows.
          Superseded: another attempt took over.
        """

    @abc.abstractmethod
    def add(self, name: str, batch: pa.RecordBatch) -> Written:
        """Writes rows into a sealed generation, current or not, as ``write`` does. Its record stays: see ``amend``.

        Raises:
          UsageError: the generation is unknown or not sealed.
          StoreFailed: the store did not take it within its deadline.
        """

    @abc.abstractmethod
    def amend(self, name: str, content: Content, dead_letters: Mapping[str, int]) -> None:
        """Corrects a sealed generation's figures after ``add``.

        Raises:
          RowCountMismatch: it does not hold exactly this number of rows.
          UsageError: the generation is unknown or not sealed.
        """

    @abc.abstractmethod
    def switch(
        self,
        name: str,
        expected_current: str | None,
        notes: Mapping[str, str] | None = None,
        known: Generation | None = None,
    ) -> None:
        """Makes a sealed generation current, in one transaction that asserts which one was current before.

        Args:
          known: the generation as the caller saw it: then it is also asserted that it has not become current since. Who
            may be late, or repeat what was done, leads nobody forward again after a rollback.

        Raises:
          PointerMoved: another generation is current than the expected one.
          WentBack: it is not as ``known`` any more.
          UsageError: the generation is unknown, not sealed, or has expired.
        """

    @abc.abstractmethod
    def lookup_many(self, customer_ids: Iterable[str]) -> dict[str, Row]:
        """The current rows of those customers that have one; pointer and rows come from one snapshot."""

    @abc.abstractmethod
    def rows(self, served: Generation, customer_ids: Iterable[str]) -> dict[str, Row]:
        """What ``lookup_many`` gives while ``served``, as ``current`` returned it, is current; so callers keep it a while.

        Once it is deleted rows are missing, some or all: where one is, ask ``current`` again before believing it. Rows
        that are there are of this generation's, and never of another's.
        """

    @abc.abstractmethod
    def delete(self, name: str, before: Callable[[Generation], None] | None = None) -> None:
        """Removes a generation and its rows; an unknown one is gone already. A killed deletion can be repeated.

        Args:
          before: called when nobody can switch to the generation any more, before anything of it goes; again when a
            killed deletion is repeated. It may not use this store. What it raises ends the deletion.

        Raises:
          IsCurrent: it is the current one.
        """

    @abc.abstractmethod
    def close(self) -> None: ...

    def lookup(self, customer_id: str) -> Row | None:
        return self.lookup_many([customer_id]).get(customer_id)

    def find(self, name: str) -> Generation | None:
        return next((generation for generation in self.generations() if generation.name == name), None)

    def expire(
        self, keep: int = KEEP_GENERATIONS, before_each: Callable[[Generation], None] | None = None
    ) -> list[str]:
        """Deletes the generations that ``expendable`` names; returns the names deleted.

        One that became current meanwhile is passed over. What a killed deletion left goes even where nothing is
        current.

        Args:
          before_each: called with each of them before it is deleted, as ``delete`` does.
        """
        deleted = []
        for generation in expendable(self.current(), self.generations(), keep, self._clock()):
            try:
                self.delete(generation.name, before_each)
            except IsCurrent:
                continue
            deleted.append(generation.name)
        return deleted

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


ACCEPTED_URIS = (
    "sqlite:///absolute/path.db, sqlite://relative/path.db, datastore://project or datastore://project/database"
)
SQLITE, DATASTORE = "sqlite", "datastore"
TTL = timedelta(days=60)


@dataclass(frozen=True)
class Writing:
    """How a publish writes to a store that many share.

    Attributes:
      ramp: how fast the whole job may write, None for as fast as the store takes it.
      share: the part of that rate which is this process's, 1 for a job of one writer.
      ttl: how long after its staging began a row may be served; the store deletes it some time later.
    """

    ramp: Ramp | None = None
    share: float = 1.0
    ttl: timedelta = TTL


def utc_now() -> datetime:
    return datetime.now(UTC)


def expendable(
    current: Generation | None, generations: Iterable[Generation], keep: int, now: datetime
) -> list[Generation]:
    """The generations that need not be kept beside the current one.

    Of those that have been current the ``keep`` newest stay, by when they last were switched to. Those that never
    were, half-staged or sealed, go when nobody can be about to publish them: as of an earlier day than the current
    one and begun over a day ago, or begun over a week ago. What is being deleted goes always; where nothing is
    current, nothing else does.
    """
    others = [g for g in generations if current is None or g.name != current.name]
    dying = [g for g in others if g.state is State.DELETING]
    if current is None:
        return dying
    living = [g for g in others if g.state is not State.DELETING]
    served = sorted((g for g in living if g.was_current()), key=lambda g: (g.published_at, g.name), reverse=True)

    def is_left_behind(generation: Generation) -> bool:
        age = now - (generation.begun_at or now)
        return age > ABANDONED or (generation.as_of < current.as_of and age > BEING_STAGED)

    return served[keep:] + [g for g in living if not g.was_current() and is_left_behind(g)] + dying


def switched_at(now: datetime, *generations: Generation | None) -> datetime:
    """When a switch happens: later than any before, whatever the clocks of publishers say. It decides who is latest,
    and, as it is later than the staging too, whether what was staged has been served."""
    before = [at for g in generations if g for at in (g.published_at, g.begun_at) if at]
    return max([now, *(at + timedelta(microseconds=1) for at in before)])


def resolve(uri: str) -> str:
    """The URI with an absolute path, so that workers started elsewhere mean the same store.

    Raises:
      UsageError: not a store's URI.
    """
    import os

    scheme, _, path = uri.partition("://")
    if scheme == SQLITE and path and not path.endswith("/"):
        return f"{SQLITE}://{os.path.abspath(path)}"
    if scheme == DATASTORE and re.fullmatch(_DATASTORE_PATH, path):
        return uri
    raise rejected("--serving", uri, ACCEPTED_URIS)


def is_local(uri: str) -> bool:
    """Whether only this machine's processes reach the store."""
    return resolve(uri).startswith(f"{SQLITE}://")


def open_store(
    uri: str,
    create: bool = False,
    clock: Clock = utc_now,
    writing: Writing | None = None,
    patience_seconds: float | None = None,
) -> Store:
    """Opens a store: for reading, or, with ``create``, for reading and writing, made when missing.

    Args:
      patience_seconds: how long it tries before it raises StoreFailed; minutes unless said, as suits a batch job.

    Raises:
      UsageError: not a store's URI, nothing there to read, or a file of something else.
    """
    scheme, _, path = resolve(uri).partition("://")
    if scheme == DATASTORE:
        from serving.datastore_store import DatastoreStore

        project, _, database = path.partition("/")
        return DatastoreStore(project, database, writing or Writing(), clock, patience_seconds=patience_seconds)
    from serving.sqlite_store import SqliteStore

    return SqliteStore(path, create=create, clock=clock, patience_seconds=patience_seconds)
