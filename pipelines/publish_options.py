"""The command lines of ``pipelines.publish``: publishing itself, and what is done with generations afterwards."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.options import days, directory, positive
from serving.rate_budget import Ramp
from serving.store import ACCEPTED_URIS, KEEP_GENERATIONS, TTL
from transforms.cli import ArgumentParser
from transforms.errors import UsageError

if TYPE_CHECKING:
    from pipelines.publish_toml import Settings

DESCRIPTION = """\
Publishes a predictions directory to the serving store, and to BigQuery or a local warehouse when one is given.

Every row is checked; rows that cannot be served become dead letters. The others are staged as a new generation beside
the one being served. When all of it is there and no guard trips, the store switches to it in one transaction: readers
see the old predictions or the new ones, never a mixture; then the warehouse's partition of that day is replaced.
Running the command again is safe: it finishes what was interrupted, or says that the generation is current already.

examples:
  python -m pipelines.publish --predictions work/predictions --serving sqlite://work/serving.db \\
      --warehouse work/warehouse --dead_letters work/dead_letters
  python -m pipelines.publish --predictions gs://shop/predictions/2011-12-10 --serving datastore://my-project \\
      --bigquery_table my-project.shop.predictions --staging gs://shop/staging \\
      --dead_letters gs://shop/dead_letters --registry gs://shop/registry

afterwards (each has a --help of its own):
  python -m pipelines.publish status   --serving URI                    the generations there are, and which is current
  python -m pipelines.publish rollback --serving URI --to GENERATION    back to an earlier one
  python -m pipelines.publish purge    --serving URI --keep 2           delete the others now
  python -m pipelines.publish replay   --serving URI --dead_letters DIR publish rows that were mended
(all but status also want the --warehouse or --bigquery_table of the publish: both places change together)

On Dataflow the command waits for its job and then switches. With --no_wait_until_finish (or in a Flex Template, by
--template_location) it submits the job, says where it is, and ends with 0: the job's last step seals, judges, switches
and expires, and a guard that trips fails the job.

Arguments not listed here go to Apache Beam, such as --runner DirectRunner (default: FnApiRunner). Exit codes: 0 done,
1 a job failed or another publish was first, 2 a bad argument or unusable predictions, 3 a guard tripped: what was
current stays current."""

RAMP = "500/50/5"
COMMANDS = ("status", "rollback", "purge", "replay")
_SERVING = f"the serving store: {ACCEPTED_URIS}"


@dataclass(frozen=True)
class Places:
    """Where generations are: the store and, beside it, one warehouse or none."""

    serving: str
    warehouse: str | None = None
    bigquery_table: str | None = None
    staging: str | None = None
    ttl_days: int = TTL.days


@dataclass(frozen=True)
class Options:
    """``settings`` (of the guards) and what follows decides whether the switch is made, ``ramp`` how fast rows get there."""

    predictions: str
    places: Places
    dead_letters: str
    keep_generations: int
    ramp: Ramp | None
    shards: int | None
    settings: Settings
    overrides: Mapping[str, str] = field(default_factory=dict)
    registry: str | None = None
    stage_only: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class CommandOptions:
    """One command's arguments; those of the other commands have their defaults."""

    command: str
    places: Places
    to: str = ""
    reason: str = ""
    keep: int = KEEP_GENERATIONS
    dead_letters: str = ""
    json: bool = False


def parser() -> ArgumentParser:
    """What a publish accepts; the rest is Beam's."""
    parser = ArgumentParser("python -m pipelines.publish", description=DESCRIPTION)
    parser.add_argument(
        "--predictions", required=True, metavar="DIR", help="what pipelines.predict wrote (with its manifest.json)"
    )
    _add_places(parser, "made when missing; ")
    parser.add_argument(
        "--dead_letters", required=True, metavar="DIR", type=directory,
        help="rows that cannot be served, as JSON Lines in DIR/GENERATION: stage, reason, detail, payload",
    )  # fmt: skip
    parser.add_argument(
        "--keep_generations", type=positive, metavar="N", default=KEEP_GENERATIONS,
        help="former generations kept for a rollback; older ones are deleted",
    )  # fmt: skip
    parser.add_argument(
        "--ramp", type=_ramp, metavar="START/PERCENT/MINUTES", default=RAMP,
        help="Datastore writes a second at the start, and how much more every so many minutes: a new generation is a "
        "cold range of keys, and Google asks for 500/50/5; off writes as fast as the store takes it",
    )  # fmt: skip
    parser.add_argument(
        "--shards", type=positive, metavar="N",
        help="workers that write at a time, each with its share of the rate (default: 1 on this machine, else 16)",
    )  # fmt: skip
    parser.add_argument("--guards", metavar="FILE", help="TOML with other limits than those of pipelines/publish.toml")
    parser.add_argument(
        "--override", action="append", default=[], metavar="GUARD=REASON",
        help="switch although this guard trips; the reason is recorded. May be repeated",
    )  # fmt: skip
    parser.add_argument("--registry", metavar="URI", help="where the model's version must be known (trainer.registry)")
    parser.add_argument(
        "--stage_only", action="store_true",
        help="stop before the switch: the same command without it goes on from there",
    )  # fmt: skip
    parser.add_argument(
        "--dry_run", action="store_true",
        help="check every row and print the plan: rows, time, cost, difference from the current generation, guards",
    )  # fmt: skip
    return parser


