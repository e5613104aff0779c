"""The schedules notice a broken machine: each way to break it is found by some of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.orchestration.refresh.directed import directed
from tests.orchestration.refresh.mutations import MUTATIONS
from tests.orchestration.refresh.schedules import drawn, failure

pytestmark = pytest.mark.refresh
_MOST = 1_500  # schedules of each kind


def _found() -> str:
    for number, schedule in enumerate(directed()):
        if broken := failure(schedule):
            return f"directed {number}: {broken}"
    for seed in range(_MOST):
        for kind in ("ordinary", "outsiders", "stalls"):
            if broken := failure(drawn(seed, kind)):
                return f"{kind} {seed}: {broken}"
    return ""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[each.__name__ for each in MUTATIONS])
def test_a_mutation_is_found(mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    found = _found()
    assert found
    print(found)
