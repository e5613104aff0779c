"""Mended dead letters find their way into the generation they belong to, whenever a replay is killed."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import publish, publish_conclude, publish_options, publish_replay
from pipelines.warehouse import LocalWarehouse
from serving.sqlite_store import SqliteStore
from serving.store import Written, open_store
from tests.pipelines.publishing import TOLERANT, Place
from tests.serving.store_contract import prediction
from transforms import storage
from transforms.dead_letters import DeadLetter
from transforms.errors import UsageError


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test handles it."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A place, a copy of it, and the generation: c1 is served, c2 to c4 are unusable and "twice" was given twice."""
    root, copy = tmp_path_factory.mktemp("replay") / "place", tmp_path_factory.mktemp("copy") / "place"
    place = Place(root)
    rows = [
        prediction("c1", 1.0), prediction("c2", -2.0), prediction("c3", 3.0, decile=11),
        prediction("c4", 4.0, value_p10=9.0), prediction("twice", 5.0), prediction("twice", 6.0),
    ]  # fmt: skip
    generation = place.publish(place.predictions("p", rows), *TOLERANT)["generation"]
    shutil.copytree(root, copy)
    return root, copy, generation


def as_published(published: tuple[Path, Path, str]) -> Place:
    root, copy, _ = published
    shutil.rmtree(root)
    shutil.copytree(copy, root)
    return Place(root)


@pytest.fixture
def place(published: tuple[Path, Path, str]) -> Place:
    return as_published(published)


@pytest.fixture
def generation(published: tuple[Path, Path, str]) -> str:
    return published[2]


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


