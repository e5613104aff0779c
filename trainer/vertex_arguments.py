"""The arguments of trainer.vertex, and those of the module that a job runs, judged before anything costs money."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Sequence

from trainer import vertex_jobs, vertex_models, vertex_tuning
from trainer.registry_store import PROMOTE
from trainer.task import MOST_TRIALS
from trainer.vertex_client import checked_labels
from trainer.vertex_jobs import JobRequest
from transforms.cli import ArgumentParser, number, whole_number
from transforms.errors import UsageError, rejected

TASK, REGISTRY = "trainer.task", "trainer.registry"
MODULES = (TASK, REGISTRY)
DEFAULT_MOST = 20
_MOST_HOURS = 24.0 * 7  # Vertex AI's own
_DESCRIPTION = """\
The trainer on Vertex AI: runs trainer.task there as a custom job or a tuning job, and makes Vertex AI's Model
Registry agree with ours (trainer.registry), whose champion is the one that counts.

    python -m trainer.vertex submit   --project P --region R --image IMAGE -- --features gs://... --evaluation gs://... --output gs://...
    python -m trainer.vertex status   --project P --region R --registry gs://bucket/registry
    python -m trainer.vertex deploy   --project P --region R --registry gs://bucket/registry
    python -m trainer.vertex rollback --project P --region R --registry gs://bucket/registry --reason "forecasts doubled"

Everything may be run again: a job that runs, or has succeeded and whose output is there, is taken over, and a version
that is there stays.
Credentials are Google's application default ones. docs/vertex.md has the rest.

Exit codes: 0 done; 1 Vertex AI refused or the job failed; 2 a bad argument.
"""
_SUBMIT = """\
Runs a module of the trainer in our image on Vertex AI, and waits for its end.

    python -m trainer.vertex submit --project my-project --region europe-west1 \\
        --image europe-west1-docker.pkg.dev/my-project/clv/publish:2026-11-22 -- \\
        --features gs://shop/features/2011-04-07 --evaluation gs://shop/features/2011-08-08 --output gs://shop/model

What stands behind -- are the module's own arguments. They are judged here first, so that a mistake costs nothing. The
job runs the image's code; with --package gs://DIR it runs this checkout's. With --tune N it is a tuning job of N
trials, which a later --best_of JOB trains with. Ctrl-C stops the waiting, not the job. The last line is one JSON object.
"""
_STATUS = """\
Shows our jobs, newest first, the versions of the model, and whether the alias champion agrees with our registry.

    python -m trainer.vertex status --project my-project --region europe-west1 --registry gs://shop/registry
    python -m trainer.vertex status projects/123/locations/europe-west1/hyperparameterTuningJobs/456

A tuning job's own status shows its trials, and the flags of the best.
"""
_DEPLOY = """\
Makes Vertex AI's Model Registry agree with ours: uploads the champion's version where it is not there yet, and moves
the alias champion to it. The last line is one JSON object.

    python -m trainer.vertex deploy --project my-project --region europe-west1 --registry gs://shop/registry

Nothing is compared: trainer.registry promote has done that. Again, it does nothing. Each registry has a --model_id of
its own: where the alias is on another registry's model, nothing is changed.
"""
_ROLLBACK = """\
Makes an earlier champion the champion again, as trainer.registry rollback does, and then deploys it.

    python -m trainer.vertex rollback --project my-project --region europe-west1 --registry gs://shop/registry \\
        --reason "forecasts doubled overnight"

