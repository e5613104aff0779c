"""Answers of one generation, not too old, with nobody missed: whatever happens while they are made."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from serving.store import Generation
from tests.serving.service import at_most
from tests.serving.stepped_reader import SECONDS, History, Request, SteppedReader, key_of

CUSTOMERS = ["a", "b", "c", "d"]


@pytest.fixture
def stepped() -> Iterator[SteppedReader]:
    stepped = SteppedReader(rows_kept=100)
    with at_most(30):
        yield stepped
    stepped.close()


def answered(stepped: SteppedReader, *customers: str) -> tuple[str | None, set[str]]:
    request = stepped.ask(list(customers))
    stepped.settle()
    return outcome(request)


def outcome(request: Request) -> tuple[str | None, set[str]]:
    answer = request.answering.result()
    return answer.generation.name if answer.generation else None, set(answer.rows)


def reads(stepped: SteppedReader) -> int:
    return stepped.threads.calls


def test_nothing_published(stepped: SteppedReader) -> None:
    assert answered(stepped, "a") == (None, set())


def test_a_row_is_read_once(stepped: SteppedReader) -> None:
    stepped.history.publish("g1", 1, "ab", None)
    for _ in range(3):
        assert answered(stepped, "a", "b", "a") == ("g1", {"a", "b"})
    assert (reads(stepped), stepped.reader.figures.asked, stepped.reader.figures.remembered) == (1, 2, 4)


def test_a_switch_is_seen_in_time_and_no_row_outlives_its_generation(stepped: SteppedReader) -> None:
    stepped.history.publish("g1", 1, "ab", None)
    assert answered(stepped, "a") == ("g1", {"a"})
    stepped.history.publish("g2", 1, "b", None)
    stepped.history.seconds += SECONDS + 0.1
    assert answered(stepped, "a") == ("g2", set())
    assert answered(stepped, "b") == ("g2", {"b"})


def test_a_rollback_is_a_switch_like_any_other(stepped: SteppedReader) -> None:
    first = stepped.history.publish("g1", 1, "a", None)
    answered(stepped, "a")
    stepped.history.publish("g2", 1, "b", None)
    stepped.history.seconds += SECONDS + 0.1
    assert answered(stepped, "b") == ("g2", {"b"})
    stepped.history.point(first)
    stepped.history.seconds += SECONDS + 0.1
    assert answered(stepped, "a", "b") == ("g1", {"a"})


def test_a_later_attempt_is_another_generation(stepped: SteppedReader) -> None:
    stepped.history.publish("g1", 1, "ab", None)
    answered(stepped, "a")
    stepped.history.publish("g1", 2, "b", None)
    stepped.history.seconds += SECONDS + 0.1
    assert answered(stepped, "a", "b") == ("g1", {"b"})


def test_a_replayed_row_is_seen_at_once_and_what_was_remembered_stays(stepped: SteppedReader) -> None:
    served = stepped.history.publish("g1", 1, "a", None)
    assert answered(stepped, "a", "b") == ("g1", {"a"})
    stepped.history.add(served, "b")
    assert answered(stepped, "a", "b") == ("g1", {"a", "b"})
    stepped.history.amend()
    stepped.history.seconds += SECONDS + 0.1
    asked = stepped.reader.figures.asked
    assert answered(stepped, "a", "b") == ("g1", {"a", "b"})
    assert stepped.reader.figures.asked == asked, "the figures of the record changed, the rows did not"


def test_no_answer_after_the_end(stepped: SteppedReader) -> None:
    stepped.history.publish("g1", 1, "a", lives_seconds=60.0)
    assert answered(stepped, "a") == ("g1", {"a"})
    stepped.history.seconds += 59.9
    assert answered(stepped, "a") == ("g1", {"a"})
    stepped.history.seconds += 0.1
    assert answered(stepped, "a") == (None, set()), "though pointer and row are remembered"
    assert answered(stepped, "b") == (None, set())


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_no_more_rows_are_remembered_than_asked_for(kept: int) -> None:
    stepped = SteppedReader(rows_kept=kept)
    stepped.history.publish("g1", 1, CUSTOMERS, None)
    assert answered(stepped, *CUSTOMERS) == ("g1", set(CUSTOMERS))
    assert len(stepped.reader._kept.rows) == kept
    stepped.close()


def test_the_row_not_asked_for_the_longest_goes_first() -> None:
    stepped = SteppedReader(rows_kept=2)
    stepped.history.publish("g1", 1, CUSTOMERS, None)
    for customer in ("a", "b", "a", "c"):
        answered(stepped, customer)
    assert list(stepped.reader._kept.rows) == ["a", "c"]
    stepped.close()


def test_a_miss_is_believed_only_after_the_pointer_was_read_again(stepped: SteppedReader) -> None:
    """The generation is replaced and deleted between the readings of pointer and rows, as a slow reader meets it."""
    first = stepped.history.publish("g1", 1, "ab", None)
    answered(stepped, "a")
    request = stepped.ask(["a", "b"])
    stepped.turn(3)
    stepped.history.publish("g2", 1, "ab", None)
    stepped.history.forget(key_of(first), "ab")
    stepped.settle()
    assert outcome(request) == ("g2", {"a", "b"})


def test_a_miss_asks_for_the_pointer_once_more_each_time(stepped: SteppedReader) -> None:
    stepped.history.publish("g1", 1, "a", None)
    answered(stepped, "a")
    for _ in range(3):
        request = stepped.ask(["nobody"])
        stepped.turn(3)
        stepped.threads.do(0)
        stepped.threads.hand_over(0)
        stepped.turn(3)
        assert len(stepped.threads.under_way) == 1 and not request.answering.done()
        stepped.settle()
        assert outcome(request) == ("g1", set())


def test_the_pointer_moving_all_the_time_is_followed(stepped: SteppedReader) -> None:
    stepped.history.publish("g0", 1, "a", None)
    request = stepped.ask(["a", "nobody"])
    for number in range(1, 8):
        before = stepped.history.pointer
        stepped.turn(3)
        while stepped.threads.under_way:
            stepped.threads.do(0)
        stepped.history.publish(f"g{number}", 1, "a", None)
        assert before is not None
        stepped.history.forget(key_of(before), "a")
        while stepped.threads.done:
            stepped.threads.hand_over(0)
    stepped.settle()
    assert outcome(request) == ("g7", {"a"})


def test_rows_that_come_late_are_not_remembered_as_the_next_generations() -> None:
    stepped = SteppedReader(rows_kept=100, threads=2)
    stepped.history.publish("g1", 1, "ab", None)
    answered(stepped, "b")
    late = stepped.ask(["a"])
    stepped.turn(3)
    stepped.threads.do(0)  # read, and not handed over yet
    stepped.history.publish("g2", 1, "abc", None)
    stepped.history.seconds += SECONDS + 0.1
    next_one = stepped.ask(["c"])
    stepped.turn(3)
    stepped.threads.do(0)
    stepped.threads.hand_over(1)
    stepped.turn(3)  # g2 is what is remembered from now on
    stepped.settle()
    assert (outcome(late), outcome(next_one)) == (("g1", {"a"}), ("g2", {"c"}))
    assert answered(stepped, "a", "b", "c") == ("g2", {"a", "b", "c"})
    stepped.close()


def test_an_error_is_told_once_and_not_remembered(stepped: SteppedReader) -> None:
    stepped.history.publish("g1", 1, "a", None)
    request = stepped.ask(["a"])
    stepped.turn(3)
    stepped.threads.do(0, failing=True)
    stepped.threads.hand_over(0)
    stepped.turn(5)
    assert request.answering.exception() is not None
    assert answered(stepped, "a") == ("g1", {"a"})


# What can happen between any two steps of an answer, to what is served. g1 is, at first.
def _switch(history: History) -> None:
    history.publish("g2", 1, "abc", None)


def _switch_and_delete(history: History) -> None:
    before = history.pointer
    assert before is not None
    history.publish(f"{before.name}x", 1, "ac", None)
    history.forget(key_of(before), CUSTOMERS)


def _switch_and_delete_half(history: History) -> None:
    before = history.pointer
    assert before is not None
    history.publish(f"{before.name}y", 1, "ad", None)
    history.forget(key_of(before), "a")


def _roll_back(history: History) -> None:
    first = next(served for _, _, served in history.pointed if served)
    history.point(first)


def _replay(history: History) -> None:
    assert history.pointer is not None
    history.add(history.pointer, "d")
    history.amend()


def _time_passes(history: History) -> None:
    history.seconds += SECONDS + 0.1


EVENTS = (_switch, _switch_and_delete, _switch_and_delete_half, _roll_back, _replay, _time_passes)


def is_possible(events: tuple[Callable[[History], None], ...]) -> bool:
    """What was deleted cannot be rolled back to."""
    deleting = [index for index, event in enumerate(events) if event in (_switch_and_delete, _switch_and_delete_half)]
    return _roll_back not in events[deleting[0] :] if deleting else True


@pytest.mark.parametrize("warm", [False, True])
def test_every_pair_of_events_at_every_pair_of_steps(warm: bool) -> None:
    """Exhaustively: an answer's steps are turns of the loop, readings of the store and hand-overs by the threads."""
    steps = 9
    for events in filter(is_possible, itertools.product(EVENTS, repeat=2)):
        for places in itertools.combinations_with_replacement(range(steps), 2):
            stepped = SteppedReader(rows_kept=100)
            stepped.history.publish("g1", 1, "abc", None)
            if warm:
                answered(stepped, "a", "b")
            due = list(zip(places, events, strict=True))
            for step in range(steps):
                if step == 1:
                    stepped.ask(["a", "b", "d"])
                if step == 3:
                    stepped.ask(["c", "a"])
                for place, event in due:
                    if place == step:
                        event(stepped.history)
                if step % 3 == 0:
                    stepped.turn(2)
                elif step % 3 == 1 and stepped.threads.under_way:
                    stepped.threads.do(0)
                elif stepped.threads.done:
                    stepped.threads.hand_over(0)
            stepped.settle()
            stepped.ask(CUSTOMERS)
            stepped.settle()
            stepped.close()


