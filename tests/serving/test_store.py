"""Which generations expire, whatever the store."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from serving.store import BEING_STAGED, Generation, State, expendable
from tests.serving.store_contract import AS_OF, START, generation

days = st.integers(0, 20)
generations = st.builds(
    lambda name, as_of, state, begun, published: Generation(
        name, AS_OF + timedelta(as_of), 90, "m1", state, begun_at=START + timedelta(begun),
        published_at=START + timedelta(published) if state is not State.STAGED and published is not None else None,
    ),
    st.sampled_from("abcdefgh"), st.integers(-3, 3), st.sampled_from(State), days, days | st.none(),
)  # fmt: skip


@given(st.lists(generations, unique_by=lambda g: g.name), st.integers(0, 3), days)
def test_what_is_spared(several: list[Generation], keep: int, day: int) -> None:
    now = START + timedelta(days=day)
    current = next((g for g in several if g.state is State.SEALED), None)
    gone = expendable(current, several, keep, now)
    names = {g.name for g in gone}
    stays = [g for g in several if g.name not in names]
    assert len(names) == len(gone)
    assert {g.name for g in several if g.state is State.DELETING} <= names
    if current is None:
        assert all(g.state is State.DELETING for g in gone)
        return
    assert current in stays
    served = [g for g in several if g is not current and g.state is not State.DELETING and g.was_current()]
    kept = [g for g in served if g in stays]
    assert len(kept) == min(keep, len(served))
    assert all(k.published_at >= g.published_at for k in kept for g in served if g in gone)  # type: ignore[operator]
    for g in several:
        if g.state is not State.DELETING and not g.was_current() and now - (g.begun_at or now) <= BEING_STAGED:
            assert g in stays, "somebody may be staging it"


def test_an_attempt_begun_after_its_generation_was_served_has_not_been_served() -> None:
    """Else a generation being published anew would count among those to keep, or expire, as if it were whole."""
    begun = Generation(
        "g1", date(2011, 12, 1), 90, "m1", begun_at=START + timedelta(hours=1), published_at=START, attempt=2
    )
    assert not begun.was_current()
    current = generation("g2")
    assert expendable(current, [current, begun], 0, START + timedelta(hours=2)) == []
    assert expendable(current, [current, begun], 5, START + timedelta(hours=26)) == [begun]
