"""``--dry_run``: every row is checked, nothing is written, and the plan is printed."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines import publish, publish_conclude, publish_guards, publish_places, publish_plan, publish_stage
from pipelines.options import pipeline_options
from pipelines.publish_input import Predictions
from pipelines.publish_options import Options
from pipelines.publish_plan import Destination, Sizes
from pipelines.publish_stage import Target
from serving import store as stores
from serving.store import Generation, State

if TYPE_CHECKING:
    from pipelines.publish_stage import Staged


def run(predictions: Predictions, options: Options) -> dict[str, Any]:
    """Checks the rows on this machine, whatever the runner, prints the plan and returns it; see ``publish_plan.plan``.

    Raises:
      UsageError: as a publish would, for what it would find before it writes.
    """
    publish_places.open_warehouse(options.places)  # which looks whether it could be published into
    current, found = _generations(predictions.generation, options)
    here = pipeline_options([])  # the counts come back through a file, which workers elsewhere could not reach
    with tempfile.TemporaryDirectory() as scratch:
        counted = publish_stage.run(predictions, Target(predictions.generation), 1, here, scratch)
    new = replace(publish.generation_of(predictions), content=counted.content, dead_letters=counted.dead_letters)
    if found and found.state is State.SEALED:
        new = found  # with the rows that the store refused, and those that were mended
    places = options.places
    planned = publish_plan.plan(
        new,
        current,
        publish_guards.settle(publish_conclude.verdicts(new, current, options), options.overrides),
        _sizes(counted),
        Destination(
            places.serving, options.ramp, places.bigquery_table,
            found is not None and found.state is State.SEALED, options.stage_only,
        ),
        options.settings.prices,
    )  # fmt: skip
    print("\n".join(publish_plan.describe(planned)))
    return planned


def _generations(name: str, options: Options) -> tuple[Generation | None, Generation | None]:
    """The current generation, and the one of these predictions; an embedded store that is not made yet has none."""
    _, _, path = stores.resolve(options.places.serving).partition("://")
    if stores.is_local(options.places.serving) and not os.path.exists(path):
        return None, None
    with publish_places.open_store(options.places) as store:
        return store.current(), store.find(name)


def _sizes(counted: Staged) -> Sizes:
    return Sizes(*(round(counted.figures.get(name, 0)) for name in ("entities", "table")))
