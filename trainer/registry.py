"""The model registry: which versions there are, where they came from, and which one is champion.

    python -m trainer.registry promote  --registry gs://bucket/registry --model runs/2011-12-10/model
    python -m trainer.registry list     --registry gs://bucket/registry
    python -m trainer.registry rollback --registry gs://bucket/registry --reason "forecasts doubled overnight"
    python -m pipelines.predict --model $(python -m trainer.registry champion --registry gs://bucket/registry) ...

A registry is a directory, local or gs://. A version is a model directory made by trainer.task, copied into it
with its lineage; versions never change. The champion is one of them. It is changed by promote, which lets
the challenger take over only where it is better on the same customers and days, and by rollback; each change
is kept, so that "which model was it on that day" has an answer. Of several processes that change it at once
one succeeds, and the others say who did.

Exit codes: 0 done; 1 another process was first; 2 a bad argument; 3 the challenger was not promoted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

from trainer import registry_challenge, registry_store
from trainer.evaluation_text import MAIN_METRICS, format_metric, spoken
from trainer.registry_challenge import Contender, Decision, Incomparable
from trainer.registry_store import PROMOTE, ROLLBACK, Champions, Clock, Registry, utc_now
from transforms import storage
from transforms.cli import ArgumentParser, exit_code
from transforms.errors import UsageError, rejected

NOT_PROMOTED = 3


class NotPromoted(RuntimeError):
    """The challenger did not win; the champion is what it was. One line with the figures."""


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
    to: str | None = None
    version: str = ""
    on: datetime.date | None = None
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
    parser = ArgumentParser("python -m trainer.registry", description=__doc__)
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
        "show", "show one version: lineage, metrics, when it was champion, as JSON", "",
        "ziln-2011-05-01-1f0c6d5e --registry registry/",
    )  # fmt: skip
    show.add_argument("version", metavar="VERSION", help="a registered version, as list shows it")
    champion = command(
        "champion", "print the champion's model directory, and nothing else",
        "So that a shell can use it: --model $(python -m trainer.registry champion --registry registry/)",
        "--registry registry/ --on 2011-12-10",
    )  # fmt: skip
    champion.add_argument(
        "--on", type=_day, metavar="DATE",
        help="the champion at the end of that UTC day, such as 2011-12-10; the one of now if not given",
    )  # fmt: skip
    for each, what in (
        (listing, "the versions' entries"),
        (champion, "the move that made it champion, with its figures"),
    ):
        each.add_argument("--json", action="store_true", help=f"print {what} as JSON")
    return parser


def _day(text: str) -> datetime.date:
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not usable: accepted is a date such as 2011-12-10") from None


def main(argv: list[str] | None = None) -> int:
    try:
        return exit_code(lambda: print(_text(RegistryOptions.parse(argv), run(argv))))
    except NotPromoted as error:
        print(f"not promoted: {error}", file=sys.stderr)
        return NOT_PROMOTED


def run(argv: list[str] | None = None, clock: Clock = utc_now) -> dict[str, Any]:
    """Runs a command and returns what it shows: for ``champion``, ``promote`` and ``rollback`` the move and ``model``.

    Raises:
      UsageError: a bad argument, or nothing there to show.
      ChampionMoved: another process changed the champion meanwhile.
      NotPromoted: the challenger is not better than the champion.
    """
    options = RegistryOptions.parse(argv)
    registry = Registry(options.registry, clock)
    if options.command == "register":
        return registry.register(options.model, options.by)
    if options.command == "promote":
        return _promote(registry, options)
    if options.command == "rollback":
        return _rollback(registry, options)
    if options.command == "list":
        return {"champion": registry.champions().version, "versions": registry.versions()}
    if options.command == "show":
        return {**registry.entry(options.version), "champion": _reigns(registry.champions(), options.version)}
    return _shown(registry, registry.champion_on(options.on))


def _shown(registry: Registry, move: registry_store.Move) -> dict[str, Any]:
    return {**asdict(move), "model": registry.model_directory(move.version)}


def _promote(registry: Registry, options: RegistryOptions) -> dict[str, Any]:
    # Read before anything is compared: what the comparison is about is what the move may replace.
    seen = registry.champions()
    entry = registry.register(options.model, options.by)
    challenger = Contender(entry, registry.model_directory(entry["model_version"]))
    if seen.current and seen.version == challenger.version:
        _say(f"{challenger.version} is already champion, since {seen.current.at}")
        return _shown(registry, seen.current)
    decision = _decision(registry, seen, challenger, options)
    for note in decision.notes:
        _say(f"note: {note}")
    if not decision.wins and not options.force:
        raise NotPromoted("; ".join([f"{challenger.version} is {decision.sentence}", *decision.notes]))
    move = registry.move(
        seen, challenger.version, action=PROMOTE, reason=options.reason or decision.sentence,
        forced=not decision.wins, figures=decision.figures, notes=decision.notes, by=options.by,
    )  # fmt: skip
    _say(f"{challenger.version} is champion{' by force' if move.forced else ''}: {decision.sentence}")
    return _shown(registry, move)


def _decision(registry: Registry, seen: Champions, challenger: Contender, options: RegistryOptions) -> Decision:
    if seen.version is None:
        return _first(challenger)
    champion = Contender(registry.entry(seen.version), registry.model_directory(seen.version))
    try:
        evaluation = registry_challenge.evaluation_of(challenger, options.evaluation)
        _say(f"comparing {challenger.version} with the champion {champion.version} on {evaluation.uri}")
        return registry_challenge.compare(challenger, champion, evaluation)
    except Incomparable as error:
        if not options.force:
            raise
        return Decision(False, "not compared with the champion", None, (error.why,))


def _first(challenger: Contender) -> Decision:
    evaluation = json.loads(storage.read_bytes(storage.join(challenger.directory, "evaluation.json")))
    if not evaluation["buyers"]:
        return Decision(
            False, f"not judged, though the registry has no champion to beat yet: {evaluation['verdict']}", None
        )
    return Decision(True, "the first champion, compared with none", None)


def _rollback(registry: Registry, options: RegistryOptions) -> dict[str, Any]:
    seen = registry.champions()
    if seen.version is None:
        raise UsageError(f"--registry {registry.uri!r} has no champion to roll back from")
    version = options.to or seen.before_current()
    if version is None:
        raise UsageError(f"there was no champion before {seen.version}: name a registered version by --to")
    if version == seen.version:
        raise rejected("--to", version, f"a version other than the champion {seen.version}")
    registry.entry(version)  # complete, or refused
    assert options.reason is not None
    move = registry.move(seen, version, action=ROLLBACK, reason=options.reason, by=options.by)
    _say(f"{version} is champion again, instead of {seen.version}")
    return _shown(registry, move)


def _reigns(champions: Champions, version: str) -> list[dict[str, str | None]]:
    """When a version was champion: [{"from", "to"}], "to" None for the present."""
    ends = [*(move.at for move in champions.moves[1:]), None]
    return [
        {"from": move.at, "to": end}
        for move, end in zip(champions.moves, ends, strict=False)
        if move.version == version
    ]  # fmt: skip


def _text(options: RegistryOptions, result: dict[str, Any]) -> str:
    if options.json or options.command == "show":
        return json.dumps(result, indent=2, ensure_ascii=False)
    if options.command == "list":
        return _table(result)
    if options.command == "register":
        return str(result["model_version"])
    return str(result["model"] if options.command == "champion" else result["version"])


def _table(listing: dict[str, Any]) -> str:
    head = ["", "version", "registered", "trained on", "judged on", *map(spoken, MAIN_METRICS)]
    rows = [
        [
            "*" if entry["model_version"] == listing["champion"] else "",
            entry["model_version"],
            entry["registered_at"][:16].replace("T", " "),
            " ".join(entry["training_cutoffs"]),
            entry["evaluation_cutoff"],
            *(format_metric(metric, entry["metrics"].get(metric)) for metric in MAIN_METRICS),
        ]
        for entry in listing["versions"]
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
    return "\n".join([*lines, "", _legend(listing)])


def _legend(listing: dict[str, Any]) -> str:
    if listing["champion"] is None:
        return "no champion yet; times are UTC"
    return f"* {listing['champion']} is champion; metrics as first judged, on different customers; times are UTC"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
