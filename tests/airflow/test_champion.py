"""Which model a run uses, and what it does where there is nothing to do: losers, past days, other champions' times."""

from __future__ import annotations

import datetime
import itertools

import pytest

from orchestration import prepare
from tests.airflow.airflow_home import Run
from tests.airflow.fixtures import Install
from tests.airflow.installation import BUILD, SERVE, Installation, parts
from tests.airflow.story import Story, at, now, predictions, vertex_aliases
from trainer.registry_store import PROMOTE, Registry

pytestmark = pytest.mark.airflow


@pytest.fixture(scope="module")
def loser(story: Story) -> Run:
    """A second training in an undisturbed installation, whose model loses."""
    run, output = story.installation.run(BUILD, now(), train="always", model="bgnbd", training_snapshots=1)
    print(run)
    assert run.state == "success", output[-20_000:]
    return run


def test_a_challenger_that_loses_changes_nothing_and_is_no_failure(story: Story, loser: Run) -> None:
    installation = story.installation
    registry = Registry(installation.registry)
    assert len(registry.versions()) == 2 and len(registry.champions().moves) == 1
    assert len(vertex_aliases(installation)) == 1
    skipped = {task for task, state in loser.states.items() if state != "success"}
    assert skipped == {"deploy.champion", "deploy.announce"} and loser.states["deploy.champion"] == "skipped"
    (event,) = [event for event in installation.events(BUILD) if event["run"].endswith(loser.id)]
    assert event["event"] == "champion kept" and event["step"] == "deploy.challenger_won"
    assert event["reason"] and event["figures"]["date"] == str(story.day)


def test_a_past_day_gives_the_same_bytes_every_time_and_is_not_served(story: Story) -> None:
    installation, past = story.installation, story.day - datetime.timedelta(days=30)
    before = installation.current()
    runs = []
    for _ in range(2):
        run, output = installation.run(SERVE, now(), as_of=str(past))
        assert run.state == "success", output[-20_000:]
        assert {task for task, state in run.states.items() if state == "skipped"} == {"publish", "announce"}
        runs.append(run)
    first, second = (installation.home.xcom(run, "predict")["output"] for run in runs)
    assert first != second and list(parts(first)) == list(parts(second)) != []
    assert installation.current() == before


def test_before_the_first_champion_a_run_says_so_and_is_not_tried_again(story: Story) -> None:
    run, _ = story.installation.run(SERVE, at(story.day - datetime.timedelta(days=5)))
    assert run.state == "failed" and run.states["plan"] == "failed" and run.tries["plan"] == 1
    (event,) = [event for event in story.installation.events(SERVE) if event["run"].endswith(run.id)]
    assert (event["event"], event["step"]) == ("failed", "plan")
    assert "the first champion is" in event["reason"] and "\n" not in event["reason"]


def test_a_backfilled_day_has_the_champion_of_its_own_time(story: Story, loser: Run, install: Install) -> None:
    installation = install("history")
    old, new = champions_of_two_times(installation, story)
    prepare.run([
        "--orders", installation.shop.files.replace("{date}", str(story.day)), "--dataset", installation.dataset,
        "--loaded_on", str(story.day),
    ])  # fmt: skip
    missed = story.day - datetime.timedelta(days=10)
    run, output = installation.run(SERVE, at(missed, 6), publish="never")
    assert run.state == "success", output[-20_000:]
    rows = predictions(installation, run).to_pylist()
    assert {row["model_version"] for row in rows} == {old} != {new} and {row["as_of"] for row in rows} == {missed}


def champions_of_two_times(installation: Installation, story: Story) -> tuple[str, str]:
    """Makes one version champion twenty days ago, and another five days ago."""
    theirs = Registry(story.installation.registry)
    (first, second) = (str(each["model_version"]) for each in theirs.versions())
    for version, days in ((first, 20), (second, 5)):
        then = now() - datetime.timedelta(days=days)
        registry = Registry(installation.registry, clock=itertools.repeat(then).__next__)
        registry.register(theirs.model_directory(version))
        registry.move(registry.champions(), version, action=PROMOTE, reason="history")
    return first, second


@pytest.mark.parametrize(
    ("dag", "conf", "named"),
    [(SERVE, '{"horizon_days": 0}', "horizon_days"), (BUILD, '{"model": "best"}', "model")],
)
def test_a_bad_parameter_is_refused_when_a_run_is_triggered(story: Story, dag: str, conf: str, named: str) -> None:
    home, before = story.installation.home, story.installation.home.runs(dag)
    refused = home.call("dags", "trigger", dag, "--conf", conf)
    assert refused.returncode != 0 and f"Invalid input for param {named}" in refused.stdout
    assert home.runs(dag) == before
