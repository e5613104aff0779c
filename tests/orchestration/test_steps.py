"""The steps, once: which commands, in which order, on which dates, and as a Flex Template's parameters."""

from __future__ import annotations

import argparse
import datetime
import itertools
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.steps import BuildTrainDeploy, PredictServe, PrepareOrders, Step, registry_name, training_cutoffs
from pipelines.orders_arguments import OrdersArguments
from templates import arguments

DAY = datetime.date
FIRST, CUTOFF = DAY(2010, 1, 1), DAY(2011, 1, 1)
ORDERS = ("--orders", "my orders.csv", "--csv_delimiter", ";")


def build(**changes: Any) -> BuildTrainDeploy:
    plain: dict[str, Any] = {
        "orders": ORDERS, "cutoff": CUTOFF, "horizon_days": 90, "history_days": None,
        "training_cutoffs": (DAY(2010, 10, 3), DAY(2010, 7, 5)), "directory": "w/runs/1", "registry": "w/registry/90d",
        "data_schema": "w/data_schema.pbtxt", "train": ("--seed", "3"),
    }  # fmt: skip
    return BuildTrainDeploy(**{**plain, **changes})


def serve(**changes: Any) -> PredictServe:
    plain: dict[str, Any] = {
        "orders": ORDERS, "as_of": DAY(2011, 4, 1), "model": "w/registry/90d/models/v1", "directory": "w/runs/1",
        "data_schema": "w/data_schema.pbtxt", "publish": ("--serving", "sqlite://w/serving.db", "--warehouse", "w/warehouse"),
        "dead_letters": "w/dead",
    }  # fmt: skip
    return PredictServe(**{**plain, **changes})


def prepare() -> PrepareOrders:
    return PrepareOrders("gs://b/2011-01-01/*.csv.gz", "p.shop", CUTOFF, ("--location", "EU"))


def value(step: Step, flag: str) -> str | None:
    return step.arguments[step.arguments.index(flag) + 1] if flag in step.arguments else None


def values(step: Step, flag: str) -> tuple[str, ...]:
    """All that stand after a flag, up to the next one."""
    after = step.arguments[step.arguments.index(flag) + 1 :]
    return tuple(itertools.takewhile(lambda word: not word.startswith("--"), after))


# --- The list -------------------------------------------------------------------------------------------------------


def test_the_ten_steps_in_order() -> None:
    """Deploy, the eighth, is ``trainer.vertex``'s own."""
    assert [(step.name, step.module) for part in (prepare(), build(), serve()) for step in part.steps()] == [
        ("create_dataset", "orchestration.prepare"),
        ("load_orders", "orchestration.prepare"),
        ("clean_orders", "orchestration.prepare"),
        ("features 2010-10-03", "pipelines.features"),
        ("features 2010-07-05", "pipelines.features"),
        ("features 2011-01-01", "pipelines.features"),
        ("train", "trainer.task"),
        ("gate", "trainer.registry"),
        ("predict 2011-04-01", "pipelines.predict"),
        ("report", "trainer.report"),
        ("publish", "pipelines.publish"),
    ]


def test_the_orders_are_prepared_in_three_parts_of_one_command() -> None:
    parts = prepare().steps()
    assert [value(step, "--only") for step in parts] == ["dataset", "load", "clean"]
    for step in parts:
        assert (value(step, "--loaded_on"), value(step, "--location")) == ("2011-01-01", "EU")
        assert step.output == "bigquery://p.shop.orders"


def test_every_snapshot_applies_the_transform_of_the_latest_training_snapshot() -> None:
    first, *others = build().features_steps()
    assert value(first, "--reuse_transform") is None
    assert {value(step, "--reuse_transform") for step in others} == {first.output} == {"w/runs/1/features/2010-10-03"}


def test_the_model_is_judged_on_the_evaluation_snapshot() -> None:
    train = build().train_step()
    assert values(train, "--features") == ("w/runs/1/features/2010-10-03", "w/runs/1/features/2010-07-05")
    assert value(train, "--evaluation") == "w/runs/1/features/2011-01-01"
    assert value(train, "--seed") == "3"


def test_the_gate_judges_the_model_just_trained_and_keeps_its_decision() -> None:
    gate = build(by="nightly").gate_step()
    assert gate.arguments[0] == "promote" and value(gate, "--model") == build().train_step().output
    assert (value(gate, "--registry"), value(gate, "--by")) == ("w/registry/90d", "nightly")
    assert value(gate, "--decision") == gate.output == build().gate


