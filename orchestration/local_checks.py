"""What a run on this machine refuses between its steps, in one line each."""

from __future__ import annotations

import datetime
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

from orchestration import local_plan
from pipelines import orders_arguments
from transforms import storage
from transforms.errors import UsageError

if TYPE_CHECKING:
    from orchestration.steps import BuildTrainDeploy

# BigQuery reads a table as it was up to seven days ago; a step begun now is to be done by then.
_READABLE = datetime.timedelta(days=6)


def require_customers(build: BuildTrainDeploy) -> None:
    """Raises: UsageError where a split that training needs is empty: customers are dealt to splits by chance."""
    from transforms import schema

    learned_from = build.training_cutoffs or (build.cutoff,)
    counts = [storage.read_manifest(build.features(cutoff), "features")["splits"] for cutoff in learned_from]
    needed = ("train", "validation") if build.training_cutoffs else schema.SPLITS
    empty = [split for split in needed if not any(count.get(split) for count in counts)]
    if empty:
        most = max(sum(count.values()) for count in counts)
        raise UsageError(
            f"there are too few customers to learn from: of {most:,} with orders before {learned_from[0]} none is in the "
            f"{' or '.join(empty)} split; accepted are orders of more customers, at best hundreds, or later dates"
        )


def require_readable(build: BuildTrainDeploy) -> None:
    """Raises: UsageError where a table can no longer be read as it was when this run's first step read it."""
    path = local_plan.moment_file(build.directory)
    if not os.path.exists(path):
        return
    moment = storage.read_bytes(path).decode()
    if datetime.datetime.now(datetime.UTC) - orders_arguments.instant(moment) > _READABLE:
        raise UsageError(
            f"the unfinished run in {build.directory} reads its orders as they were at {moment}, and BigQuery keeps that "
            "for seven days: delete that directory, and the next run starts anew"
        )


def require_champion(build: BuildTrainDeploy, decision: dict[str, Any]) -> None:
    """Raises: UsageError where there is no champion to forecast with, or this code cannot use it."""
    from transforms import schema

    champion, model = decision["champion"], decision["model"]
    if model is None:
        raise UsageError(
            f"nobody bought in the {build.horizon_days} days after {build.cutoff}, so the model cannot be judged and is not "
            f"published (report: {build.report_step().output}): accepted is a --cutoff or --horizon_days with orders after it"
        )
    if not storage.exists(storage.join(model, storage.MANIFEST)):
        raise UsageError(f"the champion's directory {model} is gone{_way_out(build, decision)}")
    if storage.read_manifest(model, "model")["schema_fingerprint"] != schema.fingerprint(schema.CUSTOMERS):
        raise UsageError(
            f"the champion {champion} learned other feature formulas than this code's and cannot forecast, and "
            f"{decision['challenger']} did not beat it. {by_force(build, 'other formulas')}"
        )


def _way_out(build: BuildTrainDeploy, decision: dict[str, Any]) -> str:
    """What a person does about a champion that is gone; the end of a sentence."""
    from trainer.registry_store import Registry

    champion, now = decision["champion"], Registry(build.registry).champions().version
    if champion == decision["challenger"]:
        words = ("register", "--registry", build.registry, "--model", build.model)
        return f". To copy it there again: {shlex.join([sys.executable, '-m', 'trainer.registry', *words])}"
    if champion != now:
        return f", and {now or 'none'} is champion now: delete {build.gate}, and the next run decides anew"
    return f". {by_force(build, 'the champion is gone')}"


def by_force(build: BuildTrainDeploy, reason: str) -> str:
    """The command that makes the new model champion, whoever is; ``reason`` is for the registry's history."""
    command = f"{build.gate_step().command} --force --reason {shlex.quote(reason)}"
    return f"To go on with the new model, make it champion and run this again: {command}"


def learned_from(build: BuildTrainDeploy, decision: dict[str, Any]) -> list[str]:
    """The features directories that the champion was made from, as far as they are still what they were."""
    from trainer import snapshots

    if decision["champion"] == decision["challenger"]:
        return build.snapshots
    arguments = storage.read_manifest(decision["model"], "model")["arguments"]
    found = []
    for uri in dict.fromkeys((*arguments["features"], arguments["evaluation"])):
        try:
            as_learned = snapshots.open_snapshot(uri).manifest_hash == arguments["input_manifests"].get(uri)
        except UsageError:
            continue
        found += [uri] if as_learned else []
    return found
