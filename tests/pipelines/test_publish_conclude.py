"""The end of a publish, which an engine may repeat: done twice, by several at once, or long after the world went on."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines import publish, publish_conclude, publish_input, publish_options, publish_places, publish_stage, run_job
from pipelines.options import pipeline_options
from pipelines.publish_conclude import Conclusion
from pipelines.publish_guards import GuardTripped
from pipelines.publish_stage import Staged, Target
from pipelines.warehouse import LocalWarehouse
from serving.sqlite_store import SqliteStore
from serving.store import Content, Generation, PointerMoved, Superseded, WentBack, open_store
from tests.pipelines.cloud import Cloud
from tests.pipelines.publishing import EARLIER, TOLERANT, Place
from tests.serving.store_contract import AS_OF, prediction
from transforms import storage
from transforms.errors import JobFailed

ROWS = [prediction(f"c{i:02d}", 1.0 + i) for i in range(30)]
BAD = prediction("bad", -1.0)
IDS = [row["customer_id"] for row in [*ROWS, BAD]]


class Killed(BaseException):
    """Stands for a worker that is lost: nothing in the code under test handles it."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    before = [row | {"as_of": EARLIER} for row in ROWS]
    place.publish(place.predictions("old", before, as_of=EARLIER))
    return place


def launch(place: Place | Cloud, directory: str, *more: str) -> tuple[Conclusion, Target | None, Any]:
    """What a launcher does before its job: the conclusion (as a worker would get it), where the job writes, its input."""
    options, _ = publish_options.parse(place.arguments(directory, *more))
    predictions, local = publish_input.open_predictions(directory), pipeline_options([])
    warehouse = publish_places.open_warehouse(options.places)
    with publish_places.open_store(options.places, create=True) as store:
        current = store.current()
        begun, target = publish.begin(store, warehouse, predictions, options, local)
    return pickle.loads(pickle.dumps(Conclusion(options, begun, current))), target, predictions


def staged_by(place: Place | Cloud, directory: str, *more: str) -> tuple[Conclusion, Staged | None]:
    """A publish whose job has staged, and comes to its last step."""
    conclusion, target, predictions = launch(place, directory, *more)
    if target is None:
        return conclusion, None
    return conclusion, publish_stage.run(predictions, target, 1, pipeline_options([]), target.dead_letters)


def state_of(place: Place) -> dict[str, Any]:
    """All that readers and later commands see."""
    with open_store(place.uri) as store:
        current, generations = store.current(), store.generations()
    files = [path for path in (place.root / "wh").rglob("*") if path.is_file()]
    letters = [path for path in (place.root / "dl").rglob("*") if path.is_file()]
    return {
        "current": current, "generations": generations, "served": place.served(*IDS),
        "files": {str(path): path.read_bytes() for path in [*files, *letters]},
    }  # fmt: skip


def without_times(generation: Generation) -> Generation:
    return replace(generation, created_at=None, begun_at=None, sealed_at=None, published_at=None, warehouse=None)


def test_a_job_that_concludes_leaves_what_a_command_that_waits_leaves(tmp_path: Path) -> None:
    waiting, detached = Place(tmp_path / "waiting"), Place(tmp_path / "detached")
    for place in (waiting, detached):
        for day in ("08", "09"):
            old = [row | {"as_of": EARLIER.replace(day=int(day))} for row in ROWS]
            place.publish(place.predictions(day, old, as_of=EARLIER.replace(day=int(day))))
        directory = place.predictions("p", ROWS[:10], [*ROWS[10:], BAD])
        more = (*TOLERANT, "--keep_generations", "1")
        if place is waiting:
            place.publish(directory, *more)
            continue
        conclusion, target, predictions = launch(place, directory, *more)
        publish_stage.submit(predictions, target, 1, pipeline_options([]), conclusion)
    states = [state_of(place) for place in (waiting, detached)]
    one, other = ([without_times(each) for each in state["generations"]] for state in states)
    assert one == other and len(one) == 2
    assert states[0]["served"] == states[1]["served"] and set(states[0]["served"]) == set(IDS) - {"bad"}
    assert waiting.warehouse().equals(detached.warehouse())
    assert waiting.letters(one[0].name) == detached.letters(one[0].name) != []
    assert {path.replace("waiting", "detached") for path in states[0]["files"]} == set(states[1]["files"])


