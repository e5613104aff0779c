"""What is told of interactions as a whole: counts, extent and fingerprint, summed over parts in any order.

Distinct things are counted by their smallest hashes (Bar-Yossef et al. 2002, "Counting distinct elements in a data
stream", the bottom-k sketch): exact up to KEPT of them, an estimate with a standard error of 1 / sqrt(KEPT) beyond.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

Hashes = npt.NDArray[np.uint64]

KEPT = 65_536  # hashes, 0.4% standard error; 1.5 MB for the users
# Personalize counts event types among a data set's columns, of which it takes ten; a few more tell a person what is wrong.
MOST_EVENT_TYPES = 100
_SPACE = float(2**64)
_MASK_32 = np.uint64(0xFFFFFFFF)


class Distinct:
    """The number of distinct things, of which each has a hash, uniform over 64 bits.

    With ``marks``, a second hash for each occurrence, also the number of those that occur with two marks or more.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self.hashes: Hashes = np.empty(0, np.uint64)  # ascending, each once
        self.least: Hashes | None = None  # marks
        self.greatest: Hashes | None = None
        self.dropped = False
        self._pending: list[tuple[Hashes, Hashes, Hashes]] = []
        self._pending_count = 0

    def add(self, hashes: Hashes, marks: Hashes | None = None) -> None:
        """(n,) hashes, and as many marks where they are counted."""
        given = hashes if marks is None else marks
        # Bit by bit: what is kept of the first ones rules most of the next ones out before they are sorted.
        for start in range(0, max(len(hashes), 1), self.kept):
            some = slice(start, start + self.kept)
            self._take(hashes[some], given[some], None, marks is not None)

    def _take(self, hashes: Hashes, least: Hashes, greatest: Hashes | None, marked: bool) -> None:
        """With ``greatest`` where it is not the same as ``least``."""
        if self.dropped:
            near = np.flatnonzero(hashes <= self.hashes[-1])
            hashes, greatest = hashes[near], None if greatest is None else greatest[near]
            least = least[near] if marked else hashes
        self._pending.append((hashes, least, least if greatest is None else greatest))
        self._pending_count += len(hashes)
        if marked and self.least is None:
            self.least, self.greatest = self.hashes, self.hashes
        if self._pending_count >= 2 * self.kept:
            self._settle()

    def _settle(self) -> None:
        if not self._pending:
            return
        hashes = np.concatenate([self.hashes, *(pending[0] for pending in self._pending)])
        # NumPy's unstable sorts are 5 to 30 times as fast as its stable ones and its `unique`.
        if self.least is None or self.greatest is None:
            hashes.sort()
            found = hashes[_starts(hashes)]
        else:
            least = np.concatenate([self.least, *(pending[1] for pending in self._pending)])
            greatest = np.concatenate([self.greatest, *(pending[2] for pending in self._pending)])
            order = np.argsort(hashes)
            in_order = hashes[order]
            starts = _starts(in_order)
            found = in_order[starts]
            self.least = np.minimum.reduceat(least[order], starts)[: self.kept] if len(order) else least
            self.greatest = np.maximum.reduceat(greatest[order], starts)[: self.kept] if len(order) else greatest
        self.dropped = self.dropped or len(found) > self.kept
        self.hashes = found[: self.kept]
        self._pending, self._pending_count = [], 0

    def merge(self, other: Distinct) -> None:
        other._settle()
        marked = other.least is not None
        least, greatest = (other.least, other.greatest) if marked else (other.hashes, other.hashes)
        assert least is not None and greatest is not None
        self._take(other.hashes, least, greatest, marked)
        self._settle()
        if other.dropped and not self.dropped:
            self.dropped = True  # the other knows of more of them, all beyond its last
        if other.dropped:
            self._cut(other.hashes[-1])

    def _cut(self, last: np.uint64) -> None:
        """Forgets what is beyond a hash up to which alone everything is known."""
        count = int(np.searchsorted(self.hashes, last, side="right"))
        self.hashes = self.hashes[:count]
        if self.least is not None and self.greatest is not None:
            self.least, self.greatest = self.least[:count], self.greatest[:count]

    @property
    def exact(self) -> bool:
        self._settle()
        return not self.dropped

    @property
    def count(self) -> int:
        self._settle()
        if not self.dropped:
            return len(self.hashes)
        return round((len(self.hashes) - 1) * _SPACE / (float(self.hashes[-1]) + 1))

    @property
    def count_with_two(self) -> int:
        """Of those that occur with two marks or more."""
        count = self.count
        if self.least is None or self.greatest is None or not len(self.hashes):
            return 0
        found = int(np.count_nonzero(self.least != self.greatest))
        return found if not self.dropped else round(count * found / len(self.hashes))

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        return self.__dict__


def _starts(ascending: Hashes) -> npt.NDArray[np.intp]:
    """Where each value occurs first."""
    return np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1])[: len(ascending)])


def sum_of(hashes: Hashes) -> int:
    """The sum of 64-bit numbers."""
    return int((hashes & _MASK_32).sum(dtype=np.uint64)) + (int((hashes >> np.uint64(32)).sum(dtype=np.uint64)) << 32)


@dataclass
class Summary:
    """Of some of the lines: what became of them, and what the interactions among them are.

    Attributes:
      counts: (kind, name) -> lines; kinds are "read", "used", "excluded", "dead_letters" and "letters" (written ones).
      hash_sum: the sum of all rows' hashes: equal for equal rows whatever their order.
      first, last: seconds since 1970.
      files: ``{"path", "rows", "bytes"}`` of each CSV file.
      letter_files: paths of the files with dead letters.
      examples: of each reason of dead letters, one detail.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    rows: int = 0
    hash_sum: int = 0
    first: int | None = None
    last: int | None = None
    users: Distinct = field(default_factory=Distinct)
    items: Distinct = field(default_factory=Distinct)
    interactions: Distinct = field(default_factory=Distinct)
    event_types: set[str] = field(default_factory=set)
    files: list[dict[str, Any]] = field(default_factory=list)
    letter_files: list[str] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """How many lines were read."""
        return self.counts["read", ""]

    def add(self, lines: pa.Table) -> None:
        """Args: lines: columns reason, row_hash, user_hash, item_hash and seconds; maybe event_type."""
        import pyarrow as pa
        import pyarrow.compute as pc

        used = None if lines["reason"].null_count == lines.num_rows else lines["reason"].is_null()
        rows, users, items, seconds = (
            (lines[name] if used is None else lines[name].filter(used)).to_numpy()
            for name in ("row_hash", "user_hash", "item_hash", "seconds")
        )
        if not len(rows):
            return
        self.rows += len(rows)
        self.counts["used", ""] += len(rows)
        self.hash_sum += sum_of(rows)
        self._extend(int(seconds.min()), int(seconds.max()))
        self.users.add(users, rows)
        # A shop has few items: while all are kept, none rules the next out before it is sorted.
        self.items.add(pc.unique(pa.array(items)).to_numpy())
        self.interactions.add(rows)
        if "event_type" in lines.column_names:
            types = lines["event_type"] if used is None else lines["event_type"].filter(used)
            self._add_types(pc.unique(types).to_pylist())

    def _add_types(self, names: Iterable[str]) -> None:
        self.event_types = set(sorted({*self.event_types, *names})[:MOST_EVENT_TYPES])

    def _extend(self, first: int | None, last: int | None) -> None:
        self.first = min((each for each in (self.first, first) if each is not None), default=None)
        self.last = max((each for each in (self.last, last) if each is not None), default=None)

    @classmethod
    def merge(cls, parts: Iterable[Summary]) -> Summary:
        total = cls()
        for part in parts:
            total.counts.update(part.counts)
            total.rows += part.rows
            total.hash_sum += part.hash_sum
            total._extend(part.first, part.last)
            for mine, other in (
                (total.users, part.users), (total.items, part.items), (total.interactions, part.interactions),
            ):  # fmt: skip
                mine.merge(other)
            total._add_types(part.event_types)
            total.files += part.files
            total.letter_files += part.letter_files
            # By text, so that the order of the parts does not matter.
            for reason, detail in part.examples.items():
                total.examples[reason] = min(total.examples.get(reason, detail), detail)
        return total

    def figures(self) -> dict[str, Any]:
        """The counts of a manifest; ``estimates`` names those that are not exact."""
        named = {
            "users": (self.users.count, self.users),
            "items": (self.items.count, self.items),
            "unique_interactions": (self.interactions.count, self.interactions),
            "users_with_two": (self.users.count_with_two, self.users),
        }
        figures: dict[str, Any] = {"rows": self.rows} | {name: count for name, (count, _) in named.items()}
        # Nothing is more often than it occurs, and no more users have two than there are.
        figures["unique_interactions"] = min(figures["unique_interactions"], self.rows)
        estimates = [name for name, (_, counted) in named.items() if not counted.exact]
        error = round(1 / math.sqrt(self.users.kept - 2), 4)
        return figures | {"estimates": estimates, "estimates_standard_error": error if estimates else 0.0}
