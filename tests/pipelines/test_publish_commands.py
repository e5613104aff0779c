"""status, rollback, purge, --stage_only and --dry_run, through the real command on the embedded store."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipelines import publish
from serving.store import open_store
from tests.pipelines.publishing import Place
from tests.serving.store_contract import AS_OF, prediction

DAYS = [date(2011, 12, day) for day in range(1, 5)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def command(place: Place, name: str, *more: str) -> int:
    return publish.main([name, "--serving", place.uri, *more])


def publish_days(place: Place, days: list[date], *more: str) -> list[str]:
    """Publishes c1 with the day's number as its value, and returns the generations."""
    names = []
    for day in days:
        directory = place.predictions(f"p{day}", [prediction("c1", 10.0 + day.day, day)], as_of=day)
        names.append(place.publish(directory, *more)["generation"])
    return names


def value(place: Place) -> float:
    return float(place.served("c1")["c1"]["predicted_value"])


def test_rollback_and_forward_again(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = publish_days(place, DAYS[:2])
    warehouse = ["--warehouse", f"{place.root}/wh"]
    assert command(place, "rollback", "--to", first, "--reason", "doubled  overnight", *warehouse) == 0
    assert value(place) == 11.0
    with open_store(place.uri) as store:
        current = store.current()
    assert current is not None
    assert (current.name, dict(current.notes)) == (first, {"rollback": "doubled  overnight"})
    assert f"publish {first}: is current again; before: {second}" in capsys.readouterr().err
    assert command(place, "rollback", "--to", second, "--reason", "it was right", *warehouse) == 0
    assert value(place) == 12.0


def test_rollback_within_a_day_takes_the_warehouse_along(place: Place) -> None:
    one = place.publish(place.predictions("one", [prediction("c1", 1.0)]))["generation"]
    place.publish(place.predictions("two", [prediction("c1", 1.5)]))
    assert place.warehouse()["predicted_value"].to_pylist() == [1.5]
    assert command(place, "rollback", "--to", one, "--reason", "x", "--warehouse", f"{place.root}/wh") == 0
    assert place.warehouse()["predicted_value"].to_pylist() == [1.0]


def test_rollback_is_refused_in_one_line(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (first,) = publish_days(place, DAYS[:1])
    staged = place.predictions("staged", [prediction("c1", 11.0)])
    place.publish(staged, "--stage_only")
    capsys.readouterr()
    warehouse = ["--warehouse", f"{place.root}/wh"]
    assert command(place, "rollback", "--to", "2011-01-01-0", "--reason", "x") == 2
    error = capsys.readouterr().err
    assert "--to '2011-01-01-0' is not usable: accepted is a generation of the store: " in error
    assert first in error
    assert command(place, "rollback", "--to", first) == 2
    assert "--reason" in capsys.readouterr().err
    never = next(name for name in place.generations() if name != first)
    assert command(place, "rollback", "--to", never, "--reason", "x", *warehouse) == 2
    assert "accepted is one that was current before" in capsys.readouterr().err
    assert publish.main(["rollback", "--serving", f"sqlite://{place.root}/none.db", "--to", "g", "--reason", "x"]) == 2
    assert "none.db" in capsys.readouterr().err
    assert value(place) == 11.0


def test_stage_only_then_the_switch(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (before,) = publish_days(place, DAYS[:1])
    directory = place.predictions("next", [prediction("c1", 12.0)])
    result = place.publish(directory, "--stage_only")
    assert (result["switched"], result["previous"], value(place)) == (False, before, 11.0)
    assert not Path(f"{place.root}/wh/predictions/as_of={AS_OF}/predictions.parquet").exists()
    capsys.readouterr()
    again = place.publish(directory)
    assert "all rows are staged already" in capsys.readouterr().err
    assert (again["switched"], value(place)) == (True, 12.0)
    assert place.warehouse()["predicted_value"].to_pylist() == [12.0]


def test_a_command_that_forgets_the_warehouse_changes_nothing(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = publish_days(place, DAYS[:2])
    assert command(place, "rollback", "--to", first, "--reason", "x") == 2
    error = capsys.readouterr().err
    assert f"generation {first} was staged for {place.root}/wh, this command names none: accepted is the same" in error
    assert value(place) == 12.0
    bare = ["--serving", place.uri, "--dead_letters", f"{place.root}/dl"]
    directory = place.predictions("bare", [prediction("c1", 13.0)])
    assert publish.main(["--predictions", directory, *bare, "--stage_only"]) == 0
    assert "was staged without a warehouse" in place.refused(capsys, directory)
    assert value(place) == 12.0


def test_a_rollback_whose_staged_rows_are_gone_changes_nothing(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    one = place.publish(place.predictions("one", [prediction("c1", 1.0)]))["generation"]
    two = place.publish(place.predictions("two", [prediction("c1", 1.5)]))["generation"]
    shutil.rmtree(place.root / "wh/predictions/_staged" / one)
    capsys.readouterr()
    assert command(place, "rollback", "--to", one, "--reason", "x", "--warehouse", f"{place.root}/wh") == 2
    assert f"nothing staged of generation {one}" in capsys.readouterr().err
    assert place.served_by("c1") == {two}


def test_purge(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    names = publish_days(place, DAYS, "--keep_generations", "3")
    assert place.generations() == names[::-1]
    assert command(place, "purge", "--keep", "1", "--warehouse", f"{place.root}/wh") == 0
    assert place.generations() == [names[3], names[2]]
    assert capsys.readouterr().err.splitlines()[-2:] == [f"publish {n}: expired" for n in (names[1], names[0])]
    assert value(place) == 14.0
    assert sorted(path.name for path in (place.root / "wh/predictions/_staged").iterdir()) == sorted(names[2:])


def test_status(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    directory = place.predictions("one", [prediction("c1", 2.0), prediction("c2", -1.0), prediction("c3", 0.5)])
    one = place.publish(directory, "--override", "dead_letters=seen, and mended tomorrow")["generation"]
    two = place.publish(place.predictions("two", [prediction("c1", 3.0)]), "--stage_only")["generation"]
    capsys.readouterr()
    assert command(place, "status") == 0
    text = capsys.readouterr().out
    assert f"* {one}  sealed, attempt 1, published 20" in text
    assert "2 customers, total 2.50, 1 dead letters (negative 1)" in text
    assert "dead_letters: seen, and mended tomorrow" in text
    assert f"  {two}  sealed, attempt 1, never current" in text
    assert command(place, "status", "--json") == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["name"], line["current"], line["content"]["rows"]) for line in lines] == [
        (two, False, 1),
        (one, True, 2),
    ]


def test_a_dry_run_writes_nothing_and_says_what_would_happen(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [prediction(f"c{i:03d}", 1.0) for i in range(200)]
    directory = place.predictions("p", rows[:100], [*rows[100:], prediction("bad", -1.0)])
    before = sorted(place.root.rglob("*"))
    planned = place.publish(directory, "--dry_run")
    assert sorted(place.root.rglob("*")) == before
    assert planned["input"] == {"rows": 201, "usable": 200, "dead_letters": {"negative": 1}}
    assert planned["outcome"].startswith("would switch from nothing to 2011-12-10-")
    assert "would switch from nothing" in capsys.readouterr().out
    current = place.publish(directory)["generation"]
    small = place.predictions("small", rows[:100])
    planned = place.publish(small, "--dry_run")
    assert planned["outcome"] == f"would be refused by guard customers: {current} stays current"
    assert "tripped: customers 100, 0.50 of the 200 in generation" in capsys.readouterr().out
    assert place.served_by("c000") == {current}
    assert place.publish(directory, "--dry_run")["outcome"] == f"generation {current} is current already: nothing to do"


def test_a_model_nobody_registered_is_not_even_staged(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    directory = place.predictions("p", [prediction("c1")])
    registry = ["--registry", f"{place.root}/registry"]
    assert "model_version m1" in place.refused(capsys, directory, *registry, code=3)
    assert place.generations() == []
    assert place.publish(directory, *registry, "--override", "model_version=made by hand")["switched"]


def test_a_mistyped_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert publish.main(["rollbak", "--serving", "sqlite://x.db"]) == 2
    assert "the command 'rollbak' is not usable: accepted is status, rollback, purge, replay" in capsys.readouterr().err


def test_a_dry_run_refuses_a_warehouse_as_a_publish_would(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    directory = place.predictions("p", [prediction("c1")])
    (place.root / "wh").write_text("a file")
    assert "is not a directory that may be written to" in place.refused(capsys, directory, "--dry_run")


def test_a_tripped_guard_leaves_the_current_generation_and_an_override_is_recorded(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    old = place.publish(place.predictions("old", [prediction(f"c{i}") for i in range(100)]))["generation"]
    small = place.predictions("small", [prediction(f"c{i}") for i in range(40)])
    message = place.refused(capsys, small, code=3)
    assert message.startswith("error: not switched: customers 40, 0.40 of the 100 in")
    assert "total_value" in message
    assert place.served_by("c1", "c99") == {old}
    overrides = ["--override", "customers=the Spanish shop closed", "--override", "total_value=and its customers"]
    assert place.refused(capsys, small, *overrides[:2], code=3).count("--override") == 1
    result = place.publish(small, *overrides)
    assert result["switched"]
    assert place.served_by("c1", "c99") == {result["generation"]}
    with open_store(place.uri) as store:
        found = store.find(result["generation"])
    assert found is not None
    assert dict(found.notes) == {"customers": "the Spanish shop closed", "total_value": "and its customers"}


def test_limits_of_ones_own(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.publish(place.predictions("old", [prediction(f"c{i}") for i in range(100)]))
    limits = place.root / "limits.toml"
    limits.write_text("[guards]\ncustomers = { min = 0.3 }\ntotal_value = { min = 0.3 }\n")
    small = place.predictions("small", [prediction(f"c{i}") for i in range(40)])
    assert place.publish(small, "--guards", str(limits))["switched"]
    assert "does not exist" in place.refused(capsys, small, "--guards", f"{place.root}/none.toml")
