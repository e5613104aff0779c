"""What benchmarks.lookup_soak holds every answer to: whose rows they are, and whether they could be served just then."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from time import monotonic
from typing import TYPE_CHECKING, Any

from benchmarks.lookup_service import Answer

if TYPE_CHECKING:
    import pyarrow as pa

AS_OF = date(2011, 12, 10)
MODEL_VERSION = "20111210-0a1b2c3d4e5f"
UNKNOWN = "nobody-"
# Between the moment that the service, or we, read a clock and the moment that something happened.
SLACK_SECONDS = 0.25
PROBLEM = "application/problem+json"
# Each generation leaves out every 20th customer, not the same ones as its neighbours.
_LEFT_OUT = 20
_VALUES_APART = 1_000_000
_NAMED = re.compile(r"generation (\S+) has no prediction")


@dataclass(frozen=True)
class Shop:
    """What each generation holds: values tell the generation and the customer."""

    customers: int

    def holds(self, number: int, customer_id: str) -> bool:
        return not customer_id.startswith(UNKNOWN) and int(customer_id) % _LEFT_OUT != number % _LEFT_OUT

    def row(self, number: int, customer_id: str) -> dict[str, Any]:
        """As it is to be answered."""
        value = float(number * _VALUES_APART + int(customer_id))
        return {
            "customer_id": customer_id, "as_of": AS_OF.isoformat(), "horizon_days": 90, "model_version": MODEL_VERSION,
            "predicted_value": value, "value_p10": value / 8, "value_p50": value / 2, "value_p90": value * 2,
            "purchase_probability": 0.5, "expected_orders": number / 4, "decile": 1 + int(customer_id) % 10,
            "generation": name_of(number),
        }  # fmt: skip

    def table(self, number: int) -> pa.Table:
        import pyarrow as pa

        from transforms import schema

        ids = [str(index) for index in range(self.customers)]
        rows = [self.row(number, each) | {"as_of": AS_OF} for each in ids if self.holds(number, each)]
        return pa.Table.from_pylist(rows, schema=schema.arrow_schema(schema.PREDICTIONS))


def name_of(number: int) -> str:
    return f"{AS_OF}-{number:012x}"


def number_of(name: str) -> int:
    return int(name.rpartition("-")[2], 16)


def etag_of(number: int) -> str:
    return f'"{name_of(number)}.1"'


def tagged(etag: str | None) -> int:
    """The generation of an entity tag, which says more than that: of which attempt at it the rows are.

    Raises:
      ValueError: it is none of ours.
    """
    return number_of((etag or "").strip('"').rpartition(".")[0])


@dataclass
class _Span:
    """From ``since`` until ``until``; None while it lasts. For a reign both are the widest that it can have been."""

    what: Any
    since: float
    until: float | None = None


class History:
    """When each generation was current and when the store was away; all threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reigns: list[_Span] = []
        self._outages: list[_Span] = []

    @contextmanager
    def switching(self, number: int) -> Iterator[None]:
        """Around a switch to a generation, which happens somewhere inside."""
        with self._lock:
            before = self._reigns[-1] if self._reigns else None
            self._reigns.append(_Span(number, monotonic()))
        yield
        if before:
            before.until = monotonic()

    @contextmanager
    def outage(self, kind: str) -> Iterator[None]:
        span = _Span(kind, monotonic())
        with self._lock:
            self._outages.append(span)
        yield
        span.until = monotonic()

    def current_between(self, since: float, until: float) -> dict[int, float | None]:
        """The generations that may have been current then, and until when; None for the one that is."""
        with self._lock:
            reigns = list(self._reigns)
        ends: dict[int, float | None] = {}
        for reign in reigns:
            if reign.since <= until and (reign.until is None or reign.until >= since):
                ends[reign.what] = reign.until
        return ends

    def away_between(self, since: float, until: float, after: float) -> bool:
        """Whether the store was away at some moment then, or had been less than ``after`` seconds before."""
        with self._lock:
            outages = list(self._outages)
        return any(span.since <= until and (span.until is None or span.until + after >= since) for span in outages)

    @property
    def outages(self) -> list[_Span]:
        return self._outages

    @property
    def switches(self) -> int:
        return len(self._reigns)


@dataclass(frozen=True)
class Asked:
    """A request: customers, one by one or ``together``, and the entity tags it came with."""

    customer_ids: Sequence[str]
    together: bool = False
    etags: Sequence[str] = ()


class Wrong(Exception):
    """An answer that may not be."""


