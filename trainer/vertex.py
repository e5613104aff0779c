"""The trainer on Vertex AI: submit a job, see what there is, deploy the champion, roll back. See ``vertex_arguments``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from trainer import vertex_arguments, vertex_jobs, vertex_models, vertex_status, vertex_tuning
from trainer.vertex_client import Vertex
from trainer.vertex_jobs import Job
from trainer.vertex_models import Deployment
from transforms.cli import exit_code, say
from transforms.errors import JobFailed, UsageError

# A job takes minutes to start.
POLL_SECONDS = 15.0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: print(run(sys.argv[1:] if argv is None else argv)))


def run(argv: Sequence[str]) -> str:
    """Runs a command and returns what it prints: for ``submit``, ``deploy`` and ``rollback`` one line of JSON.

    Raises:
      UsageError: a bad argument.
      JobFailed: Vertex AI refused, or the job did not succeed.
    """
    known = vertex_arguments.parse(argv)
    if known.command == "submit":
        return json.dumps(_submit(known))
    if known.command == "status":
        return _status(known)
    if known.command == "rollback":
        _go_back(known)
    return json.dumps(vertex_models.deploy(_deployment(known)))


def _submit(known: argparse.Namespace) -> dict[str, Any]:
    arguments = list(known.arguments)
    vertex_arguments.judge(known.module, arguments)
    if known.best_of:
        arguments += _best_flags(known)
        vertex_arguments.judge(known.module, arguments)
    request = vertex_arguments.request_of(known, arguments, None)
    if known.tune:
        vertex_tuning.content(request, known.tune, known.parallel_trials)
    # Whatever can be wrong with the job has been looked at before its code is built and uploaded.
    request = vertex_arguments.request_of(known, arguments, _shipped(known))
    # A key that was made of the job's content has no other job.
    exact = known.key is not None
    if known.tune:
        job = vertex_tuning.submit(request, known.tune, known.parallel_trials, exact=exact)
    else:
        job = vertex_jobs.submit(request, exact=exact)
    if known.wait is not False:
        job = wait(job, known.api_endpoint)
    return {"name": job.name, "state": job.state, "adopted": job.adopted, "page": job.page}


def _best_flags(known: argparse.Namespace) -> list[str]:
    flags = vertex_tuning.best_flags(known.best_of, known.api_endpoint)
    say(f"the best trial of {known.best_of}: {' '.join(flags)}")
    return flags


def _shipped(known: argparse.Namespace) -> tuple[str, str] | None:
    if not known.package:
        return None
    from trainer import vertex_package

    package = vertex_package.ship(known.package)
    say(f"code {package.code_version}: {package.uri}")
    return package.uri, package.code_version


def wait(job: Job, api_endpoint: str | None = None) -> Job:
    """Waits for a job's end and shows its states; who stops waiting leaves the job running.

    Raises:
      JobFailed: it did not succeed.
    """
    adopted, started = job.adopted, time.monotonic()
    try:
        while job.is_active:
            time.sleep(POLL_SECONDS)
            now = vertex_jobs.get(job.name, api_endpoint)
            if now.state != job.state:
                say(f"{now.short_state} after {time.monotonic() - started:.0f} s")
            job = now
    except KeyboardInterrupt:
        say(f"no longer waiting; the job goes on: {job.page}")
        raise
    if not job.succeeded:
        raise JobFailed(
            f"the job {job.name} ended as {job.short_state}: {job.error or 'no reason was given'}; more on {job.page}"
        )
    return dataclasses.replace(job, adopted=adopted)


def _status(known: argparse.Namespace) -> str:
    if known.job:
        one = vertex_status.one_job(known.job, known.api_endpoint)
        return json.dumps(one, indent=2) if known.json else vertex_status.job_text(one)
    if not known.project or not known.region:
        raise UsageError(
            "status needs --project and --region, or a job's full name (see python -m trainer.vertex status --help)"
        )
    found = vertex_status.overview(_deployment(known), known.most or vertex_arguments.DEFAULT_MOST)
    return json.dumps(found, indent=2) if known.json else vertex_status.overview_text(found)


def _deployment(known: argparse.Namespace) -> Deployment:
    vertex = Vertex(known.project, known.region, known.api_endpoint)
    model_id = known.model_id or vertex_models.DEFAULT_MODEL_ID
    if known.command == "status":
        return Deployment(vertex, known.registry, model_id)
    return Deployment(vertex, known.registry, model_id, known.serving_image, known.service_account, known.labels or {})


def _go_back(known: argparse.Namespace) -> None:
    from trainer import registry

    deployment = _deployment(known)  # judged before the champion is moved
    vertex_models.require_own(deployment)
    given = {"--to": known.to, "--by": known.by}
    optional = [word for name, value in given.items() if value for word in (name, value)]
    registry.run(["rollback", "--registry", known.registry, "--reason", known.reason, *optional])


if __name__ == "__main__":
    sys.exit(main())
