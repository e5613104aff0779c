"""The arguments of trainer.registry's commands, and what ``--help`` says of them."""

from __future__ import annotations

import argparse
import datetime
from dataclasses import dataclass

from trainer.evaluation_text import MAIN_METRICS, spoken
from transforms.cli import ArgumentParser
from transforms.errors import rejected

DESCRIPTION = """\
The model registry: which versions there are, where they came from, and which one is champion.

    python -m trainer.registry promote  --registry gs://bucket/registry --model runs/2011-12-10/model
    python -m trainer.registry list     --registry gs://bucket/registry
    python -m trainer.registry rollback --registry gs://bucket/registry --reason "forecasts doubled overnight"
    python -m pipelines.predict --model $(python -m trainer.registry champion --registry gs://bucket/registry) ...

As a scheduler's gate, which goes on with the champion whoever that is:

    python -m trainer.registry promote  --registry gs://bucket/registry --model runs/2011-12-10/model --decision runs/2011-12-10/gate.json

A registry is a directory, local or gs://. A version is a model directory made by trainer.task, copied into it
with its lineage; versions never change. The champion is one of them. It is changed by promote, which lets
the challenger take over only where it is better on the same customers and days, and by rollback; each change
is kept, so that "which model was it on that day" has an answer. Of several processes that change it at once
one succeeds, and the others say who did.

Exit codes: 0 done; 1 another process was first; 2 a bad argument; 3 the challenger was not promoted (0 with --decision).
"""


@dataclass(frozen=True)
class RegistryOptions:
    """One command's arguments; those of the other commands have their defaults."""

    command: str
    registry: str
    model: str = ""
    evaluation: str | None = None
    force: bool = False
    reason: str | None = None
    by: str | None = None
    decision: str | None = None
    to: str | None = None
    version: str = ""
    on: datetime.date | None = None
    at: datetime.datetime | None = None
    json: bool = False

    @classmethod
    def parse(cls, argv: list[str] | None) -> RegistryOptions:
        options = cls(**vars(_parser().parse_args(argv)))
        if options.force and not options.reason:
            raise rejected("--force without --reason", options.model, "--force --reason TEXT: the history keeps it")
        if options.reason is not None and not options.reason.strip():
            raise rejected("--reason", options.reason, "a text that says why")
        return options


def _parser() -> ArgumentParser:
    parser = ArgumentParser("python -m trainer.registry", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=ArgumentParser)

    def command(name: str, short: str, more: str, example: str) -> argparse.ArgumentParser:
        description = f"{short[0].upper()}{short[1:]}.\n\n    python -m trainer.registry {name} {example}\n\n{more}"
        added: argparse.ArgumentParser = commands.add_parser(name, help=short, description=description)
        added.add_argument("--registry", required=True, metavar="URI", help="the registry's directory, local or gs://")
        return added

    register = command(
        "register", "record a model version and copy it into the registry, champion or not",
        "Again, it does nothing. The same version with other content is refused.",
        "--registry registry/ --model runs/2011-12-10/model",
    )  # fmt: skip
    promote = command(
        "promote", "make a model the champion if it is better than the one there is",
        "It is registered first, where it is not. Then both forecast the customers of the evaluation snapshot. It wins "
        "with\nat least one paired 95% interval of the main metrics (" + ", ".join(map(spoken, MAIN_METRICS)) + ") in its favour\n"
        "and none against it; else the command ends with 3. The first champion has nobody to beat, but must have been\n"
        "judged on customers some of whom bought.",
        "--registry registry/ --model runs/2011-12-10/model",
    )  # fmt: skip
    for each in (register, promote):
        each.add_argument("--model", required=True, metavar="DIR", help="a finished model directory of trainer.task")
    promote.add_argument(
        "--evaluation", metavar="DIR",
        help="the features directory, with labels, to compare on; the one that the model was judged on if not given",
    )  # fmt: skip
    promote.add_argument(
        "--force", action="store_true",
        help="make it champion though it does not win, or cannot be compared (another horizon, say); needs --reason",
    )  # fmt: skip
    promote.add_argument("--reason", metavar="TEXT", help="why, for the history; the figures in words if not given")

    promote.add_argument(
        "--decision", metavar="FILE",
        help="keep what is decided in this file, local or gs://, as JSON, print it, and end with 0 also where the challenger is not "
        "promoted. Where the file is there already, that is the answer: nothing is judged or changed again, but for "
        "--force after a refusal. A model that was rolled back from is not promoted this way",
    )  # fmt: skip

    rollback = command(
        "rollback", "make an earlier champion, or any other version, the champion again",
        "Nothing is compared. Without --to it goes back to the champion before this one, and never to one that was itself\n"
        "rolled back from: each rollback goes one further back.",
        '--registry registry/ --reason "forecasts doubled overnight"',
    )  # fmt: skip
    rollback.add_argument(
        "--to", metavar="VERSION", help="a registered version; the champion before this one if not given"
    )
    rollback.add_argument("--reason", required=True, metavar="TEXT", help="why, for the history")
    for each in (register, promote, rollback):
        each.add_argument(
            "--by", metavar="NAME", help="who does this, for the record, such as a person or a job's name"
        )

    listing = command("list", "show all versions as a table, the champion marked", "", "--registry registry/")
    show = command(
        "show", "show one version: lineage, metrics, its directory, when it was champion, as JSON", "",
        "ziln-2011-05-01-1f0c6d5e --registry registry/",
    )  # fmt: skip
    show.add_argument("version", metavar="VERSION", help="a registered version, as list shows it")
    champion = command(
        "champion", "print the champion's model directory, and nothing else",
        "So that a shell can use it: --model $(python -m trainer.registry champion --registry registry/)",
        "--registry registry/ --on 2011-12-10",
    )  # fmt: skip
    when = champion.add_mutually_exclusive_group()
    when.add_argument(
        "--on", type=_day, metavar="DATE",
        help="the champion at the end of that UTC day, such as 2011-12-10; the one of now if not given",
    )  # fmt: skip
    when.add_argument(
        "--at", type=_instant, metavar="TIME",
        help="the champion at that instant, such as 2011-12-10T03:00:00Z (UTC unless it says otherwise), so that a run repeated "
        "days later gets the same one; up to a day ahead, the one of now",
    )  # fmt: skip
    for each, what in (
        (listing, "the versions' entries"),
        (champion, "the move that made it champion, with its figures, and the instant asked about"),
    ):
        each.add_argument("--json", action="store_true", help=f"print {what} as JSON")
    return parser


def _day(text: str) -> datetime.date:
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not usable: accepted is a date such as 2011-12-10") from None


def _instant(text: str) -> datetime.datetime:
    try:
        if "T" not in text and " " not in text:
            raise ValueError("a day, which has many instants")
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        accepted = "an instant such as 2011-12-10T03:00:00Z or 2011-12-10T03:00:00+01:00"
        raise argparse.ArgumentTypeError(f"{text!r} is not usable: accepted is {accepted}") from None
    return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)
