"""The ramp against a walk along its steps, and the budget against a clock that only sleeping moves."""

from __future__ import annotations

import math
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.rate_budget import BURST_SECONDS, Ramp, RateBudget
from transforms.errors import UsageError

BEGUN_AT = datetime(2024, 1, 1, tzinfo=UTC)
GOOGLES = Ramp(500, 50, 5)

ramps = st.builds(Ramp, st.floats(0.1, 1e4), st.sampled_from([0.0, 0.1, 1.0, 50.0, 300.0]), st.floats(0.1, 60))


def budget(ramp: Ramp | None, share: float = 1.0, already_seconds: float = 0.0) -> tuple[RateBudget, list[float]]:
    """A budget and its clock, which only sleeping moves."""
    clock = [1000.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    now = BEGUN_AT + timedelta(seconds=already_seconds)
    return RateBudget(ramp, BEGUN_AT, share, lambda: now, lambda: clock[0], sleep), clock


def written(ramp: Ramp, seconds: float) -> float:
    """The integral of the rate, step by step."""
    step, total, at = ramp.every_minutes * 60, 0.0, 0
    while at * step < seconds:
        total += ramp.start * (1 + ramp.growth_percent / 100) ** at * min(step, seconds - at * step)
        at += 1
    return total


class TestRamp:
    def test_googles_rule(self) -> None:
        assert Ramp.parse("500/50/5") == GOOGLES
        assert [GOOGLES.rate(seconds) for seconds in (-9, 0, 299, 300, 600, 3600)] == [
            500, 500, 500, 750, 1125, 500 * 1.5**12,
        ]  # fmt: skip
        assert GOOGLES.seconds_for(500 * 300 + 750 * 300 + 1125) == 601

    def test_off_is_no_ramp(self) -> None:
        assert Ramp.parse("off") is None

    def test_text_reads_back(self) -> None:
        assert str(Ramp.parse("500.5/0/2.25")) == "500.5/0/2.25"

    @pytest.mark.parametrize("text", ["", "500", "500/50", "0/50/5", "500/50/0", "-1/50/5", "500/50/5/1", "a/b/c", "٥/1/1", "nan/1/1", "1e400/1/1", "500/50/5\n", "OFF"])  # fmt: skip
    def test_anything_else_is_refused_in_one_line(self, text: str) -> None:
        with pytest.raises(UsageError, match=r"--ramp .* is not usable: accepted is START/PERCENT/MINUTES") as error:
            Ramp.parse(text)
        assert "\n" not in str(error.value)

    @given(ramps, st.floats(0, 1e5))
    def test_seconds_for_is_where_the_integral_of_the_rate_gets(self, ramp: Ramp, seconds: float) -> None:
        steps = seconds / (ramp.every_minutes * 60)
        if steps * math.log1p(ramp.growth_percent / 100) > 300:
            return
        assert ramp.seconds_for(written(ramp, seconds)) == pytest.approx(seconds, rel=1e-6, abs=1e-6)

    def test_weeks_later_there_is_no_limit_left(self) -> None:
        assert GOOGLES.rate(30 * 86400) == math.inf


class TestBudget:
    def test_at_500_a_second_a_commit_of_500_goes_each_second(self) -> None:
        shared, clock = budget(GOOGLES)
        sent = []
        for _ in range(100):
            shared.take(500)
            sent.append(clock[0] - 1000)
        assert sent == pytest.approx(list(range(100)))

    @given(
        ramps,
        st.floats(0.01, 1),
        st.floats(0, 3600),
        st.lists(st.tuples(st.integers(1, 500), st.floats(0, 3)), max_size=60),
    )
    def test_never_more_than_the_share_allows(
        self, ramp: Ramp, share: float, already: float, takes: list[tuple[int, float]]
    ) -> None:
        if already / (ramp.every_minutes * 60) * math.log1p(ramp.growth_percent / 100) > 300:
            return
        shared, clock = budget(ramp, share, already)
        begin, total = clock[0], 0.0
        for writes, idle in takes:
            clock[0] += idle
            shared.take(writes)
            total += writes
            now = already + clock[0] - begin
            allowed = share * (written(ramp, now) - written(ramp, max(0, already - BURST_SECONDS)))
            # What was begun before the ramp counts at its first rate, and the last commit is paid for afterwards.
            assert total - writes <= allowed + share * ramp.start * BURST_SECONDS + 1e-6 * total

    def test_no_time_is_lost(self) -> None:
        """Commit after commit takes as long as the plan says."""
        shared, clock = budget(GOOGLES)
        for _ in range(2000):
            shared.take(500)
        assert clock[0] - 1000 == pytest.approx(GOOGLES.seconds_for(2000 * 500), abs=3)

    def test_a_late_writer_catches_up_a_second_and_no_more(self) -> None:
        shared, clock = budget(Ramp(100, 0, 5))
        clock[0] += 60
        assert [shared.reserve(100) for _ in range(3)] == [0, 0, 1]

    def test_no_ramp_is_no_limit(self) -> None:
        shared, clock = budget(None)
        for _ in range(10):
            shared.take(10**9)
        assert clock[0] == 1000
        assert shared.at_once(500) == 500

    @pytest.mark.parametrize(("share", "at_once"), [(1, 500), (0.5, 250), (0.001, 1), (0.0039, 1), (0.004, 2)])
    def test_a_commit_is_no_more_than_a_seconds_worth(self, share: float, at_once: int) -> None:
        assert budget(GOOGLES, share)[0].at_once(500) == at_once

    def test_threads_share_it(self) -> None:
        shared, _ = budget(Ramp(1000, 0, 5))
        waits: list[float] = []
        threads = [
            threading.Thread(target=lambda: waits.extend(shared.reserve(10) for _ in range(200))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(waits) == pytest.approx([0.01 * n for n in range(800)])
