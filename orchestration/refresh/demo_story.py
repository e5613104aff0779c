"""The demo's story: four weeks of a campaign, and what goes wrong in them.

Every chapter goes by what a chapter of real life has: events, workers, commands, and a service that has its own bad days.
What it claims it asks of the ledger and of the service; a chapter that went otherwise ends the demo with an error.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from orchestration.refresh.demo_place import CAMPAIGN, JOB, Place
from orchestration.refresh.demo_table import Shown
from orchestration.refresh.installation import Installation
from orchestration.refresh.lines import Reporter
from orchestration.refresh.local_personalize.faults import Fault
from orchestration.refresh.policy import Policy
from orchestration.refresh.record import Record, State, job_name
from orchestration.refresh.settings import read_settings
from transforms.errors import JobFailed

BEFORE = datetime.date(2025, 2, 24)  # what a person trained on by hand
WEEKS = tuple(datetime.date(2025, 3, day) for day in (3, 10, 17, 24))
LATE = datetime.date(2025, 3, 4)
# The service's offline metric of each week's version: the local one trains nothing, and is told what it finds.
METRIC = Policy.metric
FIRST_METRIC = 0.231  # of the version made by hand
METRICS = dict(zip(WEEKS, (0.241, 0.247, 0.252, 0.118), strict=True))
_EVERY_SECONDS = 0.05
_PATIENCE_SECONDS = 60.0


def glue_event(base_date: datetime.date, run: str) -> dict[str, Any]:
    """What EventBridge delivers when the upstream job has succeeded: it names a job and a time, and no base_date."""
    return {
        "version": "0", "id": f"00000000-0000-4000-8000-{base_date:%Y%m%d}{run[-4:]}", "detail-type": "Glue Job State Change",
        "source": "aws.glue", "account": "000000000000", "time": f"{base_date}T03:10:00Z", "region": "eu-central-1",
        "resources": [],
        "detail": {
            "jobName": JOB, "severity": "INFO", "state": "SUCCEEDED", "jobRunId": run, "message": "Job run succeeded"
        },
    }  # fmt: skip


class Story:
    """Tells it, chapter by chapter, in the order of the methods."""

    def __init__(self, place: Place, shown: Shown) -> None:
        self.place, self.shown, self.service = place, shown, place.service
        self.installation = Installation(read_settings(place.settings), Reporter(as_json=True))
        self.ledger = self.installation.ledger
        self.by_hand = len(self.service.versions)
        self.service.metrics = {f"{CAMPAIGN}-first": {METRIC: FIRST_METRIC}} | {
            job_name(CAMPAIGN, week, attempt): {METRIC: value} for week, value in METRICS.items() for attempt in (1, 2)
        }

    def first_week(self) -> None:
        week = WEEKS[0]
        self.shown.chapter(f"Week 1. The job {JOB} has succeeded; EventBridge says so twice, as it may.")
        self._deliver(week)
        self._told(f"the second event of {week} is a duplicate", "a duplicate" in self._deliver(week))
        self._follow(week)
        self._told(f"{week} is served", self._serves(week))
        self._told("the duplicate cost nothing: one import and one training", self._trainings(week) == 1)
        self.shown.say(
            "From the event to the campaign: imported, trained, held against what was served, deployed. "
            "The second event changed nothing."
        )

    def second_week(self) -> None:
        week = WEEKS[1]
        self.shown.chapter(
            "Week 2. The answer to CreateSolutionVersion is lost, and the process that waits for it is killed."
        )
        self._deliver(week)
        killed = self._killed_where_the_answer_is_lost(week)
        record = self._record(week)
        self._told("the intent is in the ledger", record.state == State.TRAINING_REQUESTED and not record.version)
        self.shown.say(
            f"Process {killed} is dead. The ledger has what it was about to do, the service has a training that nobody "
            "was told of. Another worker waits until the dead one's lease is over, finds the training by its name, and "
            "goes on with it."
        )
        adopted = self._follow(week)
        self._told("it was adopted", any(each.reason == f"{record.name} exists" for each in adopted.history))
        self._told("it was trained once", self._trainings(week) == 1 and self._serves(week))

    def third_week(self) -> None:
        week = WEEKS[2]
        self.shown.chapter("Week 3. The training ends as CREATE FAILED.")
        self.service.faults.append(
            Fault("CreateSolutionVersion", "create_failed", reason="An internal error occurred. Try again.")
        )
        self._deliver(week)
        failed = self._follow(week)
        self._told("the refresh has failed", failed.state == State.TRAINING_FAILED)
        self._told("the campaign serves week 2", self._serves(WEEKS[1]))
        self.shown.say(
            "The refresh has failed and says why; the campaign serves week 2 as before. A person looks, and has the training "
            "done again. The data are imported already."
        )
        self._command("start", "--campaign", CAMPAIGN, "--base_date", str(week), "--retry")
        self._follow(week)
        self._told(f"{week} is served", self._serves(week))
        self._told("its data were imported once", self._imports(week) == 1)

    def fourth_week(self) -> None:
        week = WEEKS[3]
        self.shown.chapter("Week 4. The new version is worse than the one that is served.")
        self._deliver(week)
        held = self._follow(week)
        self._told("the gate holds it back", held.state == State.REJECTED and self._serves(WEEKS[2]))
        self.shown.say(
            "The gate does not let it through; the campaign serves week 3 as before. Who knows better could say so, by "
            "start --retry --override metrics=REASON; nobody does here."
        )

    def late_event(self) -> None:
        self.shown.chapter(f"An event of {LATE} comes three weeks late.")
        before = self.service.count("CreateDatasetImportJob"), len(self.service.versions)
        self._deliver(LATE)
        late = self._follow(LATE)
        now = self.service.count("CreateDatasetImportJob"), len(self.service.versions)
        self._told("it is superseded", late.state == State.SUPERSEDED and now == before and self._serves(WEEKS[2]))
        self.shown.say(
            "Nothing older is ever deployed over something newer: it ends before anything is asked of the service."
        )

    def back(self) -> None:
        self.shown.chapter("Nobody likes what week 3 recommends: one command, and the campaign goes back.")
        self._command("rollback", "--campaign", CAMPAIGN, "--reason", "recommends umbrellas only")
        undone = self._follow(WEEKS[2])
        self._told("it is rolled back", undone.state == State.ROLLED_BACK and self._serves(WEEKS[1]))
        self.shown.say(f"The campaign serves {WEEKS[1]} again. No training was needed for that.")

    def end(self) -> None:
        """What it cost, by the service's own account."""
        trainings = len(self.service.versions) - self.by_hand
        refreshes = [record for record in self.ledger.records(CAMPAIGN) if record.state != State.SUPERSEDED]
        self._told("a training for each refresh, and one more", trainings == len(refreshes) + 1 == len(WEEKS) + 1)
        self.shown.chapter("The end.")
        self.shown.say(
            f"The service says: {trainings} trainings paid for, for {len(refreshes)} refreshes; the one more was a person's wish, "
            "in week 3. The duplicate event, the lost answer, the killed process and the late event cost nothing."
        )
        self.shown.say(f"The ledger stays, in {self.place.ledger}:")
        self.shown.stop()
        self._command("status", "--all")
        self.ledger.close()

    def _deliver(self, base_date: datetime.date) -> str:
        """An event arrives. What the command says to it."""
        path = os.path.join(os.path.dirname(self.place.settings), "demo_event.json")
        with open(path, "w") as file:
            json.dump(glue_event(base_date, f"jr_{base_date:%m%d}"), file)
        return self._command("start", "--event", path)

    def _command(self, *arguments: str) -> str:
        """Runs a command of ``python -m orchestration.refresh``, and shows what it says on stderr."""
        from orchestration.refresh.__main__ import main

        arguments = (*arguments, "--settings", self.place.settings)
        self.shown.command(shlex.join(arguments))
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = main(list(arguments))
        self._told(f"{shlex.join(arguments)} ends with 0, not with {code}: {said.getvalue().strip()}", code == 0)
        for line in said.getvalue().splitlines():
            self.shown.line(line)
        return said.getvalue()

    def _follow(self, base_date: datetime.date) -> Record:
        """Ticks a refresh until it has ended, each time as another worker."""
        self._show()

        def ended() -> bool:
            self.installation.worker(CAMPAIGN).tick(base_date)
            self._show()
            return self._record(base_date).state.is_end

        self._until(ended, f"{base_date} ends")
        return self._record(base_date)

    def _killed_where_the_answer_is_lost(self, base_date: datetime.date) -> int:
        """Has a process of its own tick until the service has begun to train and its answer is lost: there it is killed."""
        matching = {"name": job_name(CAMPAIGN, base_date)}
        self.service.faults.append(Fault("CreateSolutionVersion", "lost_reply", matching=matching))
        child: subprocess.Popen[bytes]

        def kill() -> None:
            child.kill()
            child.wait()

        self.service.on_lost = kill
        command = [sys.executable, "-m", "orchestration.refresh", "tick", "--settings", self.place.settings]
        child = subprocess.Popen(
            [*command, "--campaign", CAMPAIGN, "--until_done", "--every", str(_EVERY_SECONDS)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

        def ended() -> bool:
            over = child.poll() is not None
            self._show()
            return over

        try:
            self._until(ended, "the worker of week 2 is killed")
        finally:
            kill()
            self.service.on_lost = lambda: None
        ended_as = child.returncode
        self._told(f"the worker of {base_date} was killed: it ended as {ended_as}", ended_as == -signal.SIGKILL)
        return child.pid

    def _until(self, done: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + _PATIENCE_SECONDS
        while not done():
            if time.monotonic() > until:
                raise JobFailed(f"the demo did not go as told: not within {_PATIENCE_SECONDS:g} seconds: {what}")
            time.sleep(_EVERY_SECONDS)

    def _told(self, what: str, true: bool) -> None:
        if not true:
            raise JobFailed(f"the demo did not go as told: not true: {what}")

    def _show(self) -> None:
        self.shown.show(self.ledger.records(CAMPAIGN), self.ledger.head(CAMPAIGN))

    def _record(self, base_date: datetime.date) -> Record:
        record = self.ledger.record(CAMPAIGN, base_date)
        assert record is not None
        return record

    def _serves(self, base_date: datetime.date) -> bool:
        """By the service's own account, and by the ledger's."""
        serving = self.ledger.head(CAMPAIGN).serving
        really = self.service.campaigns[self.place.shop.campaign_arn].solution_version_arn
        return serving is not None and (serving.base_date, serving.version) == (base_date, really)

    def _trainings(self, base_date: datetime.date) -> int:
        """Of the refresh's first attempt, by the service's own account."""
        return sum(each.name == job_name(CAMPAIGN, base_date) for each in self.service.versions.values())

    def _imports(self, base_date: datetime.date) -> int:
        return sum(
            (each.name or "").startswith(job_name(CAMPAIGN, base_date)) for each in self.service.imports.values()
        )
