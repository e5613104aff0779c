"""Mended dead letters find their way into the generation they belong to, whenever a replay is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import publish, publish_replay
from pipelines.warehouse import LocalWarehouse
from serving.sqlite_store import SqliteStore
from serving.store import open_store
from tests.pipelines.publishing import TOLERANT, Place
from tests.serving.store_contract import prediction


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test handles it."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def bad_and_good(place: Place) -> str:
    """Publishes c1, with c2 to c4 unusable and "twice" given twice; returns the generation."""
    rows = [
        prediction("c1", 1.0), prediction("c2", -2.0), prediction("c3", 3.0, decile=11),
        prediction("c4", 4.0, value_p10=9.0), prediction("twice", 5.0), prediction("twice", 6.0),
    ]  # fmt: skip
    return str(place.publish(place.predictions("p", rows), *TOLERANT)["generation"])


def mend(place: Place, generation: str, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Edits the payloads in place; a line whose payload becomes None goes."""
    for path in (place.root / "dl" / generation).glob("*.jsonl"):
        lines = []
        for line in path.read_text().splitlines():
            letter = json.loads(line)
            payload = change(letter["payload"])
            if payload is not None:
                lines.append(json.dumps(letter | {"payload": payload}))
        path.write_text("".join(line + "\n" for line in lines))


def replay(place: Place, generation: str, *more: str) -> dict[str, Any]:
    return publish_replay.run(publish_options_of(place, generation, *more))


def publish_options_of(place: Place, generation: str, *more: str) -> Any:
    from pipelines import publish_options

    return publish_options.parse_command(arguments(place, generation, *more))


def arguments(place: Place, generation: str, *more: str) -> list[str]:
    places = ["--serving", place.uri, "--warehouse", f"{place.root}/wh"]
    return ["replay", *places, "--dead_letters", f"{place.root}/dl/{generation}", *more]


def mended(payload: dict[str, Any]) -> dict[str, Any] | None:
    """c2's value is put right, c3 stays bad, c4 is mended, and of "twice" the first is kept."""
    if payload["customer_id"] == "c2":
        return prediction("c2", 2.0) | {"as_of": payload["as_of"]}
    if payload["customer_id"] == "c4":
        return payload | {"value_p10": 1.0}
    if payload["customer_id"] == "twice" and payload["predicted_value"] == 6.0:
        return None
    return payload


def assert_mended(place: Place, generation: str) -> None:
    served = place.served("c1", "c2", "c3", "c4", "twice")
    assert {name: row["predicted_value"] for name, row in served.items()} == {
        "c1": 1.0,
        "c2": 2.0,
        "c4": 4.0,
        "twice": 5.0,
    }
    assert {row["generation"] for row in served.values()} == {generation}
    assert [(each["reason"], each["payload"]["customer_id"]) for each in place.letters(generation)] == [
        ("decile_out_of_range", "c3")
    ]
    with open_store(place.uri) as store:
        found = store.find(generation)
    assert found is not None
    assert (found.content.rows, found.content.total_value, found.dead_letters) == (4, 12.0, {"decile_out_of_range": 1})
    assert place.warehouse()["customer_id"].to_pylist() == ["c1", "c2", "c4", "twice"]