class AnyOrder(RuleBasedStateMachine):
    """Publishes, rollbacks, deletions, replays, failures and requests in any order, at any pace of threads and loop."""

    def __init__(self) -> None:
        super().__init__()
        self.stepped = SteppedReader(rows_kept=3, threads=2)
        self.history = self.stepped.history
        self.living: list[Generation] = []
        self.number = 0

    @rule(customers=st.sets(st.sampled_from(CUSTOMERS)), lives=st.sampled_from([None, None, 12.0]), again=st.booleans())
    def publish(self, customers: set[str], lives: float | None, again: bool) -> None:
        self.number += 1
        current = self.history.pointer
        name = current.name if again and current else f"g{self.number}"
        self.living.append(self.history.publish(name, self.number, customers, lives))

    @precondition(lambda self: self.living)
    @rule(index=st.integers(0, 9))
    def roll_back(self, index: int) -> None:
        self.history.point(self.living[index % len(self.living)])

    @precondition(lambda self: len(self.living) > 1)
    @rule(index=st.integers(0, 9), customers=st.sets(st.sampled_from(CUSTOMERS)))
    def delete(self, index: int, customers: set[str]) -> None:
        """Row by row; nobody switches to it any more."""
        dying = self.living[index % len(self.living)]
        if self.history.pointer and key_of(dying) != key_of(self.history.pointer):
            self.living = [each for each in self.living if key_of(each) != key_of(dying)]
            self.history.forget(key_of(dying), customers)

    @precondition(lambda self: self.history.pointer)
    @rule(customer=st.sampled_from(CUSTOMERS), amend=st.booleans())
    def replay(self, customer: str, amend: bool) -> None:
        assert self.history.pointer is not None
        self.history.add(self.history.pointer, customer)
        if amend:
            self.history.amend()

    @rule(customers=st.lists(st.sampled_from([*CUSTOMERS, "nobody"]), min_size=1, max_size=4))
    def ask(self, customers: list[str]) -> None:
        self.stepped.ask(customers)

    @precondition(lambda self: self.stepped.requests)
    @rule(index=st.integers(0, 9))
    def go_away(self, index: int) -> None:
        request = self.stepped.requests[index % len(self.stepped.requests)]
        request.cancelled = request.answering.cancel() or request.cancelled

    @rule(seconds=st.sampled_from([0.5, SECONDS * 0.6, SECONDS, SECONDS + 0.1]))
    def time_passes(self, seconds: float) -> None:
        self.history.seconds += seconds

    @rule(count=st.integers(1, 3))
    def turn(self, count: int) -> None:
        with at_most(10):
            self.stepped.turn(count)

    @precondition(lambda self: self.stepped.threads.under_way)
    @rule(index=st.integers(0, 9), failing=st.sampled_from([False, False, False, True]))
    def a_thread_reads(self, index: int, failing: bool) -> None:
        self.stepped.threads.do(index % len(self.stepped.threads.under_way), failing)

    @precondition(lambda self: self.stepped.threads.done)
    @rule(index=st.integers(0, 9))
    def a_thread_hands_over(self, index: int) -> None:
        self.stepped.threads.hand_over(index % len(self.stepped.threads.done))

    def teardown(self) -> None:
        with at_most(10):
            self.stepped.settle()
            self.stepped.ask(CUSTOMERS)
            self.stepped.settle()
        self.stepped.close()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=60)
