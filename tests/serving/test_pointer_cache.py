"""Which generation is served: how old an answer may be, and how often the store is asked for it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from serving.pointer_cache import PointerCache
from serving.store import Generation, StoreFailed
from tests.serving.service import at_most, turns
from tests.serving.store_contract import generation

G1, G2 = generation("g1"), generation("g2")
SECONDS = 10.0


class World:
    """A cache of ``SECONDS``, its clock, and its readings, which end when told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.readings: list[asyncio.Future[Generation | None]] = []
        self.cache = PointerCache(self._read, SECONDS, lambda: self.now)

    def _read(self) -> asyncio.Future[Generation | None]:
        self.readings.append(asyncio.get_running_loop().create_future())
        return self.readings[-1]

    async def end(self, found: Generation | Exception | None) -> None:
        """Of the latest reading."""
        await turns()
        if isinstance(found, Exception):
            self.readings[-1].set_exception(found)
        else:
            self.readings[-1].set_result(found)
        await turns()

    async def know(self, found: Generation | None) -> None:
        getting = asyncio.create_task(self.cache.get())
        await turns()
        await self.end(found)
        assert await getting is found


def in_a_world(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        with at_most(20):
            asyncio.run(test(World()))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@in_a_world
async def test_many_who_ask_at_once_wait_for_one_reading(world: World) -> None:
    getting = [asyncio.create_task(world.cache.get()) for _ in range(50)]
    await turns()
    assert len(world.readings) == 1
    await world.end(G1)
    assert [each.result() for each in getting] == [G1] * 50
    assert await world.cache.get() is G1
    assert len(world.readings) == 1


@in_a_world
async def test_that_nothing_is_published_is_remembered_too(world: World) -> None:
    await world.know(None)
    assert await world.cache.get() is None
    assert len(world.readings) == 1


@in_a_world
async def test_age_counts_from_the_begin_of_the_reading(world: World) -> None:
    getting = asyncio.create_task(world.cache.get())
    await turns()
    world.now += SECONDS - 1  # so long does the store take
    await world.end(G1)
    assert await getting is G1
    assert world.cache.age_seconds == SECONDS - 1
    world.now += 1.5
    getting = asyncio.create_task(world.cache.get())
    await turns()
    assert not getting.done(), "what it knows is older than it may be"
    await world.end(G2)
    assert await getting is G2


@in_a_world
async def test_an_answer_exactly_as_old_as_it_may_be_is_used_and_no_older_one(world: World) -> None:
    await world.know(G1)
    world.now += SECONDS
    assert world.cache.fresh()
    assert await world.cache.get() is G1
    await world.end(StoreFailed("away"))
    world.now += 0.001
    assert not world.cache.fresh()
    getting = asyncio.create_task(world.cache.get())
    await turns()
    assert not getting.done()
    await world.end(G2)
    assert await getting is G2


@in_a_world
async def test_from_half_of_the_age_on_it_is_read_in_the_background(world: World) -> None:
    await world.know(G1)
    world.now += SECONDS / 2
    assert await world.cache.get() is G1
    await turns()
    assert len(world.readings) == 1
    world.now += 0.1
    for _ in range(3):
        assert await world.cache.get() is G1, "nobody waits for it"
        await turns()
    assert len(world.readings) == 2
    await world.end(G2)
    assert await world.cache.get() is G2
    assert len(world.readings) == 2


@in_a_world
async def test_a_failed_background_reading_is_tried_again_and_told_to_nobody_in_time(world: World) -> None:
    await world.know(G1)
    world.now += SECONDS * 0.6
    assert await world.cache.get() is G1
    await turns()
    await world.end(StoreFailed("away"))
    assert await world.cache.get() is G1, "it is not too old yet"
    await turns()
    assert len(world.readings) == 3
    await world.end(G2)
    assert await world.cache.get() is G2


@in_a_world
async def test_errors_reach_all_who_wait_and_are_not_remembered(world: World) -> None:
    getting = [asyncio.create_task(world.cache.get()) for _ in range(3)]
    await turns()
    await world.end(StoreFailed("away"))
    for each in getting:
        with pytest.raises(StoreFailed, match="away"):
            await each
    await world.know(G1)
    assert len(world.readings) == 2


@in_a_world
async def test_what_is_too_old_is_not_used_where_the_store_fails(world: World) -> None:
    await world.know(G1)
    world.now += SECONDS + 1
    getting = asyncio.create_task(world.cache.get())
    await turns()
    await world.end(StoreFailed("away"))
    with pytest.raises(StoreFailed):
        await getting
    assert world.cache.known is G1, "figures may still show it"


@in_a_world
async def test_a_burst_after_an_idle_time_waits_for_one_reading(world: World) -> None:
    await world.know(G1)
    world.now += 3600
    getting = [asyncio.create_task(world.cache.get()) for _ in range(50)]
    await turns()
    assert not any(each.done() for each in getting)
    await world.end(G2)
    assert [each.result() for each in getting] == [G2] * 50
    assert len(world.readings) == 2


@in_a_world
async def test_a_reading_that_takes_longer_than_an_answer_may_be_old_still_serves_who_asked_for_it(
    world: World,
) -> None:
    getting = asyncio.create_task(world.cache.get())
    await turns()
    world.now += 3 * SECONDS
    await world.end(G1)
    assert getting.done() and await getting is G1
    assert len(world.readings) == 1


@in_a_world
async def test_since_a_moment_means_a_reading_that_began_after_it(world: World) -> None:
    first = asyncio.create_task(world.cache.get())
    await turns()
    world.now += 1
    since = [asyncio.create_task(world.cache.get_since(world.now)) for _ in range(5)]
    await turns()
    await world.end(G1)
    assert first.done() and await first is G1
    assert not any(each.done() for each in since), "that reading began before"
    assert len(world.readings) == 2
    await world.end(G2)
    assert [each.result() for each in since] == [G2] * 5
    assert await world.cache.get_since(world.now) is G2
    assert len(world.readings) == 2


@in_a_world
async def test_a_reading_that_ends_in_the_turn_in_which_a_newer_one_is_wanted(world: World) -> None:
    """As it happens when a thread hands over the pointer, and another one rows with a customer missing, at once."""
    first = asyncio.create_task(world.cache.get())
    await turns()
    world.now += 1
    handed_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def then_since() -> Generation | None:
        await handed_over
        return await world.cache.get_since(world.now)

    since = asyncio.create_task(then_since())
    await turns()
    world.readings[0].set_result(G1)
    handed_over.set_result(None)
    await turns()
    assert first.done() and len(world.readings) == 2
    await world.end(G2)
    assert await since is G2


@in_a_world
async def test_an_error_is_not_told_to_who_asks_in_the_turn_in_which_it_came(world: World) -> None:
    first = asyncio.create_task(world.cache.get())
    await turns()
    handed_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def then_get() -> Generation | None:
        await handed_over
        return await world.cache.get()

    later = asyncio.create_task(then_get())
    await turns()
    world.readings[0].set_exception(StoreFailed("away"))
    handed_over.set_result(None)
    await turns()
    with pytest.raises(StoreFailed):
        await first
    assert not later.done() and len(world.readings) == 2
    await world.end(G1)
    assert await later is G1


@in_a_world
async def test_who_goes_away_does_not_take_the_reading_from_others(world: World) -> None:
    getting = [asyncio.create_task(world.cache.get()) for _ in range(3)]
    await turns()
    getting[0].cancel()
    await turns()
    await world.end(G1)
    assert getting[0].cancelled()
    assert [each.result() for each in getting[1:]] == [G1] * 2
    assert len(world.readings) == 1


@in_a_world
async def test_an_error_that_nobody_waits_for_any_more_is_no_complaint(world: World) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    getting = asyncio.create_task(world.cache.get())
    await turns()
    getting.cancel()
    await turns()
    await world.end(StoreFailed("away"))
    again = asyncio.create_task(world.cache.get())  # lets go of the failed one
    await turns()
    gc.collect()
    await world.end(G1)
    assert (await again, complaints) == (G1, [])


@in_a_world
async def test_the_same_generation_stays_the_same_object(world: World) -> None:
    """So that requests of before and after a reading are put together."""
    await world.know(G1)
    world.now += SECONDS + 1
    getting = asyncio.create_task(world.cache.get())
    await turns()
    await world.end(replace(G1))
    assert await getting is G1
    world.now += SECONDS + 1
    await world.know(replace(G1, attempt=2))


@in_a_world
async def test_nothing_is_infinitely_old(world: World) -> None:
    assert (world.cache.known, world.cache.age_seconds, world.cache.fresh()) == (None, float("inf"), False)
    world.now += 1
    await world.know(G1)
    assert world.cache.age_seconds == 0