def test_mended_rows_are_served_and_the_others_stay(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    generation = bad_and_good(place)
    mend(place, generation, mended)
    assert publish.main(arguments(place, generation)) == 0
    assert (
        f"publish {generation}: 3 mended rows in all, 1 dead letters (decile_out_of_range 1) left"
        in capsys.readouterr().err
    )
    assert_mended(place, generation)


def test_a_second_replay_changes_nothing_and_a_later_one_adds(place: Place) -> None:
    generation = bad_and_good(place)
    mend(place, generation, mended)
    replay(place, generation)
    assert replay(place, generation)["added"] == 0
    assert_mended(place, generation)
    mend(place, generation, lambda payload: payload | {"decile": 10})
    assert replay(place, generation) == {"generation": generation, "added": 1, "dead_letters": {}}
    assert place.letters(generation) == []
    with open_store(place.uri) as store:
        found = store.find(generation)
    assert found is not None
    assert (found.content.rows, found.content.total_value, dict(found.dead_letters)) == (5, 15.0, {})
    assert place.warehouse()["customer_id"].to_pylist() == ["c1", "c2", "c3", "c4", "twice"]


BOUNDARIES = [
    (publish_replay, "_write_mended"), (SqliteStore, "add"), (LocalWarehouse, "append"), (SqliteStore, "amend"),
    (LocalWarehouse, "publish"), (publish_replay, "_rewrite"),
]  # fmt: skip


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("owner", "phase"), BOUNDARIES, ids=[phase for _, phase in BOUNDARIES])
def test_killed_and_run_again(place: Place, owner: Any, phase: str, moment: str) -> None:
    generation = bad_and_good(place)
    mend(place, generation, mended)
    original = getattr(owner, phase)

    def killed(*values: Any, **named: Any) -> None:
        if moment == "after":
            original(*values, **named)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, phase, killed)
        with pytest.raises(Killed):
            replay(place, generation)
    replay(place, generation)
    assert_mended(place, generation)


def test_letters_of_a_generation_that_is_not_current_are_added_to_it_alone(place: Place) -> None:
    old = bad_and_good(place)
    new = place.publish(place.predictions("new", [prediction("c1", 7.0)]), "--override", "total_value=x")["generation"]
    mend(place, old, mended)
    replay(place, old)
    assert place.served_by("c1", "c2") == {new}
    assert place.warehouse()["customer_id"].to_pylist() == ["c1"]
    back = ["rollback", "--serving", place.uri, "--warehouse", f"{place.root}/wh", "--to", old, "--reason", "x"]
    assert publish.main(back) == 0
    assert_mended(place, old)


def test_what_cannot_be_mended_says_why(place: Place) -> None:
    generation = bad_and_good(place)

    def change(payload: dict[str, Any]) -> dict[str, Any]:
        if payload["customer_id"] == "c2":
            return payload | {"customer_id": "c1", "predicted_value": 2.0, "value_p10": 0.0}
        if payload["customer_id"] == "c3":
            return payload | {"decile": "ten"}
        if payload["customer_id"] == "c4":
            return payload | {"note": "added by hand"}
        return payload

    mend(place, generation, change)
    left = replay(place, generation)
    assert left["added"] == 0
    reasons = {each["reason"]: each["detail"] for each in place.letters(generation)}
    assert left["dead_letters"] == {
        "duplicate_customer_id": 2, "negative": 1, "unreadable_payload": 2,
    }  # fmt: skip
    assert (
        "decile='ten': accepted is a int64" in reasons["unreadable_payload"] or "note" in reasons["unreadable_payload"]
    )
    mend(
        place, generation, lambda p: prediction("c1", 9.0) | {"as_of": "2011-12-10"} if p["customer_id"] == "c1" else p
    )
    assert replay(place, generation)["dead_letters"]["already_served"] == 1
    assert place.served("c1")["c1"]["predicted_value"] == 1.0


def test_arguments_are_refused_in_one_line(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    generation = bad_and_good(place)
    folder = place.root / "dl" / generation
    broken = next(folder.glob("*.jsonl"))
    broken.write_text(broken.read_text() + "not json\n")
    capsys.readouterr()
    assert publish.main(arguments(place, generation)) == 2
    assert f"{broken.name}:" in (error := capsys.readouterr().err)
    assert "is no dead letter" in error
    assert publish.main(arguments(place, "nowhere")) == 2
    assert "is not a complete dead_letters directory" in capsys.readouterr().err
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(generation, "2000-01-01-0"))
    assert publish.main(arguments(place, generation)) == 2
    assert "accepted is those of a complete generation in the store, not of 2000-01-01-0" in capsys.readouterr().err
