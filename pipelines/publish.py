"""Publishes a predictions directory: stage beside what is served, check, then switch in one step.

    predictions/*.parquet -> check -> store and warehouse, staged      the Beam graph; the old generation is served
                               `-> dead letters
    guards -> switch the pointer -> the warehouse's partition -> expire old generations

Every phase may be killed and the command run again: a sealed generation is not staged twice, a
half-staged one starts anew, and a switch asserts what was current when the command started.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines import publish_options
from pipelines.publish_options import COMMANDS, Options
from transforms.cli import exit_code
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.publish_guards import Judgement, Verdict
    from pipelines.publish_input import Predictions
    from pipelines.publish_stage import Staged, Target
    from pipelines.warehouse import Warehouse
    from serving.store import Generation, Store

# Known before anything is staged: what they refuse need not be paid for.
_EARLY_GUARDS = ("as_of", "model_version")
_REMOTE_SHARDS = 16


def ensure_sealed(
    store: Store, warehouse: Warehouse | None, predictions: Predictions, options: Options, beam_options: PipelineOptions
) -> Generation:
    """Stages and seals the generation unless that is done already.

    Raises:
      UsageError: the predictions cannot be staged.
      Superseded: another publish of the same predictions took over.
      JobFailed: what was staged is not what was written.
    """
    from pipelines.publish_places import require_writable, say, warehouse_name
    from serving import store as stores

    name = predictions.generation
    attempt = store.begin(replace(generation_of(predictions), warehouse=warehouse_name(options.places)))
    if attempt is None:
        say(f"{name}: all rows are staged already")
    else:
        require_writable(options.dead_letters)
        target = _target(warehouse, predictions, options, attempt, beam_options)
        anew = f", attempt {attempt}: the one before was interrupted" if attempt > 1 else ""
        say(f"{name}: staging {predictions.rows} rows from {len(predictions.paths)} files{anew}")
        staged = stage(predictions, target, options, beam_options)
        if warehouse:
            begun = replace(generation_of(predictions), attempt=attempt)
            warehouse.stage(begun, [part["name"] for part in staged.parts], staged.content.rows)
        store.seal(name, attempt, staged.content, staged.dead_letters)
        say(f"{name}: {staged.content.rows} rows staged, {described(staged.dead_letters)}{_cost(staged)}")
    sealed = store.find(name)
    if sealed is None:
        raise stores.Superseded(name, attempt or 0, None)
    return sealed


def generation_of(predictions: Predictions) -> Generation:
    from serving.store import Generation

    return Generation(predictions.generation, **vars(predictions.constants))


def stage(predictions: Predictions, target: Target, options: Options, beam_options: PipelineOptions) -> Staged:
    """Runs the graph to its end; the counts are kept beside the dead letters."""
    from pipelines import publish_stage

    shards = _shards(predictions, options, beam_options)
    return publish_stage.run(predictions, target, shards, beam_options, target.dead_letters)


def _target(
    warehouse: Warehouse | None, predictions: Predictions, options: Options, attempt: int, beam_options: PipelineOptions
) -> Target:
    from pipelines.publish_places import ttl
    from pipelines.publish_stage import Target
    from serving import store as stores
    from serving.store import Writing
    from transforms import storage

    name = predictions.generation
    return Target(
        name,
        attempt,
        stores.resolve(options.places.serving),
        Writing(options.ramp, 1 / _shards(predictions, options, beam_options), ttl(options.places)),
        storage.join(options.dead_letters, name),
        warehouse.parts(name, attempt) if warehouse else None,
    )


def _shards(predictions: Predictions, options: Options, beam_options: PipelineOptions) -> int:
    from pipelines.options import is_local

    wanted = options.shards or (1 if is_local(beam_options) else _REMOTE_SHARDS)
    return min(wanted, len(predictions.paths))  # who has no file does not write, and needs no share of the rate


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


def guard_early(predictions: Predictions, current: Generation | None, options: Options) -> None:
    """Raises: GuardTripped by what the manifest alone shows."""
    from pipelines import publish_guards

    known = [v for v in verdicts(generation_of(predictions), current, options) if v.guard in _EARLY_GUARDS]
    publish_guards.settle(known, options.overrides).require()


def verdicts(new: Generation, current: Generation | None, options: Options) -> list[Verdict]:
    from pipelines import publish_guards

    answer = publish_guards.ask_registry(options.registry, new.model_version) if options.registry else None
    return publish_guards.judge(new, current, options.settings.guards, answer)


def switch(store: Store, name: str, previous: str | None, notes: Mapping[str, str]) -> None:
    """Moves the pointer from ``previous``; fine as well when another run of the same publish just did.

    Raises:
      PointerMoved: a publish of something else won.
    """
    from serving.store import PointerMoved

    try:
        store.switch(name, previous, notes)
    except PointerMoved as lost:
        if lost.winner is None or lost.winner.name != name:
            raise


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Publishes; returns ``generation, previous, rows, dead_letters`` (by reason), ``already_current, switched``.

    ``previous`` is the generation that was current when the command started, None for the first one.

    Raises:
      UsageError: unusable arguments or predictions, or another publish won; what was current stays current.
      GuardTripped: a guard that was not overridden; what was current stays current.
      JobFailed: the store or the warehouse failed; running the command again goes on.
    """
    from pipelines import publish_places
    from pipelines.publish_input import open_predictions

    options, beam_arguments = publish_options.parse(argv)
    predictions = open_predictions(options.predictions)
    beam_options = _beam_options(beam_arguments, options, predictions)
    if options.dry_run:
        from pipelines import publish_dry_run

        return publish_dry_run.run(predictions, options)
    warehouse = publish_places.open_warehouse(options.places)
    _refuse_too_many_parts(warehouse, predictions)
    with publish_places.open_store(options.places, create=True) as store:
        return _publish(store, warehouse, predictions, options, beam_options)