def test_mended_rows_are_served_and_the_others_stay(
    place: Place, generation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mend(place, generation, mended)
    assert publish.main(arguments(place, generation)) == 0
    assert (
        f"publish {generation}: 3 mended rows in all, 1 dead letters (decile_out_of_range 1) left"
        in capsys.readouterr().err
    )
    assert_mended(place, generation)


def test_a_second_replay_changes_nothing_and_a_later_one_adds(place: Place, generation: str) -> None:
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


def assert_agreed(place: Place, generation: str, customers: int = 5) -> None:
    """Store, record, warehouse, letters and manifest say the same, and every customer is somewhere."""
    with open_store(place.uri) as store:
        found = store.find(generation)
    assert found is not None
    with sqlite3.connect(place.root / "serving.db") as database:
        held = dict(
            database.execute("SELECT customer_id, predicted_value FROM predictions WHERE generation = ?", [generation])
        )
    rows = place.warehouse().select(["customer_id", "predicted_value"]).to_pylist()
    assert [(row["customer_id"], row["predicted_value"]) for row in rows] == sorted(held.items())
    assert (found.content.rows, found.content.total_value) == (len(held), math.fsum(held.values()))
    letters = place.letters(generation)
    assert Counter(letter["reason"] for letter in letters) == Counter(found.dead_letters)
    manifest = json.loads((place.root / "dl" / generation / "manifest.json").read_text())
    assert manifest["dead_letters"] == found.dead_letters
    assert len({*held, *(letter["payload"]["customer_id"] for letter in letters)}) == customers


# What changes something, each of which a kill may come before; what is below them in the call is a moment of its own.
CHANGES = [
    (storage, "write_bytes"), (storage, "compare_and_set"), (SqliteStore, "add"), (LocalWarehouse, "append"),
    (SqliteStore, "amend"), (LocalWarehouse, "publish"), (publish_replay, "_delete"),
]  # fmt: skip
# Between which another replay may come; all are outside of locks, which it would wait for.
STEPS = [
    (publish_replay, "_write_whole"), (publish_replay.Book, "changed"), (SqliteStore, "add"), (LocalWarehouse, "append"),
    (SqliteStore, "amend"), (publish_conclude, "complete"), (publish_replay, "_delete"),
]  # fmt: skip


def interrupted(functions: list[tuple[Any, str]], at: int, interrupt: Callable[[], object]) -> pytest.MonkeyPatch:
    """Has ``interrupt`` called before the call number ``at`` of any of the functions, unpatched then."""
    patch, calls = pytest.MonkeyPatch(), iter(range(1, 1_000))

    def before(original: Callable[..., Any]) -> Callable[..., Any]:
        def called(*values: Any, **named: Any) -> Any:
            if next(calls) == at:
                patch.undo()
                interrupt()
            return original(*values, **named)

        return called

    for owner, name in functions:
        patch.setattr(owner, name, before(getattr(owner, name)))
    return patch


def kill() -> None:
    raise Killed


def edited_again(payload: dict[str, Any]) -> dict[str, Any] | None:
    if payload["customer_id"] == "c2":
        return prediction("c2", 2.5) | {"as_of": payload["as_of"]}
    return payload | {"decile": 10} if payload["customer_id"] == "c3" else payload


def first_replay(place: Place, generation: str) -> None:
    mend(place, generation, mended)


def later_replay(place: Place, generation: str) -> None:
    mend(place, generation, lambda payload: mended(payload) if payload["customer_id"] == "c4" else payload)
    replay(place, generation)
    mend(place, generation, mended)


@pytest.mark.parametrize("prepare", [first_replay, later_replay])
@pytest.mark.parametrize("edit_again", [False, True], ids=["as it was", "edited again"])
def test_killed_before_any_change_and_run_again(
    published: tuple[Path, Path, str], prepare: Callable[[Place, str], None], edit_again: bool
) -> None:
    generation = published[2]
    for at in range(1, 100):
        place = as_published(published)
        prepare(place, generation)
        patch = interrupted(CHANGES, at, kill)
        try:
            replay(place, generation)
            break
        except Killed:
            pass
        finally:
            patch.undo()
        if edit_again:
            mend(place, generation, edited_again)
        replay(place, generation)
        assert_agreed(place, generation)
        if not edit_again:
            assert_mended(place, generation)
    assert at > 12


@pytest.mark.parametrize("edit_again", [False, True], ids=["as it was", "edited again"])
def test_another_replay_comes_in_between(published: tuple[Path, Path, str], edit_again: bool) -> None:
    generation = published[2]
    for at in range(1, 100):
        place = as_published(published)
        came: list[bool] = []
        mend(place, generation, mended)

        def other(place: Place = place, came: list[bool] = came) -> None:
            came.append(True)
            if edit_again:
                mend(place, generation, edited_again)
            replay(place, generation)

        patch = interrupted(STEPS, at, other)
        replay(place, generation)
        patch.undo()
        if not came:
            break
        assert_agreed(place, generation)
        if not edit_again:
            assert_mended(place, generation)
    assert at > 8


def test_replays_at_the_same_time(place: Place, generation: str) -> None:
    mend(place, generation, mended)
    command = [sys.executable, "-m", "pipelines.publish", *arguments(place, generation)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for each in both:
        _, said = each.communicate(timeout=60)
        assert each.returncode == 0, said
    assert_mended(place, generation)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Customers whom the store does not take, as Datastore may refuse one."""
    refused: set[str] = set()
    add = SqliteStore.add

    def injected(store: SqliteStore, name: str, batch: pa.RecordBatch) -> Written:
        bad = [row for row in batch.to_pylist() if row["customer_id"] in refused]
        good = [row for row in batch.to_pylist() if row["customer_id"] not in refused]
        add(store, name, pa.RecordBatch.from_pylist(good, schema=batch.schema))
        return Written(tuple(DeadLetter("store", "refused_by_store", "injected", row) for row in bad))

    monkeypatch.setattr(SqliteStore, "add", injected)
    yield refused


def test_a_row_that_the_store_refuses_can_be_mended_again_or_removed(
    place: Place, generation: str, refusing: set[str]
) -> None:
    refusing |= {"c2", "c4"}
    mend(place, generation, mended)
    assert replay(place, generation)["added"] == 1  # "twice"
    assert_agreed(place, generation)
    assert replay(place, generation)["dead_letters"] == {"decile_out_of_range": 1, "refused_by_store": 2}
    assert_agreed(place, generation)
    mend(place, generation, lambda p: None if p["customer_id"] == "c2" else p)
    assert replay(place, generation)["dead_letters"] == {"decile_out_of_range": 1, "refused_by_store": 1}
    refusing.clear()
    assert replay(place, generation) == {
        "generation": generation, "added": 1, "dead_letters": {"decile_out_of_range": 1},
    }  # fmt: skip
    assert replay(place, generation)["added"] == 0
    assert_agreed(place, generation, customers=4)
    assert place.served("c2", "c4").keys() == {"c4"}


def test_killed_where_the_store_refuses_a_row(published: tuple[Path, Path, str], refusing: set[str]) -> None:
    generation = published[2]
    refusing |= {"c4"}
    for at in range(1, 100):
        place = as_published(published)
        mend(place, generation, mended)
        patch = interrupted(CHANGES, at, kill)
        try:
            replay(place, generation)
            break
        except Killed:
            pass
        finally:
            patch.undo()
        left = replay(place, generation)["dead_letters"]
        assert left == {"decile_out_of_range": 1, "refused_by_store": 1}
        assert_agreed(place, generation)
    assert at > 12


def test_text_that_was_no_utf8_is_not_published_as_it_is_shown(tmp_path: Path) -> None:
    place = Place(tmp_path)
    ids = pa.array([b"c1", b"caf\xe9", b"th\xe9"], pa.binary())
    rows = [prediction("c1", 1.0), prediction("x", 2.0), prediction("y", 3.0, value_p10=9.0)]
    directory = place.predictions("p", rows)
    (part,) = Path(directory).glob("*.parquet")
    table = storage.read_parquet(str(part))
    broken = pa.StringArray.from_buffers(3, *ids.buffers()[1:])  # Arrow does not look; neither do other writers
    spoil(directory, table.set_column(0, "customer_id", broken))
    generation = place.publish(directory, *TOLERANT)["generation"]
    for _ in range(2):
        assert replay(place, generation) == {"generation": generation, "added": 0, "dead_letters": {"not_utf8": 2}}
    details = {letter["detail"] for letter in place.letters(generation)}
    assert details == {f"customer_id={each!r}: accepted is UTF-8 text" for each in (b"caf\xe9", b"th\xe9")}
    mend(
        place,
        generation,
        lambda p: p | {"customer_id": p["customer_id"].replace("caf\ufffd", "café"), "value_p10": 0.5},
    )
    assert replay(place, generation) == {"generation": generation, "added": 1, "dead_letters": {"not_utf8": 1}}
    assert place.served("café", "th\ufffd").keys() == {"café"}


def spoil(directory: str, table: pa.Table) -> None:
    """Puts the rows in the place of a finished directory's one part, as if they had been there from the start."""
    path = Path(directory) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["parts"] = [storage.write_parquet(table, f"{directory}/part-00000.parquet")]
    path.write_text(json.dumps(manifest))


def test_a_generation_without_a_row_gets_its_first_ones(tmp_path: Path) -> None:
    place = Place(tmp_path)
    directory = place.predictions("p", [prediction("c1", -1.0)])
    with pytest.raises(UsageError):  # nothing to publish
        place.publish(directory, *TOLERANT)
    (generation,) = place.generations()
    mend(place, generation, lambda payload: prediction("c1", 1.0) | {"as_of": payload["as_of"]})
    assert replay(place, generation)["added"] == 1
    assert place.publish(directory, *TOLERANT)["rows"] == 1
    assert_agreed(place, generation, customers=1)


def test_mended_rows_return_with_their_generation(place: Place, generation: str) -> None:
    mend(place, generation, mended)
    replay(place, generation)
    (place.root / "dl").rename(place.root / "kept")
    with open_store(place.uri, create=True) as store:
        store._connection.executescript("DELETE FROM pointer; DELETE FROM predictions; DELETE FROM generations")  # type: ignore[attr-defined]
    place.publish(f"{place.root}/p", *TOLERANT)
    shutil.rmtree(place.root / "dl")
    (place.root / "kept").rename(place.root / "dl")
    assert replay(place, generation)["added"] == 3
    assert_mended(place, generation)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ('"decile": 1e999', "unreadable_payload"), ('"decile": NaN', "unreadable_payload"),
        ('"decile": true', "unreadable_payload"), ('"decile": 9223372036854775808', "unreadable_payload"),
        ('"predicted_value": 1e999', "not_finite"), ('"predicted_value": NaN', "not_finite"),
        ('"predicted_value": 1' + "0" * 400, "unreadable_payload"), ('"predicted_value": true', "unreadable_payload"),
        ('"note": [1e999, NaN]', "unreadable_payload"), ('"customer_id": "\\ud800"', "unreadable_payload"),
    ],
)  # fmt: skip
def test_values_that_no_column_holds_stay_letters(place: Place, generation: str, change: str, reason: str) -> None:
    folder = place.root / "dl" / generation
    for path in folder.glob("*.jsonl"):
        path.unlink()
    payload = json.dumps(prediction("c9", 1.0), default=str)[:-1] + f", {change}" + "}"
    (folder / "part-00000-00000.jsonl").write_text('{"payload": ' + payload + "}\n")
    for _ in range(2):
        assert replay(place, generation)["dead_letters"] == {reason: 1}