def parse(argv: list[str] | None) -> tuple[Options, list[str]]:
    """The arguments of a publish, and those that are Beam's.

    Raises:
      UsageError: one is missing or not usable.
    """
    from pipelines import publish_guards, publish_toml

    arguments = parser()
    try:
        known, beam_arguments = arguments.parse_known_args(argv)
    except UsageError as error:
        misplaced = next((given for given in arguments.given if given in COMMANDS), None)
        hint = f"; {misplaced} comes first: python -m pipelines.publish {misplaced} ..." if misplaced else ""
        raise UsageError(f"{error}{hint}") from None
    return Options(
        known.predictions,
        _places(known),
        known.dead_letters,
        known.keep_generations,
        known.ramp,
        known.shards,
        publish_toml.read(known.guards),
        publish_guards.parse_overrides(known.override),
        known.registry,
        known.stage_only,
        known.dry_run,
    ), beam_arguments


def parse_command(argv: list[str]) -> CommandOptions:
    """Raises: UsageError for an argument that is missing or not usable."""
    command, rest = argv[0], argv[1:]
    parser = ArgumentParser(f"python -m pipelines.publish {command}", description=_DESCRIPTIONS[command])
    if command == "status":
        parser.add_argument("--serving", required=True, metavar="URI", help=_SERVING)
    else:
        _add_places(parser)
    if command == "rollback":
        parser.add_argument(
            "--to", required=True, metavar="GENERATION", help="the one to serve again, as status names it"
        )
        parser.add_argument("--reason", required=True, metavar="TEXT", help="why, recorded with the generation")
    if command == "purge":
        parser.add_argument(
            "--keep", type=positive, metavar="N", default=KEEP_GENERATIONS,
            help="former generations that stay beside the current one",
        )  # fmt: skip
    if command == "replay":
        parser.add_argument(
            "--dead_letters", required=True, metavar="DIR", type=directory,
            help="the directory of one generation's dead letters, DIR/GENERATION of its publish, with rows mended in place",
        )  # fmt: skip
    if command == "status":
        parser.add_argument("--json", action="store_true", help="as JSON, one generation a line")
    known = vars(parser.parse_args(rest))
    own = {name: value for name, value in known.items() if name in CommandOptions.__dataclass_fields__}
    places = Places(known["serving"]) if command == "status" else _places(argparse.Namespace(**known))
    return CommandOptions(command, places, **own)


_DESCRIPTIONS = {
    "status": """\
Lists the generations, last begun first: which one is current, what each holds, and what was said at its switch.

example:
  python -m pipelines.publish status --serving datastore://my-project""",
    "rollback": """\
Serves an earlier generation again: the pointer moves in one transaction that asserts what was current when the command
began, then the warehouse's partition and view follow. Nothing is compared; nothing is deleted. To go forward again,
roll back to the later generation.

example:
  python -m pipelines.publish rollback --serving datastore://my-project --to 2011-12-09-0a1b2c3d4e5f \\
      --bigquery_table my-project.shop.predictions --staging gs://shop/staging --reason "values of Sunday doubled"
""",
    "purge": """\
Deletes generations now: all but the current one and the newest others that are to be kept, with what was left of
publishes that were killed. A publish does the same at its end.

example:
  python -m pipelines.publish purge --serving datastore://my-project --keep 2 \\
      --bigquery_table my-project.shop.predictions --staging gs://shop/staging""",
    "replay": """\
Publishes dead letters that were mended into the generation they belong to. Edit the payloads in DIR/GENERATION/*.jsonl
in place (delete the line of a row that is not to be served), then run this. What is usable now is added to the store
and to the warehouse, and its line goes; what is not stays, with the reason of today. May be repeated.

example:
  python -m pipelines.publish replay --serving datastore://my-project \\
      --bigquery_table my-project.shop.predictions --staging gs://shop/staging \\
      --dead_letters gs://shop/dead_letters/2011-12-10-0a1b2c3d4e5f""",
}


def _add_places(parser: ArgumentParser, made: str = "") -> None:
    parser.add_argument("--serving", required=True, metavar="URI", help=made + _SERVING)
    parser.add_argument(
        "--warehouse", metavar="DIR",
        help="also DIR/predictions/as_of=YYYY-MM-DD/predictions.parquet, sorted by customer_id, replaced as a whole",
    )  # fmt: skip
    parser.add_argument(
        "--bigquery_table", metavar="PROJECT.DATASET.TABLE",
        help="also this table's partition of the day, replaced as a whole, and the view TABLE_current; made when missing",
    )  # fmt: skip
    parser.add_argument(
        "--staging", metavar="gs://DIR", help="where Parquet files wait for BigQuery, with --bigquery_table"
    )
    parser.add_argument(
        "--ttl_days", type=days, metavar="N", default=TTL.days,
        help="days from its staging on that a generation is served in Datastore and staged in BigQuery",
    )  # fmt: skip


def _places(known: Any) -> Places:
    if known.warehouse and known.bigquery_table:
        raise UsageError("--warehouse and --bigquery_table were both given: accepted is one of them")
    if known.bigquery_table and not (known.staging or "").startswith("gs://"):
        raise UsageError(
            f"--staging {known.staging!r} is not usable: --bigquery_table needs a gs:// directory beside it"
        )
    return Places(known.serving, known.warehouse, known.bigquery_table, known.staging, known.ttl_days)


def _ramp(text: str) -> Ramp | None:
    try:
        return Ramp.parse(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
