"""Schedules that chance alone finds seldom: a worker stands still at each of its calls while others reopen a refresh."""

from __future__ import annotations

from collections.abc import Iterator

from tests.orchestration.refresh.schedules import BASIC, TO_THE_END, Schedule, Step

START: Step = ("go", 0, "start", 0, TO_THE_END)
NEXT: Step = ("go", 0, "start", 1, TO_THE_END)
ROLLBACK: Step = ("go", 3, "rollback", 0, TO_THE_END)


def tick(slot: int, day: int, calls: int = TO_THE_END) -> Step:
    return ("go", slot, "tick", day, calls)


def an_end_seen_long_ago() -> Iterator[Schedule]:
    """A tick saw that an import failed, and stands still while a retry makes another."""
    failed = (
        ("fault", "CreateDatasetImportJob", "create_failed", 1),
        START,
        tick(0, 0),
        ("pass", 1_300),
        tick(0, 0, 9),
    )
    for calls in range(1, 8):
        retried = (("crash", 0), tick(1, 0, calls), ("go", 2, "retry", 0, TO_THE_END), tick(2, 0))
        yield Schedule(BASIC, (*failed, *retried, tick(1, 0), NEXT, tick(0, 1)))


def a_turn_about_to_be_taken() -> Iterator[Schedule]:
    """The next refresh saw that a deployment was over, and stands still before it takes the turn, while that is undone."""
    deploys = (START, ("settle", 9), NEXT)
    trains: tuple[Step, ...] = (tick(0, 1), ("pass", 1_300), tick(0, 1), ("pass", 3_700))
    for last in range(7, 11):
        for calls in range(4, 16):
            undone = (tick(1, 0, last), ("crash", 1), tick(0, 1, calls), ROLLBACK, tick(2, 0, 12))
            yield Schedule(BASIC, (*deploys, *trains, *undone, tick(0, 1), tick(2, 0)))


def directed() -> list[Schedule]:
    return [*an_end_seen_long_ago(), *a_turn_about_to_be_taken()]