def test_letters_of_a_generation_that_is_not_current_are_added_to_it_alone(place: Place, generation: str) -> None:
    old = generation
    new = place.publish(place.predictions("new", [prediction("c1", 7.0)]), "--override", "total_value=x")["generation"]
    mend(place, old, mended)
    replay(place, old)
    assert place.served_by("c1", "c2") == {new}
    assert place.warehouse()["customer_id"].to_pylist() == ["c1"]
    back = ["rollback", "--serving", place.uri, "--warehouse", f"{place.root}/wh", "--to", old, "--reason", "x"]
    assert publish.main(back) == 0
    assert_mended(place, old)


def test_what_cannot_be_mended_says_why(place: Place, generation: str) -> None:

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


def test_arguments_are_refused_in_one_line(place: Place, generation: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = place.root / "dl" / generation
    whole = (broken := next(folder.glob("*.jsonl"))).read_bytes()

    def error() -> str:
        capsys.readouterr()
        assert publish.main(arguments(place, generation)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    for damage in (
        b"not json\n",
        b'{"payload": {"customer_id": "caf\xe9"}}\n',
        b"[" * 100_000,
        b'{"reason": "x"}',
        b"[]",
    ):
        broken.write_bytes(whole + damage)
        line = error()
        assert f"{broken.name}:" in line
        assert "is no dead letter" in line
    broken.write_bytes(whole)
    manifest = folder / "manifest.json"
    written = manifest.read_text()
    manifest.write_text(json.dumps({k: v for k, v in json.loads(written).items() if k != "content"}))
    assert "manifest.json is damaged (KeyError: 'content')" in error()
    manifest.write_text(json.dumps(json.loads(written) | {"mended": ["mended-0.parquet"]}))
    assert "mended-0.parquet is missing" in error()
    manifest.write_text(written.replace(generation, "2000-01-01-0"))
    assert "accepted is those of a complete generation in the store, not of 2000-01-01-0" in error()
    assert publish.main(arguments(place, "nowhere")) == 2
    assert "is not a complete dead_letters directory" in capsys.readouterr().err


def test_the_warehouse_must_be_that_of_the_publish(
    place: Place, generation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mend(place, generation, mended)
    without = ["replay", "--serving", place.uri, "--dead_letters", f"{place.root}/dl/{generation}"]
    assert publish.main(without) == 2
    assert publish.main([*without, "--warehouse", f"{place.root}/other"]) == 2
    assert f"was staged for {place.root}/wh" in capsys.readouterr().err
    assert place.served("c2") == {}
    replay(place, generation)
    assert_mended(place, generation)