def test_concluded_twice_is_concluded_once(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    conclusion, staged = staged_by(place, place.predictions("p", [*ROWS, BAD]))
    first = conclusion.run(staged)
    assert (first["rows"], first["dead_letters"], first["switched"]) == (30, {"negative": 1}, True)
    before = state_of(place)
    capsys.readouterr()
    assert conclusion.run(staged) == first | {"already_current": True, "switched": False}
    assert state_of(place) == before
    assert [line for line in capsys.readouterr().err.splitlines() if "guard" in line] == []


def test_who_is_current_is_not_judged_again(place: Place) -> None:
    """The registry's champion may be another one by then, and the rows are served."""
    conclusion, staged = staged_by(place, place.predictions("p", [*ROWS[:15], BAD]), "--override", "customers=a test")
    with pytest.raises(GuardTripped, match="not switched: dead_letters"):
        conclusion.run(staged)
    said = dict.fromkeys(("customers", "total_value", "dead_letters"), "a test")
    replace(conclusion, options=replace(conclusion.options, overrides=said)).run(staged)
    before = state_of(place)
    assert conclusion.run(staged)["already_current"]
    assert state_of(place) == before


def test_several_at_once_are_one(place: Place) -> None:
    conclusion, staged = staged_by(place, place.predictions("p", ROWS))
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(conclusion.run, [staged] * 6))
    assert {result["rows"] for result in results} == {30}
    assert place.served_by(*IDS) == {conclusion.begun.name}
    assert place.warehouse().to_pylist() == ROWS
    assert len(place.generations()) == 2


PARTS = [
    (LocalWarehouse, "stage"), (SqliteStore, "seal"), (publish_conclude, "guard"), (LocalWarehouse, "can_publish"),
    (SqliteStore, "switch"), (LocalWarehouse, "publish"), (SqliteStore, "expire"),
]  # fmt: skip


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("owner", "part"), PARTS, ids=[part for _, part in PARTS])
def test_a_worker_lost_at_any_part_and_the_step_repeated(place: Place, owner: Any, part: str, moment: str) -> None:
    conclusion, staged = staged_by(place, place.predictions("p", [*ROWS, BAD]))
    original = getattr(owner, part)

    def lost(*arguments: Any, **named: Any) -> None:
        if moment == "after":
            original(*arguments, **named)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, part, lost)
        with pytest.raises(Killed):
            conclusion.run(staged)
    assert len(place.served_by(*IDS)) == 1
    assert conclusion.run(staged)["rows"] == 30
    assert place.served_by(*IDS) == {conclusion.begun.name}
    assert place.warehouse().to_pylist() == ROWS
    assert set(place.generations()) == {conclusion.begun.name, conclusion.current and conclusion.current.name}


# --- The world went on ----------------------------------------------------------------------------------------------


def assert_changes_nothing(place: Place, conclusion: Conclusion, staged: Staged | None, error: type[JobFailed]) -> str:
    before = state_of(place)
    with pytest.raises(error) as raised:
        conclusion.run(staged)
    assert state_of(place) == before
    (line,) = str(raised.value).splitlines()
    return line


def test_a_switch_to_something_else_meanwhile_stays(place: Place) -> None:
    conclusion, staged = staged_by(place, place.predictions("slow", ROWS))
    fast = place.publish(place.predictions("fast", [row | {"expected_orders": 2.0} for row in ROWS]))
    with pytest.raises(PointerMoved) as lost:
        conclusion.run(staged)
    assert fast["generation"] in str(lost.value) and "\n" not in str(lost.value)
    assert_changes_nothing(place, conclusion, staged, PointerMoved)
    assert place.served_by(*IDS) == {fast["generation"]}


def test_a_switch_to_something_else_afterwards_stays(place: Place) -> None:
    conclusion, staged = staged_by(place, place.predictions("slow", ROWS))
    conclusion.run(staged)
    later = place.publish(place.predictions("next", [row | {"expected_orders": 2.0} for row in ROWS]))
    assert later["generation"] in assert_changes_nothing(place, conclusion, staged, PointerMoved)


def test_a_rollback_stays(place: Place) -> None:
    """What was current at the launch is current again: the assertion of a switch alone would hold."""
    directory = place.predictions("p", ROWS)
    conclusion, staged = staged_by(place, directory)
    conclusion.run(staged)
    assert conclusion.current is not None
    places = ["--serving", place.uri, "--warehouse", f"{place.root}/wh"]
    assert publish.main(["rollback", *places, "--to", conclusion.current.name, "--reason", "a test"]) == 0
    line = assert_changes_nothing(place, conclusion, staged, WentBack)
    assert "has been current since this publish began" in line
    assert conclusion.begun.name in line and f"{conclusion.current.described()[:40]}" in line
    later, nothing = staged_by(place, directory)  # but a publish that begins after it may
    assert nothing is None and later.run(None)["switched"]
    before = state_of(place)
    assert later.run(None)["already_current"]
    assert state_of(place) == before


