"""Four weeks of a campaign on this machine, without an account, in less than 20 seconds.

Real parts: orders become interactions by pipelines.interactions on an S3 store (moto's), and a local Amazon Personalize
imports, trains and deploys them over HTTP. What one sees: a week that goes well though its event comes twice, a lost answer
together with a killed process, a training that fails, a model that is worse, an event that is late, and a rollback. At the end
the service says how many trainings were paid for. The service is gone then; the ledger stays.

example:
  python -m orchestration.refresh demo --workdir work/refresh_demo
"""

from __future__ import annotations

import sys

from transforms.cli import ArgumentParser, exit_code

WORKDIR = "work/refresh_demo"


def run_demo(workdir: str | None = None) -> None:
    """Tells the story on stdout.

    Raises:
      UsageError: something that it needs is not installed.
      JobFailed: the story did not end as told.
    """
    import time

    from orchestration.refresh import demo_place
    from orchestration.refresh.demo_story import BEFORE, WEEKS, Story
    from orchestration.refresh.demo_table import Shown

    began = time.monotonic()
    workdir = workdir or WORKDIR
    with Shown() as shown:
        shown.say("A shop, its orders, an S3 store and an Amazon Personalize, all on this machine: a moment, please.")
        with demo_place.opened(workdir, [str(day) for day in (BEFORE, *WEEKS)]) as place:
            shown.say(
                f"{place.lines:,} order lines become interactions, week by week. The campaign serves a version that a person "
                f"trained by hand on the data until {BEFORE}. From now on the ledger is in charge."
            )
            story = Story(place, shown)
            for chapter in (
                story.first_week, story.second_week, story.third_week, story.fourth_week, story.late_event, story.back, story.end,
            ):  # fmt: skip
                chapter()
    shown.say(f"All as told, in {time.monotonic() - began:.1f} seconds.")


def run(argv: list[str] | None = None) -> None:
    parser = ArgumentParser("python -m orchestration.refresh demo", description=__doc__)
    parser.add_argument("--workdir", default=WORKDIR, help="gets the orders, the settings and the ledger")
    run_demo(parser.parse_args(argv).workdir)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