def test_what_is_served_is_the_model_it_is_told() -> None:
    steps = serve(features=("f/1", "f/2")).steps()
    assert [value(step, "--model") for step in steps] == ["w/registry/90d/models/v1"] * 2 + [None]
    assert [value(step, "--predictions") for step in steps] == [None] + ["w/runs/1/predictions"] * 2
    assert values(steps[1], "--features") == ("f/1", "f/2") and "--features" not in serve().report_step().arguments


def test_two_reports_fit_into_one_directory() -> None:
    own = build().report_step()
    assert values(own, "--features") == tuple(build().snapshots) and value(own, "--model") == build().model
    assert own.output != serve().report_step().output


def test_thresholds_reach_the_step_that_compares() -> None:
    steps = serve(skew_thresholds="mine.toml").steps()
    assert [step.module for step in steps if value(step, "--skew_thresholds") == "mine.toml"] == ["pipelines.predict"]
    assert not [step for step in serve().steps() if value(step, "--skew_thresholds")]


def test_what_completes_a_step() -> None:
    steps = [*build().steps(), *serve().steps()]
    assert {step.module: (step.kind, step.reads_orders) for step in steps} == {
        "pipelines.features": ("features", True), "trainer.task": ("model", False), "trainer.registry": (None, False),
        "pipelines.predict": ("predictions", True), "trainer.report": (None, False), "pipelines.publish": (None, False),
    }  # fmt: skip


def test_without_training_snapshots_the_evaluation_s_is_split_by_customer() -> None:
    short = build(training_cutoffs=())
    features, train = short.steps()[:2]
    assert features.name == "features 2011-01-01" and short.snapshots == [features.output]
    assert value(train, "--features") == value(train, "--evaluation") == features.output


def test_what_is_asked_of_the_orders_reaches_every_reader() -> None:
    for step in (*build(history_days=365).steps(), *serve().steps()):
        reads_orders = step.module in ("pipelines.features", "pipelines.predict")
        assert (value(step, "--csv_delimiter") == ";" and value(step, "--orders") == "my orders.csv") == reads_orders
        assert value(step, "--history_days") == ("365" if step.module == "pipelines.features" else None)


def test_a_command_is_what_a_person_could_type() -> None:
    for step in (*prepare().steps(), *build().steps(), *serve().steps()):
        assert shlex.split(step.command) == [sys.executable, "-m", step.module, *step.arguments]


def test_places_are_joined_as_they_are_given() -> None:
    there = build(directory="gs://b/runs/1/")
    assert (there.model, there.gate) == ("gs://b/runs/1/model", "gs://b/runs/1/gate.json")
    assert there.features(CUTOFF) == "gs://b/runs/1/features/2011-01-01"


def test_models_that_cannot_be_compared_have_registries_of_their_own() -> None:
    assert registry_name(90, None) == "90d" and registry_name(90, 365) == "90d-365d"


def test_a_scheduler_reads_the_list_without_anything_heavy() -> None:
    heavy = ("numpy", "pyarrow", "tensorflow", "apache_beam", "pipelines", "trainer")
    code = f"import sys, orchestration.steps; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- As a Flex Template's parameters --------------------------------------------------------------------------------

PARSERS = {"pipelines.features": "features", "pipelines.predict": "predict", "pipelines.publish": "publish"}


def parsed(template: str, argv: Sequence[str]) -> argparse.Namespace:
    namespace, unknown = arguments.parser(template).parse_known_args(list(argv))
    assert not unknown
    return namespace


def assert_told_alike(step: Step) -> None:
    """What a template's job understands is what the command would have."""
    template = PARSERS[step.module]
    launched = arguments.translated(template, step.parameters)
    assert parsed(template, launched) == parsed(template, step.arguments)


def test_every_step_that_a_template_runs_is_told_alike() -> None:
    steps = [
        *build(history_days=365, features_table="p.shop.features").features_steps(),
        serve(skew_thresholds="gs://b/skew.toml").predict_step(),
        serve(publish=("--serving", "datastore://p", "--bigquery_table", "p.shop.predictions", "--staging", "gs://b/s",
                       "--override", "as_of=a rerun", "--override", "zeros=a sale")).publish_step(),
    ]  # fmt: skip
    for step in steps:
        assert_told_alike(step)


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=12)
# A value that looks like a flag is one, to every command; blanks around it are nobody's.
WORD = TEXT.filter(lambda text: text == text.strip() and not text.startswith("-"))