class Checker:
    """Holds answers to the history; all threads may use it.

    Args:
      pointer_seconds, store_seconds: as the service was told.
      recovery_seconds: after an outage, within which it answers again.
    """

    def __init__(
        self, shop: Shop, history: History, pointer_seconds: float, store_seconds: float, recovery_seconds: float
    ) -> None:
        self._shop, self._history = shop, history
        self._pointer_seconds, self._recovery_seconds = pointer_seconds, recovery_seconds
        self._longest_seconds = 4 * store_seconds + 2.0
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.stale_seconds = 0.0

    def check(self, asked: Asked, answer: Answer, began: float, ended: float) -> None:
        """Notes what is wrong with an answer, if anything; ``began`` and ``ended`` are ``time.monotonic``."""
        counted: Counter[str] = Counter([str(answer.status)])
        try:
            if ended - began > self._longest_seconds:
                raise Wrong(f"the answer took {ended - began:.1f} s, which is more than {self._longest_seconds:g}")
            number = self._generation(asked, answer, began, ended, counted)
            if number is not None:
                possible = self._hold_to_time(number, began, ended)
                # Where another one may have been served as well, the request may have been compared with that.
                if answer.status == 200 and number in map(tagged, asked.etags) and len(possible) == 1:
                    raise Wrong("304 was due")
        except (Wrong, KeyError, ValueError) as wrong:
            self.note(f"{answer.status} for {_short(asked)}: {wrong!r}: {answer.body[:200]!r}")
        with self._lock:
            self.counts += counted

    def note(self, wrong: str) -> None:
        with self._lock:
            self.wrong.append(wrong)

    def _generation(
        self, asked: Asked, answer: Answer, began: float, ended: float, counted: Counter[str]
    ) -> int | None:
        """The generation the answer is of, all of whose contents are that generation's; None for a 503."""
        if answer.status == 503:
            self._excused(answer, began, ended)
            return None
        if answer.status == 304:
            number = _not_modified(asked, answer)
            if not self._shop.holds(number, asked.customer_ids[0]):
                raise Wrong("304 for who has no prediction")
            return number
        if answer.status == 404 and not asked.together:
            return self._missing(asked, answer)
        if answer.status != 200:
            raise Wrong("accepted are 200, 304, 404, and 503 while the store is away")
        number = self._together(asked, answer, counted) if asked.together else self._one(asked, answer)
        counted["rows"] += 0 if asked.together else 1
        return number

    def _one(self, asked: Asked, answer: Answer) -> int:
        row = answer.json()
        number, etag = number_of(row["generation"]), answer.header("etag")
        if row != self._shop.row(number, asked.customer_ids[0]) or not self._shop.holds(number, asked.customer_ids[0]):
            raise Wrong("not what was published")
        if tagged(etag) != number:
            raise Wrong(f"the entity tag is {etag}")
        return number

    def _together(self, asked: Asked, answer: Answer, counted: Counter[str]) -> int:
        content = answer.json()
        number = number_of(content["generation"])
        known = [each for each in asked.customer_ids if self._shop.holds(number, each)]
        if content["found"] != [self._shop.row(number, each) for each in known]:
            raise Wrong("the rows found are not what was published")
        if content["missing"] != [each for each in asked.customer_ids if each not in set(known)]:
            raise Wrong("the missing are not those that were not published")
        counted["rows"] += len(known)
        return number

    def _missing(self, asked: Asked, answer: Answer) -> int:
        content = _problem(answer, "no_prediction")
        number = number_of(_NAMED.match(content["detail"])[1])  # type: ignore[index]
        if self._shop.holds(number, asked.customer_ids[0]):
            raise Wrong("the generation has a prediction")
        return number

    def _excused(self, answer: Answer, began: float, ended: float) -> None:
        _problem(answer, "store_unavailable")
        if not (answer.header("retry-after") or "").isdecimal():
            raise Wrong("no Retry-After")
        if not self._history.away_between(began, ended, self._recovery_seconds):
            raise Wrong("the store was not away")

    def _hold_to_time(self, number: int, began: float, ended: float) -> dict[int, float | None]:
        """Those that were current at some moment since the pointer may have been read; the generation must be one of them."""
        possible = self._history.current_between(began - self._pointer_seconds - SLACK_SECONDS, ended)
        if number not in possible:
            raise Wrong(f"generation {number} was not current then: {', '.join(map(str, possible))}")
        until = possible[number]
        if until is not None:
            with self._lock:
                self.stale_seconds = max(self.stale_seconds, began - until)
        return possible


def _not_modified(asked: Asked, answer: Answer) -> int:
    etag = answer.header("etag")
    if etag is None or etag not in asked.etags or answer.body:
        raise Wrong(f"304 with {etag} and {len(answer.body)} bytes, where If-None-Match was {asked.etags}")
    return tagged(etag)


def _problem(answer: Answer, code: str) -> Any:
    content = answer.json()
    if answer.header("content-type") != PROBLEM or (content["status"], content["code"]) != (answer.status, code):
        raise Wrong(f"not the problem {code}")
    return content


def _short(asked: Asked) -> str:
    if not asked.together:
        return f"customer {asked.customer_ids[0]}" + (f" if not {asked.etags}" if asked.etags else "")
    return f"{len(asked.customer_ids)} customers from {asked.customer_ids[0]} on"