def test_an_attempt_that_was_overtaken_gives_up(place: Place) -> None:
    directory = place.predictions("p", ROWS)
    conclusion, staged = staged_by(place, directory)
    second, again = staged_by(place, directory)
    assert "it is staged, attempt 2" in assert_changes_nothing(place, conclusion, staged, Superseded)
    second.run(again)
    assert "it is sealed, attempt 2" in assert_changes_nothing(place, conclusion, staged, Superseded)


@pytest.mark.parametrize("how", ["waits", "detached"])
def test_a_launcher_that_was_overtaken_leaves_the_dead_letters_of_the_winner(place: Place, how: str) -> None:
    """It comes to its job only after another launch of the same predictions has published."""
    directory = place.predictions("p", [*ROWS, BAD])
    late, old, predictions = launch(place, directory)
    conclusion, target, _ = launch(place, directory)
    assert old and target
    local = pipeline_options([])
    publish_stage.submit(predictions, target, 1, local, conclusion)
    before = state_of(place)
    assert len(place.letters(conclusion.begun.name)) == 1
    with pytest.raises(Superseded, match=r"attempt 1 to stage generation .* it is sealed, attempt 2"):
        if how == "waits":
            publish_stage.run(predictions, old, 1, local, old.dead_letters)
        else:
            publish_stage.submit(predictions, old, 1, local, late)
    assert state_of(place) == before