def _refuse_too_many_parts(warehouse: Warehouse | None, predictions: Predictions) -> None:
    if warehouse and warehouse.MOST_PARTS and predictions.batches > warehouse.MOST_PARTS:
        raise UsageError(
            f"--predictions {predictions.directory!r} would make {predictions.batches} parts for {warehouse.name}: accepted "
            f"are {warehouse.MOST_PARTS}, so fewer and larger files"
        )


def _publish(
    store: Store, warehouse: Warehouse | None, predictions: Predictions, options: Options, beam_options: PipelineOptions
) -> dict[str, Any]:
    from pipelines import publish_places
    from pipelines.publish_places import say
    from serving.store import utc_now

    name = predictions.generation
    current = store.current()
    previous = current.name if current else None
    already = current is not None and name == previous and not current.has_expired(utc_now())
    if not already and not options.stage_only:
        guard_early(predictions, current, options)
    sealed = ensure_sealed(store, warehouse, predictions, options, beam_options)
    publish_places.require_same_warehouse(sealed, options.places)
    result = {
        "generation": name, "previous": previous, "rows": sealed.content.rows,
        "dead_letters": dict(sealed.dead_letters), "already_current": already, "switched": False,
    }  # fmt: skip
    if already:
        say(f"{name}: is the current generation already")
    else:
        judgement = guard(sealed, current, options)
        for line in judgement.lines():
            say(f"{name}: guard {line}")
        if options.stage_only:
            say(f"{name}: staged only; the same command without --stage_only switches to it")
            return result
        judgement.require()
        if warehouse:
            warehouse.can_publish(sealed)
        switch(store, name, previous, judgement.notes)
        result["switched"] = True
        say(f"{name}: is current now; previous generation: {previous or 'none'}")
    complete(store, warehouse, name)
    expire(store, warehouse, options.keep_generations)
    return result


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


def _beam_options(beam_arguments: list[str], options: Options, predictions: Predictions) -> PipelineOptions:
    from pipelines import publish_places
    from pipelines.options import pipeline_options

    paths = {
        "--predictions": options.predictions, "--dead_letters": options.dead_letters, "--staging": options.places.staging,
    }  # fmt: skip
    labels = {"as_of": predictions.constants.as_of, "generation": predictions.generation}
    beam_options = pipeline_options(beam_arguments, step="publish", labels=labels, paths=paths)
    publish_places.refuse_remote_workers(options.places, beam_options)
    return beam_options


def main(argv: list[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    if given and not given[0].startswith("-"):
        return exit_code(lambda: _command(given))
    return exit_code(lambda: run(given))


def _command(given: list[str]) -> dict[str, Any]:
    if given[0] not in COMMANDS:
        raise rejected("the command", given[0], f"{', '.join(COMMANDS)}, or none to publish")
    from pipelines import publish_commands

    return publish_commands.run(given)


if __name__ == "__main__":
    sys.exit(main())
