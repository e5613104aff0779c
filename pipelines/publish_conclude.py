"""The end of a publish: what was staged is sealed, judged and switched to, and former generations expire.

    staged -> the warehouse's staging -> seal -> guards -> switch -> the warehouse's partition -> expire

The command does it after its job. Where nobody waits for the job (``dataflow_options.waits``), it is the job's last
step, and an engine may run that step again after a failure, run it twice at once, or let a worker that it gave up do so
much later. Hence every part is asked what is there instead of remembering what was done:

    staging, seal   only while the generation's record says that this attempt is being staged. Twice at once both load
                    under one job id, and seal the same figures. Another attempt's record ends it: Superseded
    guards          read only, and compare with what was current at the beginning, so that a repeat judges alike; the
                    registry is asked anew, as its champion of the moment of the switch counts
    switch          left out once the attempt is current; asserts what was current at the beginning, and that the
                    generation has not become current since: after a rollback nobody is led forward again
    partition       reconciles with what the store says became current last, whoever asks
    expire          reached by who is current alone; deletions can be repeated
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.publish_options import Options
from transforms.errors import UsageError

if TYPE_CHECKING:
    from pipelines.publish_guards import Judgement, Verdict
    from pipelines.publish_stage import Staged
    from pipelines.warehouse import Warehouse
    from serving.store import Generation, Store


@dataclass(frozen=True)
class Conclusion:
    """What is left to do once a job has staged a generation; can be pickled, and run on any machine.

    Attributes:
      options: of the publish.
      begun: the generation as it was when its attempt had begun, or as it was found sealed.
      current: what was served before, if anything.
    """

    options: Options
    begun: Generation
    current: Generation | None

    def run(self, staged: Staged | None) -> dict[str, Any]:
        """As ``conclude``, with a store and a warehouse opened here."""
        from pipelines import publish_places

        warehouse = publish_places.open_warehouse(self.options.places)
        with publish_places.open_store(self.options.places, create=True) as store:
            return self.conclude(store, warehouse, staged)

    def conclude(self, store: Store, warehouse: Warehouse | None, staged: Staged | None) -> dict[str, Any]:
        """Does what is left to do; may be called again, whatever became of an earlier call.

        Args:
          staged: what the job counted, None where the generation was sealed before.

        Returns:
          ``generation, previous, rows, dead_letters`` (by reason), ``already_current, switched``.

        Raises:
          UsageError: the generation has no row, or belongs to another warehouse.
          GuardTripped: a guard that was not overridden.
          PointerMoved: a publish of something else won.
          Superseded: another publish of the same predictions took over.
          JobFailed: the store or the warehouse failed, or does not hold what was staged.
        """
        from pipelines import publish_places
        from pipelines.publish_places import say

        sealed = self._sealed(store, warehouse, staged)
        publish_places.require_same_warehouse(sealed, self.options.places)
        name, previous, current = sealed.name, self._previous, store.current()
        already = current is not None and (current.name, current.attempt) == (name, sealed.attempt)
        result = {
            "generation": name, "previous": previous, "rows": sealed.content.rows,
            "dead_letters": dict(sealed.dead_letters), "already_current": already, "switched": False,
        }  # fmt: skip
        if already:
            say(f"{name}: is the current generation already")
        else:
            judgement = guard(sealed, self.current, self.options)
            for line in judgement.lines():
                say(f"{name}: guard {line}")
            if self.options.stage_only:
                say(f"{name}: staged only; the same command without --stage_only switches to it")
                return result
            judgement.require()
            if warehouse:
                warehouse.can_publish(sealed)
            switch(store, name, previous, judgement.notes, self.begun)
            result["switched"] = True
            say(f"{name}: is current now; previous generation: {previous or 'none'}")
        complete(store, warehouse, name)
        expire(store, warehouse, self.options.keep_generations)
        return result

    @property
    def _previous(self) -> str | None:
        return self.current.name if self.current else None

    def _sealed(self, store: Store, warehouse: Warehouse | None, staged: Staged | None) -> Generation:
        """The attempt's sealed generation; seals it unless that is done.

        Raises:
          Superseded: there is another attempt, or none any more.
        """
        from serving.store import State, Superseded

        name, attempt = self.begun.name, self.begun.attempt
        found = store.find(name)
        if staged is not None and found and (found.state, found.attempt) == (State.STAGED, attempt):
            self._seal(store, warehouse, staged)
            found = store.find(name)
        if found is None or (found.state, found.attempt) != (State.SEALED, attempt):
            raise Superseded(name, attempt, found)
        return found

    def _seal(self, store: Store, warehouse: Warehouse | None, staged: Staged) -> None:
        from pipelines.publish_places import say

        name, content, letters = self.begun.name, staged.content, staged.dead_letters
        if warehouse:
            warehouse.stage(self.begun, [part["name"] for part in staged.parts], content.rows)
        store.seal(name, self.begun.attempt, content, letters)
        say(f"{name}: {content.rows} rows staged, {described(letters)}{_cost(staged)}")


def guard(sealed: Generation, current: Generation | None, options: Options) -> Judgement:
    """What the guards say of a staged generation.

    Raises:
      UsageError: it has no row at all, and would answer for nobody.
    """
    from pipelines import publish_guards

    if not sealed.content.rows:
        raise UsageError(
            f"generation {sealed.name} has no usable row ({described(sealed.dead_letters)}): what was current stays current"
        )
    return publish_guards.settle(verdicts(sealed, current, options), options.overrides)


def verdicts(new: Generation, current: Generation | None, options: Options) -> list[Verdict]:
    from pipelines import publish_guards

    answer = publish_guards.ask_registry(options.registry, new.model_version) if options.registry else None
    return publish_guards.judge(new, current, options.settings.guards, answer)


def switch(
    store: Store, name: str, previous: str | None, notes: Mapping[str, str], known: Generation | None = None
) -> None:
    """Moves the pointer from ``previous``; fine as well when another run of the same publish just did.

    What is published anew after its rows expired is ``previous`` itself: then the pointer shows no other generation
    when another run was first, and only what is ``known`` tells that it was.

    Raises:
      PointerMoved: a publish of something else won.
      WentBack: it became current since it was ``known``, and was left again.
    """
    from serving.store import PointerMoved, WentBack

    try:
        store.switch(name, previous, notes, known)
    except PointerMoved as lost:
        if lost.winner is None or lost.winner.name != name:
            raise
    except WentBack:
        if known is None or not _became_current(store.current(), known):
            raise


def _became_current(current: Generation | None, known: Generation) -> bool:
    """Whether the attempt ``known`` is what is served, and has become so since it began."""
    if current is None or (current.name, current.attempt) != (known.name, known.attempt):
        return False
    return bool(current.published_at and known.begun_at and current.published_at > known.begun_at)


def complete(store: Store, warehouse: Warehouse | None, name: str) -> None:
    """Has the warehouse follow the switch to a generation; nothing to do where it has."""
    from pipelines.publish_places import say

    published = store.find(name)
    if warehouse is None or published is None:
        return
    held = warehouse.publish(published, store.generations)
    say(f"{name}: warehouse partition as_of={published.as_of} " + ("holds it" if held else "left to a later publish"))


def expire(store: Store, warehouse: Warehouse | None, keep: int) -> list[str]:
    """Deletes generations beyond those to keep, what is staged of them in the warehouse first."""
    from pipelines.publish_places import say

    def discard(generation: Generation) -> None:
        if generation.warehouse is None:
            return
        if warehouse is None or generation.warehouse != warehouse.name:
            say(f"{generation.name}: what is staged of it in {generation.warehouse} is left there")
            return
        warehouse.discard(generation)

    expired = store.expire(keep, discard)
    for name in expired:
        say(f"{name}: expired")
    return expired


def described(dead_letters: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(dead_letters.items()))
    return f"{sum(dead_letters.values())} dead letters" + (f" ({reasons})" if reasons else "")


def _cost(staged: Staged) -> str:
    """What writing to Datastore cost; other stores count nothing."""
    figures = staged.figures
    if not figures.get("commits"):
        return ""
    latency = 1000 * figures.get("latency_seconds", 0.0) / figures["commits"]
    return (
        f" ({figures['commits']:,.0f} commits, {figures.get('bytes', 0.0) / 1e6:,.1f} MB, {latency:,.0f} ms each on "
        f"average, {figures.get('retries', 0.0):,.0f} retries)"
    )
