"""Which model a run serves and whether its predictions go out: a real registry and a real store."""

from __future__ import annotations

import datetime
import logging
from datetime import UTC
from pathlib import Path

import pytest

from orchestration import dag_serving
from orchestration.dag_plans import ALWAYS, AUTO, NEVER
from serving.store import open_store
from tests.serving.store_contract import fill, prediction
from tests.trainer.registry_models import FixedClock, small
from trainer.registry_store import Registry
from transforms.errors import UsageError

LOG = logging.getLogger("tests.dag_serving")
DAY = datetime.date(2026, 11, 22)
JUNE, AUGUST = datetime.datetime(2012, 6, 1, 12, tzinfo=UTC), datetime.datetime(2012, 8, 1, 12, tzinfo=UTC)


@pytest.fixture
def registry(tmp_path: Path) -> str:
    """v1 is champion from June on, v2 from August on; v3 was registered and never won."""
    clock = FixedClock()
    made = Registry(str(tmp_path / "registry"), clock)
    for version, since in (("v1", JUNE), ("v2", AUGUST), ("v3", None)):
        made.register(small(tmp_path / version, version))
        if since:
            clock.now = since
            made.move(made.champions(), version, action="promote", reason="a test")
    return made.uri


@pytest.mark.parametrize(
    ("moment", "version"),
    [
        (JUNE, "v1"),
        (AUGUST - datetime.timedelta(microseconds=1), "v1"),
        (AUGUST, "v2"),
        (datetime.datetime(2020, 1, 1, tzinfo=UTC), "v2"),
    ],
)
def test_the_model_is_the_champion_of_the_run_s_time(moment: datetime.datetime, version: str, registry: str) -> None:
    found = dag_serving.model(registry, None, moment)
    assert found == {"version": version, "model": Registry(registry).model_directory(version)}
    assert Path(found["model"], "manifest.json").exists()


def test_a_version_that_was_asked_for_need_not_be_champion(registry: str) -> None:
    assert dag_serving.model(registry, "v3", JUNE)["version"] == "v3"


def test_before_the_first_champion_there_is_no_model(registry: str) -> None:
    with pytest.raises(UsageError, match="2012-06-01"):
        dag_serving.model(registry, None, JUNE - datetime.timedelta(seconds=1))


def test_a_version_that_nobody_registered(registry: str) -> None:
    with pytest.raises(UsageError, match="v4") as caught:
        dag_serving.model(registry, "v4", AUGUST)
    assert "\n" not in str(caught.value)


def test_without_a_champion_a_version_is_served_all_the_same(tmp_path: Path) -> None:
    made = Registry(str(tmp_path / "registry"))
    made.register(small(tmp_path / "m", "v1"))
    assert dag_serving.model(made.uri, "v1", AUGUST)["version"] == "v1"
    with pytest.raises(UsageError, match="has no champion"):
        dag_serving.model(made.uri, None, AUGUST)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Nothing is in it."""
    uri = f"sqlite://{tmp_path}/serving.db"
    open_store(uri, create=True).close()
    return uri


@pytest.fixture
def serving(store: str) -> str:
    """It serves predictions as of DAY."""
    with open_store(store, create=True) as opened:
        fill(opened, "g1", [prediction(f"C{index}", 2.5, DAY) for index in range(4)], DAY)
        opened.switch("g1", None)
    return store


@pytest.mark.parametrize(
    ("days", "wanted", "expected"),
    [
        (1, AUTO, True),
        (0, AUTO, True),  # a better model, or the same once more
        (-1, AUTO, False),
        (-1, ALWAYS, True),
        (1, NEVER, False),
    ],
)
def test_predictions_of_a_later_day_are_not_replaced_unless_somebody_says_so(
    days: int, wanted: str, expected: bool, serving: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOG.name)
    day = DAY + datetime.timedelta(days=days)
    assert dag_serving.is_to_be_served(serving, day, wanted, LOG) is expected
    if not expected and wanted == AUTO:
        (said,) = caplog.messages
        assert "g1" in said and str(day) in said and str(DAY) in said


def test_the_first_predictions_are_served(store: str) -> None:
    assert dag_serving.is_to_be_served(store, DAY, AUTO, LOG) is True


def test_what_is_served(serving: str) -> None:
    assert dag_serving.served(serving) == {
        "generation": "g1", "as_of": "2026-11-22", "model_version": "m1", "customers": 4, "total_value": 10.0,
        "dead_letters": {},
    }  # fmt: skip


def test_a_publish_that_serves_nothing_is_told(store: str) -> None:
    with pytest.raises(UsageError, match="serves nothing after a publish"):
        dag_serving.served(store)


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        dag_serving.is_to_be_served(f"sqlite://{tmp_path}/nowhere.db", DAY, AUTO, LOG)
