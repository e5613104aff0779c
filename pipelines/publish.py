"""Publishes a predictions directory: stage beside what is served, check, then switch in one step.

    predictions/*.parquet -> check -> store and warehouse, staged      the Beam graph; the old generation is served
                               `-> dead letters
    guards -> switch the pointer -> the warehouse's partition -> expire old generations       publish_conclude

The conclusion follows in this command, or, where it does not wait for its job on Dataflow, as the job's last step.

Every phase may be killed and the command run again: a sealed generation is not staged twice, a
half-staged one starts anew, and a switch asserts what was current when the command started.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines import publish_options
from pipelines.publish_conclude import Conclusion, verdicts
from pipelines.publish_options import COMMANDS, Options
from transforms.cli import exit_code
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.publish_input import Predictions
    from pipelines.publish_stage import Staged, Target
    from pipelines.warehouse import Warehouse
    from serving.store import Generation, Store

# Known before anything is staged: what they refuse need not be paid for.
_EARLY_GUARDS = ("as_of", "model_version")
_REMOTE_SHARDS = 16


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Publishes; returns ``generation, previous, rows, dead_letters`` (by reason), ``already_current, switched``.

    ``previous`` is the generation that was current when the command started, None for the first one. Where the job goes
    on by itself (``dataflow_options.waits``), ``generation`` and ``previous`` are all that is known.

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
    from pipelines import dataflow_options

    current = store.current()
    if not options.stage_only and not _serves(current, predictions):
        guard_early(predictions, current, options)
    begun, target = begin(store, warehouse, predictions, options, beam_options)
    conclusion = Conclusion(options, begun, current)
    if dataflow_options.waits(beam_options):
        staged = stage(predictions, target, options, beam_options) if target else None
        return conclusion.conclude(store, warehouse, staged)
    submit(predictions, target, options, beam_options, conclusion)
    return {"generation": begun.name, "previous": current.name if current else None}


def _serves(current: Generation | None, predictions: Predictions) -> bool:
    from serving.store import utc_now

    return current is not None and current.name == predictions.generation and not current.has_expired(utc_now())


def begin(
    store: Store, warehouse: Warehouse | None, predictions: Predictions, options: Options, beam_options: PipelineOptions
) -> tuple[Generation, Target | None]:
    """The generation and where a new attempt at it writes, None where it is sealed already.

    Raises:
      UsageError: it was staged for another warehouse, or the dead letters cannot be written.
      Superseded: another publish of the same predictions took over.
    """
    from pipelines.publish_places import require_same_warehouse, require_writable, say, warehouse_name
    from serving.store import Superseded

    name = predictions.generation
    attempt = store.begin(replace(generation_of(predictions), warehouse=warehouse_name(options.places)))
    found = store.find(name)
    if found is None:
        raise Superseded(name, attempt or 0, None)
    if attempt is None:
        say(f"{name}: all rows are staged already")
        require_same_warehouse(found, options.places)
        return found, None
    require_writable(options.dead_letters)
    anew = f", attempt {attempt}: the one before was interrupted" if attempt > 1 else ""
    say(f"{name}: staging {predictions.rows} rows from {len(predictions.paths)} files{anew}")
    return replace(found, attempt=attempt), _target(warehouse, predictions, options, attempt, beam_options)


def guard_early(predictions: Predictions, current: Generation | None, options: Options) -> None:
    """Raises: GuardTripped by what the manifest alone shows."""
    from pipelines import publish_guards

    known = [v for v in verdicts(generation_of(predictions), current, options) if v.guard in _EARLY_GUARDS]
    publish_guards.settle(known, options.overrides).require()


def generation_of(predictions: Predictions) -> Generation:
    from serving.store import Generation

    return Generation(predictions.generation, **vars(predictions.constants))


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


def stage(predictions: Predictions, target: Target, options: Options, beam_options: PipelineOptions) -> Staged:
    """Runs the graph to its end; the counts are kept beside the dead letters."""
    from pipelines import publish_stage

    shards = _shards(predictions, options, beam_options)
    return publish_stage.run(predictions, target, shards, beam_options, target.dead_letters)


def submit(
    predictions: Predictions, target: Target | None, options: Options, beam_options: PipelineOptions, conclusion: Conclusion
) -> None:  # fmt: skip
    """Sends the job on its way, with the conclusion as its last step, and says what is served meanwhile."""
    from pipelines import publish_stage
    from pipelines.publish_places import say

    shards = _shards(predictions, options, beam_options)
    publish_stage.submit(predictions, target, shards, beam_options, conclusion)
    served = conclusion.current.name if conclusion.current else "nothing"
    say(f"{predictions.generation}: the job ends this publish by itself; until then {served} is current")


def _beam_options(beam_arguments: list[str], options: Options, predictions: Predictions) -> PipelineOptions:
    from pipelines import dataflow_options, publish_places
    from pipelines.options import pipeline_options

    paths = {
        "--predictions": options.predictions, "--dead_letters": options.dead_letters, "--staging": options.places.staging,
    }  # fmt: skip
    labels = {"as_of": predictions.constants.as_of, "generation": predictions.generation}
    beam_options = pipeline_options(beam_arguments, step="publish", labels=labels, paths=paths)
    publish_places.refuse_remote_workers(options.places, beam_options)
    if not dataflow_options.waits(beam_options):
        dataflow_options.require_shared("--registry", options.registry)  # the guards judge on a worker
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
