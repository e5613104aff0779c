"""The serving store: generations of predictions, exactly one of which is current.

A publish stages a new generation beside the one being served and then moves a pointer::

    begin -> write ... write -> seal          readers still see the old generation
                                |
                              switch          one transaction; readers see the new one

``Store`` is the contract every backend keeps (``tests/serving/store_contract.py`` holds it to that).
Nothing here imports a backend, Arrow or Beam: opening a store for one lookup must be instant.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    import pyarrow as pa

Clock = Callable[[], datetime]
Row = dict[str, Any]
"""One prediction: every column of ``schema.PREDICTIONS`` (dates as ``date``) and its ``generation``."""

KEEP_GENERATIONS = 2  # one to roll back to, and one more for when the last publish was bad as well


class PointerMoved(UsageError):
    """Another publish switched first; nothing was changed."""

    def __init__(self, generation: str, expected: str | None, winner: Generation | None) -> None:
        won = winner.described() if winner else "no generation"
        super().__init__(f"generation {generation} was not switched to: {won} is current now, not {expected}")
        self.winner = winner


class Superseded(UsageError):
    """The generation was deleted, or begun again by another publish, while this one was staging it."""

    def __init__(self, generation: str, attempt: int, found: Generation | None) -> None:
        now = f"it is {found.state.value}, attempt {found.attempt}" if found else "it is gone"
        super().__init__(f"attempt {attempt} to stage generation {generation} was overtaken by another publish: {now}")


class RowCountMismatch(UsageError):
    """A generation does not hold the rows it should: lost rows, or customers that occur twice."""

    def __init__(self, generation: str, staged: int, expected: int) -> None:
        super().__init__(f"generation {generation} holds {staged} staged rows, expected are {expected}")


class State(enum.Enum):
    """STAGED may be incomplete and is never served; SEALED is complete and can be switched to."""

    STAGED = "staged"
    SEALED = "sealed"


@dataclass(frozen=True)
class Generation:
    """One published (or about to be published) set of predictions.

    Attributes:
      attempt: how often the staging was begun; only the latest attempt may write.
      rows: rows held, 0 until sealed.
      dead_letters: rows left out of it, by reason.
      published_at: when it last became current.
    """

    name: str
    as_of: date
    horizon_days: int
    model_version: str
    state: State = State.STAGED
    attempt: int = 0
    rows: int = 0
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    created_at: datetime | None = None
    sealed_at: datetime | None = None
    published_at: datetime | None = None

    def described(self) -> str:
        when = f", published {self.published_at.isoformat(timespec='seconds')}" if self.published_at else ""
        return f"generation {self.name} (as of {self.as_of}{when})"


class Store(abc.ABC):
    """Generations of predictions and the pointer to the current one. One object serves one thread."""

    @abc.abstractmethod
    def current(self) -> Generation | None:
        """The generation being served."""

    @abc.abstractmethod
    def generations(self) -> list[Generation]:
        """All of them, last begun first."""

    @abc.abstractmethod
    def begin(self, generation: Generation) -> int | None:
        """Starts staging: the attempt's number, or None when the generation is already sealed.

        A half-staged generation is emptied first, and whoever was still writing it is shut out.
        """

    @abc.abstractmethod
    def write(self, name: str, attempt: int, batch: pa.RecordBatch) -> None:
        """Stages rows of ``schema.PREDICTIONS``, all or none; writing a customer again replaces the row.

        Raises:
          Superseded: another attempt took over.
        """

    @abc.abstractmethod
    def seal(self, name: str, attempt: int, rows: int, dead_letters: Mapping[str, int]) -> None:
        """Declares the generation complete.

        Raises:
          RowCountMismatch: it does not hold exactly this number of rows.
          Superseded: another attempt took over.
        """

    @abc.abstractmethod
    def switch(self, name: str, expected_current: str | None) -> None:
        """Makes a sealed generation current, in one transaction that asserts which one was current before.

        Raises:
          PointerMoved: another generation is current than the expected one.
          UsageError: the generation is unknown or not sealed.
        """

    @abc.abstractmethod
    def lookup_many(self, customer_ids: Iterable[str]) -> dict[str, Row]:
        """The current rows of those customers that have one; pointer and rows come from one snapshot."""

    @abc.abstractmethod
    def delete(self, name: str) -> None:
        """Removes a generation and its rows; an unknown one is gone already.

        Raises:
          UsageError: it is the current one.
        """

    @abc.abstractmethod
    def close(self) -> None: ...

    def lookup(self, customer_id: str) -> Row | None:
        return self.lookup_many([customer_id]).get(customer_id)

    def find(self, name: str) -> Generation | None:
        return next((generation for generation in self.generations() if generation.name == name), None)

    def expire(self, keep: int = KEEP_GENERATIONS) -> list[str]:
        """Deletes sealed generations except the current and the ``keep`` newest others; returns their names.

        Half-staged ones go once they are older than the current one: they could not be published any more.
        """
        current = self.current()
        if current is None:
            return []
        others = [generation for generation in self.generations() if generation.name != current.name]
        expired = [generation for generation in others if generation.state is State.SEALED][keep:]
        expired += [g for g in others if g.state is State.STAGED and g.as_of < current.as_of]
        for generation in expired:
            self.delete(generation.name)
        return [generation.name for generation in expired]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


ACCEPTED_URIS = "sqlite:///absolute/path.db or sqlite://relative/path.db"


def utc_now() -> datetime:
    return datetime.now(UTC)


def resolve(uri: str) -> str:
    """The URI with an absolute path, so that workers started elsewhere mean the same store.

    Raises:
      UsageError: not a store's URI.
    """
    import os

    scheme, separator, path = uri.partition("://")
    if scheme != "sqlite" or not separator or not path or path.endswith("/"):
        raise rejected("--serving", uri, ACCEPTED_URIS)
    return f"sqlite://{os.path.abspath(path)}"


def open_store(uri: str, create: bool = False, clock: Clock = utc_now) -> Store:
    """Opens a store: for reading, or, with ``create``, for reading and writing, made when missing.

    Raises:
      UsageError: not a store's URI, nothing there to read, or a file of something else.
    """
    from serving.sqlite_store import SqliteStore

    return SqliteStore(resolve(uri).removeprefix("sqlite://"), create=create, clock=clock)