Where it ends between the two, run deploy: another rollback would go back one further.
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments; ``arguments`` are those behind ``--``.

    Raises:
      UsageError: one is missing or not usable.
    """
    own, found, behind = _split(argv)
    known = _parser().parse_args(own)
    if known.command == "submit":
        if not found and not known.best_of:
            raise UsageError(
                f"the arguments of {known.module} are missing: they stand behind --, as in submit ... -- --features ..."
            )
        _check_tuning(known, behind)
    elif found:
        raise rejected("--", " ".join(behind), f"{known.command} without arguments of a module")
    if known.command == "status" and known.job:
        _check_one_job(known)
    return argparse.Namespace(**vars(known), arguments=tuple(behind))


def _check_tuning(known: argparse.Namespace, behind: Sequence[str]) -> None:
    if known.tune and (known.best_of or known.module != TASK):
        raise UsageError(f"--tune goes with --module {TASK}, and without --best_of")
    if known.best_of and known.module != TASK:
        raise rejected(f"--best_of with --module {known.module}", known.best_of, f"--best_of with --module {TASK}")
    if known.parallel_trials and not known.tune:
        raise rejected("--parallel_trials without --tune", known.parallel_trials, "--tune N --parallel_trials M")
    given = [word for word in behind if word.split("=", 1)[0].removeprefix("--") in vertex_tuning.SEARCHED]
    if known.best_of and given:
        raise rejected("--best_of with", given[0], "one of the two")


def _check_one_job(known: argparse.Namespace) -> None:
    given = [name for name in ("project", "region", "registry", "model_id", "most") if getattr(known, name) is not None]
    if given:
        accepted = "--json and --api_endpoint: a job's full name says where it is"
        raise rejected(f"--{given[0]} with status JOB", getattr(known, given[0]), accepted)


def _split(argv: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in argv:
        return list(argv), False, []
    at = list(argv).index("--")
    return list(argv[:at]), True, list(argv[at + 1 :])


def _parser() -> ArgumentParser:
    parser = ArgumentParser("python -m trainer.vertex", description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=ArgumentParser)
    _add_submit(_command(commands, "submit", "run trainer.task as a job", _SUBMIT))
    status = _command(commands, "status", "jobs, model versions, and whether the champion agrees", _STATUS, place=False)
    status.add_argument(
        "job", nargs="?", metavar="JOB", help="one job by its full name, projects/...; all of ours if not given"
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.add_argument(
        "--most", type=whole_number(1, 1000), metavar="N", help=f"jobs of each kind at most (default: {DEFAULT_MOST})"
    )
    status.add_argument("--registry", metavar="gs://DIR", help="our registry, to compare the champion with")
    deploy = _command(commands, "deploy", "make Vertex AI's model registry agree with ours", _DEPLOY)
    rollback = _command(commands, "rollback", "go back to an earlier champion, and deploy it", _ROLLBACK)
    for each in (deploy, rollback):
        each.add_argument("--registry", required=True, metavar="gs://DIR", help="our registry (docs/registry.md)")
        each.add_argument(
            "--serving_image",
            metavar="IMAGE",
            help="the container that serves the version's network (default: Google's tf2-cpu)",
        )
        each.add_argument(
            "--service_account", metavar="EMAIL", help="reads the model in the upload (default: Vertex AI's own)"
        )
        each.add_argument("--labels", type=_labels, metavar="K=V,..", help="labels of a version that is uploaded")
    for each in (status, deploy, rollback):
        each.add_argument(
            "--model_id",
            metavar="ID",
            help=f"the model at Vertex AI; each registry has its own (default: {vertex_models.DEFAULT_MODEL_ID})",
        )
    rollback.add_argument(
        "--to", metavar="VERSION", help="a registered version; the champion before this one if not given"
    )
    rollback.add_argument("--reason", required=True, metavar="TEXT", help="why, for the history")
    rollback.add_argument("--by", metavar="NAME", help="who does this, for the record")
    return parser


def _command(
    commands: argparse._SubParsersAction, name: str, short: str, more: str, place: bool = True
) -> ArgumentParser:  # type: ignore[type-arg]
    added: ArgumentParser = commands.add_parser(f"{name}", help=short, description=more)
    group = added.add_argument_group("where")
    group.add_argument("--project", required=place, metavar="PROJECT", help="the project that runs it and pays")
    group.add_argument("--region", required=place, metavar="REGION", help="where, such as europe-west1")
    group.add_argument(
        "--api_endpoint",
        metavar="HOST",
        help="Vertex AI's address, such as a private endpoint's (default: the region's)",
    )
    return added


def _add_submit(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--image", required=True, metavar="IMAGE", help="our image with its tag (templates.build makes it)"
    )
    parser.add_argument(
        "--module", choices=MODULES, default=TASK, help=f"what to run; of {REGISTRY} the command {PROMOTE}"
    )
    parser.add_argument(
        "--key",
        metavar="TEXT",
        help="names this piece of work: a job with the same key that runs, or has succeeded and whose output is there, is taken "
        "over (default: made of all that decides the job)",
    )
    parser.add_argument(
        "--display_name", metavar="NAME", help="the job's name in the console (default: clv-task or clv-tuning)"
    )
    parser.add_argument(
        "--package",
        metavar="gs://DIR",
        help="run this checkout's code instead of the image's; its source distribution is put there",
    )
    machine = parser.add_argument_group("the machine")
    machine.add_argument(
        "--machine_type", default=vertex_jobs.DEFAULT_MACHINE, metavar="TYPE", help="of Compute Engine"
    )
    machine.add_argument(
        "--accelerator_type",
        metavar="TYPE",
        help="such as NVIDIA_TESLA_T4; the networks here are small and learn on a CPU",
    )
    machine.add_argument(
        "--accelerator_count", type=whole_number(0, 16), default=0, metavar="N", help="how many of them"
    )
    machine.add_argument(
        "--disk_gb",
        type=whole_number(100, 64_000),
        default=vertex_jobs.DEFAULT_DISK_GB,
        metavar="GB",
        help="the boot disk",
    )
    machine.add_argument(
        "--service_account", metavar="EMAIL", help="the account the job runs as (default: Vertex AI's own)"
    )
    machine.add_argument("--network", metavar="NAME", help="projects/NUMBER/global/networks/NAME, to peer with")
    machine.add_argument(
        "--timeout_hours",
        type=number(0.1, _MOST_HOURS, "hours"),
        default=vertex_jobs.DEFAULT_TIMEOUT_HOURS,
        metavar="HOURS",
        help="the job is ended after so long",
    )
    machine.add_argument("--labels", type=_labels, metavar="K=V,..", help="labels of the job, for the bill")
    tuning = parser.add_argument_group("tuning", "See docs/tuning.md.")
    tuning.add_argument(
        "--tune",
        type=whole_number(1, MOST_TRIALS),
        metavar="N",
        help="search for the network's settings in N trials, each on a machine of its own",
    )
    tuning.add_argument(
        "--parallel_trials",
        type=whole_number(1),
        metavar="M",
        help=f"trials at a time; fewer learn more from each other (default: {vertex_tuning.DEFAULT_PARALLEL}, or fewer where there are fewer)",
    )
    tuning.add_argument("--best_of", metavar="JOB", help="train with the settings of this tuning job's best trial")
    waiting = parser.add_mutually_exclusive_group()
    waiting.add_argument(
        "--wait", action="store_const", const=True, help="wait for the job's end, as it does by default"
    )
    waiting.add_argument(
        "--no_wait", dest="wait", action="store_const", const=False, help="end as soon as the job is there"
    )


def _labels(text: str) -> dict[str, str]:
    try:
        return checked_labels(
            [(pair.partition("=")[0].strip(), pair.partition("=")[2].strip()) for pair in text.split(",")]
        )
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--labels ")) from None


def judge(module: str, arguments: Sequence[str]) -> None:
    """Has the module judge its arguments, as it would where the job runs.

    Raises:
      UsageError: one is missing or not usable, or a place that the job could not see.
    """
    if module == TASK:
        from trainer.task import TaskOptions

        task = TaskOptions.parse(list(arguments))
        places = [("--features", uri) for uri in task.features]
        places += [("--evaluation", task.evaluation), ("--output", task.output), ("--tune_storage", task.tune_storage)]
    else:
        from trainer.registry_options import RegistryOptions

        registry = RegistryOptions.parse(list(arguments))
        if registry.command != PROMOTE:
            accepted = f"{PROMOTE}, which compares models: the other commands take seconds, on any machine"
            raise rejected(f"{module} in a job:", registry.command, accepted)
        places = [
            ("--registry", registry.registry),
            ("--model", registry.model),
            ("--evaluation", registry.evaluation or ""),
            ("--decision", registry.decision or ""),
        ]
    for argument, uri in places:
        if uri and not uri.startswith("gs://"):
            raise rejected(f"{module} {argument}", uri, "gs://bucket/path: the job does not see this machine's files")


def request_of(known: argparse.Namespace, arguments: Sequence[str], package: tuple[str, str] | None) -> JobRequest:
    """The job that ``submit`` was asked for; ``package``: the shipped code's URI and version."""
    request = JobRequest(
        project=known.project, region=known.region, image=known.image, module=known.module, arguments=tuple(arguments),
        key=known.key or "?",
        display_name=known.display_name or ("clv-tuning" if known.tune else f"clv-{known.module.rpartition('.')[2]}"),
        machine_type=known.machine_type, accelerator_type=known.accelerator_type,
        accelerator_count=known.accelerator_count, service_account=known.service_account, network=known.network,
        labels=known.labels or {}, timeout_hours=known.timeout_hours, api_endpoint=known.api_endpoint, disk_gb=known.disk_gb,
        package=package[0] if package else None, environment={"CLV_CODE_VERSION": package[1]} if package else {},
    )  # fmt: skip
    return request if known.key else dataclasses.replace(request, key=decisive(request, known.tune))


def decisive(request: JobRequest, trials: int | None = None) -> str:
    """A key made of all that decides what a job does and makes: not how large its machine is, nor what it is called."""
    content = [
        request.project, request.region, request.image, request.module, request.arguments, request.package, trials,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
