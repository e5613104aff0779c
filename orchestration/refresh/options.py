"""The arguments of ``python -m orchestration.refresh``."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
from dataclasses import dataclass
from typing import Any

from orchestration.refresh.settings import FILE, VARIABLE
from transforms.cli import ArgumentParser, number
from transforms.errors import UsageError

PROG = "python -m orchestration.refresh"
GATES = ("data", "metrics")
DESCRIPTION = f"""\
Keeps the campaigns of a recommender up to date: data -> import -> training -> campaign update.

A refresh is one base_date of one campaign. It is started once, by an event or by hand, and every tick moves it on as far
as it goes now: a scheduler calls tick every minute or so, from as many machines as it likes. Nothing is done twice, a
process may die anywhere, and a later base_date supersedes an earlier one.

  started -> validated -> import -> training -> deployment -> deployment_active          ends well
      ... rejected (by a gate), import_failed, training_failed, training_stopped,
          deployment_failed, rollback_failed                                             ends as FAILED
      ... skipped (no new data), superseded (by a later one), rolled_back                ends otherwise

examples:
  {PROG} demo                                        all of it on this machine, without an account
  {PROG} start --event event.json                    what EventBridge delivers
  {PROG} start --campaign shop --base_date 2026-11-22
  {PROG} tick                                        from cron, every minute
  {PROG} status
  {PROG} rollback --campaign shop --reason "shoes for everybody"

The settings are one TOML file, --settings FILE, by default what {VARIABLE} names, or {FILE} in the current
directory; orchestration/refresh/refresh.example.toml explains each. Exit code 0: done; 1: it failed; 2: a wrong
argument, setting or event, nothing was done. `{PROG} COMMAND --help` says more."""
_START = f"""\
Start a refresh; the next tick begins to work on it.

  {PROG} start --campaign shop --base_date 2026-11-22
  {PROG} start --campaign shop --base_date 2026-11-22 --wait
  {PROG} start --campaign shop --base_date 2026-11-22 --retry --override "metrics=new catalogue, fewer clicks"
  aws sqs receive-message ... | jq -r '.Messages[0].Body' | {PROG} start --event -

One that was started already is said to be, and nothing happens. --retry has one that failed, was rejected or skipped go on
from the step that failed. --override lets it through a gate, with a reason that the ledger keeps:
  data      the data's checks, and how many rows they have beside those before
  metrics   how good the new version is beside the one that is served

--event takes one JSON object as EventBridge delivers it. A Glue job's success begins a refresh of each campaign whose
[campaigns.NAME.event] names the job, with the UTC date of the event's time as the base_date. An event of your own is
  {{"source": "clv.interactions", "detail": {{"campaign": "shop", "base_date": "2026-11-22", "data": "s3://..."}}}}
(data: those of the settings if not given). An event of anything else begins nothing, says why, and that is no error.
Where it begins several and one is refused, the others are started, and the command ends with 1."""
_TICK = f"""\
Move every open refresh on as far as it goes now. stderr has one line for each change, and what the others wait for.

  {PROG} tick
  {PROG} tick --campaign shop --until_done --every 30

The newest refresh of a campaign comes first. Campaigns are worked on side by side; where one has trouble (no access, a
damaged row) the others go on, and the command ends with 1. So it does where a refresh fails while --until_done waits for
it; without, how refreshes end is for status, and for the events that go to the settings' sinks."""
_STATUS = f"""\
Show where refreshes are: of each campaign the open ones, the latest that has ended, the one that is served, and the last
that was to be rolled back, until a later one is served.

  {PROG} status
  {PROG} status --campaign shop --all
  {PROG} status --json | jq '.campaigns[] | select(.failed)'
  {PROG} status --fail_on_failed > /dev/null    for a monitor: 1 where a campaign has failed

A campaign has failed where its latest refresh has, or the one that is served, or that last rollback. A campaign whose rows
cannot be read is left out: stderr says why, the others are shown, and the command ends with 1.

--json prints one object: at, and campaigns, a list of
  campaign, latest (base_date), failed, failures (base_dates of those), open (base_dates), serving (version,
  base_date, at; null: nothing that the ledger knows of), and refreshes, the latest first, each with
    base_date, state, failed, ended, since, seconds (in that state), reason, waits_for, until (no look before; null: any
    time), deadline (then it fails; null where it has ended), attempt, version, metric (name, value; null), metrics, data,
    data_rows, import_mode, training_mode, replaced_version, overrides, history (at, state, reason; with --all)
Times are ISO 8601 in UTC. Nothing but the ledger is asked."""
_ROLLBACK = f"""\
Have a campaign serve again what it served before.

  {PROG} rollback --campaign shop --reason "shoes for everybody" --wait
  {PROG} rollback --campaign shop --base_date 2026-11-22 --reason "..."     only if that one is served

The update of the campaign is asked for at once; tick, or --wait, sees it through."""
_SWEEP = f"""\
Find what was lost, and have it go on. From a scheduler, once a day.

  {PROG} sweep --dry_run
  {PROG} sweep

  lost refreshes   that are not among the open ones, because a process died: they are put back
  missed events    complete data under the campaign's pattern, later than its latest refresh: they are started, the newest
                   first; of a campaign that never had a refresh the newest alone
  open refreshes   are ticked
  drift            a campaign that serves something else than the ledger says: the ledger takes note

--dry_run changes nothing and ticks nothing."""
_DEMO = f"""\
Four weeks of a campaign on this machine, without an account, in less than 20 seconds.

  {PROG} demo"""


