"""Any order of events, any number of workers, any failure at any moment: the invariants hold (see ``invariants.py``).

The real worker, machine and Personalize adapter above the local Personalize, in one thread and a virtual time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.orchestration.refresh import invariants
from tests.orchestration.refresh.directed import NEXT, directed, tick
from tests.orchestration.refresh.schedules import BASIC, TO_THE_END, Run, Schedule, Step, drawn, failure, smallest
from tests.orchestration.refresh.world import DAYS, DataPlan, Setup

KINDS = ("ordinary", "outsiders", "stalls")
# In 1,000 schedules at least so many of each: a test that does nothing must not pass.
_LEAST = {
    "CreateDatasetImportJob": 800, "CreateSolutionVersion": 700, "UpdateCampaign": 500, "state started": 1_500,
    "state deployment_active": 300, "state superseded": 500, "state rejected": 250, "state rolled_back": 30, "state skipped": 3,
    "state rollback_failed": 5, "state import_failed": 40, "state training_failed": 30, "state training_stopped": 30,
    "state deployment_failed": 30, "adoptions": 250, "conflicts": 1_000, "crashes": 700, "opened again": 100,
    "duplicate starts": 500, "events repeated": 150, "ledger replies lost": 100, "ledger requests lost": 100,
    "requests delayed": 200, "time-outs": 80, "trainings stopped": 40,
}  # fmt: skip


def _run_many(schedules: int) -> Counter[str]:
    """So many random schedules; the first that fails is cut down and shown."""
    counts: Counter[str] = Counter()

    @settings(
        max_examples=schedules,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(kind=st.sampled_from((*KINDS, "ordinary")), seed=st.integers(0, 2**63))
    def one(kind: str, seed: int) -> None:
        schedule = drawn(seed, kind)
        run = Run(schedule)
        try:
            counts.update(run.all())
        except Exception as error:
            least = smallest(schedule)
            pytest.fail(
                f"{kind} {seed}: {error}\nthe smallest that fails like that:\n{least}\n{failure(least)}", pytrace=False
            )

    one()
    return counts


def _must_have_happened(counts: Counter[str], schedules: int) -> None:
    print("\n" + "\n".join(f"{number:>8,} {what}" for what, number in sorted(counts.items())))
    missing = {what: (counts[what], least) for what, least in _LEAST.items() if counts[what] < least * schedules / 1000}
    assert not missing, f"too few of what was to be tried, (found, least): {missing}"


def test_some_schedules() -> None:
    counts = _run_many(300)
    # Rare things are left to the many.
    assert all(
        counts[what] for what in ("state deployment_active", "state superseded", "adoptions", "conflicts", "crashes")
    )


@pytest.mark.refresh
def test_many_schedules() -> None:
    counts = _run_many(10_000)
    assert counts["schedules"] >= 10_000
    _must_have_happened(counts, 10_000)


def test_whoever_stands_still_while_a_refresh_is_opened_again_takes_no_turn() -> None:
    for schedule in directed():
        assert failure(schedule) is None, str(schedule)


def test_a_number_is_always_the_same_schedule() -> None:
    assert drawn(7, "stalls") == drawn(7, "stalls")
    assert Run(drawn(7)).all() == Run(drawn(7)).all()


def _schedule(*steps: Step, setup: Setup = BASIC) -> Schedule:
    return Schedule(setup, steps)


_DEPLOYED: tuple[Step, ...] = (("go", 0, "start", 0, TO_THE_END), ("settle", 12))


def test_the_ordinary_day_is_a_deployment() -> None:
    run = Run(_schedule(*_DEPLOYED))
    counts = run.all()
    assert counts["state deployment_active"] == counts["UpdateCampaign"] == 1
    assert counts["conflicts"] == counts["adoptions"] == 0


def test_a_failing_schedule_is_cut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(invariants.ALLOWED, "training_active", set())
    failing = next(each for each in map(drawn, range(50)) if "is not in the picture" in (failure(each) or ""))
    least = smallest(failing)
    assert "training_active -> " in (failure(least) or "")
    assert len(least.steps) <= 6, str(least)


_SWEEP: Step = ("go", 1, "sweep", 0, TO_THE_END)
_ROLLBACK: Step = ("go", 3, "rollback", 0, TO_THE_END)


@pytest.mark.parametrize("calls", (2, 6, 10))
def test_a_turn_that_is_given_up_between_two_reads_is_no_turn(calls: int) -> None:
    deployed = (("go", 0, "start", 0, TO_THE_END), ("settle", 9))
    stands_still = ("go", 2, "tick", 0, calls)
    assert failure(_schedule(*deployed, stands_still, _SWEEP, _ROLLBACK, ("go", 2, "tick", 0, TO_THE_END))) is None


@pytest.mark.parametrize("calls", (3, 4, 5))
def test_of_two_rollbacks_at_once_one_rolls_back(calls: int) -> None:
    steps = (("go", 1, "rollback", 0, calls), _ROLLBACK, ("go", 2, "tick", 0, 9), ("go", 1, "rollback", 0, TO_THE_END))
    assert failure(_schedule(*_DEPLOYED, *steps)) is None


@pytest.mark.parametrize("calls", (2, 3))
def test_of_two_retries_at_once_one_retries(calls: int) -> None:
    failed = (("fault", "CreateDatasetImportJob", "create_failed", 1), ("go", 0, "start", 0, TO_THE_END), ("settle", 3))
    both = (("go", 1, "retry", 0, calls), ("go", 2, "retry", 0, TO_THE_END), ("go", 3, "tick", 0, 8))
    later = (("go", 1, "retry", 0, TO_THE_END), ("go", 2, "start", 1, TO_THE_END), ("go", 2, "tick", 1, TO_THE_END))
    assert failure(_schedule(*failed, *both, *later)) is None


def test_a_first_deployment_that_was_too_late_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "KNOWN", frozenset())
    slow = ("fault", "UpdateCampaign", "slow", 1)
    assert failure(_schedule(("go", 0, "start", 0, TO_THE_END), slow, ("settle", 9))) is None


def test_an_import_that_was_too_late_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "KNOWN", frozenset())
    slow = ("fault", "CreateDatasetImportJob", "slow", 1)
    assert failure(_schedule(("go", 0, "start", 0, TO_THE_END), slow, ("settle", 1))) is None


_TOO_LATE = (
    ("go", 0, "start", 0, TO_THE_END), ("fault", "UpdateCampaign", "slow", 1), ("settle", 10), ("pass", 15_000), _SWEEP,
)  # fmt: skip


def test_a_version_is_compared_with_the_one_it_replaces() -> None:
    setup = replace(BASIC, plans=(DataPlan(gain=0.6), *(DataPlan(gain=0.5) for _ in DAYS[1:])))
    later = (("pass", 31_000), ("go", 0, "start", 1, TO_THE_END), ("settle", 20))
    assert failure(_schedule(*_TOO_LATE, *later, setup=setup)) is None


def test_a_deployment_that_was_too_late_and_is_retried_can_be_rolled_back() -> None:
    late = (("pass", 50_000), _SWEEP, ("pass", 50_000), _SWEEP, ("go", 1, "retry", 0, TO_THE_END), ("settle", 5))
    counts = Run(_schedule(*_TOO_LATE, *late, _ROLLBACK, ("settle", 5))).all()
    assert counts["state rolled_back"] == 1, counts


def test_a_rollback_waits_for_a_deployment_that_fails() -> None:
    later = (NEXT, ("settle", 8), ("fault", "UpdateCampaign", "create_failed", 1), tick(1, 1, 11))
    counts = Run(_schedule(*_DEPLOYED, *later, _ROLLBACK, tick(1, 1), ("settle", 5))).all()
    assert counts["state deployment_failed"] == counts["state rolled_back"] == 1, counts
