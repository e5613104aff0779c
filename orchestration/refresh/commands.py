"""The commands of ``python -m orchestration.refresh``, but for the demo."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from orchestration.refresh import lines, reopen
from orchestration.refresh.events import Begin, read_event
from orchestration.refresh.installation import Installation, Troubles
from orchestration.refresh.options import Options
from orchestration.refresh.record import Record
from orchestration.refresh.service import Busy, Refused
from orchestration.refresh.settings import Settings, margin_warning, read_settings, require_directory, settings_path
from orchestration.refresh.ticking import require_success, tick_open, tick_until_done
from transforms.errors import JobFailed, UsageError, one_line

_LOG = logging.getLogger(__name__)


class Interrupted(JobFailed):
    """Whoever waited does so no longer. The same command once more would not wait for the same."""

    exit_code = 130


_BY_HAND = "started by hand"
_AGAIN = "done again by hand"


def run(options: Options) -> None:
    """Carries a command out.

    Raises:
      UsageError: a wrong argument, setting or event.
      JobFailed: it failed, or what it waited for did.
    """
    as_json = lines.wants_json(options.verbose)
    lines.set_up(as_json)
    settings = read_settings(settings_path(options.settings))
    try:
        command = _COMMANDS[options.command]
        command(options, settings, lines.Reporter(as_json))
    except (Busy, Refused) as error:
        raise JobFailed(f"{options.command}: {one_line(str(error))}") from error


def _start(options: Options, settings: Settings, reporter: lines.Reporter) -> None:
    if options.event is not None:
        reading = read_event(_event(options.event), settings)
        if not reading.begins:
            reporter.line(reading.ignored)
            return
        begins = reading.begins
    else:
        begins = [_begin(options, settings)]
    installation = Installation(settings, reporter)
    _warn(settings, [begin.campaign for begin in begins])
    records, troubles = _all_started(installation, begins, options)
    if options.wait and records:
        _wait_for(installation, records)
    troubles.check(len(begins))


def _warn(settings: Settings, names: list[str]) -> None:
    """Of what is accepted, and not advised."""
    if warning := margin_warning([settings.campaign(name) for name in names]):
        _LOG.warning("%s", warning)


def _begin(options: Options, settings: Settings) -> Begin:
    assert options.campaign is not None and options.base_date is not None
    campaign = settings.campaign(options.campaign)
    data = campaign.directory(options.base_date)
    if options.data is not None:
        data = require_directory("--data", options.data)
    return Begin(campaign.name, options.base_date, data, options.reason or (_AGAIN if options.retry else _BY_HAND))


def _all_started(installation: Installation, begins: list[Begin], options: Options) -> tuple[list[Record], Troubles]:
    """What was started, and of which campaigns something was not: that keeps no other from being started."""
    records, troubles = [], Troubles(installation.reporter)
    for begin in begins:
        try:
            records.append(_started(installation, begin, options))
        except Exception as error:  # whatever it is
            if len(begins) == 1:
                raise
            troubles.add(begin.campaign, error)
    return records, troubles


def _started(installation: Installation, begin: Begin, options: Options) -> Record:
    worker, name = installation.worker(begin.campaign), f"{begin.campaign} {begin.base_date}"
    if options.retry:
        record = reopen.retry(worker, begin.base_date, begin.why, options.override)
        installation.reporter.line(f"{name}: goes on from {record.state}, attempt {record.attempt}")
        return record
    record, new = worker.start(begin.base_date, begin.data, begin.why, options.override)
    if new:
        installation.reporter.line(f"{name}: started with {begin.data}")
        return record
    if options.override.items() - record.overrides.items():
        raise UsageError(
            f"{name} was started already and is {record.state}: --override is not taken; accepted is --retry --override, "
            "once a gate has rejected it"
        )
    installation.reporter.line(f"{name}: a duplicate, it was started already and is {lines.shown_state(record.state)}")
    return record


def _event(path: str) -> Any:
    """Raises: UsageError for what is no JSON."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
        return json.loads(text)
    except OSError as error:
        raise UsageError(f"--event {path!r} cannot be read: {error.strerror}") from None
    except ValueError as error:  # also what is no UTF-8
        raise UsageError(f"--event {path!r} is no JSON: {one_line(str(error))}") from None


def _wait_for(installation: Installation, records: list[Record]) -> None:
    """Ticks until these have ended. Others of their campaigns are ticked too: it may be their turn."""
    names = sorted({record.campaign for record in records})
    wanted = {(record.campaign, record.base_date) for record in records}
    try:
        _, troubles = tick_until_done(installation, names)
    except KeyboardInterrupt:
        raise Interrupted("interrupted: what was asked for stands, and ticks see it through; see status") from None
    troubles.check(len(names))
    ended = [installation.ledger.record(*each) for each in sorted(wanted)]
    require_success([record for record in ended if record is not None])


def _tick(options: Options, settings: Settings, reporter: lines.Reporter) -> None:
    installation = Installation(settings, reporter)
    names = installation.names(options.campaigns)
    _warn(settings, names)
    if options.until_done:
        ended, troubles = tick_until_done(installation, names, options.every)
        troubles.check(len(names))
        require_success(ended)
    else:
        troubles = Troubles(reporter)
        tick_open(installation, names, troubles)
        troubles.check(len(names))


def _rollback(options: Options, settings: Settings, reporter: lines.Reporter) -> None:
    assert options.campaign is not None and options.reason is not None
    installation = Installation(settings, reporter)
    name = settings.campaign(options.campaign).name
    record = reopen.rollback(installation.worker(name), options.base_date, options.reason)
    reporter.line(f"{name} {record.base_date}: back to {record.rollback_to}")
    if options.wait:
        _wait_for(installation, [record])
        return
    troubles = Troubles(reporter)
    tick_open(installation, [name], troubles)
    troubles.check(1)


def _status(options: Options, settings: Settings, reporter: lines.Reporter) -> None:
    from orchestration.refresh import status, status_table

    installation = Installation(settings, reporter)
    names, troubles = installation.names(options.campaigns), Troubles(reporter)
    found = status.of_campaigns(installation, names, troubles, everything=options.all)
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
    elif found["campaigns"]:
        status_table.show(found)
    failures = [line for each in found["campaigns"] for line in status.failures_in_words(each)]
    troubles.check(len(names), *(failures if options.fail_on_failed else ()))


def _sweep(options: Options, settings: Settings, reporter: lines.Reporter) -> None:
    from orchestration.refresh.sweep import sweep

    installation, troubles = Installation(settings, reporter), Troubles(reporter)
    names = installation.names(options.campaigns)
    _warn(settings, names)
    found = sweep(installation, names, options.dry_run, troubles)
    for line in found or ([] if troubles.of else [f"{', '.join(names)}: nothing was lost"]):
        print(line)
    troubles.check(len(names))


_COMMANDS = {"start": _start, "tick": _tick, "status": _status, "rollback": _rollback, "sweep": _sweep}