@dataclass(frozen=True)
class Options:
    """What was asked for; most of it is some commands' only. None: not given."""

    command: str
    settings: str | None = None
    verbose: bool = False
    campaign: str | None = None
    campaigns: list[str] | None = None
    base_date: datetime.date | None = None
    data: str | None = None
    override: dict[str, str] = dataclasses.field(default_factory=dict)
    retry: bool = False
    event: str | None = None
    reason: str | None = None
    wait: bool = False
    until_done: bool = False
    every: float | None = None
    all: bool = False
    json: bool = False
    fail_on_failed: bool = False
    dry_run: bool = False
    workdir: str | None = None

    @classmethod
    def parse(cls, argv: list[str] | None) -> Options:
        """Raises: UsageError."""
        parser, commands = _parser()
        known, unknown = parser.parse_known_args(argv)
        if unknown:  # the command's own parser knows what was meant
            commands[known.command].error(f"unrecognized arguments: {' '.join(unknown)}")
        values: dict[str, Any] = vars(known)
        overrides = values.pop("override", None) or []
        values["override"] = dict(overrides)
        if len(values["override"]) < len(overrides):
            raise UsageError("--override names a gate twice: accepted is one reason for each")
        options = cls(**values)
        if options.command == "start":
            options._check_start()
        if options.every is not None and not options.until_done:
            raise UsageError("--every is for --until_done: one tick looks once")
        return options

    def _check_start(self) -> None:
        if self.event is not None:
            given = {"--campaign": self.campaign, "--base_date": self.base_date, "--data": self.data,
                     "--retry": self.retry, "--override": self.override, "--reason": self.reason}  # fmt: skip
            for flag, value in given.items():
                if value:
                    raise UsageError(f"{flag} does not go with --event, which says all of it")
        elif self.campaign is None or self.base_date is None:
            raise UsageError(f"start needs --campaign and --base_date, or --event (see {PROG} start --help)")
        if self.retry and self.data is not None:
            raise UsageError("--data does not go with --retry: a refresh that has begun keeps its data")


def _parser() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The whole, and each command's own."""
    parser = ArgumentParser(PROG, description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=ArgumentParser)

    def command(name: str, short: str, description: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, help=short, description=description)
        if name != "demo":
            added.add_argument("--settings", metavar="FILE", help=f"the settings; ${VARIABLE} or {FILE} if not given")
            added.add_argument(
                "--verbose", action="store_true",
                help="stderr has one JSON object for each event and decision instead of a person's lines; so it has where CLV_LOG=json",
            )  # fmt: skip
        return added

    _add_start(command("start", "start a refresh, or have one that failed go on", _START))
    tick = command("tick", "move every open refresh on", _TICK)
    _add_campaigns(tick)
    tick.add_argument("--until_done", action="store_true", help="go on until nothing is open")
    tick.add_argument(
        "--every", type=number(0.01, 86400, "seconds"), metavar="SECONDS",
        help="how often to look; if not given, whenever the campaign's policy says that it is worth it",
    )  # fmt: skip
    status = command("status", "show where refreshes are", _STATUS)
    _add_campaigns(status)
    status.add_argument("--all", action="store_true", help="every refresh that the ledger has")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.add_argument("--fail_on_failed", action="store_true", help="end with 1 where a campaign has failed")
    rollback = command("rollback", "have a campaign serve again what it served before", _ROLLBACK)
    rollback.add_argument("--campaign", required=True, metavar="NAME", help="one of the settings'")
    rollback.add_argument(
        "--base_date", type=_day, metavar="DATE", help="the refresh to undo, for the case that another is served"
    )
    rollback.add_argument("--reason", type=_reason, required=True, metavar="TEXT", help="why, for the ledger")
    rollback.add_argument("--wait", action="store_true", help="tick until it has ended; end with 1 where it fails")
    sweep = command("sweep", "find what was lost, and have it go on", _SWEEP)
    _add_campaigns(sweep)
    sweep.add_argument("--dry_run", action="store_true", help="only print what was found")
    demo = command("demo", "the whole story on this machine", _DEMO)
    demo.add_argument("--workdir", metavar="DIR", help="gets the orders, the settings and the ledger")
    return parser, commands.choices


def _add_start(start: argparse.ArgumentParser) -> None:
    start.add_argument("--campaign", metavar="NAME", help="one of the settings'")
    start.add_argument("--base_date", type=_day, metavar="DATE", help="which refresh, such as 2026-11-22")
    start.add_argument(
        "--data", metavar="URI", help="the directory of its interactions; by the settings' pattern if not given"
    )
    start.add_argument(
        "--override", action="append", type=_override, metavar="GATE=REASON",
        help=f"let it through a gate, {' or '.join(GATES)}; may be repeated",
    )  # fmt: skip
    start.add_argument("--retry", action="store_true", help="have one that failed, was rejected or skipped go on")
    start.add_argument("--reason", type=_reason, metavar="TEXT", help="why, for the ledger")
    start.add_argument("--event", metavar="FILE", help="a JSON file with an event, - for stdin")
    start.add_argument("--wait", action="store_true", help="tick until it has ended; end with 1 where it fails")


def _add_campaigns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--campaign", action="append", dest="campaigns", metavar="NAME",
        help="one of the settings'; may be repeated; all if not given",
    )  # fmt: skip


def _day(text: str) -> datetime.date:
    from orchestration.refresh.events import parse_day

    try:
        return parse_day("it", text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("it ")) from None


def _override(text: str) -> tuple[str, str]:
    gate, equals, reason = text.partition("=")
    if gate not in GATES or not equals or not reason.strip():
        accepted = f"GATE=REASON, the gate being {' or '.join(GATES)}"
        raise argparse.ArgumentTypeError(f"{text!r} is not usable: accepted is {accepted}")
    return gate, reason.strip()


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not usable: accepted is a text that says why")
    return text.strip()