def test_a_launcher_overtaken_while_it_looks_leaves_the_dead_letters(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = place.predictions("p", [*ROWS, BAD])
    late, old, _ = launch(place, directory)
    assert old
    listed = storage.list_files

    def meanwhile(*arguments: Any) -> list[str]:
        monkeypatch.undo()
        found = listed(*arguments)
        conclusion, staged = staged_by(place, directory)
        conclusion.run(staged)
        return found

    monkeypatch.setattr(storage, "list_files", meanwhile)
    with pytest.raises(Superseded, match="it is sealed, attempt 2"):
        publish_stage.clear_letters(old.dead_letters, old)
    assert len(place.letters(late.begun.name)) == 1


def test_what_a_purged_generation_left_is_deleted_however_often_it_was_begun(place: Place) -> None:
    """Its attempts are counted anew then."""
    directory = place.predictions("p", [*ROWS, BAD])
    launch(place, directory)
    conclusion, staged = staged_by(place, directory)
    conclusion.run(staged)
    places = ["--serving", place.uri, "--warehouse", f"{place.root}/wh"]
    assert conclusion.current is not None
    assert publish.main(["rollback", *places, "--to", conclusion.current.name, "--reason", "a test"]) == 0
    with open_store(place.uri, create=True) as store:
        store.delete(conclusion.begun.name)
    again, staged = staged_by(place, directory)
    assert (conclusion.begun.attempt, again.begun.attempt) == (2, 1)
    assert again.run(staged)["switched"]
    assert json.loads((place.root / "dl" / again.begun.name / storage.MANIFEST).read_text())["attempt"] == 1


@pytest.mark.parametrize("when", ["it is being staged", "it is published"])
def test_a_publish_that_waits_and_was_overtaken_says_so(
    place: Place, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last row was written; then another attempt cleared the letters, or wrote their manifest."""
    directory = place.predictions("p", [*ROWS, BAD])
    _, old, predictions = launch(place, directory)
    assert old
    execute = run_job.execute

    def overtaken(*arguments: Any) -> bool:
        monkeypatch.undo()
        done = execute(*arguments)
        if when == "it is published":
            conclusion, staged = staged_by(place, directory)
            conclusion.run(staged)
        else:
            _, target, _ = launch(place, directory)
            assert target
            publish_stage.clear_letters(target.dead_letters, target)
        return done

    monkeypatch.setattr(run_job, "execute", overtaken)
    with pytest.raises(Superseded, match=r"attempt 1 to stage generation .*, attempt 2"):
        publish_stage.run(predictions, old, 1, pipeline_options([]), old.dead_letters)


def test_a_generation_that_was_deleted_is_not_made_anew(place: Place) -> None:
    conclusion, staged = staged_by(place, place.predictions("p", ROWS))
    with open_store(place.uri, create=True) as store:
        store.delete(conclusion.begun.name)
    assert "it is gone" in assert_changes_nothing(place, conclusion, staged, Superseded)


def test_what_was_mended_since_stays(place: Place) -> None:
    conclusion, staged = staged_by(place, place.predictions("p", [*ROWS, BAD]))
    conclusion.run(staged)
    name = conclusion.begun.name
    letters = place.root / "dl" / name
    (path,) = letters.glob("*.jsonl")
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "payload": prediction("bad") | {"as_of": str(AS_OF)}}) + "\n"
    )
    places = ["--serving", place.uri, "--warehouse", f"{place.root}/wh"]
    assert publish.main(["replay", *places, "--dead_letters", str(letters)]) == 0
    assert set(place.served("bad")) == {"bad"} and place.warehouse().num_rows == 31
    before = state_of(place)
    target = Target(name, conclusion.begun.attempt, dead_letters=str(letters))
    assert staged is not None
    publish_stage.write_manifest(staged, str(letters), target)  # the step before, which is repeated with it
    assert conclusion.run(staged)["rows"] == 31
    assert state_of(place) == before


def test_who_is_second_to_serve_the_current_generation_anew_is_done(place: Place) -> None:
    """As after its rows expired: what was current before is the same generation, so no pointer tells who was first."""
    first = place.publish(place.predictions("p", ROWS))
    name, old = first["generation"], first["previous"]
    with open_store(place.uri, create=True) as store:
        known = store.find(name)
        publish_conclude.switch(store, name, name, {}, known)
        served = store.current()
        assert known and known.published_at and served and served.published_at
        assert served.published_at > known.published_at
        publish_conclude.switch(store, name, name, {}, known)
        assert store.current() == served
        overtaken = replace(known, attempt=known.attempt + 1)
        with pytest.raises(WentBack):
            publish_conclude.switch(store, name, name, {}, overtaken)
        store.switch(old, name)  # a rollback
        with pytest.raises(WentBack):
            publish_conclude.switch(store, name, old, {}, known)
        with pytest.raises(PointerMoved):
            publish_conclude.switch(store, name, name, {}, known)
        current = store.current()
        assert current and current.name == old


# --- What fails the job ---------------------------------------------------------------------------------------------


def test_a_guard_trips_however_often_it_is_asked(place: Place) -> None:
    directory = place.predictions("p", [*ROWS[:20], BAD])
    conclusion, staged = staged_by(place, directory)
    for _ in range(4):
        with pytest.raises(GuardTripped, match=r"^not switched: customers 20, 0\.67 of the 30"):
            conclusion.run(staged)
    assert place.served_by(*IDS) == {conclusion.current and conclusion.current.name}
    names = ("customers", "total_value")
    later, nothing = staged_by(place, directory, *(f"--override={name}=a test" for name in names), *TOLERANT)
    assert nothing is None  # all rows are staged
    assert later.run(None)["switched"]
    with open_store(place.uri) as store:
        current = store.current()
    assert current is not None and set(current.notes) <= {*names, "dead_letters"} and "customers" in current.notes


def test_staged_only_stays_staged(place: Place) -> None:
    conclusion, staged = staged_by(place, place.predictions("p", ROWS), "--stage_only")
    for _ in range(2):
        assert not conclusion.run(staged)["switched"]
    assert conclusion.begun.name not in place.served_by(*IDS)


@pytest.mark.parametrize("concluded_by", ["the command", "the job"])
def test_rows_that_are_lost_on_the_way_are_missed(
    place: Place, concluded_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = place.predictions("p", ROWS[:10], ROWS[10:])
    original = publish_input.read_batches

    def lossy(directory: str, source: tuple[int, str], *others: Any, **named: Any) -> Any:
        return () if source[0] == 1 else original(directory, source, *others, **named)

    monkeypatch.setattr(publish_input, "read_batches", lossy)
    with pytest.raises(JobFailed, match=r"gave 10 rows, its manifest says 30$"):
        if concluded_by == "the command":
            place.publish(directory)
        else:
            conclusion, target, predictions = launch(place, directory)
            publish_stage.submit(predictions, target, 1, pipeline_options([]), conclusion)
    with open_store(place.uri) as store:
        assert store.generations()[0].state.value == "staged"
    assert not list((place.root / "dl").glob("2011-12-10*/manifest.json"))


def test_the_manifest_of_the_letters_is_the_latest_attempts(tmp_path: Path) -> None:
    directory = str(tmp_path)
    counts = [Staged(Content(number)) for number in range(4)]
    for attempt, rows, told in ((2, 2, 2), (1, 1, 2), (2, 0, 2), (3, 3, 3)):
        assert publish_stage.write_manifest(counts[rows], directory, Target("g", attempt)) == counts[rows]
        assert publish_stage.read_manifest(directory, Target("g", told)) == counts[told]
    with pytest.raises(Superseded, match="attempt 2 to stage generation g"):
        publish_stage.read_manifest(directory, Target("g", 2))
    assert json.loads(storage.read_bytes(f"{directory}/{storage.MANIFEST}"))["attempt"] == 3
