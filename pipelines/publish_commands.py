"""What is done with generations after their publish: status, rollback, purge, replay."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipelines import publish_conclude, publish_options, publish_places
from pipelines.publish_options import CommandOptions
from pipelines.publish_places import say
from transforms.errors import rejected

if TYPE_CHECKING:
    from serving.store import Generation


def run(argv: list[str]) -> dict[str, Any]:
    """Raises: UsageError, JobFailed: as the command says."""
    options = publish_options.parse_command(argv)
    if options.command == "replay":
        from pipelines import publish_replay

        return publish_replay.run(options)
    return {"status": status, "rollback": rollback, "purge": purge}[options.command](options)


def status(options: CommandOptions) -> dict[str, Any]:
    """Prints the generations, last begun first."""
    with publish_places.open_store(options.places) as store:
        current, generations = store.current(), store.generations()
    names = {current.name} if current else set()
    for generation in generations:
        is_current = generation.name in names
        print(_as_json(generation, is_current) if options.json else "\n".join(_lines(generation, is_current)))
    if not generations:
        say("no generation was ever staged")
    return {"current": current.name if current else None, "generations": [each.name for each in generations]}


def _as_json(generation: Generation, is_current: bool) -> str:
    content = asdict(generation) | {"state": generation.state.value, "current": is_current}
    return json.dumps(content, default=str)


def _lines(generation: Generation, is_current: bool) -> list[str]:
    held = generation.content
    when = f"published {generation.published_at:%Y-%m-%d %H:%M:%S} UTC" if generation.published_at else "never current"
    lines = [
        f"{'*' if is_current else ' '} {generation.name}  {generation.state.value}, attempt {generation.attempt}, {when}",
        f"    as of {generation.as_of}, {generation.horizon_days} days, model {generation.model_version}",
        f"    {held.rows:,} customers, total {held.total_value:,.2f}, {publish_conclude.described(generation.dead_letters)}",
    ]
    return lines + [f"    {about}: {said}" for about, said in sorted(generation.notes.items())]


def rollback(options: CommandOptions) -> dict[str, Any]:
    """Makes an earlier generation current again.

    Raises:
      UsageError: it is unknown or not complete, or a publish was first.
    """
    warehouse = publish_places.open_warehouse(options.places)
    with publish_places.open_existing(options.places) as store:
        current = store.current()
        previous = current.name if current else None
        found = store.find(options.to)
        if found is None:
            known = ", ".join(each.name for each in store.generations()) or "none, the store is empty"
            raise rejected("--to", options.to, f"a generation of the store: {known}")
        publish_places.require_same_warehouse(found, options.places)
        if found.published_at is None:
            raise rejected(
                "--to", options.to, "one that was current before: to switch to this one publish its predictions, "
                "with --override GUARD=REASON where a guard trips",
            )  # fmt: skip
        if options.to == previous:
            say(f"{options.to}: is the current generation already")
        else:
            if warehouse:
                warehouse.can_publish(found)
            publish_conclude.switch(store, options.to, previous, {"rollback": options.reason})
            say(f"{options.to}: is current again; before: {previous or 'none'}")
        publish_conclude.complete(store, warehouse, options.to)
    return {"generation": options.to, "previous": previous}


def purge(options: CommandOptions) -> dict[str, Any]:
    """Deletes the generations beyond those to keep."""
    warehouse = publish_places.open_warehouse(options.places)
    with publish_places.open_existing(options.places) as store:
        expired = publish_conclude.expire(store, warehouse, options.keep)
    if not expired:
        say("nothing to delete")
    return {"deleted": expired}