@given(
    orders=WORD, delimiter=st.sampled_from(";,|\t"), encoding=st.sampled_from(("utf8", "latin-1")),
    buckets=st.none() | st.integers(1, 999), history=st.none() | st.integers(1, 5000), horizon=st.integers(1, 700),
    directory=WORD, table=st.none() | WORD,
)  # fmt: skip
def test_any_arguments_survive_the_way_through_a_template(
    orders: str, delimiter: str, encoding: str, buckets: int | None, history: int | None, horizon: int,
    directory: str, table: str | None,
) -> None:  # fmt: skip
    given: tuple[str, ...] = ("--orders", orders, "--csv_delimiter", delimiter, "--csv_encoding", encoding)
    given += ("--buckets", str(buckets)) if buckets is not None else ()
    planned = build(orders=given, history_days=history, horizon_days=horizon, directory=directory, features_table=table)
    for step in planned.features_steps():
        assert_told_alike(step)
    told = parsed("predict", arguments.translated("predict", serve(orders=given).predict_step().parameters))
    assert (
        OrdersArguments.take(told).given()
        == OrdersArguments.take(parsed("predict", [*given, "--model", "m", "--output", "o"])).given()
    )


@given(
    st.lists(
        st.tuples(WORD.filter(lambda name: name != "flag"), WORD),
        min_size=1,
        max_size=6,
        unique_by=lambda pair: pair[0],
    )
)
def test_flags_and_repeated_arguments_have_one_text(pairs: list[tuple[str, str]]) -> None:
    words = [word for name, text in pairs for word in (f"--{name}", text)]
    step = Step("s", "m", (*words, "--flag", f"--{pairs[0][0]}", "again"), "o")
    expected = {**dict(pairs), "flag": "true"}
    expected[pairs[0][0]] += ";again"
    assert step.parameters == expected


def test_words_without_a_name_are_no_parameters() -> None:
    with pytest.raises(AssertionError, match="'promote' stands without an argument's name"):
        _ = build().gate_step().parameters


# --- The dates ------------------------------------------------------------------------------------------------------


def days_before(latest: datetime.date, apart: int, count: int) -> tuple[datetime.date, ...]:
    return tuple(latest - datetime.timedelta(days=apart * i) for i in range(count))


LATEST = DAY(2010, 10, 3)  # a horizon of 90 days before the cutoff


@pytest.mark.parametrize(
    ("first_day", "most", "expected"),
    [
        (DAY(2005, 1, 1), 13, days_before(LATEST, 28, 13)),  # a year of them
        (FIRST, 13, days_before(LATEST, 28, 9)),  # the next would see less than a third of a horizon
        (FIRST, 5, days_before(LATEST, 34, 5)),  # so few that they lie farther apart, to reach back a horizon
        (FIRST, 1, (LATEST,)),
        (DAY(2010, 6, 11), 13, days_before(LATEST, 28, 4)),  # 114 days: 30 of them before the fourth
        (DAY(2010, 6, 12), 13, days_before(LATEST, 14, 6)),  # a day less: half a month apart
        (DAY(2010, 9, 3), 13, (LATEST,)),  # exactly a third of a horizon of history
        (DAY(2010, 9, 4), 13, ()),
        (DAY(2010, 12, 31), 13, ()),
    ],
)
def test_training_cutoffs(first_day: datetime.date, most: int, expected: tuple[datetime.date, ...]) -> None:
    assert training_cutoffs(first_day, CUTOFF, 90, most) == expected


def test_a_short_horizon_still_asks_for_some_history() -> None:
    assert training_cutoffs(DAY(2010, 12, 11), CUTOFF, 7) == (DAY(2010, 12, 25),)  # 14 days
    assert training_cutoffs(DAY(2010, 12, 12), CUTOFF, 7) == ()


@given(st.integers(1, 2000), st.integers(1, 400), st.integers(1, 20))
def test_no_training_label_reaches_the_evaluation(history_days: int, horizon_days: int, most: int) -> None:
    """Latest first and evenly apart; labels end at or before the evaluation's cutoff; as many as there can be."""
    first_day, horizon = CUTOFF - datetime.timedelta(days=history_days), datetime.timedelta(days=horizon_days)
    found = training_cutoffs(first_day, CUTOFF, horizon_days, most)
    least = datetime.timedelta(days=max(14, horizon_days // 3))
    assert bool(found) == (CUTOFF - horizon - first_day >= least)
    if not found:
        return
    assert found[0] + horizon == CUTOFF and len(found) <= most
    apart = {(later - earlier).days for later, earlier in itertools.pairwise(found)}
    assert apart in (set(), {14}, {max(28, -(-3 * horizon_days // (2 * max(most - 1, 1))))})
    assert found[-1] - first_day >= least
    # One more would be too many, or see too little.
    assert len(found) == most or found[-1] - datetime.timedelta(days=max(apart, default=14)) - first_day < least
