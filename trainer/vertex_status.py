"""What there is of ours at Vertex AI, for a person or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trainer import vertex_jobs, vertex_models, vertex_tuning
from trainer.vertex_jobs import CUSTOM, TUNING, Job
from trainer.vertex_models import CHAMPION, Deployment, alias_of


def overview(deployment: Deployment, most: int) -> dict[str, Any]:
    """Jobs (newest first), model versions and, of a deployment with a registry, the two champions and whether they agree."""
    jobs = [
        vertex_jobs.job_of(raw)
        for kind in (CUSTOM, TUNING)
        for raw in vertex_jobs.listed(deployment.vertex, kind, most=most)
    ]
    versions = [_version(raw) for raw in vertex_models.versions(deployment)]
    found: dict[str, Any] = {
        "jobs": [_job(job) for job in sorted(jobs, key=lambda job: job.since, reverse=True)],
        "model": deployment.model,
        "versions": sorted(versions, key=lambda version: version["created"], reverse=True),
    }
    if deployment.registry:
        found["champion"] = _champion(deployment, versions)
    return found


def one_job(name: str, api_endpoint: str | None) -> dict[str, Any]:
    """A job; of a tuning job also its trials, and the flags of the best where there is one."""
    raw = vertex_jobs.raw(name, api_endpoint, "JOB")
    found = _job(vertex_jobs.job_of(raw))
    if vertex_jobs.kind_of(name) == TUNING:
        trials = vertex_tuning.trials_of(raw)
        best = vertex_tuning.best_of(trials)
        found["trials"] = [asdict(trial) for trial in trials]
        found["best"] = {"id": best.id, "loss": best.loss, "flags": best.flags} if best else None
    return found


def _job(job: Job) -> dict[str, Any]:
    return {
        "name": job.name, "kind": vertex_jobs.kind_of(job.name), "display_name": job.display_name, "state": job.state,
        "since": job.since, "error": job.error, "page": job.page,
    }  # fmt: skip


def _version(raw: Any) -> dict[str, Any]:
    return {
        "vertex_version": raw.version_id,
        "aliases": list(raw.version_aliases),
        "created": raw.version_create_time.isoformat(timespec="seconds") if raw.version_create_time else "",
        "artifact": raw.artifact_uri,
        "description": raw.version_description,
    }


def _champion(deployment: Deployment, versions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``agrees`` is None where our registry has no champion that there could be agreement on."""
    ours = deployment.own_registry.champions().version
    there = next((version for version in versions if CHAMPION in version["aliases"]), None)
    other = vertex_models.other_registry(deployment, there["artifact"]) if there else None
    return {
        "place": deployment.registry,
        "registry": ours,
        "vertex_version": there["vertex_version"] if there else None,
        "other_registry": other,
        "agrees": None if ours is None else bool(there and not other and alias_of(ours) in there["aliases"]),
    }


def overview_text(found: dict[str, Any]) -> str:
    jobs = [
        [job["display_name"], job["state"].removeprefix("JOB_STATE_"), _time(job["since"]), job["name"], job["page"]]
        for job in found["jobs"]
    ]
    versions = [
        [version["vertex_version"], " ".join(version["aliases"]), _time(version["created"]), version["artifact"]]
        for version in found["versions"]
    ]
    parts = [
        _table(["job", "state", "since", "name", "page"], jobs) if jobs else "no job of ours",
        f"{found['model']}\n" + _table(["version", "aliases", "created", "artifact"], versions)
        if versions
        else f"no model {found['model']}",
    ]
    if champion := found.get("champion"):
        parts.append(_agreement(champion))
    return "\n\n".join([*parts, "times are UTC"])


def _agreement(champion: dict[str, Any]) -> str:
    there = f"version {champion['vertex_version']}" if champion["vertex_version"] else "none"
    if champion["registry"] is None:
        return f"champion: the registry {champion['place']} has none; {there} at Vertex AI"
    both = f"champion: {champion['registry']} in the registry, {there} at Vertex AI"
    if champion["agrees"]:
        return f"{both}: they agree"
    if champion["other_registry"]:
        return (
            f"{both}: THEY DIFFER, for that is a model of {champion['other_registry']}: each registry has a --model_id"
        )
    return f"{both}: THEY DIFFER, python -m trainer.vertex deploy makes them agree"


def job_text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['display_name']}  {found['state'].removeprefix('JOB_STATE_')} since {_time(found['since'])}",
        found["name"],
        found["page"],
        *([f"error: {found['error']}"] if found["error"] else []),
    ]
    if "trials" not in found:
        return "\n".join(lines)
    rows = [
        [
            trial["id"],
            trial["state"],
            *(trial["parameters"].get(name, "") for name in vertex_tuning.SEARCHED),
            _loss(trial),
        ]
        for trial in found["trials"]
    ]
    lines += ["", _table(["trial", "state", *vertex_tuning.SEARCHED, "validation loss"], rows)]
    if best := found["best"]:
        lines += [
            "",
            f"best: trial {best['id']}; for the training: submit --best_of {found['name']}, or",
            " ".join(best["flags"]),
        ]
    return "\n".join(lines)


def _loss(trial: dict[str, Any]) -> str:
    return "" if trial["loss"] is None else f"{trial['loss']:.4f}"


def _time(instant: str) -> str:
    return instant[:16].replace("T", " ")


def _table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )
